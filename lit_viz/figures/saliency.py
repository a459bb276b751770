"""Figure of saliency maps: photographs and their maps, by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels, reducer
from lit_viz.errors import LitVizError
from lit_viz.figures.layout import (
    CELL,
    GAP,
    NORMAL,
    SMALL_CELL,
    TITLE,
    Block,
    Cell,
    Grid,
    Space,
    Text,
    compose,
    pixels,
    stack,
)
from lit_viz.figures.scales import ColorBar, Scale, clipping, map_notes, number
from lit_viz.figures.style import GRAY, style
from lit_viz.images.heatmap import clip_limits, overlay
from lit_viz.types import Picture

ScaleOf = Literal["shared", "map"]
#: Maximum number of photographs in a figure.
MOST = 60

_HEAD = 1.25  # width of the text on the left of a row in inches
_FAINT = 0.3  # a map below this share of the shared limit is nearly black


@dataclass(frozen=True)
class SaliencyPanel:
    """One photograph with its maps.

    Attributes:
        name: class or file name.
        photograph: classifier input, ``(C, H, W)`` in [0, 1] or a file.
        maps: attribution by method, ``(C, H, W)``, or ``(1, H, W)`` for spatial methods.
        subtitle: lines such as ``p = 0.93, predicted``.
        uncertainty: by method, such as ``± 2.0%``.
    """

    name: str
    photograph: Picture
    maps: Mapping[str, Tensor | NDArray[np.float32]]
    subtitle: str = ""
    uncertainty: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Series:
    """The images of one kind: the photographs, the maps of one method, or its overlays; one per panel."""

    title: str
    cells: Sequence[Cell | None]
    labels: tuple[str, str] = ("", "")  # of the color bar
    scale: Scale | None = None

    def color_bar(self, length: float, vertical: bool) -> ColorBar | None:
        return ColorBar(self.labels, self.scale.signed, length, vertical) if self.scale else None


@style()
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
    """Draw photographs and their saliency maps with color bars.

    One method: photographs in a row, their maps beneath. Several methods: one row per photograph and one column per
    method. Methods never share a scale, because their units differ.

    Args:
        panels: photographs with maps.
        how: channel reducer (see :data:`lit_viz.attributions.reducers.REDUCERS`), or one per method.
        scale: ``"shared"`` by all maps of a method, or one per ``"map"``.
        quantile: of the pixels, the limit of the colors (see :func:`lit_viz.images.heatmap.clip_limits`).
        overlays: also draw the maps over the photographs.
        columns: photographs per row for a single method.
        limit: maximum number of photographs.
        total: number of photographs reported in the caption; ``len(panels)`` if not given.

    Returns:
        A figure with each pixel of a map as a square of whole dots; see :func:`lit_viz.figures.style.save_figure`.

    Raises:
        LitVizError: if ``how`` or ``scale`` is invalid or a map does not have the size of its photograph.
    """
    if scale not in get_args(ScaleOf):
        raise LitVizError(f"scale must be one of {', '.join(get_args(ScaleOf))}, got {scale!r}")
    drawn = panels[:limit]
    total = len(panels) if total is None else total
    methods = list(dict.fromkeys(method for panel in drawn for method in panel.maps))
    reducers = {method: how if isinstance(how, str) else how.get(method, "max_abs") for method in methods}
    by_method = len(methods) > 1 or len(drawn) == 1
    width = CELL if not by_method or (1 + overlays) * len(methods) <= 6 else SMALL_CELL
    series = [_Series("", [Cell(pixels(panel.photograph), width=width) for panel in drawn])]
    for method in methods:
        series += _series(drawn, method, reducers[method], scale, quantile, overlays, width)
    count = f"{len(drawn)} of {total} photographs. " if total > len(drawn) else ""
    caption = count + _caption([one.scale for one in series if one.scale], reducers, scale, quantile)
    if any("±" in error for panel in panels for error in panel.uncertainty.values()):
        caption += " ±: standard error, relative to the map's maximum."
    grid = _columns_of_maps(drawn, series, width) if by_method else _rows_of_maps(drawn, series, width, columns)
    return compose(grid, caption)


def _series(
    panels: Sequence[SaliencyPanel],
    method: str,
    how: str,
    scale: ScaleOf,
    quantile: float,
    overlays: bool,
    width: float,
) -> list[_Series]:
    """Return the maps of one method and, if ``overlays``, the maps over the photographs."""
    maps = {
        index: reduce_channels(torch.as_tensor(panel.maps[method]), how)[0]
        for index, panel in enumerate(panels)
        if method in panel.maps
    }
    scales = Scale.of(list(maps.values()), reducer(how), quantile, shared=scale == "shared")
    cells: list[Cell | None] = [None] * len(panels)
    overlaid: list[Cell | None] = [None] * len(panels)
    for (index, values), limit in zip(maps.items(), scales.limits, strict=True):
        notes = map_notes(values)
        own_limit = clip_limits([values], quantile)[0]
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


def _caption(scales: Sequence[Scale], reducers: Mapping[str, str], scale: ScaleOf, quantile: float) -> str:
    if not scales:
        return "No map was computed."
    methods: dict[str, list[str]] = {}
    for method, how in reducers.items():
        methods.setdefault(reducer(how).description, []).append(method)
    usual, *others = methods
    exceptions = "; ".join(f"{', '.join(methods[description])}: {description}" for description in others)
    maps = f"Maps: {usual}{f' ({exceptions})' if exceptions else ''}."
    clipped = clipping(any(of_method.clipped for of_method in scales), quantile)
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
        names = [Text(panels[place].name, width, TITLE, lines=2, weight="bold") for place in places]
        height = max(name.height for name in names)
        rows: list[list[Block | None]] = [[None]]
        for place, name in zip(places, names, strict=True):
            subtitle = Text(panels[place].subtitle, width, lines=3, color=GRAY)
            rows[0].append(stack(Space(height=height - name.height), name, subtitle))
        rows[0].append(None)
        for one in series:
            cells = [one.cells[place] for place in places]
            length = max((cell.picture_height for cell in cells if cell), default=0.0)
            title = Text(one.title, length, NORMAL, rotated=True, color=GRAY)
            rows.append([title, *cells, one.color_bar(length, vertical=True)])
        blocks.append(Grid(rows))
    return stack(*blocks, gap=2 * GAP)


def _columns_of_maps(panels: Sequence[SaliencyPanel], series: Sequence[_Series], width: float) -> Grid:
    """Arrange each series as a column, with one row per photograph."""
    rows: list[list[Block | None]] = [[None, *(Text(one.title, width, TITLE, weight="bold") for one in series)]]
    for place, panel in enumerate(panels):
        name = Text(panel.name, _HEAD, TITLE, lines=3, weight="bold")
        subtitle = Text(panel.subtitle, _HEAD, lines=3, color=GRAY)
        rows.append([stack(name, subtitle), *(one.cells[place] for one in series)])
    rows.append([None, *(one.color_bar(width, vertical=False) for one in series)])
    return Grid(rows)
