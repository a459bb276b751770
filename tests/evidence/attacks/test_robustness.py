"""Robust accuracy, against counts from the files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lit_viz as lv
from lit_viz.evidence.attacks.robustness import RobustAccuracy, robust_share, wilson_interval
from lit_viz.networks import Network
from lit_viz.runs.records import AdversarialRecord
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
    assert point == RobustAccuracy(0.1, 1, 2)
    assert (point.accuracy, point.interval) == (0.5, wilson_interval(1, 2))
    assert str(point) == "1 of 2 (95 %: 9% to 91%)"


def test_radii_are_separate_and_failed_tasks_are_omitted() -> None:
    outcomes = [outcome("a", 0.2, True), outcome("a", 0.1, False), outcome("b", 0.1, False, "failed")]
    outcomes.append(outcome("c", 0.1, False, "skipped"))
    assert robust_share(outcomes) == [RobustAccuracy(0.1, 1, 2), RobustAccuracy(0.2, 0, 1)]


def test_a_success_counts_at_every_radius_that_contains_it() -> None:
    """Also where the attack with the larger radius failed, and where a larger ball was not used up."""
    missed = [outcome("a", 0.1, True), outcome("a", 0.2, False), outcome("a", 0.4, False)]
    assert [point.robust for point in robust_share(missed)] == [0, 0, 0]
    unused = [outcome("a", 0.1, False), outcome("a", 0.2, False), outcome("a", 0.4, True, linf=0.15)]
    assert [point.robust for point in robust_share(unused)] == [1, 0, 0]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_counts_are_those_of_the_files(norm: Any, smooth: Network, tmp_path: Path) -> None:
    """The reference reads the images with PIL and NumPy, and evaluates the original network on each."""
    x = (torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 255).round() / 255
    labels = smooth.scores(x).argmax(1).tolist()
    labels[5] = (labels[5] + 1) % 5  # misclassified before the attack
    radii = [2 / 255, 6 / 255, 20 / 255] if norm == "linf" else [0.1, 0.4, 1.5]
    options: dict[str, Any] = {"attack": "pgd", "eps": radii, "norm": norm, "iterations": 3, "wandb": "disabled"}
    with pytest.warns(UserWarning, match="3 skipped of 18 images: image 5: predicted as"):
        run = lv.attack(smooth, x, label=labels, out=tmp_path / "run", **options)
    found: dict[int, list[float]] = {n: [] for n in range(6)}  # distances of the adversarial files
    for record in run.records:
        n = int(record["name"].split()[-1])
        image = np.asarray(Image.open(tmp_path / "run" / record["file"]).convert("RGB"), dtype=np.float64) / 255
        change = image - x[n].permute(1, 2, 0).double().numpy()
        distance = np.abs(change).max() if norm == "linf" else np.sqrt((change**2).sum())
        predicted = int(smooth.scores(torch.from_numpy(image).permute(2, 0, 1)[None].float()).argmax())
        if predicted != labels[n]:
            found[n].append(float(distance))
    expected = [sum(not any(d <= eps + 1e-6 for d in distances) for distances in found.values()) for eps in radii]
    assert [(point.robust, point.total) for point in robust_share(run.outcomes)] == [(n, 6) for n in expected]
    assert sorted(expected, reverse=True) == expected != [expected[0]] * 3
    points = json.loads((tmp_path / "run" / "evidence.json").read_text())["robustness"]["points"]
    assert [(point["robust"], point["photographs"]) for point in points] == [(n, 6) for n in expected]
    assert f"{expected[1]} of 6" in (tmp_path / "run" / "report.html").read_text()
    accuracy = run.robust_accuracy
    assert list(accuracy) == [point["eps"] for point in points]
    assert [point.robust for point in accuracy.values()] == expected


@pytest.fixture(scope="module")
def one_radius(smooth: Network, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[int]]:
    """Return a run of one radius with two misclassified photographs of eight, and the labels."""
    x = (torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 255).round() / 255
    labels = smooth.scores(x).argmax(1).tolist()
    for n in (2, 5):
        labels[n] = (labels[n] + 1) % 5
    options: dict[str, Any] = {"attack": "pgd", "eps": "3/255", "iterations": 3, "logger": "csv"}
    with pytest.warns(UserWarning, match="2 skipped of 8 images"):
        run = lv.attack(smooth, x, label=labels, out=tmp_path_factory.mktemp("runs") / "run", **options)
    return run, labels


def test_misclassified_photographs_are_not_robust_at_one_radius(
    smooth: Network, one_radius: tuple[Any, list[int]]
) -> None:
    """The reference reads the files with PIL: ``1 - mean(success_file)`` would count misclassified ones as robust."""
    run, labels = one_radius
    robust = fooled = 0
    for record, label in zip(run.records, labels, strict=True):
        image = np.asarray(Image.open(run.folder / record["file"]).convert("RGB"), dtype=np.float64) / 255
        predicted = int(smooth.scores(torch.from_numpy(image).permute(2, 0, 1)[None].float()).argmax())
        robust += predicted == label
        if record["status"] == "skipped":
            flags = ("success_float", "success_file", "success_jpeg95", "success_jpeg75")
            assert [record[flag] for flag in flags] == [None] * 4
        else:
            fooled += predicted != label
    assert 0 < robust < 6
    accuracy = run.robust_accuracy
    assert (accuracy.robust, accuracy.total, accuracy.accuracy) == (robust, 8, robust / 8)
    assert accuracy.eps == pytest.approx(3 / 255)
    assert accuracy.interval == wilson_interval(robust, 8)
    assert run.evidence.files.read == 6
    assert run.evidence.files.fooled == fooled == 6 - robust


def test_the_same_number_is_in_evidence_report_figure_and_loggers(one_radius: tuple[Any, list[int]]) -> None:
    run, _ = one_radius
    robust, fooled = run.robust_accuracy.robust, run.evidence.files.fooled
    (point,) = run.evidence.robustness.points
    assert run.evidence.robustness.what == "robust accuracy"
    assert (point.eps, point.robust, point.photographs, point.share) == ("3/255", robust, 8, robust / 8)
    page = (run.folder / "report.html").read_text()
    assert f"Robust accuracy at eps 3/255, L∞ norm: {run.robust_accuracy}." in page
    assert f"{fooled} of 6 files fool the original network, re-read from the disk (2 skipped); all match" in page
    caption = " ".join(text.get_text().replace("\n", " ") for text in run.figure().texts)
    assert f"{fooled} of 6 fooled in the file" in caption
    with (run.folder / "csv" / "metrics.csv").open() as stream:
        *_, summary = csv.DictReader(stream)
    assert float(summary["robust/eps 3/255"]) == robust / 8
    assert float(summary["fooled/file"]) == fooled / 6


def test_a_file_that_is_not_as_recorded_counts_nowhere(smooth: Network, tmp_path: Path, reseal: Any) -> None:
    """Its photograph is in no count of the run or of the evidence."""
    x = (torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 255).round() / 255
    labels = smooth.scores(x).argmax(1).tolist()
    options: dict[str, Any] = {"attack": "pgd", "eps": 60 / 255, "iterations": 20, "logger": None}
    run = lv.attack(smooth, x, label=labels, out=tmp_path / "run", **options)
    assert (run.robust_accuracy.robust, run.robust_accuracy.total) == (0, 4)
    (run.folder / run.records[1]["file"]).write_bytes((run.folder / "sources" / "0001_image_1.png").read_bytes())
    reseal(run.folder)
    assert not run.check()
    assert (run.robust_accuracy.robust, run.robust_accuracy.total) == (0, 3)
    assert run.evidence.robustness.points[0].photographs == 3


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"attack": "pgd", "label": [0, 1], "target": [1, 2]}, "targets"),
        ({"attack": "pgd"}, "predicted labels: give label"),
        ({"attack": "ddn", "label": [0, 1]}, "no file within a ball"),
    ],
)
@pytest.mark.filterwarnings("ignore:. skipped of 2 images")
def test_robust_accuracy_requires_an_untargeted_attack_with_a_radius(
    options: dict[str, Any], got: str, smooth: Network
) -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    run = lv.attack(smooth, x, iterations=1, **options)
    with pytest.raises(lv.LitVizError, match=f"robust_accuracy requires an untargeted attack.*got {got}$"):
        _ = run.robust_accuracy


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
