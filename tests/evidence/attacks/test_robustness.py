from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks.robustness import robust_accuracy, wilson_interval
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


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_matches_newcombe(successes, n, low, high):
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert wilson_interval(successes, n, z=1.959964) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(n - successes, n, z=1.959964) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize("n", [1, 7, 200, 10**6])
def test_wilson_limits_solve_the_score_equation(n):
    for successes in {0, 1, n // 2, n}:
        low, high = wilson_interval(successes, n)
        assert 0 <= low <= successes / n <= high <= 1
        for end in (low, high):  # (p - end)^2 = z^2 end (1 - end) / n, the definition
            assert (successes / n - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n, rel=1e-6, abs=1e-15)


def test_wilson_interval_at_0_and_1():
    assert wilson_interval(0, 10) == (0.0, pytest.approx(1.96**2 / (10 + 1.96**2)))
    assert wilson_interval(10, 10) == (pytest.approx(10 / (10 + 1.96**2)), 1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    for wrong in ((-1, 5), (6, 5)):
        with pytest.raises(LitVizError, match=f"successes must be between 0 and 5, got {wrong[0]}"):
            wilson_interval(*wrong)
