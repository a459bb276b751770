"""Curves of attacks: strips of probability, margin and norms over a shared iteration axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lit_viz.attacks.norms import L2, LINF
from lit_viz.figures.layout import SMALL, Block, Plot, Text
from lit_viz.figures.style import COLORS, GRAY, RULE
from lit_viz.utils.formatting import pluralize

MOST = 100  # maximum number of images in a plot
_TITLE = 1.12  # width of the title of a strip in inches
_STRIP = 0.42  # height of a strip in inches
_AXIS = 0.36  # height of the labels of the iteration axis in inches

Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Trace:
    """Curves of the attack on one image, each as ordered pairs of iteration and value; any may be empty.

    Attributes:
        probability: of the class ``goal``.
        margin: positive where the attack succeeds (see :class:`~lit_viz.objectives.Margin`).
        l2: Euclidean norm of the perturbation, images in [0, 1].
        linf: maximum norm of the perturbation, images in [0, 1].
        flip: iteration of the first success; None without success.
        goal: target class, or source class of an untargeted attack.
    """

    probability: Curve = ()
    margin: Curve = ()
    l2: Curve = ()
    linf: Curve = ()
    flip: int | None = None
    goal: str = "the target"

    @property
    def iterations(self) -> list[int]:
        """All iterations with a value, in order."""
        return sorted({k for curve in (self.probability, self.margin, self.l2, self.linf) for k, _ in curve})


def trace_rows(traces: Sequence[Trace]) -> list[list[Block | None]]:
    """Return the grid rows of a plot: a heading, then the title and the axes of each strip."""
    goals = {trace.goal for trace in traces}
    goal = goals.pop() if len(goals) == 1 else "the target or source class"
    strips: list[tuple[str, list[Curve]]] = [
        (f"probability of {goal}", [trace.probability for trace in traces]),
        ("margin", [trace.margin for trace in traces]),
        (L2.axis_label, [trace.l2 for trace in traces]),
        (LINF.axis_label, [[(k, LINF.display_scale * value) for k, value in trace.linf] for trace in traces]),
    ]
    strips = [(title, curves) for title, curves in strips if any(curves)]
    rows: list[list[Block | None]] = [[None, _heading(traces)]]
    for title, curves in strips:
        is_last = title == strips[-1][0]
        plot = partial(_plot, traces=traces, curves=curves, is_last=is_last, unit_range=title.startswith("probability"))
        rows.append([Text(title, _TITLE, lines=3, color=GRAY), Plot(_STRIP, plot, below=_AXIS if is_last else 0.0)])
    return rows


def _heading(traces: Sequence[Trace]) -> Text:
    flips = [trace.flip for trace in traces if trace.flip is not None]
    if len(traces) > 1:
        first = "the first " if len(traces) == MOST else ""
        text = f"{first}{len(traces)} images, one line each; dots: first success ({len(flips)} of {len(traces)})"
        return Text(text, weight="bold", color=GRAY)
    if flips:
        return Text(f"fooled at iteration {flips[0]}, before rounding", weight="bold", color=COLORS[2])
    iterations = pluralize(traces[0].iterations[-1], "iteration")
    return Text(f"not fooled in {iterations}", weight="bold", color=COLORS[1])


def _plot(axes: Axes, traces: Sequence[Trace], curves: Sequence[Curve], is_last: bool, unit_range: bool) -> None:
    """Draw one strip."""
    single = len(traces) == 1
    for trace, curve in zip(traces, curves, strict=True):
        values = dict(curve)
        if single and trace.flip is not None:
            axes.axvline(trace.flip, color=COLORS[2], linewidth=0.8)
        line: dict[str, Any] = {"linewidth": 1.4} if single else {"linewidth": 0.6, "alpha": 0.5}
        if len(values) == 1:
            line |= {"marker": "o", "ms": 2.5}
        axes.plot(list(values), list(values.values()), color=COLORS[0], clip_on=False, zorder=3, **line)
        if trace.flip in values:
            dot: dict[str, Any] = {"ms": 4 if single else 3, "mfc": COLORS[2], "mec": "white", "mew": 0.5}
            axes.plot(trace.flip, values[trace.flip], "o", clip_on=False, zorder=4, **dot)
    axes.axhline(0, color=RULE, linewidth=0.6, zorder=0, clip_on=False)
    if unit_range:
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 1])
    else:
        finite = [value for curve in curves for _, value in curve if np.isfinite(value)]
        low, high = min([0.0, *finite]), max([0.0, *finite])
        space = 0.06 * (high - low) or 1.0
        axes.set_ylim(low - space if low < 0 else 0.0, high + space)
        axes.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
    iterations = [k for trace in traces for k in (*trace.iterations, trace.flip) if k is not None]
    first, last = min(iterations), max(iterations)
    axes.set_xlim(first, max(last, first + 1))
    axes.set_xticks(_ticks(first, last))
    if is_last:
        axes.set_xlabel("iteration", size=SMALL, labelpad=2)
    else:
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(bottom=False, labelbottom=False)


def _ticks(first: int, last: int) -> list[int]:
    """Return the first and the last iteration and round ones between; labels do not overlap."""
    distance = (last - first) / 12
    ticks = [int(k) for k in MaxNLocator(8, integer=True).tick_values(first, last)]
    inner = [k for k in ticks if first + distance < k < last - distance]
    return [first, *inner, *([last] if last > first else [])]
