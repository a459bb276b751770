"""Do the files fool networks that took no part in their making, too?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lit_viz.attacks.norms import label_with_eps
from lit_viz.classifiers import Classifier
from lit_viz.evidence.judges import asked, installed_judges
from lit_viz.evidence.tables import text_table
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import has_several_radii

#: Files that the terminal shows; all are in evidence.json.
_ROWS = 40


@dataclass(frozen=True)
class Transfer:
    """What a held-out network sees in a file that fools the network that was attacked.

    Attributes:
        index, name: of the task; the name with its radius, where the run has several.
        judge: the held-out network.
        before, after: the classes that it sees in the photograph and in the file.
        right: whether it was right on the photograph: it sees the label there, or where none is known, not the target.
        fooled: whether it sees the target in the file, or where there is none, another class than the label.
        mirrored: whether the same change, left and right exchanged, does as much: what noise of that size would do.
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
    """Ask the installed judges about every file that fools, about its photograph, and about the change mirrored.

    Args:
        outcomes: of an attack's run.
        classifier: that was attacked.
    """
    fooling = [o for o in outcomes if o.record.get("success_file")]
    several = has_several_radii(outcome.record for outcome in fooling)
    return [
        _asked(judge, outcome, classifier.labels, several)
        for judge in installed_judges(classifier)
        for outcome in fooling
    ]


def _asked(judge: str, outcome: Outcome, labels: Sequence[str], several: bool) -> Transfer:
    source, image, record = outcome.source(), outcome.image(), outcome.record
    assert source is not None
    assert image is not None
    mirrored = (source + (image - source).flip(-1)).clamp(0, 1)
    before, after, control = asked(judge, torch.stack([source.to(image), image, mirrored.to(image)])).argmax(1).tolist()
    label, target = record["label"], record["target"]
    return Transfer(
        index=record["index"],
        name=label_with_eps(record["name"], record) if several else record["name"],
        judge=judge,
        before=labels[before],
        after=labels[after],
        right=before != target if label is None else before == label,
        fooled=after != label if target is None else after == target,
        mirrored=control != label if target is None else control == target,
    )


def summary(found: Sequence[Transfer], fooling: int) -> str:
    """Return in one line how many files each judge is fooled by, of those whose photograph it was right on.

    Args:
        found: of all judges and files.
        fooling: files that fool the network that was attacked.
    """
    if not found:
        why = "no other network that knows these classes is installed" if fooling else "no file fools"
        return f"transfer: nobody was asked, for {why}"
    return f"transfer: {', '.join(_of_judge(name, rows) for name, rows in _by_judge(found).items())}"


def _of_judge(name: str, rows: Sequence[Transfer]) -> str:
    right = [row for row in rows if row.right]
    if not right:
        return f"{name} nothing to tell (it was wrong on every photograph: {len(rows)})"
    fooled, mirrored = sum(row.fooled for row in right), sum(row.mirrored for row in right)
    missed = len(rows) - len(right)
    wrong = f"; {missed} left out, for it was wrong on the photograph" if missed else ""
    return f"{name} {fooled} of {len(right)} (mirrored changes {mirrored}{wrong})"


def as_record(found: Sequence[Transfer]) -> dict[str, Any]:
    """Return everything in plain values, as in ``evidence.json``."""
    counts = {
        name: {
            "right": sum(row.right for row in rows),
            "fooled": sum(row.right and row.fooled for row in rows),
            "mirrored": sum(row.right and row.mirrored for row in rows),
            "wrong": sum(not row.right for row in rows),
        }
        for name, rows in _by_judge(found).items()
    }
    return {"judges": counts, "files": [asdict(row) for row in found]}


def table(found: Sequence[Transfer]) -> str:
    """Return a line a file with what each judge sees, in the photograph and in the file."""
    by_file: dict[tuple[int, str], dict[str, str]] = {}
    for row in found:
        verdict = "wrong" if not row.right else "fooled" if row.fooled else "not"
        by_file.setdefault((row.index, row.name), {})[row.judge] = f"{row.before} -> {row.after} ({verdict})"
    rows = [{"photograph": name, **seen} for (_, name), seen in by_file.items()]
    return text_table(rows[:_ROWS], words=len(rows[0]))


def _by_judge(found: Sequence[Transfer]) -> dict[str, list[Transfer]]:
    return {name: [row for row in found if row.judge == name] for name in dict.fromkeys(row.judge for row in found)}
