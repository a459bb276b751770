"""Figure of adversarial examples with the curves of the attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.figures.curves import MOST, Trace, trace_rows
from lit_viz.figures.layout import Block, Cell, Grid, Text, compose, head, pixels, selection, titles
from lit_viz.figures.scales import number
from lit_viz.figures.style import CELL, COLORS, GAP, GRAY, HEAD, SMALL_CELL
from lit_viz.images.reading import read_png
from lit_viz.images.rendering import MAGNIFIED, difference, gray_levels, out_of_range_fraction
from lit_viz.runs.evidence import EnsembleMember
from lit_viz.types import Picture

_LIMIT = 20  # maximum number of rows
_VERDICT = 0.66  # width of "not fooled" in inches
_FEW = 3  # up to this number, each image has its own plot
_VERDICTS = {True: ("fooled", COLORS[2]), False: ("not fooled", COLORS[1]), None: ("not tested", GRAY)}


@dataclass(frozen=True)
class AttackPanel:
    """One attacked image."""

    name: str
    original: Picture
    result: Picture
    before: str = ""  # prediction for the original, such as "quail, p = 0.93"; may have several lines
    after: str = ""  # prediction for the result
    verdicts: Mapping[str, bool | None] = field(default_factory=dict)  # by test; None if not tested
    notes: Sequence[str] = ()
    trace: Trace | None = None

    @property
    def success(self) -> bool | None:
        """Verdict of the first test; None if not tested."""
        return next(iter(self.verdicts.values()), None)


def attack_figure(panels: Sequence[AttackPanel], members: Sequence[EnsembleMember] = ()) -> Figure:
    """Draw one row per image: original, result and differences; beneath, the curves of the attack.

    No image is rescaled. Differences are drawn on mid-gray, unchanged and magnified.

    Args:
        panels: attacked images. Up to three have a plot each, more share one.
        members: results of the members of an ensemble, drawn as a table.
    """
    drawn = panels[:_LIMIT]
    if not drawn:
        return compose(Grid([]), "No image was attacked.")
    width = CELL if len(drawn) <= 6 else SMALL_CELL
    outcome = "fooled" if all(panel.success for panel in drawn) else "attacked"
    rows: list[Sequence[Block | None]] = [
        [None, *titles(["original", outcome, "difference", f"difference × {MAGNIFIED:g}"], width)]
    ]
    any_clipped = False
    for panel in drawn:
        cells, clipped = _cells(panel, width)
        any_clipped |= clipped
        rows.append([head(panel.name, _verdicts(panel), notes="\n".join(panel.notes)), *cells])
        if len(panels) <= _FEW and panel.trace and panel.trace.iterations:
            rows += trace_rows([panel.trace])
    traces = [panel.trace for panel in panels if panel.trace and panel.trace.iterations][:MOST]
    if len(panels) > _FEW and traces:
        rows += trace_rows(traces)
    if members:
        rows.append([None, _table(members)])
    tested = [panel.success for panel in panels if panel.success is not None]
    test = next((name for panel in panels for name in panel.verdicts), "")
    caption = selection(len(drawn), len(panels), "images")
    caption += f"{sum(tested)} of {len(tested)} fooled {test}. " if len(tested) > 1 else ""
    caption += (
        f"No image is rescaled. Differences: {outcome} minus original on mid-gray, unchanged and magnified "
        f"{MAGNIFIED:g} times; {'values outside [0, 1] are clipped' if any_clipped else 'no value is clipped'}. "
    )
    return compose(
        Grid(rows), caption + ("Curves show the image at each iteration, before rounding to 8 bits." if traces else "")
    )


def _verdicts(panel: AttackPanel) -> Grid:
    rows = []
    for test, success in panel.verdicts.items():
        word, color = _VERDICTS[success]
        rows.append([Text(word, _VERDICT, weight="bold", color=color), Text(test, HEAD - _VERDICT)])
    return Grid(rows, gap=0)


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


def _table(members: Sequence[EnsembleMember]) -> Grid:
    rows = [("ensemble member", "attacked", "fooled", "remaining")]
    rows += [(m.member, str(m.tried), str(m.fooled), str(m.left)) for m in members]
    return Grid(
        [[Text(value, weight="normal" if line else "bold") for value in row] for line, row in enumerate(rows)],
        gap=(2 * GAP, 0),
    )
