"""Robust accuracy, against counts from the files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lit_viz as lv
from lit_viz.classifiers import Classifier
from lit_viz.evidence.attacks.robustness import RobustShare, robust_share, wilson_interval
from lit_viz.methods.records import AdversarialRecord
from tests.support.runs import amend_items


def outcome(photograph: str, eps: float, fooled: bool, status: str = "done", linf: float | None = None) -> Any:
    """Return an outcome with a record alone."""
    record = {"index": 0, "name": photograph, "source": f"{photograph}.png", "status": status, "attack": "pgd"}
    result = SimpleNamespace(record=AdversarialRecord.from_dict({**record, "success_file": fooled}))
    amend_items(result, eps=eps, norm="linf", linf=eps if linf is None else linf)
    return result


def test_a_photograph_with_several_targets_counts_once() -> None:
    outcomes = [outcome("a", 0.1, False), outcome("a", 0.1, True), outcome("b", 0.1, False), outcome("b", 0.1, False)]
    (point,) = robust_share(outcomes)
    assert point == RobustShare(0.1, 1, 2)
    assert (point.share, point.interval) == (0.5, wilson_interval(1, 2))
    assert point.text == "1 of 2 (95 %: 9% to 91%)"


def test_radii_are_separate_and_failed_tasks_are_omitted() -> None:
    outcomes = [outcome("a", 0.2, True), outcome("a", 0.1, False), outcome("b", 0.1, False, "failed")]
    outcomes.append(outcome("c", 0.1, False, "skipped"))
    assert robust_share(outcomes) == [RobustShare(0.1, 1, 2), RobustShare(0.2, 0, 1)]


def test_a_success_counts_at_every_radius_that_contains_it() -> None:
    """Also where the attack with the larger radius failed, and where a larger ball was not used up."""
    missed = [outcome("a", 0.1, True), outcome("a", 0.2, False), outcome("a", 0.4, False)]
    assert [point.robust for point in robust_share(missed)] == [0, 0, 0]
    unused = [outcome("a", 0.1, False), outcome("a", 0.2, False), outcome("a", 0.4, True, linf=0.15)]
    assert [point.robust for point in robust_share(unused)] == [1, 0, 0]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_counts_are_those_of_the_files(norm: Any, smooth: Classifier, tmp_path: Path) -> None:
    """The reference reads the images with PIL and NumPy, and evaluates the original network on each."""
    x = (torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 255).round() / 255
    labels = smooth.logits(x).argmax(1).tolist()
    labels[5] = (labels[5] + 1) % 5  # misclassified before the attack
    radii = [2 / 255, 6 / 255, 20 / 255] if norm == "linf" else [0.1, 0.4, 1.5]
    options: dict[str, Any] = {"attack": "pgd", "eps": radii, "norm": norm, "iterations": 3, "wandb": "disabled"}
    run = lv.attack(smooth, x, labels=labels, out=tmp_path / "run", **options)
    found: dict[int, list[float]] = {n: [] for n in range(6)}  # distances of the adversarial files
    for record in run.results:
        n = int(record["name"].split()[-1])
        image = np.asarray(Image.open(tmp_path / "run" / record["file"]).convert("RGB"), dtype=np.float64) / 255
        change = image - x[n].permute(1, 2, 0).double().numpy()
        distance = np.abs(change).max() if norm == "linf" else np.sqrt((change**2).sum())
        predicted = int(smooth.logits(torch.from_numpy(image).permute(2, 0, 1)[None].float()).argmax())
        if predicted != labels[n]:
            found[n].append(float(distance))
    expected = [sum(not any(d <= eps + 1e-6 for d in distances) for distances in found.values()) for eps in radii]
    assert [(point.robust, point.total) for point in robust_share(run.outcomes)] == [(n, 6) for n in expected]
    assert sorted(expected, reverse=True) == expected != [expected[0]] * 3
    points = json.loads((tmp_path / "run" / "evidence.json").read_text())["robustness"]["points"]
    assert [(point["robust"], point["photographs"]) for point in points] == [(n, 6) for n in expected]
    assert f"{expected[1]} of 6" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_matches_newcombe(successes, n, low, high):
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


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
