"""Adversarial examples: what the network was shown, what was changed, and whether it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lit_viz.evidence.survivors import Left
from lit_viz.figures.cells import GAP, LINE, MARGIN, SIZE, SMALL, Cell, captioned, lines_of
from lit_viz.figures.difference import difference, grey_levels, outside
from lit_viz.figures.scales import number
from lit_viz.figures.style import COLOURS, GREY, RULE, axes_at, fitted, style, write
from lit_viz.figures.tiles import Picture, pixels
from lit_viz.images.reading import read_png

_TEXT = 1.4  # left of the pictures
_WORD = 0.64  # fooled, not fooled
_AXIS = 0.38  # left of a plot: the numbers of its axis
_STRIP = 0.42
_COLUMN = 0.5  # of the table
_PAUSE = 0.14  # between two strips
_BREATH = 0.04  # between a name and what is said of it
_FEW = 3  # images that have a plot each
_TIMES = 10.0
_VERDICTS = {True: ("fooled", COLOURS[2]), False: ("not fooled", COLOURS[1]), None: ("not tried", GREY)}
_LINES = 100  # at most so many images share a plot
_ALONE: dict[str, Any] = {"linewidth": 1.4}
_OF_MANY: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.5}

Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Trace:
    """How an attack went: (iteration, value) each, in order; any of them may be empty.

    Attributes:
        probability: of the class ``goal``.
        margin: above 0 where the network is fooled (see :class:`~lit_viz.objectives.Margin`).
        l2: Euclidean norm of the change, pixels in [0, 1].
        linf: its largest absolute value, in [0, 1].
        flip: iteration of the first success; None if there was none.
        goal: the class to be reached or left.
    """

    probability: Curve = ()
    margin: Curve = ()
    l2: Curve = ()
    linf: Curve = ()
    flip: int | None = None
    goal: str = "the target"

    @property
    def iterations(self) -> list[int]:
        """All that something is known of, in order."""
        return sorted({k for curve in (self.probability, self.margin, self.l2, self.linf) for k, _ in curve})


@dataclass(frozen=True)
class AttackPanel:
    """One image and what it became.

    Attributes:
        name: of the photograph or its class.
        original: ``(C, H, W)`` in [0, 1] or a file, as the classifier saw it.
        fooled: the outcome, of the same shape; a file is what a reader gets.
        before: what the network says of the original: ``quail, p = 0.93``; may have several lines.
        after: what it says of the outcome.
        verdicts: where the outcome fools the network: ``{"in the file": True, "after JPEG 75": False}``; None where it
            was not tried. The first one is what counts.
        notes: further lines, such as ``12 iterations``.
        trace: how it came about.
    """

    name: str
    original: Picture
    fooled: Picture
    before: str = ""
    after: str = ""
    verdicts: Mapping[str, bool | None] = field(default_factory=dict)
    notes: Sequence[str] = ()
    trace: Trace | None = None

    @property
    def success(self) -> bool | None:
        """Whether the network is fooled; None where that was not tried."""
        return next(iter(self.verdicts.values()), None)


def attack_figure(panels: Sequence[AttackPanel], limit: int = 20, left: Sequence[Left] = ()) -> Figure:
    """Draw originals, outcomes and differences beside one another, over the curves of how they came about.

    Nothing is rescaled: original and outcome are shown as they are, the difference on mid-grey, as it is and magnified.
    The norms are those of the pictures given.

    Args:
        panels: what is drawn, a row each. Up to three have a plot each, more share one.
        limit: at most so many rows are drawn; how many there are is said at the foot.
        left: what the members of an ensemble did, a table at the foot.

    Returns:
        a figure at which no pixel is lost; save it by :func:`lit_viz.figures.style.save_figure`.

    Raises:
        LitVizError: original and outcome differ in shape.
    """
    drawn = panels[:limit]
    width = 1.4 if len(drawn) <= 6 else 1.15
    start, span = MARGIN + _TEXT + GAP, 4 * (width + GAP) - GAP
    traces = [panel.trace for panel in panels if panel.trace and panel.trace.iterations][:_LINES]
    each = len(panels) <= _FEW
    outcome = "fooled" if all(panel.success for panel in drawn) else "attacked"
    with style():
        rows = [_Row.of(panel, width, each) for panel in drawn]
        tops = list(accumulate((row.height(width) + GAP for row in rows), initial=MARGIN + LINE + 0.08))
        plot = _Plot(traces) if traces and not each else None
        end = tops[-1] + (GAP + plot.height if plot else 0.0)
        foot = end + ((len(left) + 1) * LINE + GAP if left else 0.0)
        cells = [cell for row in rows for cell in row.cells]
        figure = captioned(cells, width, start + span + MARGIN, foot, _caption(panels, rows, outcome))
        for place, title in enumerate(("original", outcome, "difference", f"difference × {_TIMES:g}")):
            write(figure, title, start + place * (width + GAP), MARGIN, size=SIZE + 0.5, weight="bold")
        for row, top in zip(rows, tops, strict=False):
            row.draw(figure, start, top, width)
        if plot:
            plot.draw(figure, start, tops[-1] + GAP, span)
        if left:
            _draw_table(figure, left, start, end)
    return figure


def _draw_table(figure: Figure, left: Sequence[Left], start: float, top: float) -> None:
    """Write what the members of an ensemble did, a line each."""
    rows = [("member", "tried", "fooled", "left"), *((m.member, m.tried, m.fooled, m.left) for m in left)]
    for line, row in enumerate(rows):
        for column, value in enumerate(row):
            place = start + (_COLUMN * (column + 1) if column else 0.0)
            look = {"weight": "bold"} if line == 0 else {}
            write(figure, str(value), place, top + line * LINE, size=SMALL, **look)


def _caption(panels: Sequence[AttackPanel], rows: Sequence[_Row], outcome: str) -> str:
    cut = f"The first {len(rows)} of {len(panels)} images. " if len(panels) > len(rows) else ""
    tried = [panel.success for panel in panels if panel.success is not None]
    where = next((name for panel in panels for name in panel.verdicts), "")
    count = f"{sum(tried)} of {len(tried)} fooled {where}. " if len(tried) > 1 else ""
    clipped = "values beyond black and white are clipped" if any(row.clipped for row in rows) else "no value is clipped"
    return (
        f"{cut}{count}No picture is rescaled. Differences: {outcome} minus original on mid-grey, as they are and "
        f"{_TIMES:g} times as large; {clipped}."
    )


@dataclass(frozen=True)
class _Row:
    """A panel as it is drawn."""

    panel: AttackPanel
    name: Sequence[str]
    notes: Sequence[str]
    cells: Sequence[Cell]
    clipped: bool
    plot: _Plot | None

    @classmethod
    def of(cls, panel: AttackPanel, width: float, plotted: bool) -> _Row:
        images = [_image(picture) for picture in (panel.original, panel.fooled)]
        differences = [difference(images[1], images[0], times) for times in (1.0, _TIMES)]
        shares = [*(outside(image) for image in images), *(share for _, share in differences)]
        shown = [pixels(panel.original), pixels(panel.fooled), *(grey_levels(picture) for picture, _ in differences)]
        said = [panel.before.split("\n"), panel.after.split("\n"), [_norms(images[1] - images[0])], []]
        cells = [
            Cell(picture, lines_of([*notes, _clipped(share)], width, lines=3))
            for picture, notes, share in zip(shown, said, shares, strict=True)
        ]
        name = fitted(panel.name, _TEXT, SIZE + 0.5, lines=3, weight="bold")
        plot = _Plot([panel.trace]) if plotted and panel.trace and panel.trace.iterations else None
        return cls(panel, name.split("\n"), lines_of(panel.notes, _TEXT), cells, any(shares), plot)

    def _pictures(self, width: float) -> float:
        """Return the height of the pictures or of what is written beside them, in inches."""
        lines = len(self.name) + len(self.panel.verdicts) + len(self.notes)
        return max(lines * LINE + _BREATH, *(cell.height(width) for cell in self.cells))

    def height(self, width: float) -> float:
        """Return inches."""
        return self._pictures(width) + (GAP + self.plot.height if self.plot else 0.0)

    def draw(self, figure: Figure, left: float, top: float, width: float) -> None:
        if self.plot:
            self.plot.draw(figure, left, top + self._pictures(width) + GAP, 4 * (width + GAP) - GAP)
        for place, cell in enumerate(self.cells):
            cell.draw(figure, left + place * (width + GAP), top, width)
        for line in self.name:
            write(figure, line, MARGIN, top, size=SIZE + 0.5, weight="bold")
            top += LINE
        top += _BREATH
        for where, holds in self.panel.verdicts.items():
            word, colour = _VERDICTS[holds]
            write(figure, word, MARGIN, top, size=SMALL, weight="bold", color=colour)
            write(figure, fitted(where, _TEXT - _WORD, SMALL), MARGIN + _WORD, top, size=SMALL)
            top += LINE
        for line in self.notes:
            write(figure, line, MARGIN, top, size=SMALL, color=GREY)
            top += LINE


def _image(picture: Picture) -> Tensor:
    return (picture.detach().cpu() if isinstance(picture, Tensor) else read_png(picture)).double()


def _norms(change: Tensor) -> str:
    levels = 255 * float(change.abs().max())
    whole = abs(levels - round(levels)) < 0.005
    return f"L2 {number(float(change.norm()))} · L∞ {f'{levels:.0f}' if whole else number(levels)}/255"


def _clipped(share: float) -> str:
    if not share:
        return ""
    return "< 0.01 % clipped" if share < 1e-4 else f"{number(100 * share)} % clipped"


@dataclass(frozen=True)
class _Plot:
    """The traces of one image, or of many: thin strips over one axis."""

    traces: Sequence[Trace]

    @property
    def strips(self) -> list[tuple[str, list[Curve]]]:
        """Title and curves of each, those left out of which nothing is known."""
        goals = {trace.goal for trace in self.traces}
        of = goals.pop() if len(goals) == 1 else "the class asked for"
        every: list[tuple[str, list[Curve]]] = [
            (f"probability of {of}", [trace.probability for trace in self.traces]),
            ("margin", [trace.margin for trace in self.traces]),
            ("L2", [trace.l2 for trace in self.traces]),
            ("L∞ (/255)", [[(k, 255 * value) for k, value in trace.linf] for trace in self.traces]),
        ]
        return [(title, curves) for title, curves in every if any(curves)]

    @property
    def height(self) -> float:
        """Inches."""
        return LINE + 0.08 + len(self.strips) * (_STRIP + _PAUSE) + 0.28

    def draw(self, figure: Figure, left: float, top: float, width: float) -> None:
        said, colour = self._said()
        write(figure, said, left, top, size=SMALL, weight="bold", color=colour)
        top += LINE + 0.08
        ends = [k for trace in self.traces for k in (*trace.iterations, trace.flip) if k is not None]
        strips = self.strips
        for place, (title, curves) in enumerate(strips):
            for row, line in enumerate(fitted(title, _TEXT + GAP - _AXIS, SMALL, lines=3).split("\n")):
                write(figure, line, MARGIN, top + row * 0.8 * LINE, size=SMALL, color=GREY)
            axes = axes_at(figure, left, top, width, _STRIP)
            self._draw_curves(axes, curves)
            _limit(axes, title, [value for curve in curves for _, value in curve if np.isfinite(value)])
            axes.set_xlim(min(ends), max(max(ends), min(ends) + 1))
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            if place < len(strips) - 1:
                axes.spines["bottom"].set_visible(False)
                axes.tick_params(bottom=False, labelbottom=False)
            top += _STRIP + _PAUSE
        axes.set_xlabel("iteration", size=SMALL, labelpad=2)

    def _said(self) -> tuple[str, str]:
        flips = [trace.flip for trace in self.traces if trace.flip is not None]
        if len(self.traces) > 1:
            first = "the first " if len(self.traces) == _LINES else ""
            return f"{first}{len(self.traces)} images, a line each; dots: first success ({len(flips)} of them)", GREY
        if flips:
            return f"fooled at iteration {flips[0]}, as floats", COLOURS[2]
        return f"not fooled in {self.traces[0].iterations[-1]} iterations", COLOURS[1]

    def _draw_curves(self, axes: Axes, curves: Sequence[Curve]) -> None:
        alone = len(curves) == 1
        for trace, curve in zip(self.traces, curves, strict=True):
            at = dict(curve)
            if alone and trace.flip is not None:
                axes.axvline(trace.flip, color=COLOURS[2], linewidth=0.8)
            look = {**(_ALONE if alone else _OF_MANY), **({"marker": "o", "ms": 2.5} if len(at) == 1 else {})}
            axes.plot(list(at), list(at.values()), color=COLOURS[0], clip_on=False, zorder=3, **look)
            if trace.flip in at:
                dot: dict[str, Any] = {"ms": 4 if alone else 3, "mfc": COLOURS[2], "mec": "white", "mew": 0.5}
                axes.plot(trace.flip, at[trace.flip], "o", clip_on=False, zorder=4, **dot)


def _limit(axes: Axes, title: str, values: Sequence[float]) -> None:
    """Set the limits and numbers of the upright axis, and draw its zero."""
    axes.axhline(0, color=RULE, linewidth=0.6, zorder=0, clip_on=False)
    if title.startswith("probability"):
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 1])
        return
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - room if low < 0 else 0.0, high + room)
    axes.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))


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
