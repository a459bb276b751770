"""How the share of images that resist falls with the size of the perturbation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lit_viz.figures.cells import LINE, MARGIN, SIZE, SMALL
from lit_viz.figures.style import COLORS, GREY, axes_at, fitted, inches, style, write

_LINE, _THICKER = 1.4, 4.5  # points that the last curve is wide, and that an earlier one is wider at most


def robustness_figure(
    curves: Mapping[str, Sequence[tuple[float, float, float, float]]],
    norm: str = "L∞",
    what: str = "robust accuracy",
    caption: str = "",
) -> Figure:
    """Draw a share against the size of the perturbation; the last curve has its interval as a band.

    Where curves lie upon each other, the later ones are the thinner.

    Args:
        curves: by name, (eps, share, low, high) each, all in [0, 1] but eps in L2; the interval is for instance
            :func:`lit_viz.evidence.summaries.wilson_interval`'s.
        norm: that eps limits; an eps of ``L∞`` is shown in /255.
        what: the share: ``robust accuracy``, ``success``.
        caption: what it is the share of, and whose interval the band is.

    Returns:
        a figure, its names in the order in which the curves end.
    """
    unit, scale = (" (/255)", 255.0) if norm == "L∞" else ("", 1.0)
    points = {name: np.array(sorted(curve), dtype=float).reshape(-1, 4) for name, curve in curves.items()}
    points = dict(sorted(points.items(), key=lambda c: -c[1][-1, 1] if len(c[1]) else 1.0))
    looks = {
        name: (COLORS[n % len(COLORS)], ("-", "--", ":")[n // len(COLORS) % 3], len(curves) - 1 - n)
        for n, name in enumerate(curves)
    }
    with style():
        names = {name: fitted(name, 1.6, SMALL, lines=2) for name in points}
        key_heights = [LINE * (1 + name.count("\n")) + 0.04 for name in names.values()]
        left, wide, high = MARGIN + 0.45, 3.2, max(2.0, sum(key_heights) - 0.35)
        key = 0.5 + max((inches(line, SMALL) for name in names.values() for line in name.split("\n")), default=0.0)
        across = max(left + wide + key, MARGIN + inches(caption, SMALL)) + MARGIN
        foot = 0.5 + (LINE + 0.1 if caption else 0)
        figure = Figure(figsize=(across, MARGIN + high + foot), dpi=300)
        axes = axes_at(figure, left, MARGIN, wide, high)
        top = MARGIN
        for (name, curve), key_height in zip(points.items(), key_heights, strict=True):
            eps, share, low, above = curve.T
            colour, dash, later = looks[name]  # so many curves come after it
            thicker = min(1.5 * later, _THICKER)
            if not later:
                axes.fill_between(scale * eps, low, above, color=colour, alpha=0.15, linewidth=0)
            look: dict[str, Any] = {"marker": "o", "ms": 3.5 + thicker, "mec": "white", "mew": 0.5}
            look |= {"lw": _LINE + thicker, "zorder": 3 - 0.01 * later}
            axes.plot(scale * eps, share, dash, color=colour, clip_on=False, **look)
            stroke = axes_at(figure, left + wide + 0.25, top, 0.18, LINE)
            stroke.plot([0, 1], [0.55, 0.55], dash, color=colour, lw=_LINE + thicker)
            stroke.set(xlim=(0, 1), ylim=(0, 1))
            stroke.set_axis_off()
            write(figure, names[name], left + wide + 0.5, top, size=SMALL, linespacing=1.25)
            top += key_height
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.set_ylabel(what, size=SIZE)
        radii = sorted({float(scale * eps) for curve in points.values() for eps in curve[:, 0]})
        if all(after - before > radii[-1] / 12 for before, after in pairwise(radii)):  # their numbers don't touch
            axes.set_xticks(radii, [f"{radius:.3g}" for radius in radii])
        axes.set_xlabel(f"eps, {norm}{unit}", size=SIZE)
        if caption:
            write(figure, caption, MARGIN, MARGIN + high + 0.5, size=SMALL, color=GREY)
    return figure
