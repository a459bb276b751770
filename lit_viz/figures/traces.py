"""How attacks went: the traces of one image, or of many, in thin strips over one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_viz.attacks.norms import L2, LINF
from lit_viz.figures.cells import LINE, MARGIN, SMALL
from lit_viz.figures.style import COLORS, GREY, RULE, axes_at, fitted, write
from lit_viz.utils.formatting import pluralize

_AXIS = 0.38  # left of a plot: the numbers of its axis
_STRIP = 0.42
_PAUSE = 0.14  # between two strips
MOST = 100  # images that share a plot
_ALONE: dict[str, Any] = {"linewidth": 1.4}
_OF_MANY: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.5}

Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Trace:
    """How an attack went: (iteration, value) each, in order; any of them may be empty.

    Attributes:
        probability: of the class ``goal``.
        margin: above 0 where the network is fooled (see :class:`~lit_viz.objectives.Margin`).
        l2: Euclidean norm of the change, pixels in [0, 1].
        linf: its largest absolute value, in [0, 1].
        flip: iteration of the first success; None if there was none.
        goal: the class to be reached or left.
    """

    probability: Curve = ()
    margin: Curve = ()
    l2: Curve = ()
    linf: Curve = ()
    flip: int | None = None
    goal: str = "the target"

    @property
    def iterations(self) -> list[int]:
        """All that something is known of, in order."""
        return sorted({k for curve in (self.probability, self.margin, self.l2, self.linf) for k, _ in curve})


@dataclass(frozen=True)
class TracePlot:
    """The traces of one image, or of many, that share a plot."""

    traces: Sequence[Trace]

    @property
    def strips(self) -> list[tuple[str, list[Curve]]]:
        """Title and curves of each, those left out of which nothing is known."""
        goals = {trace.goal for trace in self.traces}
        of = goals.pop() if len(goals) == 1 else "the class to reach or leave"
        every: list[tuple[str, list[Curve]]] = [
            (f"probability of {of}", [trace.probability for trace in self.traces]),
            ("margin", [trace.margin for trace in self.traces]),
            (L2.axis_label, [trace.l2 for trace in self.traces]),
            (LINF.axis_label, [[(k, LINF.display_scale * value) for k, value in trace.linf] for trace in self.traces]),
        ]
        return [(title, curves) for title, curves in every if any(curves)]

    @property
    def height(self) -> float:
        """Inches."""
        return LINE + 0.08 + len(self.strips) * (_STRIP + _PAUSE) + 0.28

    def draw(self, figure: Figure, left: float, top: float, width: float) -> None:
        """Draw it with its top left corner there, in inches; the titles of the strips stand left of it."""
        said, colour = self._said()
        write(figure, said, left, top, size=SMALL, weight="bold", color=colour)
        top += LINE + 0.08
        ends = [k for trace in self.traces for k in (*trace.iterations, trace.flip) if k is not None]
        strips = self.strips
        for place, (title, curves) in enumerate(strips):
            for row, line in enumerate(fitted(title, left - MARGIN - _AXIS, SMALL, lines=3).split("\n")):
                write(figure, line, MARGIN, top + row * 0.8 * LINE, size=SMALL, color=GREY)
            axes = axes_at(figure, left, top, width, _STRIP)
            self._draw_curves(axes, curves)
            _limit(axes, title, [value for curve in curves for _, value in curve if np.isfinite(value)])
            axes.set_xlim(min(ends), max(max(ends), min(ends) + 1))
            axes.set_xticks(_ticks(min(ends), max(ends)))
            if place < len(strips) - 1:
                axes.spines["bottom"].set_visible(False)
                axes.tick_params(bottom=False, labelbottom=False)
            top += _STRIP + _PAUSE
        axes.set_xlabel("iteration", size=SMALL, labelpad=2)

    def _said(self) -> tuple[str, str]:
        flips = [trace.flip for trace in self.traces if trace.flip is not None]
        if len(self.traces) > 1:
            first = "the first " if len(self.traces) == MOST else ""
            return f"{first}{len(self.traces)} images, a line each; dots: first success ({len(flips)} of them)", GREY
        if flips:
            return f"fooled at iteration {flips[0]}, as floats", COLORS[2]
        return f"not fooled in {pluralize(self.traces[0].iterations[-1], 'iteration')}", COLORS[1]

    def _draw_curves(self, axes: Axes, curves: Sequence[Curve]) -> None:
        alone = len(curves) == 1
        for trace, curve in zip(self.traces, curves, strict=True):
            at = dict(curve)
            if alone and trace.flip is not None:
                axes.axvline(trace.flip, color=COLORS[2], linewidth=0.8)
            look = {**(_ALONE if alone else _OF_MANY), **({"marker": "o", "ms": 2.5} if len(at) == 1 else {})}
            axes.plot(list(at), list(at.values()), color=COLORS[0], clip_on=False, zorder=3, **look)
            if trace.flip in at:
                dot: dict[str, Any] = {"ms": 4 if alone else 3, "mfc": COLORS[2], "mec": "white", "mew": 0.5}
                axes.plot(trace.flip, at[trace.flip], "o", clip_on=False, zorder=4, **dot)


def _ticks(first: int, last: int) -> list[int]:
    """Return round iterations between the first and the last, and both of these."""
    round_ones = [int(k) for k in MaxNLocator(8, integer=True).tick_values(first, last)]
    apart = (last - first) / 12  # closer to an end their numbers would touch
    return [first, *(k for k in round_ones if first + apart < k < last - apart), *([last] if last > first else [])]


def _limit(axes: Axes, title: str, values: Sequence[float]) -> None:
    """Set the limits and numbers of the upright axis, and draw its zero."""
    axes.axhline(0, color=RULE, linewidth=0.6, zorder=0, clip_on=False)
    if title.startswith("probability"):
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 1])
        return
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - room if low < 0 else 0.0, high + room)
    axes.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
