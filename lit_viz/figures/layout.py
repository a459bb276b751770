"""Layout of figures: images, text and plots in nested grids.

A figure is a tree of blocks that compute their size in inches from their content. :func:`compose` draws a tree at a
resolution at which each pixel of an image is a square of whole dots: no pixel is interpolated or lost.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_viz.figures.style import CELL, FAMILIES, GAP, GRAY, HEAD, INK, NORMAL, RULE, SMALL, TINY, TITLE, style
from lit_viz.images.reading import to_uint8
from lit_viz.types import Picture

_MARGIN = 0.15
_LINE = 1.4 / 72  # height of a line in inches per point of the font size
_NOTES_GAP = 0.04
_NARROWEST = 2.6  # of a figure with a caption
_MIN_DPI = 120  # legible text in figures of small images
_DOTS = 450  # per image: sharp in print and on high-density screens
_WHITE = 250  # 8-bit level from which a pixel is not distinguishable from the page
_FRAME = 0.5  # line width in points
_HINTING = 1.04  # width of a long line of small text as drawn, relative to the measured outlines
_FOOTER: ContextVar[tuple[str, str]] = ContextVar("footer", default=("", ""))


class Block(Protocol):
    """A rectangle of a figure with a size in inches."""

    @property
    def width(self) -> float:
        """Width in inches."""

    @property
    def height(self) -> float:
        """Height in inches."""

    def draw(self, figure: Figure, x: float, y: float, width: float) -> None:
        """Draw at a position in inches from the upper left corner of a figure, in columns of a total width."""


class Text:
    """Lines of text.

    Args:
        text: paragraphs, separated by newlines.
        width: of the block and its lines in inches; as wide as the text if not given.
        size: of the font in points.
        lines: maximum number of lines per paragraph; the last one is cut with an ellipsis.
        align: alignment within the columns that contain the block.
        rotated: write upwards; ``width`` is the extent of the text.
        shrink: reduce ``width`` to that of the unbroken text.
        **font: additional properties, such as ``weight`` and ``color``.
    """

    def __init__(
        self,
        text: str,
        width: float | None = None,
        size: float = SMALL,
        lines: int = 1,
        align: Literal["left", "right"] = "left",
        rotated: bool = False,
        shrink: bool = False,
        **font: Any,
    ) -> None:
        self.font = {"size": size, "ha": align, "va": "center" if rotated else "top", **font}
        self.font["rotation"] = 90 if rotated else 0
        weight = font.get("weight", "normal")
        paragraphs = text.replace(" = ", "\u00a0=\u00a0").split("\n") if text else []  # "p = 0.93" is not broken
        if width is None or shrink:
            natural = max((text_width(part, size, weight) for part in paragraphs), default=0.0)
            width = natural if width is None else min(width, natural)
        broken = (wrap_text(part, lambda line: text_width(line, size, weight) <= width, lines) for part in paragraphs)
        self.lines = [line.replace("\u00a0", " ") for part in broken for line in part]
        self.rotated = rotated
        self._line = size * _LINE
        extent = len(self.lines) * self._line
        self.width, self.height = (extent, width) if rotated else (width, extent)

    def draw(self, figure: Figure, x: float, y: float, width: float) -> None:
        """Draw each line as a text of the figure."""
        total_width, total_height = figure.get_size_inches()
        for row, line in enumerate(self.lines):
            if self.rotated:
                at = (x + row * self._line, y + self.height / 2)
            else:
                at = (x + width if self.font["ha"] == "right" else x, y + row * self._line)
            figure.text(at[0] / total_width, 1 - at[1] / total_height, line, **self.font)


@dataclass(frozen=True)
class Cell:
    """An image with notes beneath."""

    picture: NDArray[np.uint8]  # (H, W, 3)
    notes: Sequence[str] = ()  # in gray
    width: float = CELL
    title: str = ""  # first line beneath the image, in black
    lines: int = 2  # at most, per note
    annotate: Callable[[Axes], None] | None = None  # draws on the image, in its pixel coordinates

    @cached_property
    def picture_height(self) -> float:
        """Height of the image in inches."""
        height, width = self.picture.shape[:2]
        return self.width * float(height / width)

    @cached_property
    def _text(self) -> Grid:
        notes = "\n".join(note for note in self.notes if note)
        title = Text(self.title, self.width, NORMAL, self.lines, color=INK)
        return stack(title, Text(notes, self.width, SMALL, self.lines, color=GRAY))

    @property
    def height(self) -> float:
        """Height of the image and the notes in inches."""
        return self.picture_height + (_NOTES_GAP + self._text.height if self._text.height else 0.0)

    def draw(self, figure: Figure, x: float, y: float, width: float) -> None:
        """Draw the image without interpolation, its corner on a whole dot; frame it if its border is white."""
        corner = [round(inches * figure.dpi) / figure.dpi for inches in (x, y)]
        axes = axes_at(figure, corner[0], corner[1], self.width, self.picture_height)
        axes.imshow(self.picture, interpolation="none", aspect="auto")
        axes.set_axis_off()
        border = np.concatenate([self.picture[0], self.picture[-1], self.picture[:, 0], self.picture[:, -1]])
        if (border.min(-1) >= _WHITE).mean() > 0.5:
            outset = (_FRAME / 72 + 1 / figure.dpi) / 2  # matplotlib draws lines at whole dots: cover no pixel
            box = axes.get_position().bounds
            dx, dy = outset / figure.get_size_inches()
            outline = Rectangle((box[0] - dx, box[1] - dy), box[2] + 2 * dx, box[3] + 2 * dy, fill=False)
            outline.set(edgecolor=RULE, linewidth=_FRAME, transform=figure.transFigure)
            figure.add_artist(outline)
        if self.annotate:
            self.annotate(axes)
        self._text.draw(figure, x, y + self.picture_height + _NOTES_GAP, self.width)


@dataclass(frozen=True)
class Plot:
    """Axes that fill the width of their columns."""

    axes_height: float
    plot: Callable[[Axes], None]
    width: float = _NARROWEST  # at least
    below: float = 0.0  # space for tick labels and the axis label

    @property
    def height(self) -> float:
        """Height in inches, labels included."""
        return self.axes_height + self.below

    def draw(self, figure: Figure, x: float, y: float, width: float) -> None:
        """Draw the plot."""
        self.plot(axes_at(figure, x, y, width, self.axes_height))


class Grid:
    """Blocks in rows and columns.

    Args:
        rows: blocks; None is an empty place. The last block of a row that is shorter than others spans the remaining
            columns.
        gap: between columns and between rows in inches; one number for both.
    """

    def __init__(self, rows: Sequence[Sequence[Block | None]], gap: float | tuple[float, float] = GAP) -> None:
        self.rows = rows
        self.gap = gap if isinstance(gap, tuple) else (gap, gap)
        columns = max(map(len, rows), default=0)
        self._widths = [0.0] * columns
        for row in rows:
            for column, block in enumerate(row):
                if block and (column < len(row) - 1 or len(row) == columns):
                    self._widths[column] = max(self._widths[column], block.width)
        self._lefts = [sum(self._widths[:column]) + column * self.gap[0] for column in range(columns)]
        ends = [self._lefts[len(row) - 1] + row[-1].width for row in rows if row and row[-1]]
        self.width = max([0.0, *ends, sum(self._widths) + max(columns - 1, 0) * self.gap[0]])
        self._heights = [max((block.height for block in row if block), default=0.0) for row in rows]
        self.height = sum(self._heights) + max(len(rows) - 1, 0) * self.gap[1]

    def draw(self, figure: Figure, x: float, y: float, width: float) -> None:
        """Draw all blocks."""
        for row, height in zip(self.rows, self._heights, strict=True):
            for column, block in enumerate(row):
                spans = column == len(row) - 1 and len(row) < len(self._widths)
                space = self.width - self._lefts[column] if spans else self._widths[column]
                if block:
                    block.draw(figure, x + self._lefts[column], y, space)
            y += height + self.gap[1]

    def cells(self) -> Iterator[Cell]:
        """Yield all images of the grid and its subgrids."""
        for block in (block for row in self.rows for block in row):
            if isinstance(block, Cell):
                yield block
            elif isinstance(block, Grid):
                yield from block.cells()


def stack(*blocks: Block, gap: float = 0.0) -> Grid:
    """Return blocks above one another."""
    return Grid([[block] for block in blocks if block.height], gap)


def wrap(blocks: Sequence[Block], columns: int, gap: float | tuple[float, float] = GAP) -> Grid:
    """Return blocks in rows of ``columns``."""
    return Grid([blocks[first : first + columns] for first in range(0, len(blocks), columns)], gap)


def titles(names: Sequence[str], width: float) -> list[Text]:
    """Return the titles of columns."""
    return [Text(name, width, TITLE, lines=2, weight="bold") for name in names]


def head(name: str, *blocks: Block, notes: str = "") -> Grid:
    """Return the text on the left of a row: a name, blocks, and notes in gray."""
    return stack(Text(name, HEAD, TITLE, lines=3, weight="bold"), *blocks, Text(notes, HEAD, lines=3, color=GRAY))


def selection(count: int, total: int, noun: str) -> str:
    """Return a sentence about omitted images, or an empty text."""
    return f"{count} of {total} {noun}. " if total > count else ""


@contextmanager
def footer(text: str, caption: str = "") -> Iterator[None]:
    """Add a small line to all figures composed within the block, such as the network and the settings, and sentences to
    their captions."""
    token = _FOOTER.set((text, caption))
    try:
        yield
    finally:
        _FOOTER.reset(token)


def compose(root: Grid, caption: str = "") -> Figure:
    """Draw a grid, and a caption and the :func:`footer` beneath it, into a new figure of whole dots."""
    with style():
        settings, added = _FOOTER.get()
        caption = f"{caption.strip()} {added}".strip()
        width = max(root.width, _NARROWEST if caption or settings else 0.0)
        line = width / _HINTING
        small = Text(settings, line, TINY, lines=4, color=GRAY)
        text = stack(Text(caption, line, lines=12, color=GRAY), small, gap=0.4 * GAP)
        dpi = _sharp_dpi(list(root.cells()))
        height = root.height + (2 * GAP if root.height and text.height else 0.0) + text.height
        size = [math.ceil(round((inches + 2 * _MARGIN) * dpi, 6)) / dpi for inches in (width, height)]
        figure = Figure(figsize=(size[0], size[1]), dpi=dpi)
        text.draw(figure, _MARGIN, size[1] - _MARGIN - text.height, width)
        root.draw(figure, _MARGIN, _MARGIN, root.width)
    return figure


def _sharp_dpi(cells: Sequence[Cell]) -> float:
    """Return the resolution at which each pixel of the densest image is a square of whole dots."""
    if not cells:
        return 300.0
    densest = max(cells, key=lambda cell: cell.picture.shape[1] / cell.width)
    side = densest.picture.shape[1]
    times = max(1, round(_DOTS / side)) if len(cells) <= 60 else 1
    dpi = float(times * side / densest.width)
    return dpi * max(1, math.ceil(_MIN_DPI / dpi))


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Measure the width of a line of text in inches."""
    properties = FontProperties(family=FAMILIES, size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, properties, ismath=False)[0]) / 72 if text else 0.0


def wrap_text(text: str, fits: Callable[[str], bool], lines: int = 1) -> list[str]:
    """Break a paragraph at spaces into at most ``lines`` lines that fit; the last one is cut with an ellipsis."""
    broken: list[str] = []
    rest = text
    while len(broken) < lines - 1 and not fits(rest):
        words = rest.split(" ")
        count = bisect_left(range(1, len(words)), True, key=lambda n: not fits(" ".join(words[:n])))
        if not count:  # the first word is too long for a line
            break
        broken.append(" ".join(words[:count]))
        rest = " ".join(words[count:])
    if not fits(rest):
        cut = bisect_left(range(1, len(rest)), True, key=lambda n: not fits(rest[:n].rstrip() + "…"))
        rest = rest[:cut].rstrip() + "…"
    return [*broken, rest]


def pixels(picture: Picture) -> NDArray[np.uint8]:
    """Convert an image tensor or file to ``(H, W, 3)`` uint8."""
    if isinstance(picture, Tensor):
        return to_uint8(picture)
    with Image.open(picture) as file:
        return np.asarray(file.convert("RGB"))


def axes_at(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Add axes at a position in inches from the upper left corner of the figure."""
    total_width, total_height = figure.get_size_inches()
    bottom = 1 - (y + height) / total_height
    return figure.add_axes((x / total_width, bottom, width / total_width, height / total_height))
