"""Figures of the evidence of saliency maps: comparison with Captum, and localization."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels, reducer
from lit_viz.figures.layout import (
    CELL,
    GAP,
    GROUP_GAP,
    HEAD,
    TITLE,
    Block,
    Cell,
    Grid,
    Text,
    compose,
    head,
    pixels,
    selection,
    stack,
    titles,
    wrap,
)
from lit_viz.figures.scales import ColorBar, Scale, clipping, map_notes, number
from lit_viz.figures.style import COLORS, GRAY, INK
from lit_viz.images.reading import Box
from lit_viz.images.rendering import clip_limits, heat

#: Maximum number of maps in a figure.
MOST = 20
_WIDTH = 3 * CELL + 2 * GAP  # of three maps in inches
_VERDICT = 0.5  # widths of the columns of the gates and the table in inches
_GATE_VALUES = 1.25
_TABLE_HEAD = 1.4
_REDUCER = reducer("max_abs")  # in a sum, differences in two channels could cancel
_VERDICTS = {True: ("passed", COLORS[2]), False: ("failed", COLORS[1]), None: ("not checked", GRAY)}
_BLUE, _ORANGE, _GREEN = COLORS[:3]
_LINE = 1.6  # width of the outline of a box in points


@dataclass(frozen=True)
class Gate:
    """Comparison of a map with a tolerance."""

    name: str
    difference: float  # largest, relative to the maximum of the reference
    allowed: float
    passed: bool


@dataclass(frozen=True)
class EvidenceRow:
    """One map and its reference."""

    name: str  # of the photograph or its class
    method: str
    attribution: Tensor | NDArray[np.floating]  # (C, H, W), or (1, H, W) for spatial methods
    reference: Tensor | NDArray[np.floating]  # Captum's, of the same shape
    gates: Sequence[Gate] = ()
    similarity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # metrics of this map and controls

    @property
    def passed(self) -> bool | None:
        """Whether all gates passed; None without gates."""
        return all(gate.passed for gate in self.gates) if self.gates else None


def evidence_figure(rows: Sequence[EvidenceRow], verdicts: Sequence[bool | None] = ()) -> Figure:
    """Draw each map, Captum's and their difference on one scale, with gates and similarity metrics beneath.

    The difference is computed before the channels are reduced, so that it contains all channels.

    Args:
        rows: maps; of more than :data:`MOST`, failed ones take precedence.
        verdicts: of all maps of the run, for the caption; those of ``rows`` if not given.
    """
    drawn = sorted(rows, key=lambda row: row.passed is not False)[:MOST] if len(rows) > MOST else rows
    verdicts = verdicts or [row.passed for row in rows]
    blocks, clipped = [], False
    for row in drawn:
        attributions = [torch.as_tensor(values).double() for values in (row.attribution, row.reference)]
        attributions.append(attributions[0] - attributions[1])
        maps = [reduce_channels(attribution, "max_abs")[0] for attribution in attributions]
        scale = Scale.of(maps[:2], _REDUCER, shared=True)
        blocks.append(_comparison(row, maps, scale))
        clipped |= scale.clipped
    checked = [verdict for verdict in verdicts if verdict is not None]
    verdict = f"{sum(checked)} of {len(checked)} checked maps passed." if checked else "No map was checked."
    return compose(
        wrap(blocks, 1 if len(blocks) <= 2 else 2 if len(blocks) <= 6 else 3, 2.5 * GAP),
        f"{selection(len(drawn), len(verdicts), 'maps, failed maps first')}{verdict} Maps: {_REDUCER.description}. "
        f"Each row of maps shares one scale; {clipping(clipped)}. Gates compare the largest difference, relative to "
        "the maximum.",
    )


def _comparison(row: EvidenceRow, maps: Sequence[Tensor], scale: Scale) -> Grid:
    word, color = _VERDICTS[row.passed]
    name = Text(f"{row.method} · {row.name}", _WIDTH - 0.9, TITLE, weight="bold")
    heading = Grid([[name, Text(word, 0.9 - GAP, TITLE, align="right", weight="bold", color=color)]])
    notes = [map_notes(values) for values in maps]
    if math.isfinite(largest := float(maps[-1].max())):
        notes[-1] = [f"largest: {number(largest)}"]
    images: list[Block | None] = [
        Cell(pixels(scale.colors(values, scale.limit)), note) for values, note in zip(maps, notes, strict=True)
    ]
    captions = [Text(title, CELL, color=GRAY) for title in ("lit_viz", "Captum", "difference")]
    compared = Grid([[*captions, None], [*images, ColorBar(scale.labels(), scale.signed)]], gap=(GAP, 0.3 * GAP))
    return stack(heading, compared, _gates(row.gates), _table(row.similarity), gap=0.6 * GAP)


def _gates(gates: Sequence[Gate]) -> Grid:
    rows = []
    for gate in gates:
        word, color = _VERDICTS[gate.passed]
        values = f"{number(gate.difference)} {'≤' if gate.passed else '>'} {number(gate.allowed)}"
        name = Text(gate.name, _WIDTH - _VERDICT - _GATE_VALUES)
        verdict = Text(word, _VERDICT, weight="bold", color=color)
        rows.append([verdict, name, Text(values, _GATE_VALUES, align="right")])
    return Grid(rows, gap=0)


def _table(similarity: Mapping[str, Mapping[str, float]]) -> Grid:
    """Return one line per map and one right-aligned column per metric."""
    names = list(dict.fromkeys(name for metrics in similarity.values() for name in metrics))
    width = (_WIDTH - _TABLE_HEAD) / max(1, len(names)) - GAP
    rows: list[list[Block | None]] = [[None, *(Text(name, width, align="right", color=GRAY) for name in names)]]
    for line, (name, metrics) in enumerate(similarity.items()):
        color = GRAY if line else INK
        values = [_decimals(metrics[metric]) if metric in metrics else "" for metric in names]
        rows.append([Text(name, _TABLE_HEAD, color=color)])
        rows[-1] += [Text(value, width, align="right", color=color) for value in values]
    return Grid(rows if names else [], gap=(GAP, 0))


def _decimals(value: float) -> str:
    """Format with four decimals, or with three significant digits if the decimals would all be zero."""
    if math.isnan(value):
        return "undefined"
    return number(value) if 0 < abs(value) < 0.00005 else f"{value:.4f}"


@dataclass(frozen=True)
class LocalizationPanel:
    """Localization by one map; boxes are (left, top, right, bottom) in pixels of the image."""

    name: str  # of the class
    photograph: Tensor
    values: Tensor  # (H, W)
    seeds: NDArray[np.int8] | None = None  # (H, W): 1 foreground, -1 background, 0 neither
    mask: NDArray[np.bool_] | None = None
    box: Box | None = None  # of the mask
    truth: Sequence[Box] = ()  # reference boxes; parts outside the image are not drawn
    subtitle: str = ""
    notes: Sequence[str] = ()  # beneath the box: IoU or error


def localization_figure(
    panels: Sequence[LocalizationPanel], foreground: float, background: float, total: int | None = None
) -> Figure:
    """Draw one row per map: photograph, map, seeds, mask and boxes; more than six rows are arranged in two columns.

    Args:
        panels: results, of which :data:`MOST` are drawn.
        foreground, background: quantiles of the map that bound the seeds.
        total: number of maps reported in the caption; ``len(panels)`` if not given.
    """
    drawn = panels[:MOST]
    length = math.ceil(len(drawn) / (1 if len(drawn) <= 6 else 2)) or 1
    header: list[Block | None] = [Text("", HEAD), *titles(["photograph", "map", "seeds", "mask", "box"], CELL)]
    rows = [_localized(panel) for panel in drawn]
    columns = [Grid([header, *rows[first : first + length]]) for first in range(0, max(len(rows), 1), length)]
    reference = ", reference boxes dashed in green" if any(panel.truth for panel in drawn) else ""
    caption = (
        f"{selection(len(drawn), total or len(panels), 'maps')}Each map has its own scale; {clipping(True)}. Seeds: "
        f"object in orange, from the {100 * foreground:g} % quantile of the blurred map; background in blue, up to its "
        f"{100 * background:g} % quantile. Mask: largest connected component of the graph cut. Box: bounding box of "
        f"the mask in orange{reference}."
    )
    return compose(Grid([columns], gap=GROUP_GAP), caption)


def _localized(panel: LocalizationPanel) -> list[Block | None]:
    photograph = pixels(panel.photograph)
    seeds = mask = None
    if panel.seeds is not None and panel.mask is not None:
        dark = np.repeat(photograph.mean(2, keepdims=True) * 0.35, 3, axis=2).astype(np.uint8)
        colored = dark.copy()
        for where, color in ((panel.seeds > 0, _ORANGE), (panel.seeds < 0, _BLUE)):
            colored[where] = [round(255 * share) for share in to_rgb(color)]
        seeds, mask = Cell(colored), Cell(np.where(panel.mask[..., None], photograph, dark))
    return [
        head(panel.name, notes=panel.subtitle),
        Cell(photograph),
        Cell(pixels(heat(panel.values, clip_limits([panel.values])[0])), map_notes(panel.values)),
        seeds,
        mask,
        Cell(photograph, panel.notes, lines=5, annotate=partial(_draw_boxes, panel)),
    ]


def _draw_boxes(panel: LocalizationPanel, axes: Axes) -> None:
    """Outline the boxes, reference boxes last: an equal box would hide them."""
    inset = _LINE / 2 / 72 * axes.images[0].get_size()[1] / CELL  # half a line in pixels: lines stay inside the box
    boxes = [] if panel.box is None else [(panel.box, _ORANGE, "-")]
    for (left, top, right, bottom), color, line in [*boxes, *((box, _GREEN, "--") for box in panel.truth)]:
        corner = (left - 0.5 + inset, top - 0.5 + inset)  # pixel k extends from k - 0.5 to k + 0.5
        width, height = right - left - 2 * inset, bottom - top - 2 * inset
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=color, linestyle=line, lw=_LINE))
