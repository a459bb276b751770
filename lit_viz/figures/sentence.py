"""Figure of the parts of a text: the photograph, and a map under each token or letter in reading order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels, reducer
from lit_viz.figures.layout import Cell, Grid, Text, compose, pixels, selection, stack, wrap
from lit_viz.figures.scales import ColorBar, ColorScale, clipping, map_notes
from lit_viz.figures.style import CELL, GAP, GRAY, NORMAL, SMALL_CELL, TITLE
from lit_viz.images.rendering import overlay
from lit_viz.types import Picture

_COLUMNS = 8  # maps in a row
_MOST_SENTENCES = 12


@dataclass(frozen=True)
class Sentence:
    """A photograph, what the network says of it, and the maps of the parts of a text."""

    name: str  # of the photograph
    photograph: Picture
    text: str  # that the network says
    maps: Mapping[str, Tensor | NDArray[np.float32]]  # (C, H, W) or (1, H, W) by part, in reading order
    notes: Mapping[str, str]  # by part, such as "p = 0.93"
    method: str = ""


def sentence_figure(sentences: Sequence[Sentence], how: str, overlays: bool = True) -> Figure:
    """Draw photographs with the maps of the parts of a text beside them; all maps of a photograph share a scale.

    Args:
        sentences: at most 12 are drawn.
        how: channel reducer (see :data:`lit_viz.attributions.reducers.REDUCERS`).
        overlays: draw the maps over the photograph.
    """
    drawn = sentences[:_MOST_SENTENCES]
    blocks: list[Grid] = []
    clipped = False
    for sentence in drawn:
        reduced = [reduce_channels(torch.as_tensor(values), how)[0] for values in sentence.maps.values()]
        scale = ColorScale.of(reduced, reducer(how), shared=True)
        clipped |= scale.clipped
        blocks.append(_block(sentence, reduced, scale, overlays))
    over = ", over the photograph" if overlays else ""
    caption = selection(len(drawn), len(sentences), "photographs")
    caption += f"Maps of the parts of a text: {reducer(how).description}{over}. "
    caption += f"Scale: one per photograph; {clipping(clipped)}."
    return compose(stack(*blocks, gap=3 * GAP), caption)


def _block(sentence: Sentence, maps: Sequence[Tensor], scale: ColorScale, overlays: bool) -> Grid:
    """Return the photograph of a sentence on the left, and its text over the maps on the right."""
    photograph = torch.from_numpy(pixels(sentence.photograph)).permute(2, 0, 1) / 255
    cells: list[Grid] = []
    for (part, attribution), values, limit in zip(sentence.maps.items(), maps, scale.limits, strict=True):
        picture = scale.colors(values, limit)
        if overlays:
            picture = overlay(photograph, values, limit, colors=scale.colors)
        notes = [sentence.notes.get(part, ""), *map_notes(values, torch.as_tensor(attribution))]
        title = Text(part, SMALL_CELL, TITLE, lines=None, weight="bold")
        cells.append(stack(title, Cell(pixels(picture), notes, SMALL_CELL), gap=GAP / 2))
    parts = wrap(cells, _COLUMNS)
    said = Text(f"says: {sentence.text}", max(parts.width, 2 * CELL), NORMAL, lines=None)
    method = Text(sentence.method, CELL, lines=2, color=GRAY)
    left = stack(Text(sentence.name, CELL, TITLE, lines=2, weight="bold"), Cell(pixels(sentence.photograph)), method)
    right = stack(said, parts, ColorBar(scale.labels(), scale.signed, CELL, vertical=False), gap=GAP)
    return Grid([[left, right]], gap=2 * GAP)
