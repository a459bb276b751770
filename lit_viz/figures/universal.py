"""Universal perturbations: what is added, what becomes of some photographs, and how many are fooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_viz.figures.cells import GAP, LINE, MARGIN, SIZE, SMALL, Cell, captioned, lines_of
from lit_viz.figures.style import COLORS, GREY, axes_at, style, write
from lit_viz.figures.tiles import pixels
from lit_viz.types import Picture

_WIDTH = 1.25  # of a picture
_LEFT = 0.75  # left of the pictures
_PLOT = 0.9
_AXIS = 0.4  # beneath a plot
_COLUMNS = 4


@dataclass(frozen=True)
class PerturbedPhotograph:
    """A photograph without and with the perturbation.

    Attributes:
        original, borne: ``(C, H, W)`` in [0, 1] or files.
        before, after: what the network says of them; may have several lines.
    """

    original: Picture
    borne: Picture
    before: str
    after: str


@dataclass(frozen=True)
class UniversalPanel:
    """A perturbation and what became of photographs with it.

    Attributes:
        name: what it is called.
        perturbation: ``(C, H, W)`` in [0, 1], magnified on mid-grey, or a file.
        about: lines beneath it: its norm, by how much it is magnified.
        rates: lines about how many are fooled.
        curve: (iteration, share of the mini-batch that is fooled), in order; the last one may be of all.
        photographs: some of them.
    """

    name: str
    perturbation: Picture
    about: Sequence[str]
    rates: Sequence[str]
    curve: Sequence[tuple[int, float]]
    photographs: Sequence[PerturbedPhotograph]


def universal_figure(panels: Sequence[UniversalPanel]) -> Figure:
    """Draw perturbations, each beside up to four photographs, over the curve of how many are fooled.

    Nothing but the perturbation is rescaled.

    Args:
        panels: what is drawn, one beneath another.

    Returns:
        a figure at which no pixel is lost; save it by :func:`lit_viz.figures.style.save_figure`.
    """
    with style():
        rows = [_Row(panel) for panel in panels]
        tops = list(accumulate((row.height + 2 * GAP for row in rows), initial=MARGIN))
        span = (1 + _COLUMNS) * (_WIDTH + GAP) - GAP
        cells = [cell for row in rows for cell in (row.perturbation, *row.before, *row.after)]
        caption = (
            "Photographs as they are, above, and with the perturbation, below, as their files hold them. Beneath: the "
            "share of an iteration's photographs that are fooled; the last point is of all that were trained on."
        )
        figure = captioned(cells, _WIDTH, MARGIN + _LEFT + span + MARGIN, tops[-1], caption)
        for row, top in zip(rows, tops, strict=False):
            row.draw(figure, MARGIN + _LEFT, top, span)
    return figure


class _Row:
    """A panel as it is drawn."""

    def __init__(self, panel: UniversalPanel) -> None:
        self.panel = panel
        self.perturbation = _cell(panel.perturbation, panel.about)
        shown = panel.photographs[:_COLUMNS]
        self.before = [_cell(one.original, one.before.split("\n")) for one in shown]
        self.after = [_cell(one.borne, one.after.split("\n")) for one in shown]
        self._upper, self._lower = (
            max(cell.height(_WIDTH) for cell in cells) + GAP
            for cells in ((self.perturbation, *self.before), self.after or [self.perturbation])
        )

    @property
    def height(self) -> float:
        """Inches."""
        return LINE + GAP + self._upper + self._lower + (_PLOT + _AXIS if self.panel.curve else 0.0)

    def draw(self, figure: Figure, left: float, top: float, span: float) -> None:
        write(figure, self.panel.name, left, top, size=SIZE + 0.5, weight="bold")
        top += LINE + GAP
        for place, cell in enumerate((self.perturbation, *self.before)):
            cell.draw(figure, left + place * (_WIDTH + GAP), top, _WIDTH)
        top += self._upper
        for place, cell in enumerate(self.after, 1):
            cell.draw(figure, left + place * (_WIDTH + GAP), top, _WIDTH)
        for line, said in enumerate(lines_of(self.panel.rates, _WIDTH)):
            write(figure, said, left, top + line * LINE, size=SMALL)
        if self.panel.curve:
            self._draw_curve(figure, left, top + self._lower, span)

    def _draw_curve(self, figure: Figure, left: float, top: float, span: float) -> None:
        iterations, shares = zip(*self.panel.curve, strict=True)
        write(figure, "share\nfooled", MARGIN, top, size=SMALL, color=GREY)
        axes = axes_at(figure, left, top, span, _PLOT)
        axes.plot(iterations, shares, color=COLORS[0], linewidth=1.0, clip_on=False)
        axes.plot(iterations[-1], shares[-1], "o", color=COLORS[0], ms=4, clip_on=False)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.5, 1], ["0", "", "1"])
        axes.set_xlim(min(iterations), max(*iterations, 1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("iteration", size=SMALL, labelpad=2)


def _cell(picture: Picture, notes: Sequence[str]) -> Cell:
    return Cell(pixels(picture), lines_of(notes, _WIDTH, lines=2))
