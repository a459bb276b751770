"""Robust share by radius, the breakdown of an ensemble by member, and transfer to held-out networks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lit_viz.attacks.norms import format_distance
from lit_viz.errors import LitVizError
from lit_viz.evidence.judges import installed_judges, judge_logits
from lit_viz.methods.goals import GOAL
from lit_viz.networks import Network
from lit_viz.runs.evidence import EnsembleMember, TransferCounts, TransferEvidence
from lit_viz.runs.records import AdversarialRecord, has_several_radii, label_with_eps
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import Record
from lit_viz.utils.formatting import text_table
from lit_viz.utils.limits import MOST_PRINTED

#: Outcome of a task of an attack.
Attacked = Outcome[AdversarialRecord]
#: Name of the share of robust photographs with true labels.
ROBUST_ACCURACY = "robust accuracy"
_TOLERANCE = 1e-6  # relative, of a radius in float32


def attack_norm(records: Sequence[AdversarialRecord]) -> str:
    """Return the norm of an attack with a radius."""
    return next(record.norm for record in records if record.norm is not None)


def photograph_key(record: Record) -> Hashable:
    """Return the identity of a record's photograph, which tasks of several radii and targets share."""
    return record.source, record.name


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion (Wilson 1927, eq. 1; Newcombe 1998, method 3).

    Args:
        successes: number of successes, in [0, n].
        n: number of trials.

    Returns:
        (low, high) in [0, 1]; (0, 1) without trials.
    """
    if n == 0:
        return 0.0, 1.0
    share, z = successes / n, 1.96
    center = share + z**2 / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (center - margin) / (1 + z**2 / n), (center + margin) / (1 + z**2 / n)
    if successes == 0:  # exact at the ends, despite rounding
        low = 0.0
    if successes == n:
        high = 1.0
    return low, high


@dataclass(frozen=True)
class RobustAccuracy:
    """Robust accuracy at a radius.

    Attributes:
        eps: the radius, in units of [0, 1].
        robust: photographs that are classified correctly, before the attack and after it.
        total: photographs, including the ones that are misclassified before the attack.
    """

    eps: float
    robust: int
    total: int

    @property
    def accuracy(self) -> float:
        """Fraction of the photographs that are robust."""
        return self.robust / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(self.robust, self.total)

    def __str__(self) -> str:
        """Return the count with the interval: ``1 of 8 (95 %: 2% to 47%)``."""
        low, high = self.interval
        return f"{self.robust} of {self.total} (95 %: {low:.0%} to {high:.0%})"


def clean_accuracy(outcomes: Sequence[Attacked]) -> RobustAccuracy:
    """Count the photographs of one radius that are classified correctly before the attack. Failed tasks are omitted."""
    statuses = [outcome.record.status for outcome in outcomes]
    return RobustAccuracy(0.0, statuses.count("done"), len(statuses) - statuses.count("failed"))


def robust_share(outcomes: Sequence[Attacked], members: Sequence[str] | None = None) -> list[RobustAccuracy]:
    """Count the robust photographs by ascending radius.

    A photograph is robust at a radius if it is classified correctly, and none of its files, of any target and radius,
    is a success at a distance within this radius; the count cannot rise with the radius. Failed tasks, and files that
    are not as recorded, are omitted. Of an ensemble, only the successes of ``members`` count, if given.
    """
    radii: set[float] = set()
    for record in _with_verdict(outcomes):
        if record.eps is not None:
            radii.add(float(record.eps))
    results = []
    for eps in sorted(radii):
        are_robust = robust_photographs(outcomes, eps, members)
        results.append(RobustAccuracy(eps, sum(are_robust.values()), len(are_robust)))
    return results


def robust_photographs(
    outcomes: Sequence[Attacked], eps: float, members: Sequence[str] | None = None
) -> dict[Hashable, bool]:
    """Return whether each photograph is robust at a radius, as :func:`robust_share` counts it.

    Of an attack with radii, the photographs are those that were attacked at this radius. The files of an attack without
    one count by their distance.
    """
    photographs: dict[Hashable, list[AdversarialRecord]] = defaultdict(list)
    for record in _with_verdict(outcomes):
        photographs[photograph_key(record)].append(record)
    are_robust: dict[Hashable, bool] = {}
    for key, records in photographs.items():
        if any(record.eps in (None, eps) for record in records):
            are_robust[key] = not any(_fools_within(eps, record, members) for record in records)
    return are_robust


def _with_verdict(outcomes: Sequence[Attacked]) -> list[AdversarialRecord]:
    """Return the records of photographs that were attacked or skipped, and whose files are as recorded."""
    records: list[AdversarialRecord] = []
    for record in records_of(outcomes):
        has_verdict = record.status == "skipped" or record.success_file is not None
        if has_verdict and record.status != "failed":
            records.append(record)
    return records


def _fools_within(eps: float, record: AdversarialRecord, members: Sequence[str] | None) -> bool:
    """Return whether the photograph itself, or a file at a distance of at most ``eps``, is a success."""
    if record.status != "done":
        return True
    if not record.success_file or (members is not None and record.by not in members):
        return False
    if record.eps is not None and record.eps <= eps:
        return True
    distance = record.metrics.get(record.norm) if record.norm is not None else None
    return distance is not None and distance <= eps * (1 + _TOLERANCE)


def robust_accuracy(outcomes: Sequence[Attacked]) -> RobustAccuracy | dict[str, RobustAccuracy]:
    """Return the robust accuracy of an untargeted attack within a ball; of several radii by radius, as displayed.

    A photograph that is misclassified before the attack is not robust, as in Croce et al. 2021 ("RobustBench",
    arXiv:2010.09670). Failed tasks are omitted. It is an upper bound: a stronger attack may succeed.

    Raises:
        LitVizError: the attack is targeted or has no radius, or the labels are predicted.
    """
    points = robust_share(outcomes)
    got = ""
    if all(outcome.record.status == "failed" for outcome in outcomes):
        got = "no attacked image"
    elif not points:
        got = "no file within a ball"
    elif any(outcome.record.target is not None for outcome in outcomes):
        got = "targets"
    elif accuracy_label(outcomes) != ROBUST_ACCURACY:
        got = "predicted labels: give label"
    if got:
        raise LitVizError(
            f"robust_accuracy requires an untargeted attack with a radius eps, and the labels of the images; got {got}"
        )
    if len(points) == 1:
        return points[0]
    norm = attack_norm(records_of(outcomes))
    return {format_distance(point.eps, norm): point for point in points}


def accuracy_label(outcomes: Sequence[Attacked]) -> str:
    """Return the name of the measured share: "robust accuracy" requires true labels and an untargeted attack."""
    targeted = unlabelled = 0
    for outcome in outcomes:
        targeted += outcome.record.target is not None
        unlabelled += outcome.record.label_source in (None, "predicted", GOAL)
    if targeted == len(outcomes):
        return "target not reached"
    if targeted or unlabelled:
        return "robust"
    return ROBUST_ACCURACY


def ensemble_breakdown(outcomes: Sequence[Attacked]) -> list[EnsembleMember]:
    """Return the result of each member of an ensemble, in order; empty for other attacks.

    A success counts in its file.
    """
    successful: list[str | None] = []  # member of each image
    attempted: list[Sequence[str]] = []  # members that attacked each image
    for outcome in outcomes:
        if outcome.record.status == "done":
            record = outcome.record
            if record.tried is not None:
                successful.append(record.by if record.success_file else None)
                attempted.append(record.tried)
    members = max(attempted, key=len, default=())
    breakdown, remaining = [], len(successful)
    for member in members:
        fooled = successful.count(member)
        remaining -= fooled
        attacked = sum(member in tried for tried in attempted)
        breakdown.append(EnsembleMember(member=member, tried=attacked, fooled=fooled, left=remaining))
    return breakdown


def transfers(outcomes: Sequence[Attacked], network: Network) -> TransferEvidence:
    """Evaluate the installed held-out networks on the photograph, the file and the mirrored change of each success."""
    successes = [outcome for outcome in outcomes if outcome.record.success_file]
    several = has_several_radii(records_of(successes))
    files: list[dict[str, Any]] = []
    counts: dict[str, TransferCounts] = {}
    for judge in installed_judges(network) if successes else ():
        of_judge = [_transfer(judge, outcome, network.labels, several) for outcome in successes]
        right = [row for row in of_judge if row["right"]]
        counts[judge] = TransferCounts(
            right=len(right),
            fooled=sum(row["fooled"] for row in right),
            mirrored=sum(row["mirrored"] for row in right),
            wrong=len(of_judge) - len(right),
        )
        files += of_judge
    return TransferEvidence(judges=counts, files=files)


def _transfer(judge: str, outcome: Attacked, labels: Sequence[str], several: bool) -> dict[str, Any]:
    """Return the predictions of a held-out network for a file: ``before`` and ``after`` the attack.

    ``right`` is whether the prediction of the photograph is the label; without a label, whether it is not the target.
    ``fooled`` is whether that of the file is the target; without a target, whether it is not the label; and
    ``mirrored`` the same of the mirrored change, the control: any change of this size might fool the network.
    """
    source, image, record = outcome.source(), outcome.image(), outcome.record
    assert source is not None
    assert image is not None
    mirrored = (source + (image - source).flip(-1)).clamp(0, 1)
    logits = judge_logits(judge, torch.stack([source.to(image), image, mirrored.to(image)]))
    before, after, control = logits.argmax(1).tolist()
    return {
        "index": record.index,
        "name": label_with_eps(record.name, record, several),
        "judge": judge,
        "before": labels[before],
        "after": labels[after],
        "right": before != record.target if record.label is None else before == record.label,
        "fooled": _is_success(record, after),
        "mirrored": _is_success(record, control),
    }


def _is_success(record: Record, predicted: int) -> bool:
    """Return whether a predicted class is the target; without a target, whether it is not the label."""
    if record.target is None:
        return predicted != record.label
    return predicted == record.target


def transfer_table(files: Sequence[Mapping[str, Any]]) -> str:
    """Return a row a file with the predictions of each judge, for the photograph and for the file."""
    by_file: dict[tuple[int, str], dict[str, str]] = {}
    for row in files:
        verdict = "not"
        if not row["right"]:
            verdict = "wrong"
        elif row["fooled"]:
            verdict = "fooled"
        line = by_file.setdefault((row["index"], row["name"]), {"photograph": row["name"]})
        line[row["judge"]] = f"{row['before']} -> {row['after']} ({verdict})"
    lines = list(by_file.values())
    return text_table(lines[:MOST_PRINTED], words=len(lines[0]))
