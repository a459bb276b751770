"""Curves of a report, as drawings that stand in the page itself."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

from lit_viz.figures.evolution import is_geometric, spread
from lit_viz.report.markup import Markup, element

Curve = Sequence[tuple[int, float]]

_WIDE, _HIGH = 240.0, 84.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 34.0, 236.0, 8.0, 66.0
_POINTS = 400  # of a line; more can't be told apart
_FIRST = ("probability", "objective", "margin", "relative_error", "standard_error", "logit", "l2", "linf")
_CALLED = {"l2": "L2", "linf": "L∞ (/255)"}
_SHOWN = {"linf": 255.0}  # times what it is, as in the other figures


def curves(metrics: Mapping[str, Curve], stops: Sequence[int | None]) -> list[Markup]:
    """Return a drawing for each metric that changes.

    Args:
        metrics: by name, (iteration, value) in order of iteration.
        stops: iterations at which the slider may stand; None is a place without one.
    """
    known = {
        name: [(k, _SHOWN.get(name, 1.0) * v) for k, v in curve if math.isfinite(v)] for name, curve in metrics.items()
    }
    names = sorted(known, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    names = [name for name in names if len({v for _, v in known[name]}) > 1]
    iterations = sorted({k for name in names for k, _ in known[name]})
    return [_drawn(name, known[name], iterations, stops) for name in names]


def _drawn(name: str, curve: Curve, iterations: Sequence[int], stops: Sequence[int | None]) -> Markup:
    """Draw a metric over the iterations of all, so that equal places mean equal iterations."""
    low, high = _limits(name, [value for _, value in curve])
    first, last = iterations[0], iterations[-1]
    grows = is_geometric(np.array(iterations, dtype=float))

    def along(iteration: int) -> float:
        of, to = ((math.log1p(k - first) if grows else k - first) for k in (iteration, last))
        return round(_LEFT + (_RIGHT - _LEFT) * of / to, 1)

    def up(value: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low), 1)

    values = dict(curve)
    places = [[along(k), up(values[k]), f"{values[k]:.4g}"] if k in values else None for k in stops]
    points = [(along(k), up(v)) for k, v in (curve[place] for place in spread(len(curve), _POINTS))]
    called = _CALLED.get(name, name.replace("_", " "))
    said = (
        f"{called} over the iterations, from {curve[0][1]:.4g} at {curve[0][0]} to {curve[-1][1]:.4g} at {curve[-1][0]}"
    )
    return element(
        "figure",
        element("figcaption", called, " ", element("b", "", class_="value")),
        element(
            "svg",
            element("line", class_="rule", x1=str(_LEFT), x2=str(_RIGHT), y1=str(_TOP), y2=str(_TOP)),
            element("line", class_="rule", x1=str(_LEFT), x2=str(_RIGHT), y1=str(_BOTTOM), y2=str(_BOTTOM)),
            element("polyline", class_="line", points=" ".join(f"{x:g},{y:g}" for x, y in points)),
            element("line", class_="mark", y1=str(_TOP), y2=str(_BOTTOM), hidden=True),
            element("circle", class_="mark", r="3.5", hidden=True),
            element("text", f"{high:.3g}", x=str(_LEFT - 5), y=str(_TOP + 3), text_anchor="end"),
            element("text", f"{low:.3g}", x=str(_LEFT - 5), y=str(_BOTTOM + 3), text_anchor="end"),
            element("text", str(first), x=str(_LEFT), y=str(_HIGH - 4)),
            element("text", str(last), x=str(_RIGHT), y=str(_HIGH - 4), text_anchor="end"),
            viewBox=f"0 0 {_WIDE:g} {_HIGH:g}",
            role="img",
            aria_label=said,
        ),
        class_="curve",
        data_places=json.dumps(places),
    )


def _limits(name: str, values: Sequence[float]) -> tuple[float, float]:
    return (0.0, 1.0) if name == "probability" else (min(values), max(values))
