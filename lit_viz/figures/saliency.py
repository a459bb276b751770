"""Figure of saliency maps: photographs and their maps, by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions.base import MAX_COARSE_ERROR, MAX_ERROR
from lit_viz.attributions.reducers import reduce_channels, reducer
from lit_viz.figures.layout import Block, Cell, Grid, Text, compose, head, pixels, selection, stack, titles
from lit_viz.figures.scales import ColorBar, Scale, clipping, map_notes, number
from lit_viz.figures.style import CELL, GAP, GRAY, NORMAL, SMALL_CELL
from lit_viz.images.rendering import overlay
from lit_viz.types import Picture

ScaleOf = Literal["shared", "map"]
#: Maximum number of photographs in a figure.
MOST = 60
#: Meaning of the errors of maps.
_ERRORS = {
    "±": "estimated L2 error of the map before the reduction, relative to the norm of the map of unlimited samples; "
    "above 100% the map is mostly noise",
    "not resolved": f"the error exceeds {MAX_ERROR:.0%} (RISE, KernelSHAP: {MAX_COARSE_ERROR:.0%}) or can't be "
    "estimated: give more --iterations",
    "gap": "sum of the map less the change of the score from the baseline, relative to the latter",
}
_FAINT = 0.3  # a map below this share of the shared limit is nearly black


@dataclass(frozen=True)
class SaliencyPanel:
    """One photograph with its maps."""

    name: str  # of the class or the file
    photograph: Picture
    maps: Mapping[str, Tensor | NDArray[np.float32]]  # (C, H, W) or (1, H, W) by method
    subtitle: str = ""  # such as "p = 0.93, predicted"
    uncertainty: Mapping[str, str] = field(default_factory=dict)  # by method, such as "± 2.0%"


@dataclass(frozen=True)
class _Series:
    """The images of one kind: the photographs, the maps of one method, or its overlays; one per panel."""

    title: str
    cells: Sequence[Cell | None]
    labels: tuple[str, str] = ("", "")  # of the color bar
    scale: Scale | None = None

    def color_bar(self, length: float, vertical: bool) -> ColorBar | None:
        return ColorBar(self.labels, self.scale.signed, length, vertical) if self.scale else None


def saliency_figure(
    panels: Sequence[SaliencyPanel],
    how: str | Mapping[str, str] = "max_abs",
    scale: ScaleOf = "shared",
    overlays: bool = False,
    columns: int = 6,
    total: int | None = None,
) -> Figure:
    """Draw photographs and their saliency maps with color bars.

    One method: photographs in a row, their maps beneath. Several methods: one row per photograph and one column per
    method. Methods never share a scale, because their units differ.

    Args:
        panels: photographs with maps, of which :data:`MOST` are drawn.
        how: channel reducer (see :data:`lit_viz.attributions.reducers.REDUCERS`), or one per method.
        scale: ``"shared"`` by all maps of a method, or one per ``"map"``.
        overlays: also draw the maps over the photographs.
        columns: photographs per row for a single method.
        total: number of photographs reported in the caption; ``len(panels)`` if not given.

    Raises:
        LitVizError: invalid ``how``, or a map without the size of its photograph.
    """
    drawn = panels[:MOST]
    methods = list(dict.fromkeys(method for panel in drawn for method in panel.maps))
    reducers = {method: how if isinstance(how, str) else how.get(method, "max_abs") for method in methods}
    by_method = len(methods) > 1 or len(drawn) == 1
    width = CELL if not by_method or (1 + overlays) * len(methods) <= 6 else SMALL_CELL
    series = [_Series("", [Cell(pixels(panel.photograph), width=width) for panel in drawn])]
    for method in methods:
        series += _series(drawn, method, reducers[method], scale, overlays, width)
    caption = selection(len(drawn), total or len(panels), "photographs")
    caption += _caption([one.scale for one in series if one.scale], reducers, scale)
    errors = " ".join(error for panel in drawn for error in panel.uncertainty.values())
    caption += "".join(f" {mark}: {meaning}." for mark, meaning in _ERRORS.items() if mark in errors)
    grid = _columns_of_maps(drawn, series, width) if by_method else _rows_of_maps(drawn, series, width, columns)
    return compose(grid, caption)


def _series(
    panels: Sequence[SaliencyPanel], method: str, how: str, scale: ScaleOf, overlays: bool, width: float
) -> list[_Series]:
    """Return the maps of one method and, if ``overlays``, the maps over the photographs."""
    maps = {
        index: reduce_channels(torch.as_tensor(panel.maps[method]), how)[0]
        for index, panel in enumerate(panels)
        if method in panel.maps
    }
    scales = Scale.of(list(maps.values()), reducer(how), shared=scale == "shared")
    own_limits = Scale.of(list(maps.values()), reducer(how), shared=False).limits
    cells: list[Cell | None] = [None] * len(panels)
    overlaid: list[Cell | None] = [None] * len(panels)
    for (index, values), limit, own_limit in zip(maps.items(), scales.limits, own_limits, strict=True):
        notes = map_notes(values)
        if scale == "map" and limit:
            notes = [f"limit {number(limit)}", *notes]
        elif 0 < own_limit < _FAINT * limit:
            notes.append(f"reaches {own_limit / limit:.2g} of the scale")
        notes.append(panels[index].uncertainty.get(method, ""))
        cells[index] = Cell(pixels(scales.colors(values, limit)), notes, width)
        if overlays:
            photograph = torch.from_numpy(pixels(panels[index].photograph)).permute(2, 0, 1) / 255
            overlaid[index] = Cell(pixels(overlay(photograph, values, limit, colors=scales.colors)), width=width)
    labels = scales.labels() if scale == "shared" else ("−limit" if scales.signed else "0", "limit")
    series = _Series(method, cells, labels, scales)
    return [series, _Series(f"{method}, overlaid", overlaid)] if overlays else [series]


def _caption(scales: Sequence[Scale], reducers: Mapping[str, str], scale: ScaleOf) -> str:
    if not scales:
        return "No map was computed."
    methods: dict[str, list[str]] = {}
    for method, how in reducers.items():
        methods.setdefault(reducer(how).description, []).append(method)
    usual, *others = methods
    exceptions = "; ".join(f"{', '.join(methods[description])}: {description}" for description in others)
    maps = f"Maps: {usual}{f' ({exceptions})' if exceptions else ''}."
    clipped = clipping(any(of_method.clipped for of_method in scales))
    if scale == "map":
        return f"{maps} Each map has its own scale, up to the limit beneath it; {clipped}."
    if len(scales) > 1:
        return f"{maps} Scale: one per method, shared by its maps; {clipped}."
    limit = number(scales[0].limit)
    return f"{maps} Scale: {f'−{limit}' if scales[0].signed else '0'} to {limit}, shared by all maps; {clipped}."


def _rows_of_maps(panels: Sequence[SaliencyPanel], series: Sequence[_Series], width: float, columns: int) -> Grid:
    """Arrange each series as a row, in blocks of ``columns`` photographs."""
    blocks = []
    for first in range(0, len(panels), columns):
        places = range(first, min(first + columns, len(panels)))
        names = titles([panels[place].name for place in places], width)
        subtitles = [Text(panels[place].subtitle, width, lines=3, color=GRAY) for place in places]
        rows: list[list[Block | None]] = [[None, Grid([names, subtitles], gap=(GAP, 0))]]
        for one in series:
            cells = [one.cells[place] for place in places]
            length = max((cell.picture_height for cell in cells if cell), default=0.0)
            title = Text(one.title, length, NORMAL, rotated=True, color=GRAY)
            rows.append([title, *cells, one.color_bar(length, vertical=True)])
        blocks.append(Grid(rows))
    return stack(*blocks, gap=2 * GAP)


def _columns_of_maps(panels: Sequence[SaliencyPanel], series: Sequence[_Series], width: float) -> Grid:
    """Arrange each series as a column, with one row per photograph."""
    rows: list[list[Block | None]] = [[None, *titles([one.title for one in series], width)]]
    for place, panel in enumerate(panels):
        rows.append([head(panel.name, notes=panel.subtitle), *(one.cells[place] for one in series)])
    rows.append([None, *(one.color_bar(width, vertical=False) for one in series)])
    return Grid(rows)
