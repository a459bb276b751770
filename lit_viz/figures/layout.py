"""Layout of figures: images, text and plots in nested grids.

A figure is a tree of blocks that compute their size in inches from their content. :func:`compose` draws a tree at a
resolution at which each pixel of an image is a square of whole dots: no pixel is interpolated or omitted. An image of
more pixels than a page has dots is reduced.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, Literal, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Polygon, Rectangle
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_viz.errors import LitVizError, first_line
from lit_viz.figures.style import (
    CELL,
    COLORS,
    FAMILIES,
    GAP,
    GRAY,
    HEAD,
    INK,
    NORMAL,
    RULE,
    SMALL,
    TINY,
    TITLE,
    WIDE,
    style,
)
from lit_viz.images.reading import IMAGE_ERRORS, to_uint8
from lit_viz.runs.records import NamedBox
from lit_viz.types import Picture, Record
from lit_viz.utils.limits import MOST_PHOTOGRAPHS, page_count

_MARGIN = 0.15
_LINE = 1.4 / 72  # height of a line in inches per point of the font size
_NOTES_GAP = 0.04
_NARROWEST = 2.6  # of a figure with a caption
_MIN_DPI = 120  # legible text in figures of small images
_MOST_DPI = 900  # of images of some thousand pixels, a page of which would have billions of dots
_DOTS = 450  # per image: sharp in print and on high-density screens
_MOST_MAGNIFIED = 60  # more images have one dot per pixel, if that is legible
_WHITE = 250  # 8-bit level from which a pixel is not distinguishable from the page
_BOX_LINE = 1.6  # width of the outline of a box in points
_MOST_BOXES = 10  # detected ones, the most confident, are drawn
_NAME_HEIGHT = 0.1  # share of the height of an image that the name of a box needs above it
_FRAME = 0.5  # line width in points
_ROUNDING = 1e-6  # in dots: Matplotlib before 3.11 rounds sizes of images up, and those of pages down
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
        lines: maximum number of lines per paragraph; the last one is cut with an ellipsis. If None, nothing is cut, and
            words that are too long for a line are broken.
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
        lines: int | None = 1,
        align: Literal["left", "right"] = "left",
        rotated: bool = False,
        shrink: bool = False,
        **font: Any,
    ) -> None:
        self.font = font | {"size": size, "ha": align, "va": "top", "rotation": 0}
        if rotated:
            self.font |= {"va": "center", "rotation": 90}
        weight = font.get("weight", "normal")
        text = text.replace(" = ", "\u00a0=\u00a0")  # "p = 0.93" is not broken
        paragraphs = text.split("\n") if text else []
        natural = 0.0
        if width is None or shrink:
            natural = max((text_width(paragraph, size, weight) for paragraph in paragraphs), default=0.0)
        if width is None:
            width = natural
        elif shrink:
            width = min(width, natural)
        limit = width
        self.lines: list[str] = []
        for paragraph in paragraphs:
            broken = wrap_text(paragraph, lambda line: text_width(line, size, weight) <= limit, lines)
            self.lines += [line.replace("\u00a0", " ") for line in broken]
        self.rotated = rotated
        self._line = size * _LINE
        self.width, self.height = width, len(self.lines) * self._line
        if rotated:
            self.width, self.height = self.height, self.width

    def draw(self, figure: Figure, x: float, y: float, width: float) -> None:
        """Draw each line as a text of the figure."""
        total_width, total_height = figure.get_size_inches()
        if self.font["ha"] == "right":
            x += width
        if self.rotated:
            y += self.height / 2
        for row, line in enumerate(self.lines):
            offset = row * self._line
            left, top = (x + offset, y) if self.rotated else (x, y + offset)
            figure.text(left / total_width, 1 - top / total_height, line, **self.font)


def outline(axes: Axes, box: Sequence[float], color: str = COLORS[1], line: str = "-") -> None:
    """Outline a box (x0, y0, x1, y1) in pixels of the image that axes of the default width show."""
    inset = _BOX_LINE / 2 / 72 * axes.images[0].get_size()[1] / CELL  # half a line in pixels: lines stay inside the box
    x0, y0, x1, y1 = box
    corner = (x0 - 0.5 + inset, y0 - 0.5 + inset)  # pixel k extends from k - 0.5 to k + 0.5
    width, height = x1 - x0 - 2 * inset, y1 - y0 - 2 * inset
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=color, linestyle=line, lw=_BOX_LINE))


def outline_polygons(axes: Axes, polygons: Sequence[Sequence[Sequence[float]]]) -> None:
    """Draw closed polygons (x, y) in pixels of the image that axes show."""
    for polygon in polygons:
        axes.add_patch(Polygon(polygon, fill=False, edgecolor=COLORS[1], lw=_BOX_LINE))


def outlined(record: Record) -> Callable[[Axes], None] | None:
    """Return what draws the region that the scores of a record are about on an image; None without one."""
    box, polygons = getattr(record, "output_box", None), getattr(record, "output_outline", None)
    if box is not None:
        return partial(outline, box=box)
    if polygons is not None:
        return partial(outline_polygons, polygons=polygons)
    return None


def boxed(record: Record, boxes: Sequence[NamedBox] | None) -> Callable[[Axes], None] | None:
    """Return what draws the region that the scores of a record are about, and detected boxes with their names, on an
    image; None without any."""
    region = outlined(record)
    if not boxes:
        return region

    def draw(axes: Axes) -> None:
        if region is not None:
            region(axes)
        for box in boxes[:_MOST_BOXES]:
            outline(axes, box["box"], COLORS[2], "--")
            _name_box(axes, box)

    return draw


def _name_box(axes: Axes, box: NamedBox) -> None:
    """Write name and score above a box, or in it at the upper edge of the image; right-aligned in its right half."""
    width, height = axes.get_xlim()[1], axes.get_ylim()[0]
    x0, y0, x1, _ = box["box"]
    name = f"{box['label']} {box['score']:.2f}"
    x, y, alignment, vertical = max(x0, 0.0), y0, "left", "bottom"
    if x0 > width / 2:
        x, alignment = min(x1, width), "right"
    if y0 < height * _NAME_HEIGHT:
        y, vertical = max(y0, 0.0), "top"
    axes.text(x, y, name, fontsize=SMALL, color=COLORS[2], ha=alignment, va=vertical, clip_on=True)


@dataclass(frozen=True)
class Cell:
    """An image with notes beneath."""

    picture: NDArray[np.uint8]  # (H, W, 3)
    notes: Sequence[str] = ()  # in gray
    width: float = CELL
    title: str = ""  # beneath the image, in black; never cut
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
        title = Text(self.title, self.width, NORMAL, lines=None, color=INK)
        return stack(title, Text(notes, self.width, SMALL, self.lines, color=GRAY))

    @property
    def height(self) -> float:
        """Height of the image and the notes in inches."""
        if not self._text.height:
            return self.picture_height
        return self.picture_height + _NOTES_GAP + self._text.height

    def draw(self, figure: Figure, x: float, y: float, width: float) -> None:
        """Draw the image without interpolation, its corner on a whole dot; frame it if its border is white."""
        x, y = round(x * figure.dpi) / figure.dpi, round(y * figure.dpi) / figure.dpi
        rounding = _ROUNDING / figure.dpi
        axes = axes_at(figure, x, y, self.width - rounding, self.picture_height - rounding)
        bottom, right = (size - 0.5 for size in self.picture.shape[:2])
        axes.imshow(self._reduced(figure.dpi), interpolation="none", aspect="auto", extent=(-0.5, right, bottom, -0.5))
        axes.set_axis_off()
        if self._has_white_border():
            _draw_frame(figure, axes)
        if self.annotate:
            self.annotate(axes)
        self._text.draw(figure, x, y + self.picture_height + _NOTES_GAP, self.width)

    def _reduced(self, dpi: float) -> NDArray[np.uint8]:
        """Return the image with at most the dots that it takes."""
        width = round(self.width * dpi)
        if self.picture.shape[1] <= width:
            return self.picture
        height = max(1, round(self.picture_height * dpi))
        return np.asarray(Image.fromarray(self.picture).resize((width, height), Image.Resampling.BOX))

    def _has_white_border(self) -> bool:
        border = np.concatenate([self.picture[0], self.picture[-1], self.picture[:, 0], self.picture[:, -1]])
        return bool((border.min(-1) >= _WHITE).mean() > 0.5)


def _draw_frame(figure: Figure, axes: Axes) -> None:
    """Draw a line around the image of some axes."""
    outset = (_FRAME / 72 + 1 / figure.dpi) / 2  # matplotlib draws lines at whole dots: cover no pixel
    x0, y0, width, height = axes.get_position().bounds
    dx, dy = outset / figure.get_size_inches()
    outline = Rectangle((x0 - dx, y0 - dy), width + 2 * dx, height + 2 * dy, fill=False)
    outline.set(edgecolor=RULE, linewidth=_FRAME, transform=figure.transFigure)
    figure.add_artist(outline)


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
        self._columns = max(map(len, rows), default=0)
        self._widths = [0.0] * self._columns
        self._heights = [0.0] * len(rows)
        for place, column, block in self._blocks():
            self._heights[place] = max(self._heights[place], block.height)
            if not self._spans(place, column):
                self._widths[column] = max(self._widths[column], block.width)
        self._lefts = [sum(self._widths[:column]) + column * self.gap[0] for column in range(self._columns)]
        self.width = sum(self._widths) + max(self._columns - 1, 0) * self.gap[0]
        for _, column, block in self._blocks():
            self.width = max(self.width, self._lefts[column] + block.width)
        self.height = sum(self._heights) + max(len(rows) - 1, 0) * self.gap[1]

    def draw(self, figure: Figure, x: float, y: float, width: float) -> None:
        """Draw all blocks."""
        tops = [y]
        for height in self._heights:
            tops.append(tops[-1] + (height + self.gap[1]))
        for place, column, block in self._blocks():
            space = self._widths[column]
            if self._spans(place, column):
                space = self.width - self._lefts[column]
            block.draw(figure, x + self._lefts[column], tops[place], space)

    def cells(self) -> Iterator[Cell]:
        """Yield all images of the grid and its subgrids."""
        for _, _, block in self._blocks():
            if isinstance(block, Cell):
                yield block
            elif isinstance(block, Grid):
                yield from block.cells()

    def _blocks(self) -> Iterator[tuple[int, int, Block]]:
        """Yield row, column and block of each place that is not empty."""
        for place, row in enumerate(self.rows):
            for column, block in enumerate(row):
                if block:
                    yield place, column, block

    def _spans(self, place: int, column: int) -> bool:
        """Return whether the block spans the remaining columns of its row."""
        length = len(self.rows[place])
        return column == length - 1 and length < self._columns


def stack(*blocks: Block, gap: float = 0.0) -> Grid:
    """Return blocks above one another."""
    return Grid([[block] for block in blocks if block.height], gap)


def wrap(blocks: Sequence[Block], columns: int, gap: float | tuple[float, float] = GAP) -> Grid:
    """Return blocks in rows of ``columns``."""
    return Grid([blocks[first : first + columns] for first in range(0, len(blocks), columns)], gap)


def titles(names: Sequence[str], width: float) -> list[Text]:
    """Return the titles of columns."""
    return [Text(name, width, TITLE, lines=None, weight="bold") for name in names]


def head(name: str, *blocks: Block, notes: str = "") -> Grid:
    """Return the text on the left of a row: a name, blocks, and notes in gray."""
    return stack(Text(name, HEAD, TITLE, lines=None, weight="bold"), *blocks, Text(notes, HEAD, lines=3, color=GRAY))


def selection(count: int, total: int, noun: str) -> str:
    """Return a sentence about omitted images, or an empty text."""
    return f"{count} of {total} {noun}. " if total > count else ""


def page_selection(page: int, per_page: int, total: int, noun: str, order: str = "") -> str:
    """Return a sentence about the images of a page, or an empty text if there is one page.

    Args:
        page: the page, from 1.
        per_page: images on a page.
        total: images of the run.
        noun: what they are.
        order: how they are ordered, such as ``, errors first``; empty for the order of the run.
    """
    pages = page_count(total, per_page)
    if pages == 1:
        return ""
    drawn = min(total, MOST_PHOTOGRAPHS)
    first, last = (page - 1) * per_page + 1, min(page * per_page, drawn)
    text = f"Page {page} of {pages}: {noun} {first} to {last} of {total}{order}"
    if total > drawn:
        text += f", of which the first {drawn} are drawn"
    return f"{text}. "


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
        width = root.width
        if caption or settings:
            width = max(width, _NARROWEST)
        line = width / _HINTING
        small = Text(settings, line, TINY, lines=4, color=GRAY)
        text = stack(Text(caption, line, lines=12, color=GRAY), small, gap=0.4 * GAP)
        height = root.height + text.height
        if root.height and text.height:
            height += 2 * GAP
        dpi = _sharp_dpi(list(root.cells()))
        total_width, total_height = _page_length(width, dpi), _page_length(height, dpi)
        figure = Figure(figsize=(total_width, total_height), dpi=dpi)
        text.draw(figure, _MARGIN, total_height - _MARGIN - text.height, width)
        root.draw(figure, _MARGIN, _MARGIN, root.width)
    return figure


def _page_length(inches: float, dpi: float) -> float:
    """Return a length with two margins in inches, rounded up to whole dots."""
    dots = round((inches + 2 * _MARGIN) * dpi, 6)
    return (math.ceil(dots) + _ROUNDING) / dpi


def _sharp_dpi(cells: Sequence[Cell]) -> float:
    """Return the resolution at which each pixel of the densest image is a square of whole dots, or the largest one."""
    if not cells:
        return 300.0
    densest = max(cells, key=lambda cell: cell.picture.shape[1] / cell.width)
    side = densest.picture.shape[1]
    times = 1
    if len(cells) <= _MOST_MAGNIFIED:
        times = max(1, round(_DOTS / side))
    dpi = min(float(times * side / densest.width), _MOST_DPI)
    return dpi * max(1, math.ceil(_MIN_DPI / dpi))


@lru_cache(maxsize=4096)  # lines are measured several times while they are broken
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Measure the width of a line of text in inches."""
    if not text:
        return 0.0
    properties = FontProperties(family=FAMILIES, size=size, weight=weight)
    points, _, _ = text_to_path.get_text_width_height_descent(text, properties, ismath=False)
    return float(points) / 72


def wrap_text(text: str, fits: Callable[[str], bool], lines: int | None = 1) -> list[str]:
    """Break a paragraph at spaces into at most ``lines`` lines that fit; the last one is cut with an ellipsis.

    If ``lines`` is None, there are as many as needed, and words that are too long for a line are broken.
    """
    broken: list[str] = []
    rest = text
    while not fits(rest) and (lines is None or len(broken) < lines - 1):
        words = rest.split(" ")
        count = bisect_left(range(1, len(words)), True, key=lambda n: not fits(" ".join(words[:n])))
        if count:
            line = " ".join(words[:count])
            rest = " ".join(words[count:])
        elif lines is None:
            line = rest[: max(1, _longest_start(rest, fits))]
            rest = rest[len(line) :]
        else:  # the first word is too long for a line
            break
        broken.append(line)
    if lines is not None and not fits(rest):
        rest = rest[: _longest_start(rest, lambda start: fits(start.rstrip() + "…"))].rstrip() + "…"
    return [*broken, rest]


def _longest_start(text: str, fits: Callable[[str], bool]) -> int:
    """Return the number of characters of the longest start of a text that fits, the whole text excluded."""
    return bisect_left(range(1, len(text)), True, key=lambda n: not fits(text[:n]))


def pixels(picture: Picture) -> NDArray[np.uint8]:
    """Convert an image tensor or file to ``(H, W, 3)`` uint8.

    Raises:
        LitVizError: the file is no image.
    """
    if isinstance(picture, Tensor):
        return to_uint8(picture)
    try:
        with Image.open(picture) as file:
            return np.asarray(file.convert("RGB"))
    except IMAGE_ERRORS as error:
        raise LitVizError(f"{picture} is no image that can be read ({first_line(error)})") from error


def is_group(picture: NDArray[np.uint8]) -> bool:
    """Return whether an image ``(H, W, 3)`` is so wide that it shows a group of images."""
    height, width = picture.shape[:2]
    return bool(width > WIDE * height)


def axes_at(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Add axes at a position in inches from the upper left corner of the figure."""
    total_width, total_height = figure.get_size_inches()
    bottom = 1 - (y + height) / total_height
    return figure.add_axes((x / total_width, bottom, width / total_width, height / total_height))
