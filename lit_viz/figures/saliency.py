"""Figure of saliency maps: photographs and their maps, by method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions.base import MAX_COARSE_ERROR, MAX_ERROR
from lit_viz.attributions.reducers import reduce_channels, reducer
from lit_viz.figures.layout import Block, Cell, Grid, Plot, Text, compose, head, pixels, stack, titles, wrap
from lit_viz.figures.pairs import CAPTION as PAIRS_CAPTION
from lit_viz.figures.scales import SIGNED_CAPTION, ColorBar, ColorScale, ScaleOf, clipping, map_notes, number
from lit_viz.figures.style import CELL, GAP, GRAY, HEAD, NORMAL, RULE, SMALL, SMALL_CELL
from lit_viz.images.reading import to_uint8
from lit_viz.images.rendering import NEGATIVE, POSITIVE, overlay
from lit_viz.types import Picture

#: Meaning of the errors of maps.
_ERRORS = {
    "±": "estimated L2 error of the map before the reduction, relative to the norm of the map of unlimited samples; "
    "above 100% the map is mostly noise",
    "not resolved": f"the error exceeds {MAX_ERROR:.0%} (RISE, KernelSHAP: {MAX_COARSE_ERROR:.0%}) or can't be "
    "estimated: give more iterations",
    "gap": "sum of the map less the change of the score from the baseline, relative to the latter",
}
_OVERLAID = "overlaid"
#: Photographs in a row with their maps of one method.
COLUMNS = 6
_BARS, _TICKS = 0.7, 0.5  # least height of a bar chart, and width of the numbers beside it, in inches
_BAR, _NARROW, _WIDE = 0.14, 1.0, 2.8  # width of a bar with its name, and of the narrowest and the widest chart
_LONGEST = 12  # characters of the name of a band
_PAIRS = 3  # pictures of pairs in a row
_FAINT = 0.25  # a map below this share of the shared limit is nearly black
_FAINT_NOTE = "faint"
_FAINT_CAPTION = "Faint: below a quarter of the scale; scale=map gives each map a scale of its own."


@dataclass(frozen=True)
class SaliencyPanel:
    """One photograph with its maps."""

    name: str  # of the class or the file
    photograph: Picture
    maps: Mapping[str, Tensor | NDArray[np.float32]]  # (C, H, W) or (1, H, W) by method
    subtitle: str = ""  # such as "p = 0.93, predicted"
    uncertainty: Mapping[str, str] = field(default_factory=dict)  # by method, such as "± 2.0%"
    annotate: Callable[[Axes], None] | None = None  # outlines what the score is about on photograph and maps
    bands: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # values of the bands by method
    pairs: Cell | None = None  # interactions of superpixels


@dataclass(frozen=True)
class _Series:
    """The photographs, or the maps of one method, one per panel."""

    title: str
    cells: Sequence[Cell | None]
    overlaid: Sequence[Cell | None] = ()  # the maps over the photographs
    labels: tuple[str, str] = ("", "")  # of the color bar
    scale: ColorScale | None = None

    @property
    def has_faint_map(self) -> bool:
        """Whether a map is noted to be nearly black."""
        for cell in self.cells:
            if cell is not None and any(note.endswith(_FAINT_NOTE) for note in cell.notes):
                return True
        return False

    def color_bar(self, length: float, vertical: bool) -> ColorBar | None:
        if self.scale is None:
            return None
        return ColorBar(self.labels, self.scale.signed, length, vertical)


def saliency_figure(
    panels: Sequence[SaliencyPanel],
    how: str | Mapping[str, str] = "max_abs",
    scale: ScaleOf = "map",
    overlays: bool = False,
    columns: int = COLUMNS,
    selected: str = "",
) -> Figure:
    """Draw photographs and their saliency maps with color bars.

    One method: photographs in a row, their maps beneath. Several methods, or values of bands: one row per photograph
    and one column per method, and one with the bars of its bands. Overlays are beneath the maps. Methods never share a
    scale, because their units differ.

    Args:
        panels: photographs with maps.
        how: channel reducer (see :data:`lit_viz.attributions.reducers.REDUCERS`), or one per method.
        scale: ``"shared"`` by all maps of a method, or one per ``"map"``.
        overlays: also draw the maps over the photographs.
        columns: photographs per row for a single method.
        selected: sentence of the caption about other pages.

    Raises:
        LitVizError: invalid ``how``, or a map without the size of its photograph.
    """
    reducers = _reducers(panels, how)
    charts = _band_charts(panels)
    by_method = len(reducers) > 1 or len(panels) == 1 or bool(charts)
    width = CELL
    if by_method and len(reducers) > 6:
        width = SMALL_CELL
    photographs = [Cell(pixels(panel.photograph), width=width, annotate=panel.annotate) for panel in panels]
    series = [_Series("", photographs)]
    for method, reducer_name in reducers.items():
        series.append(_series(panels, method, reducer_name, scale, overlays, width))
    scales = []
    for kind in series:
        if kind.scale is not None:
            scales.append(kind.scale)
    caption = selected + _caption(scales, reducers, scale, bool(charts)) + _error_caption(panels)
    if by_method:
        grid = _columns_of_maps(panels, series, charts, width)
    else:
        grid = _rows_of_maps(panels, series, width, columns)
    if any(kind.has_faint_map for kind in series):
        caption += f" {_FAINT_CAPTION}"
    if any(scale_of_method.signed for scale_of_method in scales):
        caption += f" {SIGNED_CAPTION}"
    if charts:
        caption += " Bars: sum of the map of each band, or the value of a band that is replaced as a whole."
    pairs = [panel.pairs for panel in panels if panel.pairs is not None]
    if pairs:
        grid = stack(grid, wrap(pairs, _PAIRS), gap=2 * GAP)
        caption += f" {PAIRS_CAPTION}"
    return compose(grid, caption)


def _band_charts(panels: Sequence[SaliencyPanel]) -> dict[str, list[Block | None]]:
    """Return a bar chart of the bands of each photograph, by method; None for a photograph without."""
    charts: dict[str, list[Block | None]] = {}
    for place, panel in enumerate(panels):
        for method, values in panel.bands.items():
            what = "sum of the map" if method in panel.maps else "value"
            longest = max(map(len, values))
            width = min(max(_NARROW, _BAR * len(values)), _WIDE)
            labels = 0.1 + 0.07 * min(longest, _LONGEST)
            plot = Plot(max(_BARS, CELL - labels), partial(_plot_bands, values, what, width), width=width, below=labels)
            column = charts.setdefault(method, [None] * len(panels))
            column[place] = Grid([[Text("", _TICKS), plot]], gap=0)
    return charts


def _plot_bands(values: Mapping[str, float], what: str, width: float, axes: Axes) -> None:
    """Draw the values of the bands as bars, red above and blue below zero, with as many names as fit the width."""
    heights = list(values.values())
    colors = [POSITIVE if height >= 0 else NEGATIVE for height in heights]
    axes.bar(range(len(heights)), heights, color=colors)
    axes.axhline(0, color=RULE, linewidth=0.6)
    names = [name[:_LONGEST] for name in values]
    step = math.ceil(_BAR * len(names) / width)
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=90, size=SMALL)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_ylabel(what, size=SMALL)


def _reducers(panels: Sequence[SaliencyPanel], how: str | Mapping[str, str]) -> dict[str, str]:
    """Return the channel reducer of each method, in order of appearance."""
    reducers = {}
    for panel in panels:
        for method in panel.maps:
            reducers[method] = how if isinstance(how, str) else how.get(method, "max_abs")
    return reducers


def _series(
    panels: Sequence[SaliencyPanel], method: str, how: str, scale: ScaleOf, overlays: bool, width: float
) -> _Series:
    """Return the maps of one method and, if ``overlays``, the maps over the photographs."""
    maps: dict[int, Tensor] = {}
    attributions: dict[int, Tensor] = {}
    for index, panel in enumerate(panels):
        if method in panel.maps:
            attributions[index] = torch.as_tensor(panel.maps[method])
            maps[index] = reduce_channels(attributions[index], how)[0]
    scales = ColorScale.of(list(maps.values()), reducer(how), shared=scale == "shared")
    own_limits = ColorScale.of(list(maps.values()), reducer(how), shared=False).limits
    cells: list[Cell | None] = [None] * len(panels)
    overlaid: list[Cell | None] = []
    if overlays:
        overlaid = [None] * len(panels)
    for (index, values), limit, own_limit in zip(maps.items(), scales.limits, own_limits, strict=True):
        notes = map_notes(values, attributions[index])
        if scale == "map" and limit:
            notes = [f"limit {number(limit)}", *notes]
        elif 0 < own_limit < _FAINT * limit:
            largest = float(values[values.isfinite()].abs().max())
            notes.append(f"maximum {number(largest)}, {_FAINT_NOTE}")
        notes.append(panels[index].uncertainty.get(method, ""))
        cells[index] = Cell(pixels(scales.colors(values, limit)), notes, width, annotate=panels[index].annotate)
        if overlays:
            photograph = torch.from_numpy(pixels(panels[index].photograph)).permute(2, 0, 1) / 255
            overlaid[index] = Cell(pixels(overlay(photograph, values, limit, colors=scales.colors)), width=width)
    labels = scales.labels() if scale == "shared" else _limit_labels(scales.signed)
    return _Series(method, cells, overlaid, labels, scales)


def overlaid_maps(
    photographs: Sequence[Tensor], maps: Sequence[Tensor], how: str = "max_abs", scale: ScaleOf = "map"
) -> list[NDArray[np.uint8]]:
    """Return the maps of one method over their photographs as bytes ``(H, W, 3)``, as the figure draws them.

    Args:
        photographs: ``(C, H, W)`` in [0, 1].
        maps: attributions ``(C, H, W)`` or ``(1, H, W)``, one per photograph.
        how: channel reducer (see :data:`lit_viz.attributions.reducers.REDUCERS`).
        scale: ``"shared"`` by all maps, or one per ``"map"``.
    """
    reduced = [reduce_channels(attribution, how)[0] for attribution in maps]
    scales = ColorScale.of(reduced, reducer(how), shared=scale == "shared")
    pictures = []
    for photograph, values, limit in zip(photographs, reduced, scales.limits, strict=True):
        pictures.append(to_uint8(overlay(photograph, values, limit, colors=scales.colors)))
    return pictures


def _limit_labels(signed: bool) -> tuple[str, str]:
    """Return the labels of a color bar. The limit of each map is noted beneath it."""
    return ("−limit", "limit") if signed else ("0", "limit")


def _caption(scales: Sequence[ColorScale], reducers: Mapping[str, str], scale: ScaleOf, has_bands: bool = False) -> str:
    """Return the sentences about the reduction of the channels and the scales."""
    if not scales:
        return "" if has_bands else "No map was computed."
    maps = _reduction_text(reducers)
    clipped = clipping(any(scale_of_method.clipped for scale_of_method in scales))
    if scale == "map":
        return f"{maps} Each map has its own scale, up to the limit beneath it; {clipped}."
    if len(scales) > 1:
        return f"{maps} Scale: one per method, shared by its maps; {clipped}."
    high = number(scales[0].limit)
    low = f"−{high}" if scales[0].signed else "0"
    return f"{maps} Scale: {low} to {high}, shared by all maps; {clipped}."


def _reduction_text(reducers: Mapping[str, str]) -> str:
    """Return the reduction of the channels as a sentence: of the first method, and of methods that differ from it."""
    methods: dict[str, list[str]] = {}
    for method, how in reducers.items():
        methods.setdefault(reducer(how).description, []).append(method)
    usual, *others = methods
    if not others:
        return f"Maps: {usual}."
    exceptions = [f"{', '.join(methods[description])}: {description}" for description in others]
    return f"Maps: {usual} ({'; '.join(exceptions)})."


def _error_caption(panels: Sequence[SaliencyPanel]) -> str:
    """Return the meaning of each kind of error that is noted beneath a map."""
    errors: list[str] = []
    for panel in panels:
        errors += panel.uncertainty.values()
    noted = " ".join(errors)
    caption = ""
    for mark, meaning in _ERRORS.items():
        if mark in noted:
            caption += f" {mark}: {meaning}."
    return caption


def _rows_of_maps(panels: Sequence[SaliencyPanel], series: Sequence[_Series], width: float, columns: int) -> Grid:
    """Arrange each series as a row, in blocks of ``columns`` photographs."""
    blocks = []
    for first in range(0, len(panels), columns):
        places = slice(first, first + columns)
        names = titles([panel.name for panel in panels[places]], width)
        subtitles = [Text(panel.subtitle, width, lines=3, color=GRAY) for panel in panels[places]]
        rows: list[list[Block | None]] = [[None, Grid([names, subtitles], gap=(GAP, 0))]]
        for kind in series:
            length = max((cell.picture_height for cell in kind.cells[places] if cell), default=0.0)
            title = Text(kind.title, length, NORMAL, lines=None, rotated=True, color=GRAY)
            rows.append([title, *kind.cells[places], kind.color_bar(length, vertical=True)])
            if kind.overlaid:
                title = Text(f"{kind.title}, {_OVERLAID}", length, NORMAL, lines=None, rotated=True, color=GRAY)
                rows.append([title, *kind.overlaid[places], None])
        blocks.append(Grid(rows))
    return stack(*blocks, gap=2 * GAP)


def _columns_of_maps(
    panels: Sequence[SaliencyPanel],
    series: Sequence[_Series],
    charts: Mapping[str, Sequence[Block | None]],
    width: float,
) -> Grid:
    """Arrange each series, and the charts of each method, as a column, with one row per photograph, and one beneath it
    for the overlays."""
    header: list[Block | None] = [None, *titles([kind.title for kind in series], width)]
    for method, column in charts.items():
        wide = max(chart.width for chart in column if chart is not None)
        header += titles([f"{method}, by band"], wide)
    rows = [header]
    for place, panel in enumerate(panels):
        row: list[Block | None] = [head(panel.name, notes=panel.subtitle)]
        overlaid: list[Block | None] = [Text(_OVERLAID, HEAD, NORMAL, color=GRAY)]
        for kind in series:
            row.append(kind.cells[place])
            overlaid.append(kind.overlaid[place] if kind.overlaid else None)
        row += [column[place] for column in charts.values()]
        rows.append(row)
        if any(kind.overlaid for kind in series):
            rows.append(overlaid)
    rows.append([None, *(kind.color_bar(width, vertical=False) for kind in series), *[None] * len(charts)])
    return Grid(rows)
