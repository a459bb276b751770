"""Figures of the evidence of saliency maps: comparison with Captum, and localization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lit_viz.attributions import title_of
from lit_viz.attributions.reducers import reduce_channels, reducer
from lit_viz.evidence.saliency.cross_check import FORMULA_TOLERANCE, Agreement, CrossCheck
from lit_viz.figures.layout import Block, Cell, Grid, Text, compose, head, pixels, selection, stack, titles, wrap
from lit_viz.figures.scales import ColorBar, Scale, clipping, map_notes, number
from lit_viz.figures.style import CELL, COLORS, GAP, GRAY, GROUP_GAP, HEAD, INK, TITLE
from lit_viz.images.rendering import clip_limits, heat
from lit_viz.localization import SEEDS, Localization, LocalizedMap
from lit_viz.runs.results import Outcome

#: Maximum number of maps in a figure.
MOST = 20
_WIDTH = 3 * CELL + 2 * GAP  # of three maps in inches
_VERDICT = 0.5  # widths of the columns of the gates and the table in inches
_GATE_VALUES = 1.25
_TABLE_HEAD = 1.4
_REDUCER = reducer("max_abs")  # in a sum, differences in two channels could cancel
_VERDICTS = {True: ("passed", COLORS[2]), False: ("failed", COLORS[1])}
_BLUE, _ORANGE, _GREEN = COLORS[:3]
_LINE = 1.6  # width of the outline of a box in points


def evidence_figure(result: CrossCheck, outcomes: Sequence[Outcome]) -> Figure | None:
    """Draw each map, Captum's and their difference on one scale, with gates and similarity metrics beneath.

    The difference is computed before the channels are reduced, so that it contains all channels. Of more than
    :data:`MOST` maps, failed ones take precedence. None is returned if no map was compared.
    """
    by_index = {outcome.record.index: outcome for outcome in outcomes}
    rows = [
        (by_index[index], agreement, reference)
        for index, (agreement, reference) in result.agreements.items()
        if reference is not None
    ]
    if not rows:
        return None
    drawn = sorted(rows, key=lambda row: row[1].passed)[:MOST] if len(rows) > MOST else rows
    blocks, clipped = [], False
    for outcome, agreement, reference in drawn:
        delivered = outcome.array()
        assert delivered is not None
        attributions = [delivered.double(), reference.double(), delivered.double() - reference.double()]
        maps = [reduce_channels(attribution, "max_abs")[0] for attribution in attributions]
        scale = Scale.of(maps[:2], _REDUCER, shared=True)
        blocks.append(_comparison(outcome, agreement, maps, scale, result.half))
        clipped |= scale.clipped
    passed = [agreement.passed for agreement, _ in result.agreements.values()]
    return compose(
        wrap(blocks, 1 if len(blocks) <= 2 else 2 if len(blocks) <= 6 else 3, 2.5 * GAP),
        f"{selection(len(drawn), len(passed), 'maps, failed maps first')}{sum(passed)} of {len(passed)} checked maps "
        f"passed. Maps: {_REDUCER.description}. Each row of maps shares one scale; {clipping(clipped)}. Gates compare "
        "the largest difference, relative to the maximum.",
    )


def _comparison(outcome: Outcome, agreement: Agreement, maps: Sequence[Tensor], scale: Scale, half: str | None) -> Grid:
    verdict, color = _VERDICTS[agreement.passed]
    method = title_of(getattr(outcome.record, "method", ""))
    name = Text(f"{method} · {outcome.name}", _WIDTH - 0.9, TITLE, weight="bold")
    heading = Grid([[name, Text(verdict, 0.9 - GAP, TITLE, align="right", weight="bold", color=color)]])
    notes = [map_notes(values) for values in maps]
    if math.isfinite(largest := float(maps[-1].max())):
        notes[-1] = [f"largest: {number(largest)}"]
    images: list[Block | None] = [
        Cell(pixels(scale.colors(values, scale.limit)), note) for values, note in zip(maps, notes, strict=True)
    ]
    captions = [Text(title, CELL, color=GRAY) for title in ("lit_viz", "Captum", "difference")]
    compared = Grid([[*captions, None], [*images, ColorBar(scale.labels(), scale.signed)]], gap=(GAP, 0.3 * GAP))
    allowed = FORMULA_TOLERANCE + agreement.rounding
    delivered = "map as delivered" if half is None else f"map in {half}"
    gates = [
        _gate("formula in float64", agreement.formula, allowed, agreement.formula_passed),
        _gate(delivered, agreement.delivered, agreement.allowed, agreement.delivered_passed),
    ]
    return stack(heading, compared, Grid(gates, gap=0), _table(agreement), gap=0.6 * GAP)


def _gate(name: str, difference: float, allowed: float, passed: bool) -> list[Block]:
    verdict, color = _VERDICTS[passed]
    values = f"{number(difference)} {'≤' if passed else '>'} {number(allowed)}"
    return [
        Text(verdict, _VERDICT, weight="bold", color=color),
        Text(name, _WIDTH - _VERDICT - _GATE_VALUES),
        Text(values, _GATE_VALUES, align="right"),
    ]


def _table(agreement: Agreement) -> Grid:
    """Return the similarity of the map and its controls, one line each, with a right-aligned column per metric."""
    width = (_WIDTH - _TABLE_HEAD) / 3 - GAP
    metrics = [Text(name, width, align="right", color=GRAY) for name in ("Spearman", "SSIM", "top 10 % IoU")]
    rows: list[list[Block | None]] = [[None, *metrics]]
    for name, found in {"this map": agreement.similarity, **agreement.controls}.items():
        color = INK if found is agreement.similarity else GRAY
        values = [_decimals(value) for value in (found.spearman, found.ssim, found.top_iou)]
        cells = [Text(value, width, align="right", color=color) for value in values]
        rows.append([Text(name, _TABLE_HEAD, color=color), *cells])
    return Grid(rows, gap=(GAP, 0))


def _decimals(value: float | None) -> str:
    """Format with four decimals, or with three significant digits if the decimals would all be zero."""
    if value is None or math.isnan(value):
        return "undefined"
    return number(value) if 0 < abs(value) < 0.00005 else f"{value:.4f}"


def localization_figure(result: Localization) -> Figure | None:
    """Draw one row per map: photograph, map, seeds, mask and boxes; more than six rows are arranged in two columns.

    None is returned without a map; of many maps, the first are drawn.
    """
    if not result.panels:
        return None
    drawn = result.panels[:MOST]
    length = math.ceil(len(drawn) / (1 if len(drawn) <= 6 else 2))
    header: list[Block | None] = [Text("", HEAD), *titles(["photograph", "map", "seeds", "mask", "box"], CELL)]
    rows = [_localized(outcome, found) for outcome, found in drawn]
    columns = [Grid([header, *rows[first : first + length]]) for first in range(0, len(rows), length)]
    reference = ""
    if any(found.evidence.true_boxes for _, found in drawn):
        reference = ", reference boxes dashed in green. IoU: with the best reference box of any class"
    caption = (
        f"{selection(len(drawn), len(result.maps), 'maps')}Each map has its own scale; {clipping(True)}. Seeds: object "
        f"in orange, from the {100 * SEEDS.foreground:g} % quantile of the blurred map; background in blue, up "
        f"to its {100 * SEEDS.background:g} % quantile. Mask: largest connected component of the graph cut. "
        f"Box: bounding box of the mask in orange{reference}."
    )
    return compose(Grid([columns], gap=GROUP_GAP), caption)


def _localized(outcome: Outcome, found: LocalizedMap) -> list[Block | None]:
    photograph = pixels(found.photograph.pixels)
    seeds = mask = None
    if found.segment is not None:
        dark = np.repeat(photograph.mean(2, keepdims=True) * 0.35, 3, axis=2).astype(np.uint8)
        colored = dark.copy()
        for where, color in ((found.segment.seeds > 0, _ORANGE), (found.segment.seeds < 0, _BLUE)):
            colored[where] = [round(255 * share) for share in to_rgb(color)]
        seeds, mask = Cell(colored), Cell(np.where(found.segment.mask[..., None], photograph, dark))
    iou, error = found.evidence.iou, found.evidence.error
    notes = [*([] if iou is None else [f"IoU {iou:.2f}"]), error or ""]
    return [
        head(outcome.name, notes=title_of(getattr(outcome.record, "method", ""))),
        Cell(photograph),
        Cell(pixels(heat(found.values, clip_limits([found.values])[0])), map_notes(found.values)),
        seeds,
        mask,
        Cell(photograph, notes, lines=5, annotate=partial(_draw_boxes, found)),
    ]


def _draw_boxes(found: LocalizedMap, axes: Axes) -> None:
    """Outline the boxes, reference boxes last: an equal box would hide them."""
    inset = _LINE / 2 / 72 * axes.images[0].get_size()[1] / CELL  # half a line in pixels: lines stay inside the box
    boxes = [] if found.segment is None else [(found.segment.box, _ORANGE, "-")]
    for box in found.evidence.true_boxes:
        left, top, right, bottom = found.photograph.from_original(box).tolist()
        boxes.append(((left, top, right, bottom), _GREEN, "--"))
    for (left, top, right, bottom), color, line in boxes:
        corner = (left - 0.5 + inset, top - 0.5 + inset)  # pixel k extends from k - 0.5 to k + 0.5
        width, height = right - left - 2 * inset, bottom - top - 2 * inset
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=color, linestyle=line, lw=_LINE))
