"""Photographs and the maps of what decides in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Literal, get_args

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels, reducer
from lit_viz.errors import LitVizError
from lit_viz.figures.cells import GAP, LINE, MARGIN, SIZE, SMALL, Cell, captioned, lines_of
from lit_viz.figures.scales import BAR, Scale, beside, clipping, level_bar, number, remarks, upright_bar
from lit_viz.figures.style import GREY, fitted, style, write
from lit_viz.figures.tiles import pixels
from lit_viz.images.heatmap import clip_limits, overlay
from lit_viz.types import Picture

ScaleOf = Literal["shared", "map"]
#: Photographs that are drawn at most.
MOST = 60

_BETWEEN = 0.2  # blocks
_FAINT = 0.3  # of the scale: the colours end at a dark red
_SIDE = 0.2  # left of a row: its upright title
_TEXT = 1.25  # left of a row: the name of its photograph


@dataclass(frozen=True)
class SaliencyPanel:
    """One photograph with its maps.

    Attributes:
        name: its true class, or its file.
        photograph: ``(C, H, W)`` in [0, 1] or a file, as the classifier saw it.
        maps: attributions by method, ``(C, H, W)``, or ``(1, H, W)`` where the method is spatial.
        subtitle: what the maps explain: ``explains: goldfish, p = 0.93``; may have several lines.
        uncertainty: how far a map may be off, by method: ``standard error 2 %``.
    """

    name: str
    photograph: Picture
    maps: Mapping[str, Tensor | NDArray[np.float32]]
    subtitle: str = ""
    uncertainty: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Strip:
    """What is shown of every photograph (by its place): itself, the map of one method, or that over the photograph."""

    title: str
    cells: Mapping[int, Cell]
    scale: Scale | None = None
    ends: tuple[str, str] = ("", "")

    def tall(self, places: Sequence[int], width: float) -> float:
        """Return the height in inches of the tallest picture of some photographs."""
        return max((self.cells[place].tall(width) for place in places if place in self.cells), default=0.0)

    def height(self, places: Sequence[int], width: float) -> float:
        """Return the same with what is written beneath."""
        return max((self.cells[place].height(width) for place in places if place in self.cells), default=0.0)

    def draw(self, figure: Figure, place: int, left: float, top: float, width: float) -> None:
        if place in self.cells:
            self.cells[place].draw(figure, left, top, width)


@dataclass(frozen=True)
class _Head:
    """What is written of a photograph, in lines."""

    name: Sequence[str]
    subtitle: Sequence[str]

    @classmethod
    def of(cls, panel: SaliencyPanel, width: float, lines: int) -> _Head:
        name = fitted(panel.name, width, SIZE + 0.5, lines=lines, weight="bold")
        return cls(name.split("\n"), lines_of(panel.subtitle.split("\n"), width, lines=3))

    def __len__(self) -> int:
        return len(self.name) + len(self.subtitle)

    def draw(self, figure: Figure, left: float, top: float) -> None:
        for row, line in enumerate(self.name):
            write(figure, line, left, top + row * LINE, size=SIZE + 0.5, weight="bold")
        for row, line in enumerate(self.subtitle, len(self.name)):
            write(figure, line, left, top + row * LINE, size=SMALL, color=GREY)


def _levelled(heads: Sequence[_Head]) -> list[_Head]:
    """Return heads whose names end, and whose subtitles begin, at one height."""
    lines = max(len(head.name) for head in heads)
    return [replace(head, name=[""] * (lines - len(head.name)) + [*head.name]) for head in heads]


def _above(heads: Sequence[_Head]) -> float:
    return max(len(head) for head in heads) * LINE + 0.06


def saliency_figure(
    panels: Sequence[SaliencyPanel],
    how: str | Mapping[str, str] = "max_abs",
    scale: ScaleOf = "shared",
    quantile: float = 0.995,
    overlays: bool = False,
    columns: int = 6,
    limit: int = MOST,
    total: int | None = None,
) -> Figure:
    """Draw photographs with their maps, and say what the colours mean.

    One method: a row of photographs over the row of their maps, in blocks. Several: a row a photograph, a column a
    method. The maps of a method share a scale, which methods never do: their units differ.

    Args:
        panels: what is drawn.
        how: the channels are reduced; a name of :data:`lit_viz.attributions.reducers.REDUCERS`, or one a method.
        scale: ``"shared"`` by all maps of a method, so that photographs can be compared; or one a ``"map"``.
        quantile: of the pixels, at which the colours end (see :func:`lit_viz.images.heatmap.clip_limits`).
        overlays: shows the maps over the photographs, too.
        columns: photographs beside one another, where there is one method.
        limit: at most so many photographs are drawn.
        total: how many there are, which is said at the foot where not all are drawn; as many as panels unless given.

    Returns:
        a figure at which no pixel of a map is lost; save it by :func:`lit_viz.figures.style.save_figure`.

    Raises:
        LitVizError: ``how`` or ``scale`` is not one of these, or a map has not its photograph's size.
    """
    if scale not in get_args(ScaleOf):
        raise LitVizError(f"a scale is shared or one a map, not {scale!r}: choose {' or '.join(get_args(ScaleOf))}")
    drawn = panels[:limit]
    methods = list(dict.fromkeys(method for panel in drawn for method in panel.maps))
    hows = dict.fromkeys(methods, how) if isinstance(how, str) else {m: how.get(m, "max_abs") for m in methods}
    beside = len(methods) > 1 or len(drawn) == 1
    cell = 1.4 if not beside or (1 + overlays) * len(methods) <= 6 else 1.15
    with style():
        strips = [_Strip("", {place: Cell(pixels(panel.photograph)) for place, panel in enumerate(drawn)})]
        for method in methods:
            strips += _strips_of(drawn, method, hows[method], scale, quantile, overlays, cell)
        said = _caption([strip.scale for strip in strips if strip.scale], hows, scale, quantile)
        if any("±" in error for panel in panels for error in panel.uncertainty.values()):
            said += " ±: how far a map may still be from the one of ever more evaluations."
        total = len(panels) if total is None else total
        if total > len(drawn):
            said = f"{len(drawn)} of {total} photographs. {said}"
        if beside:
            return _draw_beside(drawn, strips, said, cell)
        return _draw_over(drawn, strips, said, cell, columns)


def _strips_of(
    panels: Sequence[SaliencyPanel],
    method: str,
    how: str,
    scale: ScaleOf,
    quantile: float,
    overlays: bool,
    cell: float,
) -> list[_Strip]:
    """Return the maps of one method, and those over the photographs where they are wanted."""
    maps = {
        place: reduce_channels(torch.as_tensor(panel.maps[method]), how)[0]
        for place, panel in enumerate(panels)
        if method in panel.maps
    }
    scales = Scale.of(list(maps.values()), reducer(how), quantile, shared=scale == "shared")
    cells, over = {}, {}
    for (place, values), limit in zip(maps.items(), scales.limits, strict=True):
        notes = [f"limit {number(limit)}"] if scale == "map" and limit else []
        faint = _faint(values, limit, quantile) if scale == "shared" else []
        notes += [*remarks(values), *faint, panels[place].uncertainty.get(method, "")]
        cells[place] = Cell(pixels(scales.colours(values, limit)), lines_of(notes, cell))
        if overlays:
            photograph = torch.from_numpy(pixels(panels[place].photograph)).permute(2, 0, 1) / 255
            over[place] = Cell(pixels(overlay(photograph, values, limit, colors=scales.colours)))
    ends = scales.ends() if scale == "shared" else ("−limit" if scales.signed else "0", "limit")
    strip = _Strip(method, cells, scales, ends)
    return [strip, _Strip(f"{method}, overlaid", over)] if overlays else [strip]


def _faint(values: Tensor, limit: float, quantile: float) -> list[str]:
    """Return that a map uses little of the scale that it shares, so that nobody takes it for empty."""
    own = clip_limits([values], quantile)[0]
    return [f"reaches {own / limit:.2g} of the scale"] if 0 < own < _FAINT * limit else []


def _reduced(hows: Mapping[str, str]) -> str:
    """Return in words how channels are reduced, and by which methods otherwise than by the first."""
    usual = next(iter(hows.values()), "max_abs")
    others: dict[str, list[str]] = {}
    for method, how in hows.items():
        if how != usual:
            others.setdefault(how, []).append(method)
    more = "; ".join(f"{', '.join(methods)}: {reducer(how).description}" for how, methods in others.items())
    return reducer(usual).description + (f" ({more})" if more else "")


def _caption(scales: Sequence[Scale], hows: Mapping[str, str], scale: ScaleOf, quantile: float) -> str:
    if not scales:
        return "No map was made."
    clipped = clipping(any(any(s.clipped) for s in scales), quantile)
    if scale == "map":
        return f"Maps: {_reduced(hows)}. Each has its own scale, up to the limit beneath it; {clipped}."
    shared = "one a method, shared by its maps" if len(scales) > 1 else "shared by all maps"
    span = ""
    if len(scales) == 1:
        limit = number(max(scales[0].limits, default=0.0))
        span = f"{f'−{limit}' if scales[0].signed else '0'} to {limit}, "
    return f"Maps: {_reduced(hows)}. Scale: {span}{shared}; {clipped}."


def _cells(strips: Sequence[_Strip]) -> list[Cell]:
    return [cell for strip in strips for cell in strip.cells.values()]


def _draw_over(
    panels: Sequence[SaliencyPanel], strips: Sequence[_Strip], said: str, cell: float, columns: int
) -> Figure:
    """Draw strips as rows, in blocks of so many photographs."""
    blocks = [range(first, min(first + columns, len(panels))) for first in range(0, len(panels), columns)]
    heads = [_levelled([_Head.of(panels[place], cell, 2) for place in block]) for block in blocks]
    heights = [
        _above(head) + sum(strip.height(block, cell) + GAP for strip in strips) - GAP + _BETWEEN
        for block, head in zip(blocks, heads, strict=True)
    ]
    bar = beside((strip.ends for strip in strips if strip.scale), MARGIN)
    width = MARGIN + _SIDE + min(columns, len(panels)) * (cell + GAP) + bar
    figure = captioned(_cells(strips), cell, width, MARGIN + sum(heights), said)
    tops = accumulate(heights[:-1], initial=MARGIN)
    for block, head, top in zip(blocks, heads, tops, strict=False):
        lefts = [MARGIN + _SIDE + column * (cell + GAP) for column in range(len(block) + 1)]
        for left, of_one in zip(lefts, head, strict=False):
            of_one.draw(figure, left, top)
        top += _above(head)
        for strip in strips:
            _draw_row(figure, strip, block, lefts, top, cell)
            top += strip.height(block, cell) + GAP
    return figure


def _draw_row(
    figure: Figure, strip: _Strip, places: Sequence[int], lefts: Sequence[float], top: float, cell: float
) -> None:
    """Draw a strip with its title on the left and its colour bar on the right."""
    high = strip.tall(places, cell)
    write(figure, strip.title, MARGIN, top + high / 2, size=SIZE, color=GREY, rotation=90, va="center")
    for place, left in zip(places, lefts, strict=False):
        strip.draw(figure, place, left, top, cell)
    if strip.scale:
        upright_bar(figure, strip.ends, strip.scale.signed, lefts[-1], top, high)


def _draw_beside(panels: Sequence[SaliencyPanel], strips: Sequence[_Strip], said: str, cell: float) -> Figure:
    """Draw strips as columns, a photograph a row."""
    heads = [_Head.of(panel, _TEXT, 3) for panel in panels]
    lefts = [MARGIN + _TEXT + GAP + column * (cell + GAP) for column in range(len(strips))]
    first = MARGIN + LINE + 0.08
    heights = [
        max(len(head) * LINE, *(strip.height([place], cell) for strip in strips)) for place, head in enumerate(heads)
    ]
    bars = first + sum(heights) + len(heights) * GAP
    figure = captioned(_cells(strips), cell, lefts[-1] + cell + MARGIN, bars + BAR + 0.3, said)
    for left, strip in zip(lefts, strips, strict=True):
        title = fitted(strip.title, cell, SIZE + 0.5, weight="bold")
        write(figure, title, left, MARGIN, size=SIZE + 0.5, weight="bold")
        if strip.scale:
            level_bar(figure, strip.ends, strip.scale.signed, left, bars, cell)
    top = first
    for place, (head, height) in enumerate(zip(heads, heights, strict=True)):
        head.draw(figure, MARGIN, top)
        for left, strip in zip(lefts, strips, strict=True):
            strip.draw(figure, place, left, top, cell)
        top += height + GAP
    return figure
