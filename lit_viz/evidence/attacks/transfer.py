"""Transfer of adversarial examples to held-out networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lit_viz.classifiers import Classifier
from lit_viz.evidence.attacks.robustness import attack_record
from lit_viz.evidence.judges import installed_judges, judge_logits
from lit_viz.evidence.summaries import text_table
from lit_viz.methods.records import AdversarialRecord, has_several_radii, label_with_eps
from lit_viz.runs.results import Outcome
from lit_viz.types import Record

_MAX_ROWS = 40  # files in the terminal; evidence.json has all


@dataclass(frozen=True)
class Transfer:
    """Predictions of a held-out network for an adversarial example.

    Attributes:
        index, name: of the task; the name has the radius if the run has several.
        judge: the held-out network.
        before, after: predicted classes of the photograph and of the file.
        right: whether the prediction of the photograph is the label; without a label, whether it is not the target.
        fooled: whether the prediction of the file is the target; without a target, whether it is not the label.
        mirrored: the same for the mirrored change, the control: any change of this size might fool the network.
    """

    index: int
    name: str
    judge: str
    before: str
    after: str
    right: bool
    fooled: bool
    mirrored: bool


def transfers(outcomes: Sequence[Outcome], classifier: Classifier) -> list[Transfer]:
    """Evaluate the installed held-out networks on the photograph, the file and the mirrored change of each success.

    Args:
        outcomes: of an attack's run.
        classifier: the attacked classifier.
    """
    successes = [o for o in outcomes if isinstance(o.record, AdversarialRecord) and o.record.success_file]
    several = has_several_radii(outcome.record for outcome in successes)
    labels = classifier.labels
    return [
        _evaluate(judge, outcome, labels, several) for judge in installed_judges(classifier) for outcome in successes
    ]


def _evaluate(judge: str, outcome: Outcome, labels: Sequence[str], several: bool) -> Transfer:
    source, image, record = outcome.source(), outcome.image(), attack_record(outcome)
    assert source is not None
    assert image is not None
    mirrored = (source + (image - source).flip(-1)).clamp(0, 1)
    logits = judge_logits(judge, torch.stack([source.to(image), image, mirrored.to(image)]))
    before, after, control = logits.argmax(1).tolist()
    return Transfer(
        index=record.index,
        name=label_with_eps(record.name, record) if several else record.name,
        judge=judge,
        before=labels[before],
        after=labels[after],
        right=before != record.target if record.label is None else before == record.label,
        fooled=_is_success(after, record),
        mirrored=_is_success(control, record),
    )


def _is_success(predicted: int, record: Record) -> bool:
    return predicted != record.label if record.target is None else predicted == record.target


def summary(rows: Sequence[Transfer], successes: int) -> str:
    """Return one line with the number of files that fool each judge, of those whose photograph it classifies correctly.

    Args:
        rows: of all judges and files.
        successes: files that fool the attacked network.
    """
    if not rows:
        reason = "no other network with these classes is installed" if successes else "no file fools the network"
        return f"transfer: not evaluated: {reason}"
    return f"transfer: {', '.join(_judge_summary(name, group) for name, group in _by_judge(rows).items())}"


def _judge_summary(name: str, rows: Sequence[Transfer]) -> str:
    right = [row for row in rows if row.right]
    if not right:
        return f"{name} no result (all {len(rows)} photographs misclassified)"
    fooled, mirrored = sum(row.fooled for row in right), sum(row.mirrored for row in right)
    omitted = len(rows) - len(right)
    note = f"; {omitted} omitted, photograph misclassified" if omitted else ""
    return f"{name} {fooled} of {len(right)} (mirrored changes {mirrored}{note})"


def as_record(rows: Sequence[Transfer]) -> dict[str, Any]:
    """Return the entry of ``evidence.json``."""
    counts = {
        name: {
            "right": sum(row.right for row in group),
            "fooled": sum(row.right and row.fooled for row in group),
            "mirrored": sum(row.right and row.mirrored for row in group),
            "wrong": sum(not row.right for row in group),
        }
        for name, group in _by_judge(rows).items()
    }
    return {"judges": counts, "files": [asdict(row) for row in rows]}


def table(rows: Sequence[Transfer]) -> str:
    """Return a row a file with the predictions of each judge, for the photograph and for the file."""
    by_file: dict[tuple[int, str], dict[str, str]] = {}
    for row in rows:
        verdict = "wrong" if not row.right else "fooled" if row.fooled else "not"
        by_file.setdefault((row.index, row.name), {})[row.judge] = f"{row.before} -> {row.after} ({verdict})"
    lines = [{"photograph": name, **predictions} for (_, name), predictions in by_file.items()]
    return text_table(lines[:_MAX_ROWS], words=len(lines[0]))


def _by_judge(rows: Sequence[Transfer]) -> dict[str, list[Transfer]]:
    return {name: [row for row in rows if row.judge == name] for name in dict.fromkeys(row.judge for row in rows)}
