"""The evidence of ``lit-viz attack``: the files are read again, and the attack is held against other tries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

from lit_viz.attacks import BudgetAttack, name_of
from lit_viz.attacks.norms import format_distance
from lit_viz.attacks.rounding.lattice import is_singleton
from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks import transfer
from lit_viz.evidence.attacks.diagnostics import Diagnosis, cost_of_stronger_attacks, diagnostics, stronger_attacks
from lit_viz.evidence.attacks.mismatches import RecordedFile, mismatches
from lit_viz.evidence.attacks.restart_agreement import restarts_of
from lit_viz.evidence.attacks.robustness import accuracy_label, ensemble_breakdown, robust_accuracy
from lit_viz.methods import AdversarialExample
from lit_viz.methods.records import AdversarialRecord
from lit_viz.presentations.base import EvidenceSettings
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome, records_of
from lit_viz.utils.formatting import has_several_radii, pluralize

_SAID = 10  # files of which it is said what is wrong


def verify_attack(
    module: AdversarialExample, outcomes: Sequence[Outcome], folder: RunFolder, settings: EvidenceSettings
) -> bool:
    """Look for evidence, keep and say it; return whether every file is seen as its record says."""
    if settings.trust and not isinstance(module.attack, BudgetAttack):
        raise LitVizError(f"{name_of(module.attack)} has no budget to try harder attacks in: leave out --trust.")
    wrong = _read_again(module.classifier, outcomes, folder, settings)
    # The others tell nothing of the attack.
    kept = [outcome for outcome in outcomes if outcome.record.index not in wrong]
    left = ensemble_breakdown(outcomes)
    if left:
        folder.merge_evidence({"survivors": [asdict(one) for one in left]})
        settings.notify(f"evidence: as floats, {'; '.join(one.sentence for one in left)}")
    if has_several_radii(outcome.record for outcome in _claimed(kept)):
        _robustness(kept, folder, settings)
    _trust(module, kept, folder, settings)
    if not settings.ends_run:
        _transfer(outcomes, module.classifier, folder, settings)
    return not wrong


def contradicted(
    claims: Sequence[RecordedFile], classifier: Classifier, folder: RunFolder, settings: EvidenceSettings
) -> list[str | None]:
    """Return of each file in what it isn't as its record says (None where it is), and say it of the first ones."""
    found, gone = mismatches(claims, classifier, settings.config.slots)
    wrong = [(claim, why) for claim, why in zip(claims, found, strict=True) if why is not None]
    for claim, why in wrong[:_SAID]:
        settings.notify(f"evidence: {claim.file.relative_to(folder.path).as_posix()} is not as recorded: {why}")
    if len(wrong) > _SAID:
        settings.notify(f"evidence: nor are {pluralize(len(wrong) - _SAID, 'further file')}")
    if gone:
        settings.notify(
            f"evidence: {pluralize(gone, 'photograph')} of the run not there any more: no distance is measured again"
        )
    return found


def count_fooled(outcomes: Sequence[Outcome]) -> int:
    """Return the number of files that fool the network."""
    return sum(bool(record.success_file) for record in records_of(outcomes, AdversarialRecord))


def _claimed(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.record.status == "done" and o.record.file]


def _read_again(
    classifier: Classifier, outcomes: Sequence[Outcome], folder: RunFolder, settings: EvidenceSettings
) -> set[int]:
    """Hold the files against their records, with the original network and the photographs, and mend the records that
    aren't true; return whose these are."""
    claimed = _claimed(outcomes)
    claims = [RecordedFile(folder.path / str(o.record.file), o.record, o.source, o.record) for o in claimed]
    found = contradicted(claims, classifier, folder, settings)
    wrong = [o for o, why in zip(claimed, found, strict=True) if why is not None]
    for outcome in wrong:
        outcome.amend(success_file=False, success_jpeg95=False, success_jpeg75=False)
    folder.amend(outcome.record for outcome in wrong)
    fooled = count_fooled(claimed)
    asked = sum(o.record.status == "done" for o in outcomes)
    names = [o.record.name for o in wrong]
    folder.merge_evidence({"files": {"read": len(claimed), "fooled": fooled, "wrong": names}})
    settings.notify(f"evidence: {fooled} of {asked} files fool the original network, read back from the disk")
    return {outcome.record.index for outcome in wrong}


def _robustness(outcomes: Sequence[Outcome], folder: RunFolder, settings: EvidenceSettings) -> None:
    """Say how many images resist, by radius."""
    norm = next(record.norm for record in records_of(outcomes, AdversarialRecord) if record.norm is not None)
    what, curve = accuracy_label(outcomes), robust_accuracy(outcomes)
    points = [
        {"eps": format_distance(eps, norm), "share": share, "low": low, "high": high}
        for eps, share, (low, high) in curve
    ]
    folder.merge_evidence({"robustness": {"what": what, "norm": norm, "points": points}})
    for eps, share, (low, high) in curve:
        alone = ", for no other 8-bit file lies so near" if is_singleton(eps) else ""
        settings.notify(f"eps {format_distance(eps, norm)}: {what} {share:.0%} (95 %: {low:.0%} to {high:.0%}){alone}")


def _trust(
    module: AdversarialExample, outcomes: Sequence[Outcome], folder: RunFolder, settings: EvidenceSettings
) -> None:
    """Say whether what resisted is to be believed."""
    further = "an attack of more steps, such as pgd" if module.attack.fixed else "more iterations"
    attack, iterations = module.attack, module.iterations
    restart_length = iterations // attack.restart_schedule.count(iterations)
    free = diagnostics(
        outcomes,
        restarts_of(attack, iterations),
        iterations,
        further,
        restart_length=restart_length if attack.backwards_per_step else math.inf,
        minimal=attack.minimal,
    )
    harder = _harder(module, outcomes, settings) if settings.trust else None
    before = (folder.evidence().get("trust") or {}).get("harder")
    if harder is None and before is not None and not settings.ends_run:  # what was tried on these files stays
        harder = Diagnosis(tuple(before["reasons"]), tuple(before["tried"]))
    found = [free, *([] if harder is None else [harder])]
    trust = Diagnosis(tuple(r for t in found for r in t.reasons), tuple(w for t in found for w in t.tried))
    known = {"reasons": trust.reasons, "tried": trust.tried}
    folder.merge_evidence({"trust": {**known, **({} if harder is None else {"harder": vars(harder)})}})
    settings.notify(f"evidence: {trust.sentence}")


def _harder(module: AdversarialExample, outcomes: Sequence[Outcome], settings: EvidenceSettings) -> Diagnosis:
    attack = module.attack
    assert isinstance(attack, BudgetAttack)
    settings.notify(f"evidence: trying {cost_of_stronger_attacks(outcomes)}")
    network = module.classifier.fast()
    return stronger_attacks(outcomes, lambda x: network(x)[0].to(x.device), attack.norm, attack.eps)


def _transfer(
    outcomes: Sequence[Outcome], classifier: Classifier, folder: RunFolder, settings: EvidenceSettings
) -> None:
    """Ask held-out networks what they see in the files."""
    found = transfer.transfers(outcomes, classifier)
    folder.merge_evidence({"transfer": transfer.as_record(found)})
    settings.notify(f"evidence: {transfer.summary(found, count_fooled(outcomes))}")
    if found:
        settings.notify(transfer.table(found))
