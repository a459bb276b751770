"""Presentation of adversarial examples: figure, verification of the files, robustness, diagnostics and transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jsonargparse import Namespace
from matplotlib.figure import Figure

from lit_viz.attacks import BudgetAttack, name_of
from lit_viz.attacks.norms import L2, LINF, NORMS, format_distance
from lit_viz.attacks.rounding import is_singleton
from lit_viz.attributions import SmoothGrad, attribute, title_of
from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks import robustness
from lit_viz.evidence.attacks.diagnostics import cost_of_stronger_attacks, diagnostics, stronger_attacks
from lit_viz.evidence.attacks.mismatches import RecordedFile, mismatches
from lit_viz.figures.attack import attack_figure, robustness_figure
from lit_viz.figures.saliency import SaliencyPanel, saliency_figure
from lit_viz.figures.style import save_figure
from lit_viz.methods import AdversarialExample
from lit_viz.methods.records import AdversarialRecord, AttackRecord, has_several_radii, label_with_eps
from lit_viz.presentations import EvidenceSettings, Presentation, Row, format_value, median_of
from lit_viz.runs import evidence as run_evidence
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import Record
from lit_viz.utils.formatting import label_with_target, pluralize

_MAX_MISMATCHES = 10  # printed; evidence.json has all of them


class AttackPresentation(Presentation):
    """Base class of the presentations of attacks."""

    title: ClassVar[str] = "Adversarial examples"
    note: ClassVar[str] = (
        "Curves show the image at each iteration, before rounding to 8 bits; the table shows the file."
    )
    files: ClassVar[tuple[str, ...]] = ("explained.*",)
    flags: ClassVar[tuple[str, ...]] = ("--explain",)
    resumable: ClassVar[tuple[str, ...]] = ("explain",)
    evidence_options: ClassVar[tuple[str, ...]] = ("trust",)
    task_options: ClassVar[Mapping[str, str]] = {"eps": "eps {:.3g}"}

    def subtitle(self, record: Record) -> str:
        texts = [f"target {record.target_name}"] if record.target_name else []
        if isinstance(record, AttackRecord) and record.eps is not None and record.norm is not None:
            texts.append(f"eps {format_distance(record.eps, record.norm)}")
        return ", ".join(texts)

    def names(self, records: Sequence[Record]) -> list[str]:
        names = [label_with_target(record.name, record.target_name) for record in records]
        if not has_several_radii(records):
            return names
        return [label_with_eps(name, record) for name, record in zip(names, records, strict=True)]


class AdversarialExamplePresentation(AttackPresentation):
    """Presentation of adversarial examples: the verdict on each file, and whether failures are credible."""

    result: ClassVar[str] = "adversarial image"

    def table(self, records: Sequence[Record]) -> list[Row]:
        rows = [  # a task that failed before it started has a plain record
            record if isinstance(record, AdversarialRecord) else AdversarialRecord.extend(record, attack="")
            for record in records
        ]
        is_ensemble = any(record.tried is not None for record in rows)
        several_radii = has_several_radii(rows)
        return [
            {
                **_row(record),
                **({"eps": format_distance(record.eps, record.norm or L2.name)} if several_radii else {}),
                **({"by": record.by or "-"} if is_ensemble else {}),
            }
            for record in rows
        ]

    def class_summary(self, records: Sequence[Record]) -> Row:
        fooled = [record for record in records if isinstance(record, AdversarialRecord) and record.success_file]
        return {
            "fooled in the file": str(len(fooled)),
            "median L2": median_of(record.l2 for record in fooled),
            "median Linf": median_of((r.linf and LINF.display_scale * r.linf for r in fooled), "{:.0f}/255"),
        }

    def figure(self, outcomes: Sequence[Outcome], config: Namespace) -> Figure:
        """Return originals, adversarial images and differences over their traces; for several radii the robustness
        curve."""
        if config.radii:
            norms = [record.norm for record in records_of(outcomes, AdversarialRecord) if record.norm is not None]
            trust = RunFolder.open(config.out).evidence().trust if config.out else None
            return robustness_figure(outcomes, NORMS[(norms or [LINF.name])[0]], trust)
        return attack_figure(outcomes)

    def scalars(self, records: Sequence[Record], evidence: run_evidence.Evidence) -> dict[str, float]:
        attacked = [r for r in records if isinstance(r, AdversarialRecord) and r.status == "done"]
        points = () if evidence.robustness is None else evidence.robustness.points
        scalars = {f"robust/eps {point.eps}": point.share for point in points}
        if attacked:
            scalars["fooled/file"] = sum(bool(record.success_file) for record in attacked) / len(attacked)
        if evidence.trust is not None:
            scalars["trust"] = float(not evidence.trust.reasons)
        return {**super().scalars(records, evidence), **scalars}

    def metric_texts(self, metrics: Mapping[str, float]) -> list[str]:
        return [*super().metric_texts(metrics), *(["fooled"] if metrics.get("margin", 0.0) > 0 else [])]

    def verify(
        self, module: ImageTraining, outcomes: Sequence[Outcome], folder: RunFolder | None, settings: EvidenceSettings
    ) -> bool:
        """Re-read the files, evaluate the original network on them, and diagnose the failures."""
        if folder is None:
            return True
        assert isinstance(module, AdversarialExample)
        if settings.at_end_of_run and settings.config.explain:
            save_figure(_explanation_figure(outcomes, module.classifier), folder.path / "explained.png")
        if settings.trust and not isinstance(module.attack, BudgetAttack):
            raise LitVizError(f"{name_of(module.attack)} has no budget for stronger attacks: leave out --trust")
        mismatched = _verify_files(module.classifier, outcomes, folder, settings)
        valid = [outcome for outcome in outcomes if outcome.record.index not in mismatched]
        if members := robustness.ensemble_breakdown(outcomes):
            folder.merge_evidence(run_evidence.Evidence(survivors=members))
            settings.notify(f"evidence: as floats, {'; '.join(member.sentence for member in members)}")
        if has_several_radii(outcome.record for outcome in _with_file(valid)):
            _write_robustness(valid, folder, settings)
        _write_diagnosis(module, valid, folder, settings)
        if not settings.at_end_of_run:
            predictions = robustness.transfers(outcomes, module.classifier)
            folder.merge_evidence(run_evidence.Evidence(transfer=robustness.transfer_evidence(predictions)))
            settings.notify(f"evidence: {robustness.transfer_summary(predictions, _count_fooled(outcomes))}")
            if predictions:
                settings.notify(robustness.transfer_table(predictions))
        return not mismatched


def _row(record: AdversarialRecord) -> Row:
    verdicts = {True: "fooled", False: "not fooled", None: "-"}
    return {
        "photograph": record.name,
        "target": record.target_name or "any other",
        "status": record.status,
        "in the file": verdicts[None if record.status == "skipped" else record.success_file],
        "seen as": format_value(record.predicted_name, "{}"),
        "before": format_value(record.probability_before),
        "after": format_value(record.probability),
        "iterations": str(record.iterations),
        "L2": format_value(record.l2),
        "Linf": format_distance(record.linf, LINF.name),
    }


# -- figures


def _explanation_figure(outcomes: Sequence[Outcome], classifier: Classifier) -> Figure:
    """Return saliency maps of the predicted class, for each original and each outcome."""
    panels = []
    several = has_several_radii(outcome.record for outcome in outcomes)
    for outcome in outcomes:
        source, image, record = outcome.source(), outcome.image(), outcome.record
        if source is None or image is None or not isinstance(record, AdversarialRecord):
            continue
        if record.predicted is None or record.predicted_before is None:
            continue
        label = label_with_eps(record.name, record) if several else record.name
        classes = [record.predicted_before, record.predicted]
        seeds = [record.seed or 0] * 2  # equal noise, so that the maps differ by the images only
        x = torch.stack([source, image])
        maps, _ = attribute(SmoothGrad(), classifier.fast(), x, classes, evaluations=32, seeds=seeds)
        for name, picture, index, map_ in zip(("original", "attacked"), (source, image), classes, maps, strict=True):
            subtitle = f"{name}, seen as {classifier.labels[index]}"
            panels.append(SaliencyPanel(label, picture, {title_of("smoothgrad"): map_}, subtitle))
    return saliency_figure(panels, scale="map", columns=4 if len(panels) <= 8 else 8)


# -- evidence


def find_mismatches(
    files: Sequence[RecordedFile], classifier: Classifier, folder: RunFolder, settings: EvidenceSettings
) -> list[str | None]:
    """Return the difference of each file from its record, or None, and print the first ones."""
    reasons, missing = mismatches(files, classifier, settings.config.slots)
    different = [(file.file, reason) for file, reason in zip(files, reasons, strict=True) if reason is not None]
    for path, reason in different[:_MAX_MISMATCHES]:
        settings.notify(f"evidence: {path.relative_to(folder.path).as_posix()} is not as recorded: {reason}")
    if len(different) > _MAX_MISMATCHES:
        settings.notify(f"evidence: {pluralize(len(different) - _MAX_MISMATCHES, 'further file')} not as recorded")
    if missing:
        settings.notify(f"evidence: {pluralize(missing, 'photograph')} missing, so their distances are not verified")
    return reasons


def _with_file(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.record.status == "done" and o.record.file]


def _count_fooled(outcomes: Sequence[Outcome]) -> int:
    return sum(bool(record.success_file) for record in records_of(outcomes, AdversarialRecord))


def _verify_files(
    classifier: Classifier, outcomes: Sequence[Outcome], folder: RunFolder, settings: EvidenceSettings
) -> set[int]:
    """Compare the files with their records, and withdraw the successes of those that differ; return their indices."""
    stored = _with_file(outcomes)
    records = [robustness.attack_record(outcome) for outcome in stored]
    files = [
        RecordedFile(folder.path / str(record.file), record, outcome.source, record)
        for outcome, record in zip(stored, records, strict=True)
    ]
    reasons = find_mismatches(files, classifier, folder, settings)
    different = [outcome for outcome, reason in zip(stored, reasons, strict=True) if reason is not None]
    for outcome in different:
        outcome.amend(success_file=False, success_jpeg95=False, success_jpeg75=False)
    folder.amend(outcome.record for outcome in different)
    fooled = _count_fooled(stored)
    attacked = sum(o.record.status == "done" for o in outcomes)
    names = [outcome.record.name for outcome in different]
    folder.merge_evidence(
        run_evidence.Evidence(files=run_evidence.FileEvidence(read=len(stored), fooled=fooled, wrong=names))
    )
    settings.notify(f"evidence: {fooled} of {attacked} files fool the original network, read back from the disk")
    return {outcome.record.index for outcome in different}


def _write_robustness(outcomes: Sequence[Outcome], folder: RunFolder, settings: EvidenceSettings) -> None:
    """Write the robust accuracy by radius."""
    norm = next(record.norm for record in records_of(outcomes, AdversarialRecord) if record.norm is not None)
    label, curve = robustness.accuracy_label(outcomes), robustness.robust_accuracy(outcomes)
    points = [
        run_evidence.RobustnessPoint(
            eps=format_distance(point.eps, norm),
            robust=point.robust,
            photographs=point.total,
            share=point.share,
            low=point.interval[0],
            high=point.interval[1],
        )
        for point in curve
    ]
    folder.merge_evidence(
        run_evidence.Evidence(robustness=run_evidence.RobustnessEvidence(what=label, norm=norm, points=points))
    )
    for point in curve:
        note = ", since the ball holds no other 8-bit image" if is_singleton(point.eps) else ""
        settings.notify(f"eps {format_distance(point.eps, norm)}: {label} {point.text}{note}")


def _write_diagnosis(
    module: AdversarialExample, outcomes: Sequence[Outcome], folder: RunFolder, settings: EvidenceSettings
) -> None:
    """Write whether the failures of the attack are credible."""
    attack = module.attack
    from_traces = diagnostics(outcomes, attack, module.iterations)
    harder: run_evidence.DiagnosisPart | None = None
    if settings.trust:
        assert isinstance(attack, BudgetAttack)
        if module.classifier.multi_label:
            raise LitVizError("--trust requires classes that exclude each other, got a multi-label network")
        settings.notify(f"evidence: trying {cost_of_stronger_attacks(outcomes)}")
        network = module.classifier.fast()
        harder = stronger_attacks(outcomes, lambda x: network(x)[0].to(x.device), attack.norm, attack.eps)
    elif not settings.at_end_of_run and (earlier := folder.evidence().trust) is not None:
        harder = earlier.harder  # of the same files
    found = [from_traces, *([] if harder is None else [harder])]
    diagnosis = run_evidence.DiagnosisEvidence(
        reasons=[reason for part in found for reason in part.reasons],
        tried=[name for part in found for name in part.tried],
        harder=harder,
    )
    folder.merge_evidence(run_evidence.Evidence(trust=diagnosis))
    settings.notify(f"evidence: {diagnosis.sentence}")
