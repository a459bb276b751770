"""Robust accuracy by radius, and the breakdown of an ensemble by member."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from lit_viz.evidence.summaries import wilson_interval
from lit_viz.methods.records import AdversarialRecord
from lit_viz.runs.results import Outcome
from lit_viz.types import Record


def attack_record(outcome: Outcome) -> AdversarialRecord:
    """Return the record of an attacked image."""
    record = outcome.record
    assert isinstance(record, AdversarialRecord)
    return record


def photograph_of(record: Record) -> Hashable:
    """Return the identity of a record's photograph, which tasks of several radii and targets share."""
    return record.source, record.name


def robust_accuracy(
    outcomes: Sequence[Outcome], members: Sequence[str] | None = None
) -> list[tuple[float, float, tuple[float, float]]]:
    """Return ``(eps, accuracy, 95 % Wilson interval)`` by ascending radius.

    A photograph is robust if no file of it is a success; with several targets, for none of them. A photograph that is
    misclassified without a perturbation is not robust.

    Args:
        outcomes: of the run; failed tasks are omitted.
        members: of an ensemble whose successes count; all by default.
    """
    by_radius: dict[float, dict[Hashable, bool]] = defaultdict(dict)
    for record in (attack_record(outcome) for outcome in outcomes if outcome.record.status != "failed"):
        if record.eps is not None:
            success = record.success_file and (members is None or record.by in members)
            photographs, photograph = by_radius[record.eps], photograph_of(record)
            robust = record.status == "done" and not success
            photographs[photograph] = photographs.get(photograph, True) and robust
    counts = [(eps, sum(robust.values()), len(robust)) for eps, robust in sorted(by_radius.items())]
    return [(eps, robust / total, wilson_interval(robust, total)) for eps, robust, total in counts]


def accuracy_label(outcomes: Sequence[Outcome]) -> str:
    """Return the name of the measured share: "robust accuracy" requires true labels and an untargeted attack."""
    records = [outcome.record for outcome in outcomes]
    targeted = [record.target is not None for record in records]
    if all(targeted):
        return "target not reached"
    predicted = any(record.label_source in (None, "predicted") for record in records)
    return "not fooled" if predicted or any(targeted) else "robust accuracy"


@dataclass(frozen=True)
class MemberBreakdown:
    """Result of one member of an ensemble.

    Attributes:
        member: name of the member.
        tried: images that it attacked.
        fooled: successes, as floats.
        left: images without a success after it.
    """

    member: str
    tried: int
    fooled: int
    left: int

    @property
    def sentence(self) -> str:
        """The result in one line."""
        return f"{self.member} fooled {self.fooled} of {self.tried}, {self.left} remain"


def ensemble_breakdown(outcomes: Sequence[Outcome]) -> list[MemberBreakdown]:
    """Return the result of each member of an ensemble, in order; empty for other attacks."""
    done = [attack_record(outcome) for outcome in outcomes if outcome.record.status == "done"]
    records = [(record.by, record.tried) for record in done if record.tried is not None]
    members = max((tried for _, tried in records), key=len, default=())
    breakdown, remaining = [], len(records)
    for member in members:
        fooled = sum(by == member for by, _ in records)
        remaining -= fooled
        attacked = sum(member in tried for _, tried in records)
        breakdown.append(MemberBreakdown(member, attacked, fooled, remaining))
    return breakdown
