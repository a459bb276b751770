"""How the share of images that resist falls with the size of the perturbation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lit_viz.figures.cells import LINE, MARGIN, SIZE, SMALL
from lit_viz.figures.style import COLOURS, axes_at, fitted, style, write


def robustness_figure(
    curves: Mapping[str, Sequence[tuple[float, float, float, float]]],
    norm: str = "L∞",
    what: str = "robust accuracy",
) -> Figure:
    """Draw a share against the size of the perturbation, with its interval as a band.

    Args:
        curves: by name, (eps, share, low, high) each, all in [0, 1] but eps in L2; the interval is for instance
            :func:`lit_viz.evidence.intervals.wilson`'s.
        norm: that eps limits; an eps of ``L∞`` is shown in /255.
        what: the share: ``robust accuracy``, ``success``.

    Returns:
        a figure, its names in the order in which the curves end.
    """
    unit, scale = (" (/255)", 255.0) if norm == "L∞" else ("", 1.0)
    points = {name: np.array(sorted(curve), dtype=float).reshape(-1, 4) for name, curve in curves.items()}
    points = dict(sorted(points.items(), key=lambda c: -c[1][-1, 1] if len(c[1]) else 1.0))
    looks = {
        name: (COLOURS[n % len(COLOURS)], ("-", "--", ":")[n // len(COLOURS) % 3]) for n, name in enumerate(curves)
    }
    with style():
        names = {name: fitted(name, 1.6, SMALL, lines=2) for name in points}
        key_heights = [LINE * (1 + name.count("\n")) + 0.04 for name in names.values()]
        left, wide, high = MARGIN + 0.45, 3.2, max(2.0, sum(key_heights) - 0.35)
        figure = Figure(figsize=(left + wide + 0.25 + 1.85 + MARGIN, MARGIN + high + 0.5), dpi=300)
        axes = axes_at(figure, left, MARGIN, wide, high)
        top = MARGIN
        for (name, curve), key_height in zip(points.items(), key_heights, strict=True):
            eps, share, low, above = curve.T
            colour, dash = looks[name]
            axes.fill_between(scale * eps, low, above, color=colour, alpha=0.15, linewidth=0)
            dots: dict[str, Any] = {"marker": "o", "ms": 3.5, "mec": "white", "mew": 0.5}
            axes.plot(scale * eps, share, dash, color=colour, clip_on=False, zorder=3, **dots)
            key = axes_at(figure, left + wide + 0.25, top, 0.18, LINE)
            key.plot([0, 1], [0.55, 0.55], dash, color=colour)
            key.set(xlim=(0, 1), ylim=(0, 1))
            key.set_axis_off()
            write(figure, names[name], left + wide + 0.5, top, size=SMALL, linespacing=1.25)
            top += key_height
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.set_ylabel(what, size=SIZE)
        axes.set_xlabel(f"eps, {norm}{unit}", size=SIZE)
    return figure
