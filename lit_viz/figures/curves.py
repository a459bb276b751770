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
from lit_viz.evidence.attacks.diagnostics import successes
from lit_viz.evidence.attacks.robustness import RobustAccuracy, attack_record
from lit_viz.figures.layout import Block, Grid, Plot, Text
from lit_viz.figures.style import COLORS, GAP, GRAY, NORMAL, RULE, SMALL
from lit_viz.methods.records import AdversarialRecord
from lit_viz.runs.results import Outcome
from lit_viz.types import Curve, PerturbedImageRecord
from lit_viz.utils.formatting import pluralize

#: Height of the labels of an iteration axis in inches.
AXIS = 0.36
#: Maximum number of images in a plot.
MOST = 100
_TITLE = 1.12  # width of the title of a strip in inches
_STRIP = 0.42  # height of a strip in inches


def spread(count: int, at_most: int) -> list[int]:
    """Return at most ``at_most`` evenly spaced indices of ``range(count)``, the first and the last included."""
    if count <= at_most:
        return list(range(count))
    return [round(place * (count - 1) / (at_most - 1)) for place in range(at_most)] if at_most > 1 else [count - 1]


def is_geometric(iterations: NDArray[np.float64]) -> bool:
    """Return whether iterations were logged at growing distances, which a logarithmic axis displays better."""
    steps = np.diff(iterations[iterations >= 1])
    return len(steps) > 3 and iterations[-1] > 30 and bool(np.median(steps[-2:]) > 4 * np.median(steps[:2]))


def plot_metric(curve: Curve, metric: str, marked: Sequence[int], axes: Axes) -> None:
    """Draw the curve of a task with dots at the marked iterations."""
    iterations, values = (np.array(column, dtype=float) for column in zip(*curve, strict=True))
    if is_geometric(iterations):
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.3)
    axes.plot(iterations, values, color=COLORS[0], solid_capstyle="round", clip_on=False)
    axes.fill_between(iterations, values, color=COLORS[0], alpha=0.1, linewidth=0)
    points = [(k, value) for k, value in curve if k in marked]
    if points:
        axes.plot(*zip(*points, strict=True), "o", ms=4, mfc=COLORS[0], mec="white", mew=0.8, clip_on=False, zorder=3)
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
    finite = [value for _, value in curve if math.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    space = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - space if low < 0 else 0.0, high + space)
    axes.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))


def _label_iterations(axes: Axes, iterations: Sequence[int]) -> None:
    """Limit the horizontal axis to the first and the last iteration, and label them and all between whose labels do
    not overlap."""
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
    axes.set_xticks(ticks, [str(k) for k in ticks])
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
    """Return the class whose probability an attack changes: the target, or the label of an untargeted attack."""
    return record.target_name or record.label_name or "its label"


@dataclass(frozen=True)
class Trace:
    """Curves of the attack on one image."""

    curves: Mapping[str, Curve]  # by title of the strip, without those that are not logged
    flip: int | None  # first logged iteration with a success

    @classmethod
    def of(cls, outcome: Outcome, goal: str) -> Trace:
        """Return the curves of an attacked image; ``goal`` is the class of the probability."""
        linf = [(k, LINF.display_scale * value) for k, value in outcome.curve(LINF.name)]
        curves = {
            f"probability of {goal}": outcome.curve("probability"),
            "margin": outcome.curve("margin"),
            L2.axis_label: outcome.curve(L2.name),
            LINF.axis_label: linf,
        }
        return cls({title: curve for title, curve in curves.items() if curve}, next(iter(successes(outcome)), None))

    @property
    def iterations(self) -> list[int]:
        """All iterations with a value, in order."""
        return sorted({k for curve in self.curves.values() for k, _ in curve})


def trace_rows(outcomes: Sequence[Outcome]) -> list[list[Block | None]]:
    """Return the grid rows of a plot of the attacks on some images: a heading, then the title and the axes of each
    strip; nothing without a logged value, and at most :data:`MOST` images."""
    outcomes = [outcome for outcome in outcomes if outcome.record.status != "skipped"][:MOST]
    goals = {goal_name(attack_record(outcome)) for outcome in outcomes}
    goal = goals.pop() if len(goals) == 1 else "the target or source class"
    traces = [trace for outcome in outcomes if (trace := Trace.of(outcome, goal)).curves]
    titles = list(dict.fromkeys(title for trace in traces for title in trace.curves))
    rows: list[list[Block | None]] = [[None, _heading(traces)]] if traces else []
    for title in titles:
        below = AXIS if title == titles[-1] else 0.0
        plot = partial(_plot_strip, traces, title, bool(below))
        rows.append([Text(title, _TITLE, lines=3, color=GRAY), Plot(_STRIP, plot, below=below)])
    return rows


def _heading(traces: Sequence[Trace]) -> Text:
    flips = [trace.flip for trace in traces if trace.flip is not None]
    if len(traces) > 1:
        first = "the first " if len(traces) == MOST else ""
        text = f"{first}{len(traces)} images, one line each; dots: first logged success ({len(flips)} of {len(traces)})"
        return Text(text, weight="bold", color=GRAY)
    if flips:
        return Text(f"fooled at iteration {flips[0]}, before rounding", weight="bold", color=COLORS[2])
    iterations = pluralize(traces[0].iterations[-1], "iteration")
    return Text(f"not fooled in {iterations}", weight="bold", color=COLORS[1])


def _plot_strip(traces: Sequence[Trace], title: str, is_last: bool, axes: Axes) -> None:
    single = len(traces) == 1
    curves = [trace.curves.get(title, ()) for trace in traces]
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
    _limit_values(axes, [point for curve in curves for point in curve], title.startswith("probability"))
    iterations = [k for trace in traces for k in (*trace.iterations, trace.flip) if k is not None]
    _label_iterations(axes, _round_iterations(iterations))
    if not is_last:
        axes.set_xlabel("")
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(bottom=False, labelbottom=False)


def robustness_chart(curves: Mapping[str, Sequence[RobustAccuracy]], norm: Norm, what: str) -> Grid:
    """Plot the share ``what`` of robust photographs against the radius, by name, with a key.

    The last curve has counts and its 95 % interval. Earlier curves are thicker, so that coinciding curves remain
    visible.
    """
    points = {name: sorted(curve, key=lambda point: point.eps) for name, curve in curves.items()}
    lines = {name: _line(place, len(points)) for place, name in enumerate(points)}
    by_end = sorted(points, key=lambda name: -points[name][-1].share if points[name] else 1.0)

    def plot(axes: Axes) -> None:
        for name in by_end:
            line, curve = lines[name], points[name]
            eps, share = [norm.display_scale * point.eps for point in curve], [point.share for point in curve]
            axes.plot(eps, share, clip_on=False, marker="o", ms=line["lw"] + 2.1, mec="white", mew=0.5, **line)
            if name == list(points)[-1] and curve:
                low, high = zip(*(point.interval for point in curve), strict=True)
                axes.fill_between(eps, low, high, color=line["color"], alpha=0.15, linewidth=0)
                for point, x in zip(curve, eps, strict=True):
                    label, place, top = f"{point.robust} of {point.total}", (x, point.share), point.share > 0.9
                    offset, va = ((0, -5), "top") if top else ((0, 4), "bottom")
                    axes.annotate(label, place, offset, textcoords="offset points", ha="center", va=va, size=SMALL)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.set_ylabel(what, size=NORMAL)
        radii = sorted({norm.display_scale * point.eps for curve in points.values() for point in curve})
        if all(after - before > radii[-1] / 12 for before, after in pairwise(radii)):  # labels do not touch
            axes.set_xticks(radii, [f"{radius:.3g}" for radius in radii])
        axes.set_xlabel(f"eps, {norm.axis_label}", size=NORMAL)

    def draw_sample(name: str, axes: Axes) -> None:
        axes.plot([0, 1], [0.5, 0.5], **lines[name])
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_axis_off()

    key = Grid(
        [
            [Plot(0.14, partial(draw_sample, name), width=0.18), Text(name, 1.6, lines=2, shrink=True)]
            for name in by_end
        ],
        gap=(0.07, 0.04),
    )
    curve = Plot(max(2.0, key.height), plot, 3.2, below=0.4)
    return Grid([[Text("", 0.35), curve, key]], gap=(GAP, 0))


def _line(place: int, count: int) -> dict[str, Any]:
    """Return the look of a curve by its position; earlier ones are thicker and beneath."""
    later = count - 1 - place
    return {
        "color": COLORS[place % len(COLORS)],
        "ls": ("-", "--", ":")[place // len(COLORS) % 3],
        "lw": 1.4 + min(1.5 * later, 4.5),
        "zorder": 3 - 0.01 * later,
    }
