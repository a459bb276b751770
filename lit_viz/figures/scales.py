"""Color scales of maps: limits, color bars and captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.attributions.reducers import Reducer
from lit_viz.figures.layout import Text, axes_at
from lit_viz.figures.style import CELL, GRAY
from lit_viz.images.rendering import clip_limits, heat, signed_heat

#: Color scale of saliency maps: one for all, or one per map.
ScaleOf = Literal["shared", "map"]
#: Meaning of the colors of signed maps.
SIGNED_CAPTION = "Red is evidence for the class, blue against it."
_QUANTILE = 0.995  # of the pixels, the limit of the colors
_THICKNESS = 0.07  # of a color bar in inches
_LABEL_GAP = 0.05


@dataclass(frozen=True)
class ColorScale:
    """Color scale of some maps."""

    limits: Sequence[float]  # value of each map at the end of the scale
    signed: bool  # diverging colors, with limits on both sides of zero
    clipped: bool  # whether a pixel exceeds the limit of its map

    @classmethod
    def of(cls, maps: Sequence[Tensor], reducer: Reducer, shared: bool) -> ColorScale:
        """Compute the scale of maps ``(H, W)``; see :func:`~lit_viz.images.rendering.clip_limits`."""
        limits = clip_limits(maps, _QUANTILE, shared)
        clipped = False
        for values, limit in zip(maps, limits, strict=True):
            finite = values[values.isfinite()]
            clipped |= bool((finite.abs() > limit).any())
        return cls(limits, reducer.signed, clipped)

    @property
    def colors(self) -> Callable[[Tensor, float], Tensor]:
        """Color map: :func:`~lit_viz.images.rendering.heat` or :func:`~lit_viz.images.rendering.signed_heat`."""
        return _color_map(self.signed)

    @property
    def limit(self) -> float:
        """Largest limit; that of all maps if they share one."""
        return max(self.limits, default=0.0)

    def labels(self) -> tuple[str, str]:
        """Return the lower and the upper label of the color bar of a shared scale."""
        limit = number(self.limit)
        low, high = f"−{limit}", limit
        if self.clipped:
            low, high = f"≤ {low}", f"≥ {high}"
        if self.signed:
            return (low, high)
        return ("0", high)


class ColorBar:
    """Color bar with labels of the minimum and the maximum: on its right if it is vertical, else beneath."""

    def __init__(self, labels: tuple[str, str], signed: bool, length: float = CELL, vertical: bool = True) -> None:
        self.low, self.high = (Text(label, color=GRAY) for label in labels)
        self.signed, self.length, self.vertical = signed, length, vertical
        self.width, self.height = length, _THICKNESS + _LABEL_GAP + self.low.height
        if vertical:
            label = max(self.low.width, self.high.width)
            self.width, self.height = _THICKNESS + _LABEL_GAP + label, length

    def draw(self, figure: Figure, x: float, y: float, width: float) -> None:
        """Draw the bar and its labels."""
        lowest = -1 if self.signed else 0
        values = torch.linspace(lowest, 1, 256)[None]
        ramp = _color_map(self.signed)(values, 1.0).permute(1, 2, 0)  # (1, 256, 3)
        if self.vertical:
            ramp = ramp.flip(1).transpose(0, 1)
            axes = axes_at(figure, x, y, _THICKNESS, self.length)
            label = x + _THICKNESS + _LABEL_GAP
            self.high.draw(figure, label, y, self.high.width)
            self.low.draw(figure, label, y + self.length - self.low.height, self.low.width)
        else:
            axes = axes_at(figure, x, y, self.length, _THICKNESS)
            label = y + _THICKNESS + _LABEL_GAP
            self.low.draw(figure, x, label, self.low.width)
            self.high.draw(figure, x + self.length - self.high.width, label, self.high.width)
        axes.imshow(ramp.numpy(), interpolation="none", aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)


def _color_map(signed: bool) -> Callable[[Tensor, float], Tensor]:
    if signed:
        return signed_heat
    return heat


def number(value: float) -> str:
    """Format a number with three significant digits, zero as ``0``."""
    if not value:
        return "0"
    return f"{value:#.3g}".rstrip(".")


def clipping(clipped: bool) -> str:
    """Return the clause of a caption about clipped pixels."""
    if not clipped:
        return "no pixel is clipped"
    return f"pixels above the {100 * _QUANTILE:g} % quantile are clipped"


def map_notes(values: Tensor, attribution: Tensor | None = None) -> list[str]:
    """Return notes about a map ``(H, W)`` with non-finite pixels or without any nonzero pixel.

    Args:
        values: the map as it is drawn.
        attribution: the map before the reduction of its channels, which may have nonzero values that are not drawn.
    """
    count = int((~values.isfinite()).sum())
    if count:
        return [f"{count} non-finite pixel{'s' if count > 1 else ''} (black)"]
    if values.any():
        return []
    if attribution is not None and attribution.any():
        return [f"no value above zero; least: −{number(-float(attribution.sum(-3).min()))}"]
    return ["zero everywhere"]
