from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lit_viz.evidence.attacks.robustness import robust_accuracy
from lit_viz.evidence.summaries import wilson_interval
from lit_viz.methods.records import AdversarialRecord
from tests.conftest import amend_items


def told(photograph: str, eps: float, fooled: bool, status: str = "done") -> Any:
    """Return an outcome with a record alone."""
    record = {"index": 0, "name": photograph, "source": f"{photograph}.png", "status": status, "attack": "pgd"}
    outcome = SimpleNamespace(record=AdversarialRecord.from_dict({**record, "success_file": fooled}))
    amend_items(outcome, eps=eps)
    return outcome


def test_a_photograph_counts_once_however_many_targets_it_has() -> None:
    outcomes = [told("a", 0.1, False), told("a", 0.1, True), told("b", 0.1, False), told("b", 0.1, False)]
    assert robust_accuracy(outcomes) == [(0.1, 0.5, wilson_interval(1, 2))]


def test_radii_are_apart_and_failures_left_out() -> None:
    outcomes = [told("a", 0.2, True), told("a", 0.1, False), told("b", 0.1, False, "failed")]
    outcomes.append(told("c", 0.1, False, "skipped"))
    assert [(eps, share) for eps, share, _ in robust_accuracy(outcomes)] == [(0.1, 0.5), (0.2, 0.0)]
