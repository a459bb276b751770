"""Figure of robustness curves: robust accuracy or success rate against the radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_viz.figures.layout import GAP, NORMAL, Block, Grid, Plot, Space, Text, compose
from lit_viz.figures.style import COLORS, style

_WIDTH = 3.2  # of the plot in inches
_HEIGHT = 2.0


@style()
def robustness_figure(
    curves: Mapping[str, Sequence[tuple[float, float, float, float]]],
    norm: str = "L∞",
    what: str = "robust accuracy",
    caption: str = "",
) -> Figure:
    """Draw a rate against the radius of the perturbation, with the confidence interval of the last curve as a band.

    Earlier curves are thicker, so that coinciding curves remain visible.

    Args:
        curves: by name, (eps, rate, low, high) per radius; eps in [0, 1] for L∞; the interval is for example
            :func:`lit_viz.evidence.summaries.wilson_interval`.
        norm: of eps; an eps of ``L∞`` is displayed in /255.
        what: label of the rate: ``robust accuracy``, ``success``.
        caption: of the figure.

    Returns:
        A figure with a legend in the order of the last rates.
    """
    scale = 255.0 if norm == "L∞" else 1.0
    points = {
        name: np.array(sorted(curve), dtype=float).reshape(-1, 4) * [scale, 1, 1, 1] for name, curve in curves.items()
    }
    lines = {name: _line(place, len(points)) for place, name in enumerate(points)}
    by_end = sorted(points, key=lambda name: -points[name][-1, 1] if len(points[name]) else 1.0)

    def plot(axes: Axes) -> None:
        for name in by_end:
            eps, rate, low, high = points[name].T
            line = lines[name]
            if name == list(points)[-1]:
                axes.fill_between(eps, low, high, color=line["color"], alpha=0.15, linewidth=0)
            axes.plot(eps, rate, clip_on=False, marker="o", ms=line["lw"] + 2.1, mec="white", mew=0.5, **line)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.set_ylabel(what, size=NORMAL)
        radii = sorted({float(eps) for curve in points.values() for eps in curve[:, 0]})
        if all(after - before > radii[-1] / 12 for before, after in pairwise(radii)):  # labels do not touch
            axes.set_xticks(radii, [f"{radius:.3g}" for radius in radii])
        axes.set_xlabel(f"eps, {norm}{' (/255)' if norm == 'L∞' else ''}", size=NORMAL)

    legend: list[list[Block | None]] = []
    for name in by_end:
        sample = Plot(0.14, partial(_draw_sample, lines[name]), width=0.18)
        legend.append([sample, Text(name, 1.6, lines=2, shrink=True)])
    key = Grid(legend, gap=(0.07, 0.04))
    figure = Grid([[Space(0.35), Plot(max(_HEIGHT, key.height), plot, _WIDTH, below=0.4), key]], gap=(GAP, 0))
    return compose(figure, caption)


def _line(place: int, count: int) -> dict[str, Any]:
    """Return the look of a curve by its position; earlier ones are thicker and beneath."""
    later = count - 1 - place
    return {
        "color": COLORS[place % len(COLORS)],
        "ls": ("-", "--", ":")[place // len(COLORS) % 3],
        "lw": 1.4 + min(1.5 * later, 4.5),
        "zorder": 3 - 0.01 * later,
    }


def _draw_sample(line: Mapping[str, Any], axes: Axes) -> None:
    axes.plot([0, 1], [0.5, 0.5], **line)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
