"""Figure of universal perturbations: the perturbation, some photographs and the fooling rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_viz.figures.layout import GAP, SMALL, TITLE, Block, Cell, Grid, Plot, Text, compose, pixels, stack
from lit_viz.figures.style import COLORS, GRAY, style
from lit_viz.types import Picture

_WIDTH = 1.25  # of an image in inches
_LABEL = 0.75  # width of the label of the plot in inches
_PHOTOGRAPHS = 4


@dataclass(frozen=True)
class PerturbedPhotograph:
    """A photograph without and with the perturbation.

    Attributes:
        original: ``(C, H, W)`` in [0, 1] or a file.
        perturbed: ``(C, H, W)`` in [0, 1] or a file.
        before: prediction for the original; may have several lines.
        after: prediction for the perturbed photograph.
    """

    original: Picture
    perturbed: Picture
    before: str
    after: str


@dataclass(frozen=True)
class UniversalPanel:
    """One universal perturbation.

    Attributes:
        name: of the task.
        perturbation: ``(C, H, W)`` in [0, 1], magnified on mid-gray, or a file.
        about: notes on the norm and the magnification.
        rates: lines with fooling rates.
        curve: ordered pairs of iteration and fooling rate of the mini-batch; the last rate may be that of all
            photographs.
        photographs: examples.
    """

    name: str
    perturbation: Picture
    about: Sequence[str]
    rates: Sequence[str]
    curve: Sequence[tuple[int, float]]
    photographs: Sequence[PerturbedPhotograph]


@style()
def universal_figure(panels: Sequence[UniversalPanel]) -> Figure:
    """Draw each perturbation and up to four photographs, above the curve of the fooling rate.

    Only the perturbation is rescaled.

    Args:
        panels: perturbations, one beneath the other.

    Returns:
        A figure with each pixel as a square of whole dots; see :func:`lit_viz.figures.style.save_figure`.
    """
    caption = (
        "Photographs: original above, with the perturbation beneath, as stored in the 8-bit files. Curve: share of the "
        "photographs of an iteration that fool the network; the last point is the share of all training photographs."
    )
    return compose(stack(*map(_grid, panels), gap=2 * GAP), caption)


def _grid(panel: UniversalPanel) -> Grid:
    examples = panel.photographs[:_PHOTOGRAPHS]
    perturbation = Cell(pixels(panel.perturbation), panel.about, _WIDTH)
    before = [Cell(pixels(one.original), one.before.split("\n"), _WIDTH) for one in examples]
    after = [Cell(pixels(one.perturbed), one.after.split("\n"), _WIDTH) for one in examples]
    rows: list[list[Block | None]] = [
        [None, Text(panel.name, (1 + len(examples)) * _WIDTH, TITLE, weight="bold")],
        [None, perturbation, *before],
        [None, Text("\n".join(panel.rates), _WIDTH, lines=3), *after],
    ]
    if panel.curve:
        label = Text("fooling rate", _LABEL, lines=2, color=GRAY)
        rows.append([label, Plot(0.9, partial(_plot, panel.curve), below=0.3)])
    return Grid(rows)


def _plot(curve: Sequence[tuple[int, float]], axes: Axes) -> None:
    iterations, rates = zip(*curve, strict=True)
    axes.plot(iterations, rates, color=COLORS[0], linewidth=1.0, clip_on=False)
    axes.plot(iterations[-1], rates[-1], "o", color=COLORS[0], ms=4, clip_on=False)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "", "1"])
    axes.set_xlim(min(iterations), max(*iterations, 1))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("iteration", size=SMALL, labelpad=2)
