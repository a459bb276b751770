"""Figure of the Captum comparison: maps, reference maps, differences, gates and similarity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels, reducer
from lit_viz.figures.layout import CELL, GAP, TITLE, Block, Cell, Grid, Text, compose, pixels, stack
from lit_viz.figures.scales import ColorBar, Scale, clipping, map_notes, number
from lit_viz.figures.style import COLORS, GRAY, INK, style

#: Maximum number of maps in the figure.
MOST = 20

_WIDTH = 3 * CELL + 2 * GAP  # of three maps in inches
_VERDICT = 0.5  # widths of the columns of the gates and the table in inches
_GATE_VALUES = 1.25
_TABLE_HEAD = 1.4
_REDUCER = "max_abs"  # in a sum, differences in two channels could cancel
_VERDICTS = {True: ("passed", COLORS[2]), False: ("failed", COLORS[1]), None: ("not checked", GRAY)}


@dataclass(frozen=True)
class Gate:
    """Comparison of a map with a tolerance.

    Attributes:
        name: such as ``formula in float64``.
        difference: largest difference, relative to the maximum of the reference.
        allowed: tolerance.
        passed: whether the difference is within the tolerance.
    """

    name: str
    difference: float
    allowed: float
    passed: bool


@dataclass(frozen=True)
class EvidenceRow:
    """One map and its reference.

    Attributes:
        name: of the photograph or its class.
        method: of the map.
        attribution: ``(C, H, W)``, or ``(1, H, W)`` for spatial methods.
        reference: Captum's attribution of the same shape; None if Captum does not have the method.
        gates: results of the checks.
        similarity: similarity metrics of this map and of controls, which must be low:
            ``{"this map": {"Spearman": 0.99}, "another class": {...}}``.
    """

    name: str
    method: str
    attribution: Tensor | NDArray[np.floating]
    reference: Tensor | NDArray[np.floating] | None
    gates: Sequence[Gate] = ()
    similarity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """Whether all gates passed; None without gates."""
        return all(gate.passed for gate in self.gates) if self.gates else None


@style()
def evidence_figure(
    rows: Sequence[EvidenceRow], quantile: float = 0.995, of: Sequence[bool | None] | None = None
) -> Figure:
    """Draw each map, Captum's and their difference on one scale, with gates and similarity metrics beneath.

    Maps are arranged in two columns if there are more than two, and in three if there are more than six. The difference
    is computed from the attributions before the channels are reduced, so that it contains all channels.

    Args:
        rows: maps; of more than :data:`MOST`, failed ones take precedence.
        quantile: of the pixels of both maps, the limit of the colors (see :func:`lit_viz.images.heatmap.clip_limits`).
        of: verdicts of all maps of the run, for the caption; by default the verdicts of ``rows``.

    Returns:
        A figure with each pixel of a map as a square of whole dots; see :func:`lit_viz.figures.style.save_figure`.
    """
    drawn = sorted(rows, key=lambda row: row.passed is not False)[:MOST] if len(rows) > MOST else rows
    verdicts = [row.passed for row in rows] if of is None else of
    blocks, clipped = [], False
    for row in drawn:
        maps = _maps(row)
        scale = Scale.of(maps[:2], reducer(_REDUCER), quantile, shared=True)
        blocks.append(_block(row, maps, scale))
        clipped |= scale.clipped
    columns = 1 if len(blocks) <= 2 else 2 if len(blocks) <= 6 else 3
    grid = Grid([blocks[first : first + columns] for first in range(0, len(blocks), columns)], gap=2.5 * GAP)

    selection = f"{len(drawn)} of {len(verdicts)} maps, failed maps first. " if len(verdicts) > len(drawn) else ""
    checked = [verdict for verdict in verdicts if verdict is not None]
    verdict = f"{sum(checked)} of {len(checked)} checked maps passed." if checked else "No map was checked."
    return compose(
        grid,
        f"{selection}{verdict} Maps: {reducer(_REDUCER).description}. Each row of maps shares one scale; "
        f"{clipping(clipped, quantile)}. Gates compare the largest difference, relative to the maximum.",
    )


def _maps(row: EvidenceRow) -> list[Tensor]:
    """Return the reduced map, that of Captum and their difference ``(H, W)``; only the first without a reference."""
    attributions = [torch.as_tensor(row.attribution).double()]
    if row.reference is not None:
        attributions.append(torch.as_tensor(row.reference).double())
        attributions.append(attributions[0] - attributions[1])
    return [reduce_channels(attribution, _REDUCER)[0] for attribution in attributions]


def _block(row: EvidenceRow, maps: Sequence[Tensor], scale: Scale) -> Grid:
    word, color = _VERDICTS[row.passed]
    name = Text(f"{row.method} · {row.name}", _WIDTH - 0.9, TITLE, weight="bold")
    heading = Grid([[name, Text(word, 0.9 - GAP, TITLE, align="right", weight="bold", color=color)]])
    notes = [map_notes(values) for values in maps]
    if len(maps) == 3 and math.isfinite(largest := float(maps[-1].max())):
        notes[-1] = [f"largest: {number(largest)}"]
    titles = ("lit_viz", "Captum", "difference")[: len(maps)]
    images: list[Block | None] = [
        Cell(pixels(scale.colors(values, scale.limit)), note) for values, note in zip(maps, notes, strict=True)
    ]
    images.append(ColorBar(scale.labels(), scale.signed))
    if row.reference is None:
        images.append(Text("Captum does not have this method", color=GRAY))
    title_row: list[Block | None] = [Text(title, CELL, color=GRAY) for title in titles]
    title_row += [None] * (len(images) - len(title_row))
    comparison = Grid([title_row, images], gap=(GAP, 0.3 * GAP))
    return stack(heading, comparison, _gates(row.gates), _table(row.similarity), gap=0.6 * GAP)


def _gates(gates: Sequence[Gate]) -> Grid:
    rows = []
    for gate in gates:
        word, color = _VERDICTS[gate.passed]
        values = f"{number(gate.difference)} {'≤' if gate.passed else '>'} {number(gate.allowed)}"
        rows.append(
            [
                Text(word, _VERDICT, weight="bold", color=color),
                Text(gate.name, _WIDTH - _VERDICT - _GATE_VALUES),
                Text(values, _GATE_VALUES, align="right"),
            ]
        )
    return Grid(rows, gap=0)


def _table(similarity: Mapping[str, Mapping[str, float]]) -> Grid:
    """Return one line per map and one right-aligned column per metric."""
    names = list(dict.fromkeys(name for metrics in similarity.values() for name in metrics))
    width = (_WIDTH - _TABLE_HEAD) / max(1, len(names)) - GAP
    rows: list[list[Block | None]] = [[None, *(Text(name, width, align="right", color=GRAY) for name in names)]]
    for line, (name, metrics) in enumerate(similarity.items()):
        color = GRAY if line else INK
        values = [_decimals(metrics[metric]) if metric in metrics else "" for metric in names]
        cells = [Text(value, width, align="right", color=color) for value in values]
        rows.append([Text(name, _TABLE_HEAD, color=color), *cells])
    return Grid(rows if names else [], gap=(GAP, 0))


def _decimals(value: float) -> str:
    """Format with four decimals, or with three significant digits if the decimals would all be zero."""
    if math.isnan(value):
        return "undefined"
    return number(value) if 0 < abs(value) < 0.00005 else f"{value:.4f}"
