"""Evidence of adversarial examples: verification of the files, robustness, diagnostics and transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

from lit_viz.attacks import BudgetAttack, name_of
from lit_viz.attacks.lattice import is_singleton
from lit_viz.attacks.norms import format_distance
from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks.diagnostics import (
    Diagnosis,
    cost_of_stronger_attacks,
    diagnostics,
    restarts_of,
    stronger_attacks,
)
from lit_viz.evidence.attacks.mismatches import RecordedFile, mismatches
from lit_viz.evidence.attacks.robustness import (
    accuracy_label,
    attack_record,
    ensemble_breakdown,
    robust_accuracy,
    transfer_entry,
    transfer_summary,
    transfer_table,
    transfers,
)
from lit_viz.methods import AdversarialExample
from lit_viz.methods.records import AdversarialRecord, has_several_radii
from lit_viz.presentations.base import EvidenceSettings
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome, records_of
from lit_viz.utils.formatting import pluralize

_MAX_MISMATCHES = 10  # printed; evidence.json has all of them


def verify_attack(
    module: AdversarialExample, outcomes: Sequence[Outcome], folder: RunFolder, settings: EvidenceSettings
) -> bool:
    """Write the evidence of a run and print it; return whether all files agree with their records."""
    if settings.trust and not isinstance(module.attack, BudgetAttack):
        raise LitVizError(f"{name_of(module.attack)} has no budget for stronger attacks: leave out --trust")
    mismatched = _verify_files(module.classifier, outcomes, folder, settings)
    valid = [outcome for outcome in outcomes if outcome.record.index not in mismatched]
    if members := ensemble_breakdown(outcomes):
        folder.merge_evidence({"survivors": [asdict(member) for member in members]})
        settings.notify(f"evidence: as floats, {'; '.join(member.sentence for member in members)}")
    if has_several_radii(outcome.record for outcome in _with_file(valid)):
        _write_robustness(valid, folder, settings)
    _write_diagnosis(module, valid, folder, settings)
    if not settings.ends_run:
        _write_transfer(outcomes, module.classifier, folder, settings)
    return not mismatched


def find_mismatches(
    files: Sequence[RecordedFile], classifier: Classifier, folder: RunFolder, settings: EvidenceSettings
) -> list[str | None]:
    """Return for each file in what it differs from its record, or None, and print the first of them."""
    reasons, missing = mismatches(files, classifier, settings.config.slots)
    different = [(file.file, reason) for file, reason in zip(files, reasons, strict=True) if reason is not None]
    for path, reason in different[:_MAX_MISMATCHES]:
        settings.notify(f"evidence: {path.relative_to(folder.path).as_posix()} is not as recorded: {reason}")
    if len(different) > _MAX_MISMATCHES:
        settings.notify(f"evidence: nor are {pluralize(len(different) - _MAX_MISMATCHES, 'further file')}")
    if missing:
        settings.notify(
            f"evidence: {pluralize(missing, 'photograph')} of the run not there any more: no distance is measured again"
        )
    return reasons


def count_fooled(outcomes: Sequence[Outcome]) -> int:
    """Return the number of files that fool the network."""
    return sum(bool(record.success_file) for record in records_of(outcomes, AdversarialRecord))


def _with_file(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.record.status == "done" and o.record.file]


def _verify_files(
    classifier: Classifier, outcomes: Sequence[Outcome], folder: RunFolder, settings: EvidenceSettings
) -> set[int]:
    """Compare the files with their records, and withdraw the successes of those that differ; return their indices."""
    stored = _with_file(outcomes)
    records = [attack_record(outcome) for outcome in stored]
    files = [
        RecordedFile(folder.path / str(record.file), record, outcome.source, record)
        for outcome, record in zip(stored, records, strict=True)
    ]
    reasons = find_mismatches(files, classifier, folder, settings)
    different = [outcome for outcome, reason in zip(stored, reasons, strict=True) if reason is not None]
    for outcome in different:
        outcome.amend(success_file=False, success_jpeg95=False, success_jpeg75=False)
    folder.amend(outcome.record for outcome in different)
    fooled = count_fooled(stored)
    attacked = sum(o.record.status == "done" for o in outcomes)
    names = [outcome.record.name for outcome in different]
    folder.merge_evidence({"files": {"read": len(stored), "fooled": fooled, "wrong": names}})
    settings.notify(f"evidence: {fooled} of {attacked} files fool the original network, read back from the disk")
    return {outcome.record.index for outcome in different}


def _write_robustness(outcomes: Sequence[Outcome], folder: RunFolder, settings: EvidenceSettings) -> None:
    """Write the robust accuracy by radius."""
    norm = next(record.norm for record in records_of(outcomes, AdversarialRecord) if record.norm is not None)
    label, curve = accuracy_label(outcomes), robust_accuracy(outcomes)
    points = [
        {
            "eps": format_distance(point.eps, norm),
            "robust": point.robust,
            "photographs": point.total,
            "share": point.share,
            "low": point.interval[0],
            "high": point.interval[1],
        }
        for point in curve
    ]
    folder.merge_evidence({"robustness": {"what": label, "norm": norm, "points": points}})
    for point in curve:
        note = ", since the ball holds no other 8-bit image" if is_singleton(point.eps) else ""
        settings.notify(f"eps {format_distance(point.eps, norm)}: {label} {point.text}{note}")


def _write_diagnosis(
    module: AdversarialExample, outcomes: Sequence[Outcome], folder: RunFolder, settings: EvidenceSettings
) -> None:
    """Write whether the failures of the attack are credible."""
    further = "an attack of more steps, such as pgd" if module.attack.fixed else "more iterations"
    attack, iterations = module.attack, module.iterations
    restart_length = iterations // attack.restart_schedule.count(iterations)
    from_traces = diagnostics(
        outcomes,
        restarts_of(attack, iterations),
        iterations,
        further,
        restart_length=restart_length if attack.backwards_per_step else math.inf,
        minimal=attack.minimal,
    )
    stronger = _run_stronger_attacks(module, outcomes, settings) if settings.trust else None
    earlier = (folder.evidence().get("trust") or {}).get("harder")
    if stronger is None and earlier is not None and not settings.ends_run:  # of the same files
        stronger = Diagnosis(tuple(earlier["reasons"]), tuple(earlier["tried"]))
    parts = [from_traces, *([] if stronger is None else [stronger])]
    diagnosis = Diagnosis(
        tuple(reason for part in parts for reason in part.reasons), tuple(name for part in parts for name in part.tried)
    )
    entry = {"reasons": diagnosis.reasons, "tried": diagnosis.tried}
    folder.merge_evidence({"trust": {**entry, **({} if stronger is None else {"harder": vars(stronger)})}})
    settings.notify(f"evidence: {diagnosis.sentence}")


def _run_stronger_attacks(
    module: AdversarialExample, outcomes: Sequence[Outcome], settings: EvidenceSettings
) -> Diagnosis:
    attack = module.attack
    assert isinstance(attack, BudgetAttack)
    settings.notify(f"evidence: trying {cost_of_stronger_attacks(outcomes)}")
    network = module.classifier.fast()
    return stronger_attacks(outcomes, lambda x: network(x)[0].to(x.device), attack.norm, attack.eps)


def _write_transfer(
    outcomes: Sequence[Outcome], classifier: Classifier, folder: RunFolder, settings: EvidenceSettings
) -> None:
    """Write the predictions of held-out networks for the files."""
    predictions = transfers(outcomes, classifier)
    folder.merge_evidence({"transfer": transfer_entry(predictions)})
    settings.notify(f"evidence: {transfer_summary(predictions, count_fooled(outcomes))}")
    if predictions:
        settings.notify(transfer_table(predictions))
