"""Figures of adversarial examples: images with the curves of the attack, and the robustness by radius."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.attacks.norms import Norm
from lit_viz.attacks.rounding import is_singleton
from lit_viz.engine.snapshots import PerturbedImageRecord
from lit_viz.evidence.attacks import robustness
from lit_viz.evidence.attacks.robustness import Attacked
from lit_viz.figures.curves import goal_name, robustness_chart, trace_rows
from lit_viz.figures.layout import Block, Cell, Grid, Text, boxed, compose, head, page_selection, pixels, stack, titles
from lit_viz.figures.scales import number
from lit_viz.figures.style import CELL, COLORS, GAP, GRAY, HEAD, INK, NORMAL, SMALL_CELL
from lit_viz.images.formats import FileFormat
from lit_viz.images.reading import read_png
from lit_viz.images.rendering import MAGNIFIED, difference, gray_levels, out_of_range_fraction
from lit_viz.runs.evidence import DiagnosisEvidence, EnsembleMember
from lit_viz.runs.records import AdversarialRecord
from lit_viz.runs.results import records_of
from lit_viz.types import Picture
from lit_viz.utils.formatting import pluralize, probability_text
from lit_viz.utils.limits import MOST_EXAMPLES, MOST_ROWS, on_page, page_count

_VERDICT = 0.62  # width of "not tested" in inches
_FEW = 3  # up to this number, each image has its own plot
#: Word and color of whether a file fools the network.
VERDICTS = {True: ("fooled", COLORS[2]), False: ("robust", COLORS[1]), None: ("not tested", GRAY)}


def attack_pages(outcomes: Sequence[Attacked]) -> int:
    """Return the number of pages of :func:`attack_figure`."""
    return page_count(len(_with_pictures(outcomes)), MOST_ROWS)


def attack_figure(outcomes: Sequence[Attacked], page: int = 1, order: str = "") -> Figure:
    """Draw one row per attacked image: original, result and differences; beneath, the curves of the attack, and the
    results of the members of an ensemble.

    No image is rescaled. Differences are drawn on mid-gray, unchanged and magnified. Up to three images have a plot
    each, more share one, on the first page. Outcomes without an image are omitted.

    Args:
        outcomes: outcomes of the attack in the order of the rows.
        page: page of at most 12 rows, from 1.
        order: what the caption states of the order, such as ``, the smallest changes first``.
    """
    attacked = _with_pictures(outcomes)
    drawn = on_page(attacked, page, MOST_ROWS)
    if not drawn:
        return compose(Grid([]), "No image was attacked.")
    has_own_plots = len(attacked) <= _FEW
    all_fooled = all(_success(outcome) for outcome in drawn)
    result = "fooled" if all_fooled else "attacked"
    width = CELL if len(drawn) <= 6 else SMALL_CELL
    rows: list[Sequence[Block | None]] = [
        [None, *titles(["original", result, "difference", f"difference × {MAGNIFIED:g}"], width)]
    ]
    is_clipped = False
    for outcome in drawn:
        record = outcome.record
        comparison = _AttackedPictures.of(outcome)
        is_clipped |= comparison.is_clipped
        rows.append([_row_head(record), *comparison.cells(record, width)])
        if has_own_plots:
            rows += trace_rows([outcome])
    if page == 1 and not has_own_plots:
        rows += trace_rows(attacked)
    has_curves = len(rows) > 1 + len(drawn)
    members = robustness.ensemble_breakdown(outcomes)
    if members and page == 1:
        rows.append([None, _table(members)])
    if any(map(_is_skipped, attacked)):
        order += ", skipped ones last"
    selected = page_selection(page, MOST_ROWS, len(attacked), "images", order)
    return compose(Grid(rows), selected + _caption(attacked, result, is_clipped, has_curves))


def _with_pictures(outcomes: Sequence[Attacked]) -> list[Attacked]:
    """Return the images with both their original and their result, those that were attacked before skipped ones."""
    attacked = []
    for outcome in outcomes:
        original, result = outcome.pictures()
        if original is not None and result is not None:
            attacked.append(outcome)
    return sorted(attacked, key=_is_skipped)


def _is_skipped(outcome: Attacked) -> bool:
    return outcome.record.status == "skipped"


def _caption(attacked: Sequence[Attacked], result: str, is_clipped: bool, has_curves: bool) -> str:
    verdicts = [_success(outcome) for outcome in attacked]
    tested = [verdict for verdict in verdicts if verdict is not None]
    clipped = "values outside [0, 1] are clipped" if is_clipped else "no value is clipped"
    caption = ""
    if len(tested) > 1:
        caption += f"{sum(tested)} of {len(tested)} fooled in the file. "
    caption += (
        f"No image is rescaled. Differences: {result} minus original on mid-gray, unchanged and magnified "
        f"{MAGNIFIED:g} times; {clipped}. "
    )
    if has_curves:
        caption += "Curves show the image at each iteration, before rounding to 8 bits."
    return caption


def _success(outcome: Attacked) -> bool | None:
    """Return whether the file fools the network; None if it was not tested."""
    record = outcome.record
    if _is_skipped(outcome):
        return None
    return record.success_file


def _row_head(record: AdversarialRecord) -> Grid:
    verdicts = {"in the file": record.success_file}
    if record.success_file and record.format is None:
        verdicts |= {"after JPEG 95": record.success_jpeg95, "after JPEG 75": record.success_jpeg75}
    notes = pluralize(record.iterations or 0, "iteration")
    if record.by:
        notes += f"\nby {record.by}"
    if record.status == "skipped":
        verdicts = dict.fromkeys(verdicts)
        reason = "target predicted" if record.target_name else "misclassified"
        if record.score is not None:
            reason = "the score meets the goal"
        notes = f"skipped: {reason} before the attack"
    rows = []
    for test, success in verdicts.items():
        word, color = VERDICTS[success]
        rows.append([Text(word, _VERDICT, weight="bold", color=color), Text(test, HEAD - _VERDICT)])
    return head(record.name, Grid(rows, gap=0), notes=notes)


@dataclass(frozen=True)
class _AttackedPictures:
    """Original and result of an attack, and their differences on mid-gray.

    Attributes:
        files: original and result as they are stored.
        change: result minus original, float64 ``(C, H, W)``.
        differences: unchanged and magnified, float64 ``(C, H, W)``.
        clipped: share of the values outside [0, 1], of original, result and differences.
    """

    files: Sequence[Picture]
    change: Tensor
    differences: Sequence[Tensor]
    clipped: Sequence[float]

    @classmethod
    def of(cls, outcome: Attacked) -> _AttackedPictures:
        files = [picture for picture in outcome.pictures() if picture is not None]
        original, result = map(_values, files)
        change = result - original
        if outcome.record.format is not None:  # of all bands
            source, image = outcome.source(), outcome.image()
            assert source is not None
            assert image is not None
            change = image.double() - source.double()
        unchanged, clipped = difference(result, original, 1.0)
        magnified, magnified_clipped = difference(result, original, MAGNIFIED)
        shares = [out_of_range_fraction(original), out_of_range_fraction(result), clipped, magnified_clipped]
        return cls(files, change, [unchanged, magnified], shares)

    @property
    def is_clipped(self) -> bool:
        """Whether any value is clipped."""
        return any(self.clipped)

    def cells(self, record: AdversarialRecord, width: float) -> list[Cell]:
        """Return the images with predictions, norms and the clipped shares beneath."""
        images = [*map(pixels, self.files), *map(gray_levels, self.differences)]
        before = prediction_text(record, record.predicted_before_name, record.probability_before)
        after = prediction_text(record, record.predicted_name, record.probability)
        if record.score is not None:
            before, after = _score_text(record.score_before), f"{_score_text(record.score)}\n{record.target_name}"
        cells = []
        texts = [before, after, _norms(self.change, record), ""]
        # On the pictures, not on the differences.
        annotations = [boxed(record, record.boxes_before), boxed(record, record.boxes), None, None]
        for image, text, share, annotate in zip(images, texts, self.clipped, annotations, strict=True):
            cells.append(Cell(image, [*text.split("\n"), _clipped(share)], width, lines=3, annotate=annotate))
        return cells


def _values(picture: Picture) -> Tensor:
    """Return an image as float64 ``(C, H, W)`` in [0, 1]."""
    values = picture.detach().cpu() if isinstance(picture, Tensor) else read_png(picture)
    return values.double()


def prediction_text(
    record: AdversarialRecord | PerturbedImageRecord, prediction: str | None, probability: float | None
) -> str:
    """Return a predicted class, and on a second line the probability of the target or the label."""
    if prediction is None:
        return ""
    if probability is None:
        return prediction
    return f"{prediction}\n{goal_name(record)}: {probability_text(probability)}"


def _score_text(score: float | None) -> str:
    return "" if score is None else f"score {number(score)}"


def _norms(change: Tensor, record: AdversarialRecord) -> str:
    if record.format is not None:
        return _norms_in_files(change, FileFormat.of(record.format))
    levels = 255 * float(change.abs().max())
    is_integer = abs(levels - round(levels)) < 0.005
    linf = f"{levels:.0f}" if is_integer else number(levels)
    return f"L2 {number(float(change.norm()))} · L∞ {linf}/255"


def _norms_in_files(change: Tensor, file_format: FileFormat) -> str:
    """Return the norms in units of [0, 1] and of the files, where all bands have one range."""
    l2, linf = float(change.norm()), float(change.abs().max())
    text = f"L2 {number(l2)} · L∞ {number(linf)}"
    spans = {high - low for low, high in file_format.ranges}
    if len(spans) != 1:
        return text
    span = spans.pop()
    return f"{text}\nL2 {number(l2 * span)} · L∞ {number(linf * span)} file"


def _clipped(share: float) -> str:
    if not share:
        return ""
    if share < 1e-4:
        return "< 0.01 % clipped"
    return f"{number(100 * share)} % clipped"


def _table(members: Sequence[EnsembleMember]) -> Grid:
    header = ("ensemble member", "attacked", "fooled", "remaining")
    rows = [[Text(title, weight="bold") for title in header]]
    for member in members:
        values = (member.member, member.tried, member.fooled, member.left)
        rows.append([Text(str(value)) for value in values])
    return Grid(rows, gap=(2 * GAP, 0))


def robustness_figure(outcomes: Sequence[Attacked], norm: Norm, trust: DiagnosisEvidence | None) -> Figure:
    """Draw the share of robust photographs by radius, of an ensemble after each member, and some photographs.

    Args:
        outcomes: of a run with several radii.
        norm: norm of the radius.
        trust: diagnosis of the attack, if there is one.
    """
    chart = robustness_chart(_robust_curves(outcomes), norm, robustness.accuracy_label(outcomes))
    verdict, color = "", INK
    if trust is not None:
        verdict = trust.sentence
        if trust.reasons:
            color = COLORS[1]
    text = Text(verdict, max(chart.width, 4 * CELL), NORMAL, 6, weight="bold", color=color)
    examples = list(islice(_examples(outcomes, norm), MOST_EXAMPLES))
    photographs = Grid(list(zip(*examples, strict=True)))
    return compose(stack(chart, text, photographs, gap=2 * GAP), _robustness_caption(outcomes))


def _robust_curves(outcomes: Sequence[Attacked]) -> dict[str, list[robustness.RobustAccuracy]]:
    """Return the robust share by radius under the name of the attack; of an ensemble, after each of its members."""
    members = [part.member for part in robustness.ensemble_breakdown(outcomes)]
    if not members:
        names = [record.attack for record in records_of(outcomes)]
        name = names[0] if names else "attack"
        return {name: robustness.robust_share(outcomes)}
    curves = {}
    for count, member in enumerate(members, 1):
        curves[f"after {member}"] = robustness.robust_share(outcomes, members[:count])
    return curves


def _robustness_caption(outcomes: Sequence[Attacked]) -> str:
    targets: dict[tuple[Hashable, float], set[int | None]] = defaultdict(set)  # a photograph may have been given twice
    for record in records_of(outcomes):
        if record.status != "failed" and record.eps is not None:
            targets[robustness.photograph_key(record), record.eps].add(record.target)
    has_several_targets = any(len(of_photograph) > 1 for of_photograph in targets.values())
    radii = "any radius and target" if has_several_targets else "any radius"
    caption = (
        f"Robust: no file that the attack made, at {radii}, fools the network at a distance within eps. "
        "Band: 95 % Wilson interval."
    )
    are_pictures = all(outcome.record.format is None for outcome in outcomes)
    if are_pictures and any(is_singleton(eps) for _, eps in targets):
        caption += " Below 1/255, the photograph is the only 8-bit image."
    return caption


def _examples(outcomes: Sequence[Attacked], norm: Norm) -> Iterator[tuple[Block, Block]]:
    """Yield each photograph with its adversarial file of the smallest radius, if there is one."""
    groups: dict[Hashable, list[Attacked]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.record.status == "done":
            groups[robustness.photograph_key(outcome.record)].append(outcome)
    for group in groups.values():
        outcome = _smallest_success(group)
        record = outcome.record
        radius = norm.format(record.eps or 0.0)
        source, image = outcome.pictures()
        if source is None:
            continue
        original = Cell(pixels(source), [record.name, record.predicted_before_name or ""])
        if record.success_file and image is not None:
            yield original, Cell(pixels(image), [str(record.predicted_name), f"fooled at eps {radius}"])
        else:
            yield original, Text(f"robust up to eps {radius}", CELL, lines=3, color=GRAY)


def _smallest_success(outcomes: Sequence[Attacked]) -> Attacked:
    """Return the success of the smallest radius; without any, the failure of the largest."""
    attacked = sorted(outcomes, key=lambda outcome: outcome.record.eps or 0.0)
    for outcome in attacked:
        if outcome.record.success_file:
            return outcome
    return attacked[-1]
