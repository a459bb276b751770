"""Figures of adversarial examples: images with the curves of the attack, and the robustness by radius."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice

from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.attacks.norms import Norm
from lit_viz.attacks.rounding import is_singleton
from lit_viz.evidence.attacks import robustness
from lit_viz.figures.curves import goal_name, robustness_chart, trace_rows
from lit_viz.figures.layout import Block, Cell, Grid, Text, compose, head, pixels, selection, stack, titles
from lit_viz.figures.scales import number
from lit_viz.figures.style import CELL, COLORS, GAP, GRAY, HEAD, INK, NORMAL, SMALL_CELL
from lit_viz.images.reading import read_png
from lit_viz.images.rendering import MAGNIFIED, difference, gray_levels, out_of_range_fraction
from lit_viz.methods.records import AdversarialRecord
from lit_viz.runs.evidence import DiagnosisEvidence, EnsembleMember
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import PerturbedImageRecord, Picture
from lit_viz.utils.formatting import pluralize, probability_text

_LIMIT = 20  # maximum number of rows
_VERDICT = 0.66  # width of "not fooled" in inches
_MAX_EXAMPLES = 4  # of a robustness curve
_FEW = 3  # up to this number, each image has its own plot
_VERDICTS = {True: ("fooled", COLORS[2]), False: ("not fooled", COLORS[1]), None: ("not tested", GRAY)}


def attack_figure(outcomes: Sequence[Outcome]) -> Figure:
    """Draw one row per attacked image: original, result and differences; beneath, the curves of the attack, and the
    results of the members of an ensemble.

    No image is rescaled. Differences are drawn on mid-gray, unchanged and magnified. Up to three images have a plot
    each, more share one. Outcomes without an image are omitted.
    """
    pictures = {outcome: outcome.pictures() for outcome in outcomes if isinstance(outcome.record, AdversarialRecord)}
    attacked = [outcome for outcome, both in pictures.items() if all(picture is not None for picture in both)]
    drawn = attacked[:_LIMIT]
    if not drawn:
        return compose(Grid([]), "No image was attacked.")
    width = CELL if len(drawn) <= 6 else SMALL_CELL
    result = "fooled" if all(map(_success, drawn)) else "attacked"
    rows: list[Sequence[Block | None]] = [
        [None, *titles(["original", result, "difference", f"difference × {MAGNIFIED:g}"], width)]
    ]
    any_clipped = False
    for outcome in drawn:
        cells, clipped = _cells(robustness.attack_record(outcome), pictures[outcome], width)
        any_clipped |= clipped
        rows.append([_row_head(robustness.attack_record(outcome)), *cells])
        rows += trace_rows([outcome]) if len(attacked) <= _FEW else []
    rows += trace_rows(attacked) if len(attacked) > _FEW else []
    has_curves = len(rows) > 1 + len(drawn)
    if members := robustness.ensemble_breakdown(outcomes):
        rows.append([None, _table(members)])
    tested = [success for outcome in attacked if (success := _success(outcome)) is not None]
    caption = selection(len(drawn), len(attacked), "images")
    caption += f"{sum(tested)} of {len(tested)} fooled in the file. " if len(tested) > 1 else ""
    caption += (
        f"No image is rescaled. Differences: {result} minus original on mid-gray, unchanged and magnified "
        f"{MAGNIFIED:g} times; {'values outside [0, 1] are clipped' if any_clipped else 'no value is clipped'}. "
    )
    caption += "Curves show the image at each iteration, before rounding to 8 bits." if has_curves else ""
    return compose(Grid(rows), caption)


def _success(outcome: Outcome) -> bool | None:
    """Return whether the file fools the network; None if it was not tested."""
    record = robustness.attack_record(outcome)
    return None if record.status == "skipped" else record.success_file


def _row_head(record: AdversarialRecord) -> Grid:
    verdicts = {"in the file": record.success_file}
    if record.success_file:
        verdicts |= {"after JPEG 95": record.success_jpeg95, "after JPEG 75": record.success_jpeg75}
    notes = pluralize(record.iterations or 0, "iteration") + (f"\nby {record.by}" if record.by else "")
    if record.status == "skipped":
        verdicts = dict.fromkeys(verdicts)
        notes = f"skipped: {'target predicted' if record.target_name else 'misclassified'} before the attack"
    rows = []
    for test, success in verdicts.items():
        word, color = _VERDICTS[success]
        rows.append([Text(word, _VERDICT, weight="bold", color=color), Text(test, HEAD - _VERDICT)])
    return head(record.name, Grid(rows, gap=0), notes=notes)


def _cells(record: AdversarialRecord, pictures: Sequence[Picture | None], width: float) -> tuple[list[Cell], bool]:
    """Return original, result and two differences, and whether any value is clipped."""
    files = [picture for picture in pictures if picture is not None]
    original, result = (
        (picture.detach().cpu() if isinstance(picture, Tensor) else read_png(picture)).double() for picture in files
    )
    differences = [difference(result, original, times) for times in (1.0, MAGNIFIED)]
    images = [*map(pixels, files), *(gray_levels(picture) for picture, _ in differences)]
    shares = [out_of_range_fraction(original), out_of_range_fraction(result), *(share for _, share in differences)]
    before = prediction_text(record, record.predicted_before_name, record.probability_before)
    notes = [before, prediction_text(record, record.predicted_name, record.probability), _norms(result - original), ""]
    cells = [
        Cell(image, [*note.split("\n"), _clipped(share)], width, lines=3)
        for image, note, share in zip(images, notes, shares, strict=True)
    ]
    return cells, any(shares)


def prediction_text(
    record: AdversarialRecord | PerturbedImageRecord, prediction: str | None, probability: float | None
) -> str:
    """Return a predicted class, and on a second line the probability of the target or the label."""
    if prediction is None:
        return ""
    return prediction if probability is None else f"{prediction}\n{goal_name(record)}: {probability_text(probability)}"


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


def robustness_figure(outcomes: Sequence[Outcome], norm: Norm, trust: DiagnosisEvidence | None) -> Figure:
    """Draw the share of robust photographs by radius, of an ensemble after each member, and some photographs.

    Args:
        outcomes: of a run with several radii.
        norm: norm of the radius.
        trust: diagnosis of the attack, if there is one.
    """
    records = records_of(outcomes, AdversarialRecord)
    name = next((record.attack for record in records), "attack")
    members = [part.member for part in robustness.ensemble_breakdown(outcomes)]
    curves = {f"after {m}": robustness.robust_accuracy(outcomes, members[: i + 1]) for i, m in enumerate(members)}
    goals: dict[tuple[Hashable, float], set[int | None]] = defaultdict(set)  # a photograph may have been given twice
    for record in records:
        if record.status != "failed" and record.eps is not None:
            goals[robustness.photograph_key(record), record.eps].add(record.target)
    targets = max(map(len, goals.values()), default=1)
    each = " and target" if targets > 1 else ""
    singleton = any(is_singleton(eps) for _, eps in goals)
    alone = " Below 1/255, the photograph is the only 8-bit image." if singleton else ""
    caption = (
        f"Robust: no 8-bit file that the attack made, at any radius{each}, fools the network at a distance within eps. "
        f"Band: 95 % Wilson interval.{alone}"
    )
    curves = curves or {name: robustness.robust_accuracy(outcomes)}
    chart = robustness_chart(curves, norm, robustness.accuracy_label(outcomes))
    verdict, color = ("", INK) if trust is None else (trust.sentence, COLORS[1] if trust.reasons else INK)
    text = Text(verdict, max(chart.width, 4 * CELL), NORMAL, 6, weight="bold", color=color)
    examples = list(islice(_examples(outcomes, norm), _MAX_EXAMPLES))
    return compose(stack(chart, text, Grid(list(zip(*examples, strict=True))), gap=2 * GAP), caption)


def _examples(outcomes: Sequence[Outcome], norm: Norm) -> Iterator[tuple[Block, Block]]:
    """Yield each photograph with its adversarial file of the smallest radius, if there is one."""
    groups: dict[Hashable, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.record.status == "done" and isinstance(outcome.record, AdversarialRecord):
            groups[robustness.photograph_key(outcome.record)].append(outcome)
    for group in groups.values():
        attacked = sorted((robustness.attack_record(o).eps or 0.0, i, o) for i, o in enumerate(group))
        eps, _, outcome = next(
            (entry for entry in attacked if robustness.attack_record(entry[2]).success_file), attacked[-1]
        )
        source, image = outcome.pictures()
        record = robustness.attack_record(outcome)
        if source is None:
            continue
        original = Cell(pixels(source), [record.name, record.predicted_before_name or ""])
        if record.success_file and image is not None:
            yield original, Cell(pixels(image), [str(record.predicted_name), f"fooled at eps {norm.format(eps)}"])
        else:
            yield original, Text(f"not fooled up to eps {norm.format(eps)}", CELL, lines=3, color=GRAY)
