"""Picture of the interactions of superpixels: links of the strongest pairs over the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import Normal, Stroke
from torch import Tensor

from lit_viz.figures.layout import Cell, pixels
from lit_viz.figures.scales import number
from lit_viz.figures.style import CELL
from lit_viz.images.rendering import NEGATIVE, POSITIVE
from lit_viz.types import Picture

#: Links of either sign, and the smallest of them relative to the strongest interaction.
MOST_LINKS, LEAST = 5, 0.1
#: Explanation of the links.
CAPTION = (
    f"Pairs: the strongest interactions of superpixels, up to {MOST_LINKS} of either sign, red where two superpixels "
    f"need each other, blue where one replaces the other; the width of a link is relative to the strongest "
    f"interaction, from {LEAST:.0%} of it on."
)
_WIDTH = 2 * CELL
_LINE = 5.0  # width of the link of the strongest interaction in points
_LIGHT = 0.45  # share of white in the photograph


def pairs_cell(
    title: str,
    photograph: Picture,
    attribution: Tensor,
    interactions: Sequence[tuple[int, int, float]],
    places: Sequence[tuple[int, int]],
) -> Cell:
    """Return a photograph with the borders of its superpixels and links of the strongest pairs.

    Args:
        title: beneath the picture.
        photograph: explained image.
        attribution: its map ``(1, H, W)``, with one value per superpixel.
        interactions: superpixels i and j and the interaction of each pair, the strongest first.
        places: a pixel (x, y) of each superpixel.
    """
    light = 255 * _LIGHT + (1 - _LIGHT) * pixels(photograph)
    drawn = strongest(interactions)
    notes = []
    for sign, name in ((1, "strongest positive"), (-1, "strongest negative")):
        values = [value for _, _, value in drawn if value * sign > 0]
        if values:
            notes.append(f"{name}: {number(values[0])}".replace("-", "−"))
    annotate = partial(_draw, attribution[0], drawn, places)
    return Cell(light.round().astype("uint8"), ["; ".join(notes)], _WIDTH, title, annotate=annotate)


def strongest(interactions: Sequence[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    """Return the pairs that are drawn, of pairs sorted from the strongest on."""
    drawn: list[tuple[int, int, float]] = []
    for sign in (1, -1):
        of_sign = [pair for pair in interactions if pair[2] * sign > LEAST * abs(interactions[0][2])]
        drawn += of_sign[:MOST_LINKS]
    return sorted(drawn, key=lambda pair: -abs(pair[2]))


def borders(attribution: Tensor) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the edges between pixels ``(H, W)`` of different values, as lines in pixel coordinates."""
    lines = []
    for row, column in (attribution[1:] != attribution[:-1]).nonzero().tolist():
        lines.append(((column - 0.5, row + 0.5), (column + 0.5, row + 0.5)))
    for row, column in (attribution[:, 1:] != attribution[:, :-1]).nonzero().tolist():
        lines.append(((column + 0.5, row - 0.5), (column + 0.5, row + 0.5)))
    return lines


def _draw(
    attribution: Tensor, drawn: Sequence[tuple[int, int, float]], places: Sequence[tuple[int, int]], axes: Axes
) -> None:
    """Draw the borders, then the links, the strongest one last."""
    axes.add_collection(LineCollection(borders(torch.as_tensor(attribution)), colors="white", linewidths=0.8))
    for i, j, value in reversed(drawn):
        width = _LINE * abs(value / drawn[0][2])
        color = POSITIVE if value > 0 else NEGATIVE
        casing = [Stroke(linewidth=width + 1.2, foreground="white"), Normal()]
        (x0, y0), (x1, y1) = places[i], places[j]
        axes.plot([x0, x1], [y0, y1], color=color, linewidth=width, solid_capstyle="round", path_effects=casing)
    linked: set[int] = set()
    for i, j, _ in drawn:
        linked |= {i, j}
    for k in sorted(linked):
        axes.plot(*places[k], marker="o", markersize=4, color="#1a1a1a", markeredgecolor="white", markeredgewidth=0.8)
