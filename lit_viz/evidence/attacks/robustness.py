"""Which share of the images resists an attack, by the size of the perturbation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_viz.evidence.summaries import wilson_interval
from lit_viz.runs.results import Outcome


def photograph_of(record: Mapping[str, Any]) -> Hashable:
    """Return what tells photographs apart; several tasks, of radii and targets, may be of one."""
    return record["source"], record["name"]


def robust_accuracy(
    outcomes: Sequence[Outcome], members: Sequence[str] | None = None
) -> list[tuple[float, float, tuple[float, float]]]:
    """Return by radius which share of the photographs was not fooled in the file, with its Wilson interval of 95 %; of
    an ensemble by these members, or by all.

    A photograph resists several targets if it resists each: its tasks are not independent, as the interval has them.
    """
    by_radius: dict[float, dict[Hashable, bool]] = defaultdict(dict)
    for outcome in outcomes:
        record = outcome.record
        if record["status"] != "failed":  # what was misclassified from the start doesn't resist
            fooled = record["success_file"] and (members is None or record["by"] in members)
            resists = record["status"] == "done" and not fooled
            of_radius, whose = by_radius[record["eps"]], photograph_of(record)
            of_radius[whose] = of_radius.get(whose, True) and resists
    found = [(eps, [*of_radius.values()]) for eps, of_radius in sorted(by_radius.items())]
    return [(eps, sum(resist) / len(resist), wilson_interval(sum(resist), len(resist))) for eps, resist in found]


def accuracy_label(outcomes: Sequence[Outcome]) -> str:
    """Return what the share is called: without true labels, or where a target is to be reached, accuracy is not
    claimed."""
    records = [outcome.record for outcome in outcomes]
    predicted = any(record["label_source"] in (None, "predicted") for record in records)
    targeted = any(record.get("target") is not None for record in records)
    if all(record.get("target") is not None for record in records):
        return "target not reached"
    return "not fooled" if predicted or targeted else "robust accuracy"


@dataclass(frozen=True)
class MemberResult:
    """What a member did.

    Attributes:
        member: its name.
        tried: images that it tried to fool.
        fooled: images that it fooled, as floats.
        left: images that nobody had fooled after it.
    """

    member: str
    tried: int
    fooled: int
    left: int

    @property
    def sentence(self) -> str:
        """In one line."""
        return f"{self.member} fooled {self.fooled} of {self.tried}, {self.left} left"


def ensemble_breakdown(outcomes: Sequence[Outcome]) -> list[MemberResult]:
    """Return what each member of an ensemble did, in their order; nothing where there was no ensemble.

    Args:
        outcomes: of the run; those that are done count.
    """
    records = [o.record for o in outcomes if o.record["status"] == "done" and "tried" in o.record]
    longest: list[str] = max((record["tried"] for record in records), key=len, default=[])
    found, left = [], len(records)
    for member in longest:
        fooled = sum(record["by"] == member for record in records)
        left -= fooled
        found.append(MemberResult(member, sum(member in record["tried"] for record in records), fooled, left))
    return found
