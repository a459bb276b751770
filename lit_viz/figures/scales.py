"""What the colours of maps mean, said in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.attributions.reducers import Reducer
from lit_viz.figures.style import GREY, axes_at, inches, write
from lit_viz.images.heatmap import clip_limits, heat, signed_heat

BAR = 0.07  # thickness of a colour bar in inches
_SIZE = 7
_ROOM = 0.65  # right of pictures, for an upright bar and its ends, at least


@dataclass(frozen=True)
class Scale:
    """The colours of some maps.

    Attributes:
        limits: where the colours of each map end.
        signed: whether they go both ways from zero.
        clipped: whether a pixel of each map lies beyond.
    """

    limits: Sequence[float]
    signed: bool
    clipped: Sequence[bool]

    @classmethod
    def of(cls, maps: Sequence[Tensor], reducer: Reducer, quantile: float, shared: bool) -> Scale:
        """Return the scale of maps ``(H, W)``; see :func:`~lit_viz.images.heatmap.clip_limits`."""
        limits = clip_limits(maps, quantile, shared)
        return cls(limits, reducer.signed, [_exceeds(m, limit) for m, limit in zip(maps, limits, strict=True)])

    @property
    def colours(self) -> Callable[[Tensor, float], Tensor]:
        """What draws the maps."""
        return signed_heat if self.signed else heat

    def ends(self) -> tuple[str, str]:
        """Return what stands at the lower and the upper end of the colours that maps share."""
        limit, clipped = number(max(self.limits, default=0.0)), any(self.clipped)
        if not self.signed:
            return "0", f"≥ {limit}" if clipped else limit
        return (f"≤ −{limit}", f"≥ {limit}") if clipped else (f"−{limit}", limit)


def number(value: float) -> str:
    """Return three significant digits, or ``0``."""
    return f"{value:#.3g}".rstrip(".") if value else "0"


def clipping(clipped: bool, quantile: float) -> str:
    """Return what a caption says of the pixels beyond the scale."""
    return f"pixels above the {100 * quantile:g} % quantile are clipped" if clipped else "no pixel is clipped"


def remarks(values: Tensor) -> list[str]:
    """Return what a reader has to know of a map ``(H, W)`` in order not to misread it; mostly nothing."""
    bad = int((~values.isfinite()).sum())
    if bad:
        return [f"{bad} pixel{'s' if bad > 1 else ''} not finite (black)"]
    return [] if values.any() else ["zero everywhere"]


def beside(ends: Iterable[tuple[str, str]], gap: float) -> float:
    """Return how many inches right of pictures the widest of some upright bars takes, with its ends and a gap."""
    return max(_ROOM, gap + BAR + 0.05 + max((inches(end, _SIZE) for pair in ends for end in pair), default=0.0))


def upright_bar(figure: Figure, ends: tuple[str, str], signed: bool, left: float, top: float, height: float) -> None:
    """Draw a thin colour bar, its ends on the right of it; places in inches from the left and the top."""
    _draw_bar(figure, _ramp(signed).flip(2).transpose(1, 2), left, top, BAR, height)
    write(figure, ends[1], left + BAR + 0.05, top, size=_SIZE, color=GREY)
    write(figure, ends[0], left + BAR + 0.05, top + height, size=_SIZE, color=GREY, va="bottom")


def level_bar(figure: Figure, ends: tuple[str, str], signed: bool, left: float, top: float, width: float) -> None:
    """Draw a thin colour bar, its ends beneath it."""
    _draw_bar(figure, _ramp(signed), left, top, width, BAR)
    write(figure, ends[0], left, top + BAR + 0.04, size=_SIZE, color=GREY)
    write(figure, ends[1], left + width, top + BAR + 0.04, size=_SIZE, color=GREY, ha="right")


def _ramp(signed: bool) -> Tensor:
    """Return all colours from the lowest to the highest, ``(3, 1, 256)``."""
    values = torch.linspace(-1 if signed else 0, 1, 256)[None]
    return (signed_heat if signed else heat)(values, 1.0)


def _draw_bar(figure: Figure, ramp: Tensor, left: float, top: float, width: float, height: float) -> None:
    axes = axes_at(figure, left, top, width, height)
    axes.imshow(ramp.permute(1, 2, 0).numpy(), interpolation="none", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)


def _exceeds(values: Tensor, limit: float) -> bool:
    finite = values[values.isfinite()].abs()
    return finite.numel() > 0 and float(finite.max()) > limit
