"""Presentation of adversarial examples: figure, verification of the files, robustness, diagnostics and transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from matplotlib.figure import Figure

from lit_viz.attacks import BudgetAttack, attack_name
from lit_viz.attacks.norms import L2, LINF, NORMS, format_distance
from lit_viz.attributions import SmoothGrad, attribute, title_of
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks import robustness
from lit_viz.evidence.attacks.diagnostics import cost_of_stronger_attacks, diagnostics, stronger_attacks
from lit_viz.evidence.attacks.mismatches import RecordedFile, mismatches
from lit_viz.evidence.attacks.robustness import RobustAccuracy
from lit_viz.figures.attack import attack_figure, robustness_figure
from lit_viz.figures.saliency import SaliencyPanel, saliency_figure
from lit_viz.figures.style import save_figure
from lit_viz.methods import AdversarialExample
from lit_viz.networks import Network
from lit_viz.presentations import (
    EvidencePart,
    EvidenceSettings,
    FigureOptions,
    Presentation,
    TableRow,
    format_value,
    median_of,
)
from lit_viz.runs.evidence import (
    DiagnosisEvidence,
    DiagnosisPart,
    Evidence,
    FileEvidence,
    RobustnessEvidence,
    RobustnessPoint,
)
from lit_viz.runs.records import AdversarialRecord, has_several_radii, label_with_eps
from lit_viz.runs.results import Outcome, Storage, records_of
from lit_viz.types import Record
from lit_viz.utils.formatting import label_with_target, pluralize
from lit_viz.utils.limits import MOST_NAMES

_EXPLANATION_EVALUATIONS = 32  # of each saliency map


class AttackPresentation(Presentation):
    """Base class of the presentations of attacks."""

    title: ClassVar[str] = "Adversarial examples"
    command: ClassVar[str] = "attack"
    note: ClassVar[str] = (
        "Curves show the image at each iteration, before rounding to 8 bits; the table shows the file."
    )
    files: ClassVar[tuple[str, ...]] = ("explained.*",)
    run_options: ClassVar[tuple[str, ...]] = ("explain",)
    evidence_options: ClassVar[tuple[str, ...]] = ("trust",)
    task_options: ClassVar[Mapping[str, str]] = {"eps": "eps {:.3g}"}

    def subtitle(self, record: Record) -> str:
        texts = []
        if isinstance(record, AdversarialRecord) and (change := _class_change(record)):
            texts.append(change)
        is_stated = any(text.endswith(f"→ {record.target_name}") for text in texts)
        if record.target_name and not is_stated:
            texts.append(f"target {record.target_name}")
        if record.eps is not None and record.norm is not None:
            texts.append(f"eps {format_distance(record.eps, record.norm)}")
        return ", ".join(texts)

    def facets(self, record: Record, evidence: Evidence) -> dict[str, str]:
        facets = super().facets(record, evidence)
        if isinstance(record, AdversarialRecord):
            facets["outcome"] = record.verdict or record.status
            if record.label_name is not None:
                facets["class"] = record.label_name
            if record.target_name is not None:
                facets["target"] = record.target_name
        if record.eps is not None and record.norm is not None:
            facets["eps"] = format_distance(record.eps, record.norm)
        return facets

    def names(self, records: Sequence[Record]) -> list[str]:
        several_radii = has_several_radii(records)
        names = []
        for record in records:
            name = label_with_target(record.name, record.target_name)
            names.append(label_with_eps(name, record) if several_radii else name)
        return names


class AdversarialExamplePresentation(AttackPresentation):
    """Presentation of adversarial examples: the verdict on each file, and whether failures are credible."""

    result: ClassVar[str] = "adversarial image"

    def table(self, records: Sequence[Record]) -> list[TableRow]:
        attacked = [_extended(record) for record in records]
        is_ensemble = any(record.tried is not None for record in attacked)
        several_radii = has_several_radii(attacked)
        rows = []
        for record in attacked:
            row = _row(record)
            if several_radii:
                row["eps"] = format_distance(record.eps, record.norm or L2.name)
            if is_ensemble:
                row["by"] = record.by or "-"
            rows.append(row)
        return rows

    def class_summary(self, records: Sequence[Record]) -> TableRow:
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

    def figure(self, outcomes: Sequence[Outcome], options: FigureOptions, evidence: Evidence | None = None) -> Figure:
        """Return originals, adversarial images and differences over their traces; for several radii the robustness
        curve, with the diagnosis of the attack."""
        records = records_of(outcomes, AdversarialRecord)
        if not has_several_radii(records):
            return attack_figure(outcomes)
        trust = None if evidence is None else evidence.trust
        return robustness_figure(outcomes, NORMS[_norm_of(records)], trust)

    def scalars(self, records: Sequence[Record], evidence: Evidence) -> dict[str, float]:
        scalars = super().scalars(records, evidence)
        if evidence.robustness is not None:
            for point in evidence.robustness.points:
                scalars[f"robust/eps {point.eps}"] = point.share
        fooled: list[bool] = []
        for record in records:
            if isinstance(record, AdversarialRecord) and record.status == "done":
                fooled.append(bool(record.success_file))
        if fooled:
            scalars["fooled/file"] = sum(fooled) / len(fooled)
        if evidence.trust is not None:
            scalars["trust"] = float(not evidence.trust.reasons)
        return scalars

    def metric_texts(self, metrics: Mapping[str, float]) -> list[str]:
        texts = super().metric_texts(metrics)
        if metrics.get("margin", 0.0) > 0:
            texts.append("fooled")
        return texts

    def parts(
        self, module: ImageTraining, outcomes: Sequence[Outcome], storage: Storage, settings: EvidenceSettings
    ) -> Mapping[str, EvidencePart]:
        if storage.path is None:
            return {}
        assert isinstance(module, AdversarialExample)
        if settings.options.trust and not isinstance(module.attack, BudgetAttack):
            raise LitVizError(f"{attack_name(module.attack)} has no budget for stronger attacks: leave out trust")
        evidence = _AttackVerification(module, outcomes, storage, settings, outcomes)
        parts: dict[str, EvidencePart] = {
            "explanation": evidence.explain,
            "files": evidence.verify_files,
            "survivors": evidence.break_down,
            "robustness": evidence.measure_robustness,
            "trust": evidence.diagnose,
        }
        if not settings.at_end_of_run:
            parts["transfer"] = evidence.measure_transfer
        return parts


def _extended(record: Record) -> AdversarialRecord:
    """Return the record of an attack; a task that failed before it started has a plain record."""
    if isinstance(record, AdversarialRecord):
        return record
    return AdversarialRecord.extend(record, attack="")


def _class_change(record: AdversarialRecord) -> str:
    """Return the predictions before and after an attack: ``quail → stingray``, or ``still quail``; empty if unknown."""
    before, after = record.predicted_before_name, record.predicted_name
    if record.status != "done" or before is None or after is None:
        return ""
    if before != after:
        return f"{before} → {after}"
    # A decision on another class than the most probable one may have changed.
    return "" if record.success_file else f"still {after}"


def _norm_of(records: Sequence[AdversarialRecord]) -> str:
    """Return the norm of an attack with several radii."""
    return next(record.norm for record in records if record.norm is not None)


def _row(record: AdversarialRecord) -> TableRow:
    return {
        "photograph": record.name,
        "target": record.target_name or "any other",
        "status": record.status,
        "in the file": record.verdict or "-",
        "seen as": format_value(record.predicted_name, "{}"),
        "before": format_value(record.probability_before if record.score is None else record.score_before),
        "after": format_value(record.probability if record.score is None else record.score),
        "iterations": str(record.iterations),
        "L2": format_value(record.l2),
        "Linf": format_distance(record.linf, LINF.name),
    }


# -- figures


def _explanation_figure(outcomes: Sequence[Outcome], network: Network) -> Figure:
    """Return saliency maps of the predicted class, for each original and each outcome."""
    several_radii = has_several_radii(records_of(outcomes))
    panels: list[SaliencyPanel] = []
    for outcome in outcomes:
        record = outcome.record
        if isinstance(record, AdversarialRecord):
            label = label_with_eps(record.name, record) if several_radii else record.name
            panels += _explanations(outcome, record, label, network)
    return saliency_figure(panels, scale="map", columns=4 if len(panels) <= 8 else 8)


def _explanations(outcome: Outcome, record: AdversarialRecord, label: str, network: Network) -> list[SaliencyPanel]:
    """Return the saliency maps of original and outcome; none if an image or a prediction is missing."""
    source, image = outcome.source(), outcome.image()
    before, after = record.predicted_before, record.predicted
    if source is None or image is None or before is None or after is None:
        return []
    seeds = [record.seed or 0] * 2  # equal noise, so that the maps differ by the images only
    maps, _ = attribute(
        SmoothGrad(),
        network.fast(),
        torch.stack([source, image]),
        [before, after],
        evaluations=_EXPLANATION_EVALUATIONS,
        seeds=seeds,
    )
    title = title_of("smoothgrad")
    return [
        SaliencyPanel(label, source, {title: maps[0]}, f"original, seen as {network.labels[before]}"),
        SaliencyPanel(label, image, {title: maps[1]}, f"attacked, seen as {network.labels[after]}"),
    ]


# -- evidence


def find_mismatches(
    files: Sequence[RecordedFile], module: ImageTraining, folder: Path, settings: EvidenceSettings
) -> list[str | None]:
    """Return the difference of each file in a run folder from its record, or None, and print the first ones."""
    reasons, missing = mismatches(files, module.network, module.capacity)
    different = 0
    for file, reason in zip(files, reasons, strict=True):
        if reason is None:
            continue
        different += 1
        if different <= MOST_NAMES:
            settings.notify(f"{file.file.relative_to(folder).as_posix()} is not as recorded: {reason}")
    if different > MOST_NAMES:
        settings.notify(f"{pluralize(different - MOST_NAMES, 'further file')} not as recorded")
    if missing:
        settings.notify(f"{pluralize(missing, 'photograph')} missing, so their distances are not verified")
    return reasons


@dataclass
class _AttackVerification:
    """The evidence of adversarial files; ``valid`` are the outcomes whose files match their records."""

    module: AdversarialExample
    outcomes: Sequence[Outcome]
    storage: Storage
    settings: EvidenceSettings
    valid: Sequence[Outcome]

    def explain(self) -> bool:
        """Draw saliency maps of originals and adversarial images, if the options select it."""
        assert self.storage.path is not None
        explanation = self.storage.path / "explained.png"
        is_missing = self.settings.at_end_of_run or not explanation.exists()
        if self.settings.options.explain and is_missing:
            save_figure(_explanation_figure(self.outcomes, self.module.network), explanation)
        return True

    def verify_files(self) -> bool:
        """Re-read the files, and evaluate the original network on them."""
        mismatched = _verify_files(self.module, self.outcomes, self.storage, self.settings)
        self.valid = [outcome for outcome in self.outcomes if outcome.record.index not in mismatched]
        return not mismatched

    def break_down(self) -> bool:
        """State the successes of the members of an ensemble."""
        members = robustness.ensemble_breakdown(self.outcomes)
        if members:
            self.settings.add(Evidence(survivors=members), self.storage)
        return True

    def measure_robustness(self) -> bool:
        """State the robustness by radius."""
        shares = robustness.robust_share(self.outcomes)
        if shares:
            self.settings.add(Evidence(robustness=_robustness(self.outcomes, shares)), self.storage, table=True)
        return True

    def diagnose(self) -> bool:
        """State whether the failures of the attack are credible."""
        diagnosis = _diagnosis(self.module, self.valid, self.storage, self.settings)
        self.settings.add(Evidence(trust=diagnosis), self.storage)
        return True

    def measure_transfer(self) -> bool:
        """Evaluate held-out networks on the files."""
        predictions = robustness.transfers(self.outcomes, self.module.network)
        transfer = robustness.transfer_evidence(predictions)
        self.settings.add(Evidence(transfer=transfer), self.storage, table=True)
        if predictions:
            self.settings.notify(robustness.transfer_table(predictions))
        return True


def _with_file(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.record.status == "done" and outcome.record.file]


def _verify_files(
    module: ImageTraining, outcomes: Sequence[Outcome], storage: Storage, settings: EvidenceSettings
) -> set[int]:
    """Compare the files with their records, and withdraw the successes of those that differ; return their indices."""
    folder = storage.path
    assert folder is not None
    stored = _with_file(outcomes)
    files = []
    for outcome in stored:
        record = robustness.attack_record(outcome)
        files.append(RecordedFile(folder / str(record.file), record, outcome.source, record))
    reasons = find_mismatches(files, module, folder, settings)
    fooled = 0
    different: dict[int, AdversarialRecord] = {}  # by task
    for outcome, reason in zip(stored, reasons, strict=True):
        if reason is not None:
            outcome.amend(success_file=None, success_jpeg95=None, success_jpeg75=None)
            different[outcome.record.index] = robustness.attack_record(outcome)
        fooled += bool(robustness.attack_record(outcome).success_file)
    storage.amend(different.values())
    wrong = [record.name for record in different.values()]
    skipped = sum(outcome.record.status == "skipped" for outcome in outcomes)
    found = FileEvidence(read=len(stored), tasks=len(outcomes), skipped=skipped, fooled=fooled, wrong=wrong)
    settings.add(Evidence(files=found), storage)
    return set(different)


def _robustness(outcomes: Sequence[Outcome], shares: Sequence[RobustAccuracy]) -> RobustnessEvidence:
    """Return the share of robust photographs by radius."""
    norm = _norm_of(records_of(outcomes, AdversarialRecord))
    points = []
    for accuracy in shares:
        low, high = accuracy.interval
        point = RobustnessPoint(
            eps=format_distance(accuracy.eps, norm),
            robust=accuracy.robust,
            photographs=accuracy.total,
            share=accuracy.accuracy,
            low=low,
            high=high,
        )
        points.append(point)
    return RobustnessEvidence(what=robustness.accuracy_label(outcomes), norm=norm, points=points)


def _diagnosis(
    module: AdversarialExample, outcomes: Sequence[Outcome], storage: Storage, settings: EvidenceSettings
) -> DiagnosisEvidence:
    """Return whether the failures of the attack are credible."""
    parts = [diagnostics(outcomes, module.attack, module.iterations)]
    harder = _stronger_attacks(module, outcomes, storage, settings)
    if harder is not None:
        parts.append(harder)
    reasons: list[str] = []
    tried: list[str] = []
    for part in parts:
        reasons += part.reasons
        tried += part.tried
    return DiagnosisEvidence(reasons=reasons, tried=tried, harder=harder)


def _stronger_attacks(
    module: AdversarialExample, outcomes: Sequence[Outcome], storage: Storage, settings: EvidenceSettings
) -> DiagnosisPart | None:
    """Return the results of stronger attacks, which ``trust`` selects; otherwise those of an earlier check."""
    if not settings.options.trust:
        earlier = None if settings.at_end_of_run else storage.evidence().trust
        return None if earlier is None else earlier.harder  # of the same files
    attack = module.attack
    assert isinstance(attack, BudgetAttack)
    if module.network.decision != "exclusive":
        raise LitVizError(f"trust requires classes that exclude each other, got {module.network.decision} scores")
    settings.notify(f"trying {cost_of_stronger_attacks(outcomes)}")
    network = module.network.fast()
    return stronger_attacks(outcomes, lambda x: network(x)[0].to(x.device), attack.norm, attack.eps)
