"""Presentation of adversarial examples."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from matplotlib.figure import Figure

from lit_viz.attacks.norms import L2, LINF, NORMS, Norm, format_distance
from lit_viz.attacks.rounding import is_singleton
from lit_viz.attributions import title_of
from lit_viz.evidence.adversarial_example import EXPLAINED, ExplainedAttack, Explanation
from lit_viz.evidence.attacks.robustness import (
    Attacked,
    RobustAccuracy,
    accuracy_label,
    attack_norm,
    photograph_key,
    robust_photographs,
    robust_share,
    transfer_table,
)
from lit_viz.evidence.measures import Compared, Measure, RadiusCurve, costs, photograph_of
from lit_viz.evidence.verifier import EvidencePart, OutcomeVerifier
from lit_viz.figures.attack import attack_figure, attack_pages, robustness_figure
from lit_viz.figures.saliency import SaliencyPanel, saliency_figure
from lit_viz.figures.style import save_figure
from lit_viz.figures.tiles import attack_tiles_figure
from lit_viz.presentations.base import FigureOptions, Presentation, Rows
from lit_viz.presentations.items import EvidenceItem, listed
from lit_viz.presentations.tables import TableRow, format_value, median_of
from lit_viz.runs.evidence import (
    AdversarialEvidence,
    DiagnosisEvidence,
    E,
    EnsembleMember,
    FileEvidence,
    RobustnessEvidence,
    TransferEvidence,
)
from lit_viz.runs.records import AdversarialRecord, AttackRecord, has_several_radii, label_with_eps, radius_text
from lit_viz.runs.results import Outcome, records_of
from lit_viz.runs.stitching import tiled_images
from lit_viz.utils.formatting import label_with_target, pluralize

Attack = TypeVar("Attack", bound=AttackRecord)
_POINTS = 8  # of the robustness curve of an attack without a radius


class AttackPresentation(Presentation[Attack, E]):
    """Base class of the presentations of attacks."""

    title: ClassVar[str] = "Adversarial examples"
    command: ClassVar[str] = "attack"
    note: ClassVar[str] = (
        "Curves show the image at each iteration, before rounding to 8 bits; the table shows the file."
    )
    files: ClassVar[tuple[str, ...]] = ("explained.*",)
    run_options: ClassVar[tuple[str, ...]] = ("explain",)
    task_options: ClassVar[Mapping[str, str]] = {"eps": "eps {:.3g}"}

    def subtitle(self, record: Attack) -> str:
        texts = []
        if record.class_change:
            texts.append(record.class_change)
        if record.target_name and not record.class_change.endswith(f"→ {record.target_name}"):
            texts.append(f"target {record.target_name}")
        if record.eps is not None and record.norm is not None:
            texts.append(f"eps {radius_text(record)}")
        return ", ".join(texts)

    def facets(self, record: Attack, evidence: E) -> dict[str, str]:
        facets = super().facets(record, evidence)
        if record.eps is not None and record.norm is not None:
            facets["eps"] = radius_text(record)
        return facets

    def names(self, records: Sequence[Attack]) -> list[str]:
        several_radii = has_several_radii(records)
        names = []
        for record in records:
            name = label_with_target(record.name, record.target_name)
            names.append(label_with_eps(name, record, several_radii))
        return names


class AdversarialExamplePresentation(AttackPresentation[AdversarialRecord, AdversarialEvidence]):
    """Presentation of adversarial examples: the verdict on each file, and whether failures are credible."""

    result: ClassVar[str] = "adversarial image"
    verdict_column: ClassVar[str] = "in the file"
    run_options: ClassVar[tuple[str, ...]] = ("explain", "rows")
    orders: ClassVar[Mapping[Rows, str]] = {
        "worst": ", robust ones and the largest changes first",
        "best": ", the smallest changes first",
        "random": ", in random order",
    }

    def quality(self, record: AdversarialRecord) -> float:
        """Return the negative distance of a file that fools the network."""
        distance = record.metrics.get(record.norm or L2.name)
        if not record.success_file or distance is None:
            return -math.inf
        return -distance

    def facets(self, record: AdversarialRecord, evidence: AdversarialEvidence) -> dict[str, str]:
        facets = super().facets(record, evidence)
        facets["outcome"] = record.verdict or record.status
        if record.label_name is not None:
            facets["class"] = record.label_name
        if record.target_name is not None:
            facets["target"] = record.target_name
        return facets

    def table(self, records: Sequence[AdversarialRecord]) -> list[TableRow]:
        is_ensemble = any(record.tried is not None for record in records)
        several_radii = has_several_radii(records)
        rows = []
        for record in records:
            row = _row(record)
            if several_radii:
                row["eps"] = radius_text(record)
            if is_ensemble:
                row["by"] = record.by or "-"
            rows.append(row)
        return rows

    def class_summary(self, records: Sequence[AdversarialRecord]) -> TableRow:
        fooled, norms, levels = 0, [], []
        for record in records:
            if not record.success_file:
                continue
            fooled += 1
            norms.append(record.l2)
            if record.linf is not None:
                levels.append(LINF.display_scale * record.linf)
        return {
            "fooled in the file": str(fooled),
            "median L2": median_of(norms),
            "median Linf": median_of(levels, "{:.0f}/255"),
        }

    def pages(self, outcomes: Sequence[Outcome[AdversarialRecord]]) -> int:
        is_curve = has_several_radii(records_of(outcomes))
        if is_curve or any(image is not None for image in tiled_images(outcomes)):
            return 1
        return attack_pages(outcomes)

    def figure(
        self,
        outcomes: Sequence[Outcome[AdversarialRecord]],
        options: FigureOptions,
        evidence: AdversarialEvidence | None = None,
    ) -> Figure:
        """Return originals, adversarial images and differences over their traces; for several radii the robustness
        curve, with the diagnosis of the attack."""
        records = records_of(outcomes)
        if not has_several_radii(records):
            tiled = [image for image in tiled_images(outcomes) if image is not None]
            if tiled:
                return attack_tiles_figure(tiled)
            ordered = options.ordered(outcomes, lambda outcome: self.quality(outcome.record))
            return attack_figure(ordered, options.page, self.orders.get(options.rows, ""))
        trust = None if evidence is None else evidence.trust
        return robustness_figure(outcomes, NORMS[attack_norm(records)], trust)

    def compared(
        self, outcomes: Sequence[Attacked], evidence: AdversarialEvidence, radii: Mapping[str, Sequence[float]]
    ) -> list[Compared]:
        """Return the attack with its robust photographs at its radii, or at ``radii`` if it has none."""
        done = [record for record in records_of(outcomes) if record.status == "done"]
        if not done:
            return []
        norm, what = NORMS[attack_norm(done)], accuracy_label(outcomes)
        points = robust_share(outcomes)
        stated = [point.eps for point in points] or radii.get(norm.name, ())
        if not points:
            points = [_point(outcomes, eps) for eps in _radii_of_curve(done, norm, stated)]
        measures: list[Measure] = []
        for eps in stated:
            are_robust: dict[Hashable, float] = dict(robust_photographs(outcomes, eps))
            measures.append(Measure(f"{what} at {norm.symbol} {norm.format(eps)}", are_robust, "lower"))
        measures += [*_successes(done), *costs(done)]
        photographs: set[Hashable] = set()
        for record in records_of(outcomes):
            if record.status != "failed":
                photographs.add(photograph_key(record))
        curve = RadiusCurve(norm.name, what, points)
        return [Compared(done[0].attack, len(photographs), measures, done[0].settings, curve)]

    def metric_texts(self, metrics: Mapping[str, float]) -> list[str]:
        texts = super().metric_texts(metrics)
        if metrics.get("margin", 0.0) > 0:
            texts.append("fooled")
        return texts

    def part_items(self, evidence: AdversarialEvidence) -> list[EvidenceItem]:
        items: list[EvidenceItem] = []
        if evidence.files is not None:
            items.append(files_item(evidence.files))
        if evidence.trust is not None:
            items.append(_diagnosis_item(evidence.trust))
        if evidence.survivors is not None:
            items.append(_ensemble_item(evidence.survivors))
        if evidence.robustness is not None:
            items.append(_robustness_item(evidence.robustness))
        if evidence.transfer is not None:
            items.append(_transfer_item(evidence.transfer))
        return items + super().part_items(evidence)

    def show(
        self,
        verifier: OutcomeVerifier[Any, AdversarialRecord, AdversarialEvidence],
        name: str,
        part: EvidencePart[AdversarialEvidence],
    ) -> None:
        super().show(verifier, name, part)
        if isinstance(part, Explanation):
            assert verifier.storage.path is not None
            save_figure(_explanation_figure(part.attacks), verifier.storage.path / EXPLAINED)
        transfer = None if part.evidence is None else part.evidence.transfer
        if transfer is not None and transfer.files:
            verifier.settings.notify(transfer_table(transfer.files))


def _successes(records: Sequence[AdversarialRecord]) -> list[Measure]:
    """Return the share of fooled photographs, and the medians of their smallest changes by norm."""
    fooled: dict[Hashable, float] = {}
    lengths: dict[str, dict[Hashable, float]] = {name: {} for name in NORMS}
    for record in records:
        key = photograph_of(record)
        fooled[key] = max(float(bool(record.success_file)), fooled.get(key, 0.0))
        for name, values in lengths.items():
            length = record.metrics.get(name)
            if record.success_file and length is not None:
                values[key] = min(NORMS[name].display_scale * length, values.get(key, math.inf))
    measures = [Measure("fooled in the file", fooled, "higher")]
    for name, values in lengths.items():
        measures.append(Measure(f"median {NORMS[name].axis_label}", values, "lower", "median", ".3g"))
    return measures


def _radii_of_curve(records: Sequence[AdversarialRecord], norm: Norm, stated: Sequence[float]) -> list[float]:
    """Return the radii of the curve of an attack without one: the stated ones, and some up to its largest distance."""
    lengths = [record.metrics.get(norm.name) or 0.0 for record in records if record.success_file]
    largest = max([*lengths, *stated], default=0.0)
    radii = {*stated}
    for place in range(1, _POINTS + 1):
        radii.add(largest * place / _POINTS)
    return sorted(radii)


def _point(outcomes: Sequence[Attacked], eps: float) -> RobustAccuracy:
    """Return the robust photographs at a radius of an attack without one."""
    are_robust = robust_photographs(outcomes, eps)
    return RobustAccuracy(eps, sum(are_robust.values()), len(are_robust))


def _row(record: AdversarialRecord) -> TableRow:
    return {
        "photograph": record.name,
        "target": record.target_name or "any other",
        "status": record.status,
        "in the file": record.verdict or "-",
        "seen as": format_value(record.predicted_name if record.text is None else record.text, "{}"),
        "before": format_value(record.probability_before if record.score is None else record.score_before),
        "after": format_value(record.probability if record.score is None else record.score),
        "iterations": str(record.iterations),
        "L2": format_value(record.l2),
        "Linf": format_distance(record.linf, LINF.name),
    }


def _explanation_figure(explained: Sequence[ExplainedAttack]) -> Figure:
    """Return saliency maps of the predicted class, for each original and each adversarial image."""
    several_radii = has_several_radii([attack.record for attack in explained])
    title = title_of("smoothgrad")
    panels: list[SaliencyPanel] = []
    for attack in explained:
        record = attack.record
        label = label_with_eps(record.name, record, several_radii)
        before = f"original, seen as {record.predicted_before_name}"
        after = f"attacked, seen as {record.predicted_name}"
        panels.append(SaliencyPanel(label, attack.photograph, {title: attack.map_before}, before))
        panels.append(SaliencyPanel(label, attack.image, {title: attack.map_after}, after))
    return saliency_figure(panels, scale="map", columns=4 if len(panels) <= 8 else 8)


# -- evidence


def files_item(part: FileEvidence) -> EvidenceItem:
    """Return the numbers of verified files, and the names of those that differ from their records."""
    if not part.read and not part.wrong:
        return EvidenceItem("No file was verified.", name="files")
    count = f"{pluralize(part.read, 'file')} re-read from the disk"
    if part.fooled is not None:
        count = f"{part.fooled} of {part.read} files fool the original network, re-read from the disk"
    count += _tasks_without_file(part)
    if not part.wrong:
        return EvidenceItem(f"{count}; all match their records.", True, name="files")
    return EvidenceItem(f"{count}; not as recorded: {listed(part.wrong)}.", False, name="files")


def _tasks_without_file(part: FileEvidence) -> str:
    """Return how many tasks were skipped or failed; their files do not count."""
    others = (part.tasks or part.read) - part.read
    skipped = part.skipped or 0
    counts = []
    if skipped:
        counts.append(f"{skipped} skipped")
    if others > skipped:
        counts.append(f"{others - skipped} failed")
    if counts:
        return f" ({', '.join(counts)})"
    return ""


def _diagnosis_item(part: DiagnosisEvidence) -> EvidenceItem:
    is_diagnosed = bool(part.tried or part.reasons)
    return EvidenceItem(part.sentence, not part.reasons if is_diagnosed else None, name="trust")


def _ensemble_item(part: Sequence[EnsembleMember]) -> EvidenceItem:
    members = "; ".join(f"{entry.member} fooled {entry.fooled} of {entry.tried}, {entry.left} remain" for entry in part)
    text = f"Attacks of the ensemble in order, successes in the file: {members}."
    return EvidenceItem(text, name="survivors")


def _robustness_item(part: RobustnessEvidence) -> EvidenceItem:
    norm = NORMS[part.norm]
    rows: list[TableRow] = []
    notes: list[str] = []
    for point in part.points:
        rows.append(
            {
                "eps": point.eps,
                part.what: f"{point.robust} of {point.photographs}",
                "95 % (Wilson)": f"{point.low:.0%} to {point.high:.0%}",
            }
        )
        if part.files is None and is_singleton(float(point.eps.partition("/")[0]) / norm.display_scale):
            notes.append(f"The ball of eps {point.eps} holds no 8-bit image but the photograph.")
    if len(rows) > 1:
        text = f"Robustness by radius, {norm} norm."
        return EvidenceItem(text, rows=rows, notes=notes, name="robustness", prints_table=True)
    (point,) = part.points
    share = f"{point.robust} of {point.photographs} (95 %: {point.low:.0%} to {point.high:.0%})"
    name = part.what[0].upper() + part.what[1:]
    return EvidenceItem(f"{name} at eps {point.eps}, {norm} norm: {share}.", notes=notes, name="robustness")


def _transfer_item(part: TransferEvidence) -> EvidenceItem:
    if not part.judges:
        extra = "for those of ImageNet: pip install 'lit-viz[judges]'"
        reason = f"no held-out network with these classes is installed ({extra}), or no file is adversarial"
        return EvidenceItem(f"Transfer was not measured: {reason}.", name="transfer")
    rows = []
    for name, counts in part.judges.items():
        row = {
            "network": name,
            "correct on the photograph": str(counts.right),
            "fooled by the file": str(counts.fooled),
            "fooled by the mirrored perturbation": str(counts.mirrored),
            "excluded (misclassified before)": str(counts.wrong),
        }
        rows.append(row)
    text = "Transfer of the adversarial files to held-out networks."
    return EvidenceItem(text, rows=rows, name="transfer", prints_table=True)
