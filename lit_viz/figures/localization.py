"""Figure of localization: photographs, maps, seeds, masks and boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.figures.layout import CELL, GROUP_GAP, TITLE, Block, Cell, Grid, Space, Text, compose, pixels, stack
from lit_viz.figures.scales import clipping, map_notes
from lit_viz.figures.style import COLORS, GRAY, style
from lit_viz.images.fitting import Box
from lit_viz.images.heatmap import clip_limits, heat

#: Maximum number of maps in the figure.
LIMIT = 20
_BLUE, _ORANGE, _GREEN = COLORS[:3]
_QUANTILE = 0.995
_LINE = 1.6  # width of the outline of a box in points
_HEAD = 1.25  # width of the text on the left of a row in inches
_TITLES = ("photograph", "map", "seeds", "mask", "box")


@dataclass(frozen=True)
class LocalizationPanel:
    """Localization by one map; boxes are (left, top, right, bottom) in pixels of the image.

    Attributes:
        name: class that the map explains.
        photograph: classifier input, ``(C, H, W)`` in [0, 1].
        values: the map ``(H, W)``.
        seeds: ``(H, W)``: 1 foreground, -1 background, 0 neither; None without a result.
        mask: bool ``(H, W)``, or None.
        box: bounding box of the mask, or None.
        truth: reference boxes; parts outside the image are not drawn.
        subtitle: the method.
        notes: lines beneath the box: IoU or error.
    """

    name: str
    photograph: Tensor
    values: Tensor
    seeds: NDArray[np.int8] | None = None
    mask: NDArray[np.bool_] | None = None
    box: Box | None = None
    truth: Sequence[Box] = field(default=())
    subtitle: str = ""
    notes: Sequence[str] = ()


@style()
def localization_figure(
    panels: Sequence[LocalizationPanel], foreground: float, background: float, total: int | None = None
) -> Figure:
    """Draw one row per map: photograph, map, seeds, mask and boxes; more than six rows are arranged in two columns.

    Args:
        panels: results; the first ``LIMIT`` are drawn.
        foreground, background: quantiles of the map that bound the seeds.
        total: number of maps reported in the caption; ``len(panels)`` if not given.

    Returns:
        A figure with each pixel as a square of whole dots; see :func:`lit_viz.figures.style.save_figure`.
    """
    drawn = panels[:LIMIT]
    total = len(panels) if total is None else total
    length = math.ceil(len(drawn) / (1 if len(drawn) <= 6 else 2)) or 1
    titles: list[Block | None] = [Space(_HEAD), *(Text(title, CELL, TITLE, weight="bold") for title in _TITLES)]
    rows = [_row(panel) for panel in drawn]
    columns = [Grid([titles, *rows[first : first + length]]) for first in range(0, max(len(rows), 1), length)]

    selection = f"{len(drawn)} of {total} maps. " if total > len(drawn) else ""
    reference = ", reference boxes dashed in green" if any(panel.truth for panel in drawn) else ""
    caption = (
        f"{selection}Each map has its own scale; {clipping(True, _QUANTILE)}. Seeds: object in orange, from the "
        f"{100 * foreground:g} % quantile of the blurred map; background in blue, up to its {100 * background:g} % "
        f"quantile. Mask: largest connected component of the graph cut. Box: bounding box of the mask in orange"
        f"{reference}."
    )
    return compose(Grid([columns], gap=GROUP_GAP), caption)


def _row(panel: LocalizationPanel) -> list[Block | None]:
    photograph = pixels(panel.photograph)
    limit = clip_limits([panel.values], _QUANTILE)[0]
    seeds = mask = None
    if panel.seeds is not None and panel.mask is not None:
        gray = photograph.mean(2, keepdims=True) * 0.35
        dark = np.repeat(gray, 3, axis=2).astype(np.uint8)
        seeds, mask = Cell(_with_seeds(dark, panel.seeds)), Cell(np.where(panel.mask[..., None], photograph, dark))
    return [
        stack(Text(panel.name, _HEAD, TITLE, lines=3, weight="bold"), Text(panel.subtitle, _HEAD, lines=2, color=GRAY)),
        Cell(photograph),
        Cell(pixels(heat(panel.values, limit)), map_notes(panel.values)),
        seeds,
        mask,
        Cell(photograph, panel.notes, lines=5, annotate=partial(_draw_boxes, panel)),
    ]


def _with_seeds(picture: NDArray[np.uint8], seeds: NDArray[np.int8]) -> NDArray[np.uint8]:
    picture = picture.copy()
    for where, color in ((seeds > 0, _ORANGE), (seeds < 0, _BLUE)):
        picture[where] = [round(255 * share) for share in to_rgb(color)]
    return picture


def _draw_boxes(panel: LocalizationPanel, axes: Axes) -> None:
    """Outline the boxes, reference boxes last: an equal box would hide them."""
    inset = _LINE / 2 / 72 * axes.images[0].get_size()[1] / CELL  # half a line in pixels: lines stay inside the box
    boxes = [] if panel.box is None else [(panel.box, _ORANGE, "-")]
    for (left, top, right, bottom), color, line in [*boxes, *((box, _GREEN, "--") for box in panel.truth)]:
        corner = (left - 0.5 + inset, top - 0.5 + inset)  # pixel k extends from k - 0.5 to k + 0.5
        width, height = right - left - 2 * inset, bottom - top - 2 * inset
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=color, linestyle=line, lw=_LINE))
