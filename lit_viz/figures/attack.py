"""Adversarial examples: what the network was shown, what was changed, and whether it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.evidence.attacks.robustness import MemberBreakdown
from lit_viz.figures.cells import GAP, LINE, MARGIN, SIZE, SMALL, Cell, captioned, lines_of
from lit_viz.figures.scales import number
from lit_viz.figures.style import COLORS, GREY, fitted, style, write
from lit_viz.figures.tiles import pixels
from lit_viz.figures.traces import MOST, Trace, TracePlot
from lit_viz.images.difference import MAGNIFIED, difference, gray_levels, outside
from lit_viz.images.reading import read_png
from lit_viz.types import Picture

_TEXT = 1.4  # left of the pictures
_WORD = 0.64  # fooled, not fooled
_COLUMN = 0.5  # of the table
_BREATH = 0.04  # between a name and what is said of it
_FEW = 3  # images that have a plot each
_VERDICTS = {True: ("fooled", COLORS[2]), False: ("not fooled", COLORS[1]), None: ("not tried", GREY)}


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


def attack_figure(panels: Sequence[AttackPanel], limit: int = 20, left: Sequence[MemberBreakdown] = ()) -> Figure:
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
    traces = [panel.trace for panel in panels if panel.trace and panel.trace.iterations][:MOST]
    each = len(panels) <= _FEW
    outcome = "fooled" if all(panel.success for panel in drawn) else "attacked"
    with style():
        rows = [_Row.of(panel, width, each) for panel in drawn]
        tops = list(accumulate((row.height(width) + GAP for row in rows), initial=MARGIN + LINE + 0.08))
        plot = TracePlot(traces) if traces and not each else None
        end = tops[-1] + (GAP + plot.height if plot else 0.0)
        foot = end + ((len(left) + 1) * LINE + GAP if left else 0.0)
        cells = [cell for row in rows for cell in row.cells]
        figure = captioned(cells, width, start + span + MARGIN, foot, _caption(panels, rows, outcome))
        for place, title in enumerate(("original", outcome, "difference", f"difference × {MAGNIFIED:g}")):
            write(figure, title, start + place * (width + GAP), MARGIN, size=SIZE + 0.5, weight="bold")
        for row, top in zip(rows, tops, strict=False):
            row.draw(figure, start, top, width)
        if plot:
            plot.draw(figure, start, tops[-1] + GAP, span)
        if left:
            _draw_table(figure, left, start, end)
    return figure


def _draw_table(figure: Figure, left: Sequence[MemberBreakdown], start: float, top: float) -> None:
    """Write what the members of an ensemble did, a line each."""
    rows = [("member", "tried", "fooled", "left"), *((m.member, m.tried, m.fooled, m.left) for m in left)]
    for line, row in enumerate(rows):
        for column, value in enumerate(row):
            place = start + (_COLUMN * (column + 1) if column else 0.0)
            look = {"weight": "bold"} if line == 0 else {}
            write(figure, str(value), place, top + line * LINE, size=SMALL, **look)


def _caption(panels: Sequence[AttackPanel], rows: Sequence[_Row], outcome: str) -> str:
    if not panels:
        return "No image was attacked."
    cut = f"The first {len(rows)} of {len(panels)} images. " if len(panels) > len(rows) else ""
    tried = [panel.success for panel in panels if panel.success is not None]
    where = next((name for panel in panels for name in panel.verdicts), "")
    count = f"{sum(tried)} of {len(tried)} fooled {where}. " if len(tried) > 1 else ""
    clipped = "values beyond black and white are clipped" if any(row.clipped for row in rows) else "no value is clipped"
    traced = any(panel.trace and panel.trace.iterations for panel in panels)
    floats = " Curves are of images before they were rounded to 8 bits." if traced else ""
    return (
        f"{cut}{count}No picture is rescaled. Differences: {outcome} minus original on mid-grey, as they are and "
        f"{MAGNIFIED:g} times as large; {clipped}.{floats}"
    )


@dataclass(frozen=True)
class _Row:
    """A panel as it is drawn."""

    panel: AttackPanel
    name: Sequence[str]
    notes: Sequence[str]
    cells: Sequence[Cell]
    clipped: bool
    plot: TracePlot | None

    @classmethod
    def of(cls, panel: AttackPanel, width: float, plotted: bool) -> _Row:
        images = [_image(picture) for picture in (panel.original, panel.fooled)]
        differences = [difference(images[1], images[0], times) for times in (1.0, MAGNIFIED)]
        shares = [*(outside(image) for image in images), *(share for _, share in differences)]
        shown = [pixels(panel.original), pixels(panel.fooled), *(gray_levels(picture) for picture, _ in differences)]
        said = [panel.before.split("\n"), panel.after.split("\n"), [_norms(images[1] - images[0])], []]
        cells = [
            Cell(picture, lines_of([*notes, _clipped(share)], width, lines=3))
            for picture, notes, share in zip(shown, said, shares, strict=True)
        ]
        name = fitted(panel.name, _TEXT, SIZE + 0.5, lines=3, weight="bold")
        plot = TracePlot([panel.trace]) if plotted and panel.trace and panel.trace.iterations else None
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
