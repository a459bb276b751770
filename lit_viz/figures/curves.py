"""Plots of figures: the metric of a task, the strips of an attack, and rates against the iteration or the radius."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lit_viz.attacks.norms import L2, LINF, Norm
from lit_viz.engine.snapshots import PerturbedImageRecord
from lit_viz.evidence.attacks.diagnostics import successes
from lit_viz.evidence.attacks.robustness import Attacked, RobustAccuracy
from lit_viz.figures.layout import Block, Grid, Plot, Text
from lit_viz.figures.style import COLORS, GAP, GRAY, NORMAL, RULE, SMALL
from lit_viz.runs.records import AdversarialRecord
from lit_viz.types import Curve
from lit_viz.utils.formatting import pluralize
from lit_viz.utils.limits import MOST_CURVES

#: Height of the labels of an iteration axis in inches.
AXIS = 0.36
_TITLE = 1.12  # width of the title of a strip in inches
_STRIP = 0.42  # height of a strip in inches
_MOST_COUNTS = 7  # written at the points of a robustness curve


def is_geometric(iterations: NDArray[np.float64]) -> bool:
    """Return whether iterations were logged at growing distances, which a logarithmic axis displays better."""
    steps = np.diff(iterations[iterations >= 1])
    return len(steps) > 3 and iterations[-1] > 30 and bool(np.median(steps[-2:]) > 4 * np.median(steps[:2]))


def plot_metric(curve: Curve, metric: str, marked: Sequence[int], axes: Axes) -> None:
    """Draw the curve of a task with dots at the marked iterations."""
    iterations, values = np.array(curve, dtype=float).T
    if is_geometric(iterations):
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.3)
    axes.plot(iterations, values, color=COLORS[0], solid_capstyle="round", clip_on=False)
    axes.fill_between(iterations, values, color=COLORS[0], alpha=0.1, linewidth=0)
    dots = np.isin(iterations, marked)
    if dots.any():
        dot: dict[str, Any] = {"ms": 4, "mfc": COLORS[0], "mec": "white", "mew": 0.8}
        axes.plot(iterations[dots], values[dots], "o", clip_on=False, zorder=3, **dot)
    _limit_values(axes, curve, metric == "probability")
    _label_iterations(axes, [curve[0][0], *marked, curve[-1][0]])
    axes.set_ylabel(metric, size=NORMAL, labelpad=4)


def _limit_values(axes: Axes, curve: Curve, is_share: bool) -> None:
    """Limit the vertical axis to [0, 1] or to the finite values and 0."""
    axes.axhline(0, color=RULE, linewidth=0.6, zorder=0, clip_on=False)
    if is_share:
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 1])
        return
    low = high = 0.0
    for _, value in curve:
        if math.isfinite(value):
            low, high = min(low, value), max(high, value)
    space = 0.06 * (high - low) or 1.0
    bottom = low - space if low < 0 else 0.0
    axes.set_ylim(bottom, high + space)
    axes.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))


def _label_iterations(axes: Axes, iterations: Sequence[int]) -> None:
    """Limit the horizontal axis to the first and the last iteration, and label both and the iterations between,
    unless their labels overlap."""
    iterations = sorted(set(iterations))
    first, last = iterations[0], iterations[-1]
    axes.set_xlim(first, max(last, first + 1))
    dots = axes.transData.transform([(k, 0.0) for k in iterations])[:, 0]
    inches = dict(zip(iterations, dots / axes.figure.dpi, strict=True))

    def apart(a: int, b: int) -> bool:
        return bool(abs(inches[a] - inches[b]) > 0.1 + 0.04 * (len(str(a)) + len(str(b))))

    ticks = [first]
    for k in iterations[1:-1]:
        if apart(k, ticks[-1]) and apart(k, last):
            ticks.append(k)
    if last != first:
        ticks.append(last)
    axes.set_xticks(ticks, list(map(str, ticks)))
    if len(ticks) > 1 and len(str(last)) > 4:  # a centered label would exceed the margin
        axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.minorticks_off()
    axes.set_xlabel("iteration", size=NORMAL, labelpad=2)


def plot_rate(curve: Curve, axes: Axes) -> None:
    """Draw a rate against the iteration, with a dot at its end."""
    iterations, rates = zip(*curve, strict=True)
    axes.plot(iterations, rates, color=COLORS[0], linewidth=1.0, clip_on=False)
    axes.plot(iterations[-1], rates[-1], "o", color=COLORS[0], ms=4, clip_on=False)
    _limit_values(axes, curve, is_share=True)
    _label_iterations(axes, _round_iterations(iterations))


def _round_iterations(iterations: Sequence[int]) -> list[int]:
    """Return the first and the last iteration, and round numbers between."""
    first, last = min(iterations), max(iterations)
    ticks = MaxNLocator(8, integer=True).tick_values(first, last)
    return [first, *(int(k) for k in ticks if first < k < last), last]


def goal_name(record: AdversarialRecord | PerturbedImageRecord) -> str:
    """Return the class of the attacked probability: the target, or the label of an untargeted attack."""
    return record.target_name or record.label_name or "its label"


@dataclass(frozen=True)
class Trace:
    """Curves of the attack on one image."""

    curves: Mapping[str, Curve]  # by title of the strip; empty ones are left out
    flip: int | None  # first logged iteration with a success

    @classmethod
    def of(cls, outcome: Attacked, goal: str) -> Trace:
        """Return the curves of an attacked image; ``goal`` is the class of the probability."""
        metrics = {
            f"probability of {goal}": "probability",
            "score": "score",
            "margin": "margin",
            L2.axis_label: L2.name,
            LINF.axis_label: LINF.name,
        }
        curves: dict[str, Curve] = {}
        for title, metric in metrics.items():
            curve = outcome.logged(metric)
            if metric == LINF.name:
                curve = [(k, LINF.display_scale * value) for k, value in curve]
            if curve:
                curves[title] = curve
        return cls(curves, next(iter(successes(outcome)), None))

    @property
    def iterations(self) -> list[int]:
        """All iterations with a value, in order."""
        logged: set[int] = set()
        for curve in self.curves.values():
            logged.update(dict(curve))
        return sorted(logged)


def trace_rows(outcomes: Sequence[Attacked]) -> list[list[Block | None]]:
    """Return the grid rows of a plot of the attacks on some images: a heading, then the title and the axes of each
    strip; nothing without a logged value, and at most :data:`~lit_viz.utils.limits.MOST_CURVES` images."""
    traces = _traces(outcomes)
    if not traces:
        return []
    titles: dict[str, None] = {}
    for trace in traces:
        titles |= dict.fromkeys(trace.curves)
    *_, last = titles
    rows: list[list[Block | None]] = [[None, _heading(traces)]]
    for title in titles:
        below = AXIS if title == last else 0.0
        plot = partial(_plot_strip, traces, title, title == last)
        rows.append([Text(title, _TITLE, lines=None, color=GRAY), Plot(_STRIP, plot, below=below)])
    return rows


def _traces(outcomes: Sequence[Attacked]) -> list[Trace]:
    """Return the curves of the first attacked images that have any."""
    attacked = [outcome for outcome in outcomes if outcome.record.status != "skipped"][:MOST_CURVES]
    goals = {goal_name(outcome.record) for outcome in attacked}
    goal = "the target or source class"
    if len(goals) == 1:
        (goal,) = goals
    traces: list[Trace] = []
    for outcome in attacked:
        trace = Trace.of(outcome, goal)
        if trace.curves:
            traces.append(trace)
    return traces


def _heading(traces: Sequence[Trace]) -> Text:
    flips = [trace.flip for trace in traces if trace.flip is not None]
    if len(traces) > 1:
        text = f"{len(traces)} images, one line each; dots: first logged success ({len(flips)} of {len(traces)})"
        if len(traces) == MOST_CURVES:
            text = f"the first {text}"
        return Text(text, weight="bold", color=GRAY)
    if flips:
        return Text(f"fooled at iteration {flips[0]}, before rounding", weight="bold", color=COLORS[2])
    iterations = pluralize(traces[0].iterations[-1], "iteration")
    return Text(f"robust after {iterations}", weight="bold", color=COLORS[1])


def _plot_strip(traces: Sequence[Trace], title: str, is_last: bool, axes: Axes) -> None:
    single = len(traces) == 1
    line: dict[str, Any] = {"linewidth": 1.4} if single else {"linewidth": 0.6, "alpha": 0.5}
    dot: dict[str, Any] = {"ms": 4 if single else 3, "mfc": COLORS[2], "mec": "white", "mew": 0.5}
    points: list[tuple[int, float]] = []
    iterations: list[int] = []
    for trace in traces:
        curve = trace.curves.get(title, ())
        points += curve
        iterations += trace.iterations
        if trace.flip is not None:
            iterations.append(trace.flip)
            if single:
                axes.axvline(trace.flip, color=COLORS[2], linewidth=0.8)
        values = dict(curve)
        line["marker"] = "o" if len(values) == 1 else "None"
        axes.plot(list(values), list(values.values()), color=COLORS[0], ms=2.5, clip_on=False, zorder=3, **line)
        if trace.flip in values:
            axes.plot(trace.flip, values[trace.flip], "o", clip_on=False, zorder=4, **dot)
    _limit_values(axes, points, title.startswith("probability"))
    _label_iterations(axes, _round_iterations(iterations))
    if not is_last:
        axes.set_xlabel("")
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(bottom=False, labelbottom=False)


def plot_band(axes: Axes, positions: Sequence[float], points: Sequence[RobustAccuracy], color: str) -> list[float]:
    """Shade the 95 % intervals of some shares, and return the shares."""
    shares, low, high = [], [], []
    for point in points:
        shares.append(point.accuracy)
        low.append(point.interval[0])
        high.append(point.interval[1])
    axes.fill_between(positions, low, high, color=color, alpha=0.15, linewidth=0)
    return shares


def robustness_chart(curves: Mapping[str, Sequence[RobustAccuracy]], norm: Norm, what: str) -> Grid:
    """Plot the share ``what`` of robust photographs against the radius, by name, with a key.

    The last curve has counts and its 95 % interval. Earlier curves are thicker, so that coinciding curves remain
    visible.
    """
    robust_curves = []
    for place, (name, points) in enumerate(curves.items()):
        ordered = sorted(points, key=lambda point: point.eps)
        robust_curves.append(_RobustCurve(name, ordered, norm.display_scale, _line(place, len(curves))))
    key = Grid([_key_row(curve) for curve in sorted(robust_curves, key=_end)], gap=(0.07, 0.04))
    chart = Plot(max(2.0, key.height), partial(_plot_robustness, robust_curves, norm, what), 3.2, below=0.4)
    return Grid([[Text("", 0.35), chart, key]], gap=(GAP, 0))


@dataclass(frozen=True)
class _RobustCurve:
    """Robust share by radius, with the look of its line."""

    name: str
    points: Sequence[RobustAccuracy]  # by ascending radius
    display_scale: float  # of the radii
    line: Mapping[str, Any]  # options of matplotlib

    @property
    def radii(self) -> list[float]:
        """Displayed radii."""
        return [self.display_scale * point.eps for point in self.points]


def _end(curve: _RobustCurve) -> float:
    """Return the sort key of a curve in the key: the curves in order of their final values, from the top down."""
    return -curve.points[-1].accuracy if curve.points else 1.0


def _key_row(curve: _RobustCurve) -> list[Block | None]:
    sample = Plot(0.14, partial(_draw_sample, curve.line), width=0.18)
    return [sample, Text(curve.name, 1.6, lines=None, shrink=True)]


def _draw_sample(line: Mapping[str, Any], axes: Axes) -> None:
    axes.plot([0, 1], [0.5, 0.5], **line)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()


def _plot_robustness(curves: Sequence[_RobustCurve], norm: Norm, what: str, axes: Axes) -> None:
    for curve in sorted(curves, key=_end):
        shares = [point.accuracy for point in curve.points]
        size = curve.line["lw"] + 2.1
        axes.plot(curve.radii, shares, clip_on=False, marker="o", ms=size, mec="white", mew=0.5, **curve.line)
        if curve is curves[-1] and curve.points:
            plot_band(axes, curve.radii, curve.points, curve.line["color"])
            if len(curve.points) <= _MOST_COUNTS:
                _write_counts(axes, curve)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.set_ylabel(what, size=NORMAL)
    _label_radii(axes, curves)
    axes.set_xlabel(f"eps, {norm.axis_label}", size=NORMAL)


def _write_counts(axes: Axes, curve: _RobustCurve) -> None:
    """Write the count at each point: above it, or beneath near the top of the axes."""
    for point, radius in zip(curve.points, curve.radii, strict=True):
        offset, alignment = (0, 4), "bottom"
        if point.accuracy > 0.9:
            offset, alignment = (0, -5), "top"
        axes.annotate(
            f"{point.robust} of {point.total}",
            (radius, point.accuracy),
            offset,
            textcoords="offset points",
            ha="center",
            va=alignment,
            size=SMALL,
        )


def _label_radii(axes: Axes, curves: Sequence[_RobustCurve]) -> None:
    """Label all radii, if the labels do not touch."""
    distinct: set[float] = set()
    for curve in curves:
        distinct.update(curve.radii)
    radii = sorted(distinct)
    if all(after - before > radii[-1] / 12 for before, after in pairwise(radii)):
        axes.set_xticks(radii, [f"{radius:.3g}" for radius in radii])


def _line(place: int, count: int) -> dict[str, Any]:
    """Return the look of a curve by its position; earlier ones are thicker and beneath."""
    later = count - 1 - place
    return {
        "color": COLORS[place % len(COLORS)],
        "ls": ("-", "--", ":")[place // len(COLORS) % 3],
        "lw": 1.4 + min(1.5 * later, 4.5),
        "zorder": 3 - 0.01 * later,
    }
