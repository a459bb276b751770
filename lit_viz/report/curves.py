"""Metric curves of a task as the coordinates of inline SVG plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lit_viz.attacks.norms import NORMS
from lit_viz.figures.curves import is_geometric, spread

Curve = Sequence[tuple[int, float]]  # (iteration, value) in order of iteration

# Plot area in units of the view box in templates/card.html.
_LEFT, _RIGHT, _TOP, _BOTTOM = 34.0, 236.0, 8.0, 66.0
_MAX_POINTS = 400  # of a line
_FIRST_METRICS = ("probability", "objective", "margin", "relative_error", "standard_error", "logit", *NORMS)
_LABELS = {name: norm.axis_label for name, norm in NORMS.items()}
_FACTORS = {name: norm.display_scale for name, norm in NORMS.items()}


@dataclass(frozen=True)
class CurvePlot:
    """A metric over the iterations.

    Attributes:
        label: name of the metric.
        description: text alternative of the plot.
        points: coordinates of the line, as in the ``points`` attribute of an SVG polyline.
        marks: x, y and value at each slider position; None where the metric was not logged.
        limits: lower and upper end of the vertical axis.
        iterations: first and last iteration of the horizontal axis.
    """

    label: str
    description: str
    points: str
    marks: Sequence[tuple[float, float, str] | None]
    limits: tuple[float, float]
    iterations: tuple[int, int]


def plot_curves(metrics: Mapping[str, Curve], stops: Sequence[int | None]) -> list[CurvePlot]:
    """Return a plot of each metric that varies; all plots share the horizontal axis.

    Args:
        metrics: curves by metric name.
        stops: iteration of each slider position; None for a position without one.
    """
    curves = {
        name: [(k, _FACTORS.get(name, 1.0) * value) for k, value in curve if math.isfinite(value)]
        for name, curve in metrics.items()
    }
    order = {name: place for place, name in enumerate(_FIRST_METRICS)}
    names = sorted(curves, key=lambda name: (order.get(name, len(order)), name))
    names = [name for name in names if len({value for _, value in curves[name]}) > 1]
    iterations = sorted({k for name in names for k, _ in curves[name]})
    return [_plot(name, curves[name], iterations, stops) for name in names]


def _plot(name: str, curve: Curve, iterations: Sequence[int], stops: Sequence[int | None]) -> CurvePlot:
    values = dict(curve)
    low, high = (0.0, 1.0) if name == "probability" else (min(values.values()), max(values.values()))
    first, last = iterations[0], iterations[-1]
    logarithmic = is_geometric(np.array(iterations, dtype=float))

    def to_x(iteration: int) -> float:
        offset, span = ((math.log1p(k - first) if logarithmic else k - first) for k in (iteration, last))
        return round(_LEFT + (_RIGHT - _LEFT) * offset / span, 1)

    def to_y(value: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low), 1)

    label = _LABELS.get(name, name.replace("_", " "))
    (k0, v0), (k1, v1) = curve[0], curve[-1]
    line = [curve[place] for place in spread(len(curve), _MAX_POINTS)]
    return CurvePlot(
        label=label,
        description=f"{label} over the iterations, from {v0:.4g} at {k0} to {v1:.4g} at {k1}",
        points=" ".join(f"{to_x(k):g},{to_y(value):g}" for k, value in line),
        marks=[(to_x(k), to_y(values[k]), f"{values[k]:.4g}") if k in values else None for k in stops],
        limits=(low, high),
        iterations=(first, last),
    )
