"""Metrics of a task over the iterations, as inline SVG plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lit_viz.attacks.norms import NORMS
from lit_viz.figures.curves import is_geometric
from lit_viz.types import Curve
from lit_viz.utils.limits import evenly

# Plot area in units of the view box in templates/card.html.
_LEFT, _RIGHT, _TOP, _BOTTOM = 34.0, 236.0, 8.0, 66.0
_MAX_POINTS = 400  # of a line
_FIRST_METRICS = ("probability", "objective", "margin", "relative_error", "standard_error", "logit", *NORMS)


@dataclass(frozen=True)
class CurvePlot:
    """A metric over the iterations as the coordinates of an inline SVG plot."""

    label: str
    description: str  # text alternative
    points: str  # of the line, as in the attribute of an SVG polyline
    marks: Sequence[tuple[float, float, str] | None]  # x, y and value by slider position; None if not logged
    limits: tuple[float, float]  # of the vertical axis
    iterations: tuple[int, int]  # first and last


@dataclass(frozen=True)
class _HorizontalAxis:
    """The axis of the iterations, which all plots of a card share."""

    first: int
    last: int
    is_logarithmic: bool

    def place(self, iteration: int) -> float:
        """Return the coordinate of an iteration."""
        offset, span = float(iteration - self.first), float(self.last - self.first)
        if self.is_logarithmic:
            offset, span = math.log1p(offset), math.log1p(span)
        return round(_LEFT + (_RIGHT - _LEFT) * offset / span, 1)


def plot_curves(metrics: Mapping[str, Curve], stops: Sequence[int | None]) -> list[CurvePlot]:
    """Return a plot of each metric that varies; all plots share the horizontal axis.

    Args:
        metrics: curves by metric name.
        stops: iteration of each slider position; None for a position without one.
    """
    curves = {}
    iterations: set[int] = set()
    for name in sorted(metrics, key=_order):
        curve = _displayed(name, metrics[name])
        values = dict(curve)
        if len(set(values.values())) > 1:
            curves[name] = curve
            iterations |= values.keys()
    if not curves:
        return []
    is_logarithmic = is_geometric(np.array(sorted(iterations), dtype=float))
    axis = _HorizontalAxis(min(iterations), max(iterations), is_logarithmic)
    plots = []
    for name, curve in curves.items():
        plots.append(_plot(name, curve, axis, stops))
    return plots


def _order(name: str) -> tuple[int, str]:
    """Return the sorting key of a metric: the most informative ones precede the others."""
    if name in _FIRST_METRICS:
        return _FIRST_METRICS.index(name), name
    return len(_FIRST_METRICS), name


def _displayed(name: str, curve: Curve) -> Curve:
    """Return the finite values of a metric in the unit in which it is displayed."""
    factor = 1.0
    if name in NORMS:
        factor = NORMS[name].display_scale
    return [(k, factor * value) for k, value in curve if math.isfinite(value)]


def _plot(name: str, curve: Curve, axis: _HorizontalAxis, stops: Sequence[int | None]) -> CurvePlot:
    values = dict(curve)
    low, high = min(values.values()), max(values.values())
    if name == "probability":
        low, high = 0.0, 1.0

    def to_y(value: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low), 1)

    marks: list[tuple[float, float, str] | None] = []
    for k in stops:
        if k is not None and k in values:
            marks.append((axis.place(k), to_y(values[k]), f"{values[k]:.4g}"))
        else:
            marks.append(None)
    points = []
    for k, value in evenly(curve, _MAX_POINTS):
        points.append(f"{axis.place(k):g},{to_y(value):g}")
    label = name.replace("_", " ")
    if name in NORMS:
        label = NORMS[name].axis_label
    (k0, v0), (k1, v1) = curve[0], curve[-1]
    return CurvePlot(
        label=label,
        description=f"{label} over the iterations, from {v0:.4g} at {k0} to {v1:.4g} at {k1}",
        points=" ".join(points),
        marks=marks,
        limits=(low, high),
        iterations=(axis.first, axis.last),
    )
