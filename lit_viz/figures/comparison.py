"""Figure of a comparison: measures of methods and attacks with their intervals, and robustness curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_viz.attacks.norms import NORMS
from lit_viz.evidence.attacks.robustness import RobustAccuracy
from lit_viz.evidence.measures import Compared, Estimate
from lit_viz.figures.curves import robustness_chart
from lit_viz.figures.layout import Block, Grid, Plot, Text, compose, stack, text_width, wrap
from lit_viz.figures.style import COLORS, GAP, GRAY, NORMAL, RULE, SMALL

_ROW = 0.2  # height of a method in inches
_PANEL = 1.7  # width of the axes of a measure in inches
_ACROSS = 4  # measures in a row
_LONGEST = 2.4  # width of the names in inches
_COUNT = 0.3  # width of a number of photographs beside a panel
_ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
_CAPTION = (
    "Dots: mean or median over the photographs. Lines: 95 % interval, of shares Wilson's, else the bootstrap over "
    "photographs. Filled: the best, and those not distinguishable from it (the paired 95 % interval of the difference "
    "contains 0). Arrows: better values are higher or lower."
)
_COUNTS = (
    " n: photographs of a value, where methods have different ones; a value over fewer than another is not compared."
)


def comparison_figure(compared: Mapping[str, Compared], best: Mapping[str, Sequence[bool]]) -> Figure:
    """Draw a panel for each measure with a row for each method, and the robustness curves by norm.

    Args:
        compared: methods by their distinct names.
        best: by measure, whether each method is the best or not distinguishable from it.
    """
    names = list(compared)
    width = min(_LONGEST, max(text_width(name, NORMAL) for name in names)) + GAP
    panels: list[Block] = []
    has_counts = False
    for measure, are_best in best.items():
        estimates, title = _estimates(compared, measure)
        first = not len(panels) % _ACROSS
        plot = partial(_plot_measure, estimates, are_best, names if first else [""] * len(names))
        height = _ROW * len(names)
        heading = Text(title, _PANEL, NORMAL, lines=2, color=GRAY)
        panel = stack(heading, Plot(height, plot, width=_PANEL, below=0.25), gap=0.05)
        if _have_different_counts(estimates):
            has_counts = True
            panel = Grid([[panel, Text("", _COUNT)]], gap=0)
        panels.append(panel)
    blocks: list[Block] = [Grid([[Text("", width), wrap(panels, _ACROSS, gap=(3 * GAP, 2 * GAP))]], gap=0)]
    charts: list[Block] = []
    for norm, of_norm in _curves(compared).items():
        if all(len(points) == 1 for points in of_norm.values()):  # which a panel above shows
            continue
        what = next(item.curve.what for item in compared.values() if item.curve is not None)
        charts.append(robustness_chart(of_norm, NORMS[norm], what))
    if charts:
        blocks.append(Grid([charts], gap=3 * GAP))
    caption = _CAPTION
    if has_counts:
        caption += _COUNTS
    return compose(stack(*blocks, gap=3 * GAP), caption)


def _estimates(compared: Mapping[str, Compared], name: str) -> tuple[list[Estimate | None], str]:
    """Return the estimates of a measure by method, None where it is missing, and its title."""
    estimates: list[Estimate | None] = []
    title = name
    for item in compared.values():
        measure = item.measure(name)
        estimates.append(None if measure is None else measure.estimate())
        if measure is not None:
            title = name + _ARROWS[measure.better]
    return estimates, title


def _have_different_counts(estimates: Sequence[Estimate | None]) -> bool:
    counts = {estimate.count for estimate in estimates if estimate is not None}
    return len(counts) > 1


def _plot_measure(estimates: Sequence[Estimate | None], best: Sequence[bool], names: Sequence[str], axes: Axes) -> None:
    has_counts = _have_different_counts(estimates)
    for place, (estimate, is_best) in enumerate(zip(estimates, best, strict=True)):
        if estimate is None or math.isnan(estimate.value):
            continue
        axes.plot([estimate.low, estimate.high], [place, place], color=COLORS[0], linewidth=1.0)
        fill = COLORS[0] if is_best else "white"
        axes.plot(estimate.value, place, "o", ms=4.5, mfc=fill, mec=COLORS[0], mew=1.0)
        if has_counts:
            beside = axes.get_yaxis_transform()
            axes.text(1.03, place, f"n={estimate.count}", transform=beside, va="center", size=SMALL, color=GRAY)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(left=False)
    axes.grid(axis="y", color=RULE, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _curves(compared: Mapping[str, Compared]) -> dict[str, dict[str, Sequence[RobustAccuracy]]]:
    """Return the robustness curves of the attacks by norm."""
    curves: dict[str, dict[str, Sequence[RobustAccuracy]]] = {}
    for name, item in compared.items():
        if item.curve is not None and item.curve.points:
            curves.setdefault(item.curve.norm, {})[name] = item.curve.points
    return curves
