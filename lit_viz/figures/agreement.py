"""Figure of the comparison of saliency maps with Captum or the original network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.attributions import title_of
from lit_viz.attributions.reducers import reduce_channels, reducer
from lit_viz.figures.layout import Block, Cell, Grid, Text, compose, pixels, selection, stack, wrap
from lit_viz.figures.scales import ColorBar, ColorScale, clipping, map_notes, number
from lit_viz.figures.style import CELL, COLORS, GAP, GRAY, INK, TITLE
from lit_viz.runs.evidence import CAPTUM, CaptumEvidence, Gate, MapAgreement, Similarity
from lit_viz.runs.results import Outcome
from lit_viz.utils.limits import MOST_ROWS

_WIDTH = 3 * CELL + 2 * GAP  # of three maps in inches
_VERDICT = 0.5  # widths of the columns of the gates and the table in inches
_GATE_VALUES = 1.25
_TABLE_HEAD = 1.4
_REDUCER = reducer("max_abs")  # in a sum, differences in two channels could cancel
_VERDICTS = {True: ("passed", COLORS[2]), False: ("failed", COLORS[1])}
#: Pixels of all maps in a figure, and maps that are drawn whatever their size.
_MOST_PIXELS, _LEAST_ROWS = 1 << 20, 3


def agreement_figure(
    result: CaptumEvidence, references: Mapping[int, Tensor], outcomes: Sequence[Outcome]
) -> Figure | None:
    """Draw each map, its reference and their difference on one scale, with gates and similarity metrics beneath.

    The difference is computed before the channels are reduced, so that it contains all channels. Of more than
    :data:`~lit_viz.utils.limits.MOST_ROWS` maps, or of fewer large ones, failed ones take precedence. Maps that were
    verified by their terms have no reference. None is returned if no whole map was compared.
    """
    by_index = {outcome.record.index: outcome for outcome in outcomes}
    rows: list[_ComparedMap] = []
    for index, reference in references.items():
        rows.append(_ComparedMap(by_index[index], result.by_index[index], reference))
    if not rows:
        return None
    most = min(MOST_ROWS, max(_LEAST_ROWS, _MOST_PIXELS // rows[0].reference[0].numel()))
    if len(rows) > most:
        rows = sorted(rows, key=lambda row: row.agreement.passed)[:most]
    blocks, clipped = [], False
    for row in rows:
        maps = row.maps()
        scale = ColorScale.of(maps[:2], _REDUCER, shared=True)
        blocks.append(_comparison(row, maps, scale, result.precision))
        clipped |= scale.clipped
    columns = 3
    if len(blocks) <= 2:
        columns = 1
    elif len(blocks) <= 6:
        columns = 2
    return compose(wrap(blocks, columns, 2.5 * GAP), _caption(result, len(rows), clipped))


@dataclass(frozen=True)
class _ComparedMap:
    """A map with its reference, both ``(C, H, W)``."""

    outcome: Outcome
    agreement: MapAgreement
    reference: Tensor

    def maps(self) -> list[Tensor]:
        """Return the map, the reference and their difference, ``(H, W)`` in float64."""
        delivered = self.outcome.array()
        assert delivered is not None
        own, reference = delivered.double(), self.reference.double()
        return [reduce_channels(attribution, "max_abs")[0] for attribution in (own, reference, own - reference)]


def _caption(result: CaptumEvidence, drawn: int, clipped: bool) -> str:
    total = len(result.maps)
    passed = sum(agreement.passed for agreement in result.maps)
    by_terms = sum(agreement.sum is not None for agreement in result.maps)
    whole = total - by_terms
    remark = ""
    if by_terms:
        remark = f" ({by_terms} of them, verified by their terms, are not drawn)"
    return (
        f"{selection(drawn, whole, 'maps, failed maps first')}{passed} of {total} checked maps passed{remark}. "
        f"Maps: {_REDUCER.description}. Each row of maps shares one scale; {clipping(clipped)}. Gates compare "
        "the largest difference, relative to the maximum."
    )


def _comparison(row: _ComparedMap, maps: Sequence[Tensor], scale: ColorScale, half: str | None) -> Grid:
    outcome, agreement = row.outcome, row.agreement
    verdict, color = _VERDICTS[agreement.passed]
    method = title_of(getattr(outcome.record, "method", ""))
    name = Text(f"{method} · {outcome.name}", _WIDTH - 0.9, TITLE, lines=None, weight="bold")
    heading = Grid([[name, Text(verdict, 0.9 - GAP, TITLE, align="right", weight="bold", color=color)]])
    images: list[Block | None] = []
    for place, values in enumerate(maps):
        notes = map_notes(values)
        largest = float(values.max())
        if place == len(maps) - 1 and math.isfinite(largest):
            notes = [f"largest: {number(largest)}"]
        images.append(Cell(pixels(scale.colors(values, scale.limit)), notes))
    captions = [Text(title, CELL, color=GRAY) for title in ("lit_viz", agreement.reference or CAPTUM, "difference")]
    compared = Grid([[*captions, None], [*images, ColorBar(scale.labels(), scale.signed)]], gap=(GAP, 0.3 * GAP))
    delivered = "map as delivered" if half is None else f"map in {half}"
    gates = [_gate(delivered, agreement.delivered)]
    if agreement.formula is not None:
        gates.insert(0, _gate("formula in float64", agreement.formula))
    return stack(heading, compared, Grid(gates, gap=0), _table(agreement), gap=0.6 * GAP)


def _gate(name: str, gate: Gate) -> list[Block]:
    verdict, color = _VERDICTS[gate.passed]
    relation = "≤" if gate.passed else ">"
    values = f"{number(gate.difference or 0.0)} {relation} {number(gate.allowed or 0.0)}"
    return [
        Text(verdict, _VERDICT, weight="bold", color=color),
        Text(name, _WIDTH - _VERDICT - _GATE_VALUES),
        Text(values, _GATE_VALUES, align="right"),
    ]


def _table(agreement: MapAgreement) -> Grid:
    """Return the similarity of the map and its controls, one line each, with a right-aligned column per metric."""
    width = (_WIDTH - _TABLE_HEAD) / 3 - GAP

    def row(name: str, values: Sequence[str], color: str) -> list[Block | None]:
        cells = [Text(value, width, align="right", color=color) for value in values]
        return [Text(name, _TABLE_HEAD, lines=None, color=color), *cells]

    rows = [row("", ["Spearman", "SSIM", "top 10 % IoU"], GRAY)]
    if agreement.similarity is not None:
        rows.append(row("this map", _values(agreement.similarity), INK))
    for name, similarity in agreement.controls.items():
        rows.append(row(name, _values(similarity), GRAY))
    return Grid(rows, gap=(GAP, 0))


def _values(similarity: Similarity) -> list[str]:
    return [_decimals(value) for value in (similarity.spearman, similarity.ssim, similarity.top_iou)]


def _decimals(value: float | None) -> str:
    """Format with four decimals, or with three significant digits if the decimals would all be zero."""
    if value is None or math.isnan(value):
        return "undefined"
    if 0 < abs(value) < 0.00005:
        return number(value)
    return f"{value:.4f}"
