"""Figure of the localization of objects by saliency maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lit_viz.attributions import title_of
from lit_viz.figures.layout import Block, Cell, Grid, Text, compose, head, outline, pixels, selection, titles
from lit_viz.figures.scales import clipping, map_notes
from lit_viz.figures.style import CELL, COLORS, GROUP_GAP, HEAD
from lit_viz.images.rendering import clip_limits, heat
from lit_viz.localization.objects import SEEDS, Localization, LocalizedMap
from lit_viz.runs.results import Outcome
from lit_viz.utils.limits import MOST_ROWS

_BLUE, _ORANGE, _GREEN = COLORS[:3]


def localization_figure(result: Localization) -> Figure | None:
    """Draw one row per map: photograph, map, seeds, mask and boxes; more than six rows are arranged in two columns.

    None is returned without a map; of many maps, the first are drawn.
    """
    if not result.panels:
        return None
    drawn = result.panels[:MOST_ROWS]
    columns = 1 if len(drawn) <= 6 else 2
    length = math.ceil(len(drawn) / columns)
    header: list[Block | None] = [Text("", HEAD), *titles(["photograph", "map", "seeds", "mask", "box"], CELL)]
    grids = []
    for first in range(0, len(drawn), length):
        rows = [_localized(*pair) for pair in drawn[first : first + length]]
        grids.append(Grid([header, *rows]))
    return compose(Grid([grids], gap=GROUP_GAP), _caption(drawn, len(result.maps)))


def _caption(drawn: Sequence[tuple[Outcome, LocalizedMap]], total: int) -> str:
    reference = ""
    if any(localized.evidence.true_boxes for _, localized in drawn):
        reference = ", reference boxes dashed in green. IoU: with the best reference box of any class"
    return (
        f"{selection(len(drawn), total, 'maps')}Each map has its own scale; {clipping(True)}. Seeds: object "
        f"in orange, from the {100 * SEEDS.foreground:g} % quantile of the blurred map; background in blue, up "
        f"to its {100 * SEEDS.background:g} % quantile. Mask: largest connected component of the graph cut. "
        f"Box: bounding box of the mask in orange{reference}."
    )


def _localized(outcome: Outcome, localized: LocalizedMap) -> list[Block | None]:
    photograph = pixels(localized.photograph.pixels)
    seeds = mask = None
    if localized.segment is not None:
        dark = np.repeat(photograph.mean(2, keepdims=True) * 0.35, 3, axis=2).astype(np.uint8)
        colored = dark.copy()
        colored[localized.segment.seeds > 0] = _levels(_ORANGE)
        colored[localized.segment.seeds < 0] = _levels(_BLUE)
        seeds, mask = Cell(colored), Cell(np.where(localized.segment.mask[..., None], photograph, dark))
    notes = []
    if localized.evidence.iou is not None:
        notes.append(f"IoU {localized.evidence.iou:.2f}")
    if localized.evidence.error:
        notes.append(localized.evidence.error)
    return [
        head(outcome.name, notes=title_of(getattr(outcome.record, "method", ""))),
        Cell(photograph),
        Cell(pixels(heat(localized.values, clip_limits([localized.values])[0])), map_notes(localized.values)),
        seeds,
        mask,
        Cell(photograph, notes, lines=5, annotate=partial(_draw_boxes, localized)),
    ]


def _levels(color: str) -> list[int]:
    """Return a color as three 8-bit levels."""
    return [round(255 * share) for share in to_rgb(color)]


def _draw_boxes(localized: LocalizedMap, axes: Axes) -> None:
    """Outline the boxes, reference boxes last: an equal box would hide them."""
    if localized.segment is not None:
        outline(axes, localized.segment.box, _ORANGE)
    for box in localized.evidence.true_boxes:
        outline(axes, localized.photograph.from_original(box).tolist(), _GREEN, "--")
