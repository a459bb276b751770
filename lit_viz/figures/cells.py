"""Pictures with what is written beneath, at whole dots of the figure: the pieces that figures of maps are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lit_viz.figures.sheet import sharp_dpi
from lit_viz.figures.style import GREY, fitted, shown, write

MARGIN = 0.15
GAP = 0.1
LINE = 0.14
SIZE = 7.5
SMALL = 7.0
_BENEATH = 0.04
_COARSEST = 120  # dots an inch: text has to be legible beside small pictures too


@dataclass(frozen=True)
class Cell:
    """A picture ``(H, W, 3)`` and the lines beneath it."""

    picture: NDArray[np.uint8]
    notes: Sequence[str] = ()

    def tall(self, width: float) -> float:
        """Return the height of the picture in inches."""
        high, wide = self.picture.shape[:2]
        return width * float(high / wide)

    def height(self, width: float) -> float:
        """Return the height in inches, with what is written beneath."""
        return self.tall(width) + (_BENEATH + len(self.notes) * LINE if self.notes else 0.0)

    def draw(self, figure: Figure, left: float, top: float, width: float) -> None:
        """Draw it at a place in inches from the left and the top.

        The place is moved to a whole dot, or else the picture would lose half a dot on one of its sides.
        """
        on_dots = [round(place * figure.dpi) / figure.dpi for place in (left, top)]
        shown(figure, self.picture, on_dots[0], on_dots[1], width)
        for row, note in enumerate(self.notes):
            beneath = top + self.tall(width) + _BENEATH + row * LINE
            write(figure, note, left, beneath, size=SMALL, color=GREY)


def lines_of(notes: Iterable[str], width: float, lines: int = 2) -> list[str]:
    """Return notes in small lines of a width; each takes at most so many."""
    unbroken = (note.replace(" = ", "\u00a0=\u00a0") for note in notes if note)  # p = 0.93 stays together
    return [line for note in unbroken for line in fitted(note, width, SMALL, lines).split("\n")]


def captioned(cells: Iterable[Cell], cell: float, width: float, top: float, caption: str) -> Figure:
    """Return an empty figure with a caption at its foot, of whole dots, at which no pixel of a cell will be lost.

    Args:
        cells: what will be drawn.
        cell: width of each in inches.
        width: of the figure in inches.
        top: where the caption begins; the figure ends with it.
        caption: one sentence or several.
    """
    lines = lines_of([caption], width - 2 * MARGIN, lines=6)
    dpi = sharp_dpi([drawn.picture for drawn in cells], cell)
    dpi *= max(1, math.ceil(_COARSEST / dpi))
    wide, high = (math.ceil(inches * dpi) / dpi for inches in (width, top + len(lines) * LINE + MARGIN))
    figure = Figure(figsize=(wide, high), dpi=dpi)
    for row, line in enumerate(lines):
        write(figure, line, MARGIN, top + row * LINE, size=SMALL, color=GREY)
    return figure
