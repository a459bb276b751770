"""From maps to boxes: photographs, their maps, the seeds, the masks, and the boxes found and true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.figures.cells import GAP, LINE, MARGIN, SIZE, SMALL, Cell, captioned, lines_of
from lit_viz.figures.scales import clipping, remarks
from lit_viz.figures.style import COLORS, GREY, fitted, style, write
from lit_viz.figures.tiles import pixels
from lit_viz.images.fitting import Box
from lit_viz.images.heatmap import clip_limits, heat

#: At most so many maps are drawn.
LIMIT = 20
_BLUE, _ORANGE, _GREEN = COLORS[:3]
_QUANTILE = 0.995
_CELL = 1.4
_LINE = 1.6  # of a box, in points
_TEXT = 1.25  # left of a row: what the map is of
_TITLES = ("photograph", "map", "seeds", "mask", "box")
_WIDE = _TEXT + len(_TITLES) * (_CELL + GAP)  # a row
_BESIDE = 0.3  # columns
_FIRST = MARGIN + LINE + 0.08  # the first row


@dataclass(frozen=True)
class LocalizationPanel:
    """What became of one map; boxes are (left, top, right, bottom) in pixels of the image.

    Attributes:
        name: the class that the map explains.
        photograph: ``(C, H, W)`` in [0, 1], as the classifier saw it.
        values: the map ``(H, W)``.
        seeds: ``(H, W)``: 1 foreground, -1 background, 0 neither; None where nothing was found.
        mask: bool ``(H, W)``, or None.
        box: around the mask, or None.
        truth: true boxes; what of them lies outside of the image is not drawn.
        subtitle: the method.
        notes: stand beneath the box: its IoU, or why there is none.
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

    def cells(self) -> list[Cell]:
        """Return the pictures of the row; without seeds and a mask there are none of these."""
        photograph = pixels(self.photograph)
        limit = clip_limits([self.values], _QUANTILE)[0]
        row = [Cell(photograph), Cell(pixels(heat(self.values, limit)), lines_of(remarks(self.values), _CELL))]
        if self.seeds is not None and self.mask is not None:
            row += [Cell(_seeded(photograph, self.seeds)), Cell(_lit(photograph, self.mask))]
        return [*row, Cell(photograph, lines_of(self.notes, _CELL, lines=5))]

    def head(self) -> list[str]:
        """Return the lines of the name."""
        return fitted(self.name, _TEXT, SIZE + 0.5, lines=3, weight="bold").split("\n")


def localization_figure(
    panels: Sequence[LocalizationPanel], foreground: float, background: float, total: int | None = None
) -> Figure:
    """Draw a row a map: the photograph, the map, its seeds, the mask, and the boxes; more than six in two columns.

    Args:
        panels: what is drawn, the first ``LIMIT`` of it.
        foreground, background: quantiles of the map at which seeds begin, and end.
        total: how many maps there are; ``len(panels)`` unless given.

    Returns:
        a figure at which no pixel is lost; save it by :func:`lit_viz.figures.style.save_figure`.
    """
    drawn = panels[:LIMIT]
    total = len(panels) if total is None else total
    with style():
        rows = [panel.cells() for panel in drawn]
        heights = [
            max((len(panel.head()) + 1) * LINE, *(cell.height(_CELL) for cell in row)) + GAP
            for panel, row in zip(drawn, rows, strict=True)
        ]
        long = math.ceil(len(drawn) / (1 if len(drawn) <= 6 else 2)) or 1  # rows of a column
        columns = [range(first, min(first + long, len(drawn))) for first in range(0, len(drawn), long)] or [range(0)]
        high = max(sum(heights[place] for place in column) for column in columns)
        said = _caption(drawn, foreground, background, total)
        cells = [cell for row in rows for cell in row]
        width = MARGIN + len(columns) * (_WIDE + _BESIDE) - _BESIDE + MARGIN
        figure = captioned(cells, _CELL, width, _FIRST + high + GAP, said)
        for number, column in enumerate(columns):
            left, top = MARGIN + number * (_WIDE + _BESIDE), _FIRST
            for title, at in zip(_TITLES, _lefts(left), strict=True):
                write(figure, title, at, MARGIN, size=SIZE + 0.5, weight="bold")
            for place in column:
                _draw_row(figure, drawn[place], rows[place], left, top)
                top += heights[place]
    return figure


def _lefts(left: float) -> list[float]:
    """Return where the pictures of a row begin that begins itself at ``left``."""
    return [left + _TEXT + GAP + place * (_CELL + GAP) for place in range(len(_TITLES))]


def _draw_row(figure: Figure, panel: LocalizationPanel, row: Sequence[Cell], left: float, top: float) -> None:
    head, lefts = panel.head(), _lefts(left)
    for line, text in enumerate(head):
        write(figure, text, left, top + line * LINE, size=SIZE + 0.5, weight="bold")
    subtitle = fitted(panel.subtitle, _TEXT, SMALL)
    write(figure, subtitle, left, top + len(head) * LINE, size=SMALL, color=GREY)
    for cell, at in zip(row, [*lefts[: len(row) - 1], lefts[-1]], strict=True):  # the last one is the boxes'
        cell.draw(figure, at, top, _CELL)
    if panel.box is not None:
        _outline(figure, panel.box, _ORANGE, "-")
    for box in panel.truth:  # last: one that agrees would be hidden
        _outline(figure, box, _GREEN, "--")


def _outline(figure: Figure, box: Box, colour: str, line: str) -> None:
    """Draw a box into the picture that was drawn last, its line inside of its pixels, also at the picture's edge."""
    axes = figure.axes[-1]
    inset = _LINE / 2 / 72 * axes.images[0].get_size()[1] / _CELL  # half a line, in pixels
    left, top, right, bottom = box
    corner = (left - 0.5 + inset, top - 0.5 + inset)  # pixel k is drawn from k - 0.5 on
    width, height = right - left - 2 * inset, bottom - top - 2 * inset
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linestyle=line, lw=_LINE))


def _seeded(photograph: NDArray[np.uint8], seeds: NDArray[np.int8]) -> NDArray[np.uint8]:
    picture = _faded(photograph)
    picture[seeds > 0] = _bytes(_ORANGE)
    picture[seeds < 0] = _bytes(_BLUE)
    return picture


def _lit(photograph: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the photograph, faded where the mask is not."""
    return np.where(mask[..., None], photograph, _faded(photograph))


def _faded(photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = photograph.mean(2, keepdims=True) * 0.35
    return np.repeat(grey, 3, axis=2).astype(np.uint8)


def _bytes(colour: str) -> NDArray[np.uint8]:
    return np.array([round(255 * share) for share in to_rgb(colour)], np.uint8)


def _caption(panels: Sequence[LocalizationPanel], foreground: float, background: float, total: int) -> str:
    cut = f"{len(panels)} of {total} maps. " if total > len(panels) else ""
    true = ", the true ones dashed in green" if any(panel.truth for panel in panels) else ""
    return (
        f"{cut}Each map has its own scale; {clipping(True, _QUANTILE)}. Seeds: the object's, from the "
        f"{100 * foreground:g} % quantile of the blurred map upwards, in orange; the background's, up to its "
        f"{100 * background:g} % quantile, in blue. Mask: the largest connected part of the graph cut. Box: that of "
        f"the mask in orange{true}."
    )
