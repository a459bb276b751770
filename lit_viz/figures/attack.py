"""Figure of adversarial examples: originals, perturbed images, differences and the curves of the attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.evidence.attacks.robustness import MemberBreakdown
from lit_viz.figures.layout import CELL, GAP, SMALL_CELL, TITLE, Block, Cell, Grid, Text, compose, pixels, stack
from lit_viz.figures.scales import number
from lit_viz.figures.style import COLORS, GRAY, style
from lit_viz.figures.traces import MOST, Trace, trace_rows
from lit_viz.images.difference import MAGNIFIED, difference, gray_levels, out_of_range_fraction
from lit_viz.images.reading import read_png
from lit_viz.types import Picture

_HEAD = 1.4  # width of the text on the left of a row in inches
_VERDICT = 0.66  # width of "not fooled" in inches
_FEW = 3  # up to this number, each image has its own plot
_VERDICTS = {True: ("fooled", COLORS[2]), False: ("not fooled", COLORS[1]), None: ("not tested", GRAY)}


@dataclass(frozen=True)
class AttackPanel:
    """One attacked image.

    Attributes:
        name: of the photograph or its class.
        original: classifier input, ``(C, H, W)`` in [0, 1] or a file.
        result: of the attack, of the same shape.
        before: prediction for the original, such as ``quail, p = 0.93``; may have several lines.
        after: prediction for the result.
        verdicts: whether the result fools the network, by test: ``{"in the file": True, "after JPEG 75": False}``; None
            if not tested. The first one decides about success.
        notes: additional lines, such as ``12 iterations``.
        trace: curves of the attack.
    """

    name: str
    original: Picture
    result: Picture
    before: str = ""
    after: str = ""
    verdicts: Mapping[str, bool | None] = field(default_factory=dict)
    notes: Sequence[str] = ()
    trace: Trace | None = None

    @property
    def success(self) -> bool | None:
        """Whether the network is fooled; None if not tested."""
        return next(iter(self.verdicts.values()), None)


@style()
def attack_figure(panels: Sequence[AttackPanel], limit: int = 20, members: Sequence[MemberBreakdown] = ()) -> Figure:
    """Draw one row per image: original, result and differences; beneath, the curves of the attack.

    No image is rescaled. Differences are drawn on mid-gray, unchanged and magnified. Norms refer to the images.

    Args:
        panels: attacked images. Up to three have a plot each, more share one.
        limit: maximum number of rows; the total is reported in the caption.
        members: results of the members of an ensemble, drawn as a table.

    Returns:
        A figure with each pixel as a square of whole dots; see :func:`lit_viz.figures.style.save_figure`.

    Raises:
        LitVizError: if original and result differ in shape.
    """
    drawn = panels[:limit]
    if not drawn:
        return compose(Grid([]), "No image was attacked.")
    width = CELL if len(drawn) <= 6 else SMALL_CELL
    outcome = "fooled" if all(panel.success for panel in drawn) else "attacked"
    titles = ("original", outcome, "difference", f"difference × {MAGNIFIED:g}")
    rows: list[Sequence[Block | None]] = [[None, *(Text(title, width, TITLE, weight="bold") for title in titles)]]
    any_clipped = False
    for panel in drawn:
        cells, clipped = _cells(panel, width)
        any_clipped |= clipped
        rows.append([_head(panel), *cells])
        if len(panels) <= _FEW and panel.trace and panel.trace.iterations:
            rows += trace_rows([panel.trace])
    traces = [panel.trace for panel in panels if panel.trace and panel.trace.iterations][:MOST]
    if len(panels) > _FEW and traces:
        rows += trace_rows(traces)
    if members:
        rows.append([None, _table(members)])
    return compose(Grid(rows), _caption(panels, len(drawn), outcome, any_clipped, bool(traces)))


def _head(panel: AttackPanel) -> Grid:
    """Return name, verdicts and notes."""
    verdicts = []
    for test, success in panel.verdicts.items():
        word, color = _VERDICTS[success]
        verdicts.append([Text(word, _VERDICT, weight="bold", color=color), Text(test, _HEAD - _VERDICT)])
    name = Text(panel.name, _HEAD, TITLE, lines=3, weight="bold")
    return stack(name, Grid(verdicts, gap=0), Text("\n".join(panel.notes), _HEAD, lines=2, color=GRAY))


def _cells(panel: AttackPanel, width: float) -> tuple[list[Cell], bool]:
    """Return original, result and two differences, and whether any value is clipped."""
    original, result = (
        (picture.detach().cpu() if isinstance(picture, Tensor) else read_png(picture)).double()
        for picture in (panel.original, panel.result)
    )
    differences = [difference(result, original, times) for times in (1.0, MAGNIFIED)]
    pictures = [pixels(panel.original), pixels(panel.result), *(gray_levels(picture) for picture, _ in differences)]
    shares = [out_of_range_fraction(original), out_of_range_fraction(result), *(share for _, share in differences)]
    notes = [panel.before, panel.after, _norms(result - original), ""]
    cells = [
        Cell(picture, [*note.split("\n"), _clipped(share)], width, lines=3)
        for picture, note, share in zip(pictures, notes, shares, strict=True)
    ]
    return cells, any(shares)


def _norms(change: Tensor) -> str:
    levels = 255 * float(change.abs().max())
    is_integer = abs(levels - round(levels)) < 0.005
    return f"L2 {number(float(change.norm()))} · L∞ {f'{levels:.0f}' if is_integer else number(levels)}/255"


def _clipped(share: float) -> str:
    if not share:
        return ""
    return "< 0.01 % clipped" if share < 1e-4 else f"{number(100 * share)} % clipped"


def _table(members: Sequence[MemberBreakdown]) -> Grid:
    rows = [("ensemble member", "attacked", "fooled", "remaining")]
    rows += [(m.member, str(m.tried), str(m.fooled), str(m.left)) for m in members]
    return Grid(
        [[Text(value, weight="normal" if line else "bold") for value in row] for line, row in enumerate(rows)],
        gap=(2 * GAP, 0),
    )


def _caption(panels: Sequence[AttackPanel], drawn: int, outcome: str, clipped: bool, traced: bool) -> str:
    tested = [panel.success for panel in panels if panel.success is not None]
    test = next((name for panel in panels for name in panel.verdicts), "")
    sentences = [
        f"The first {drawn} of {len(panels)} images." if len(panels) > drawn else "",
        f"{sum(tested)} of {len(tested)} fooled {test}." if len(tested) > 1 else "",
        f"No image is rescaled. Differences: {outcome} minus original on mid-gray, unchanged and magnified "
        f"{MAGNIFIED:g} times; {'values outside [0, 1] are clipped' if clipped else 'no value is clipped'}.",
        "Curves show images before rounding to 8 bits." if traced else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)
