"""Comparisons of methods and attacks: estimates, intervals, paired differences, table and figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

import lit_viz as lv
from lit_viz.cli import main
from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks.robustness import wilson_interval
from lit_viz.evidence.measures import Measure, are_best
from lit_viz.networks import Network

PHOTOGRAPHS = (torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 255).round() / 255


def measure(values: Any, better: Any = "higher", **options: Any) -> Measure:
    return Measure("insertion", dict(enumerate(values)), better, **options)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_intervals_are_those_of_the_bootstrap(statistic: Any) -> None:
    values = np.random.default_rng(1).gamma(2.0, size=40)
    function = getattr(np, statistic)
    estimate = measure(values, statistic=statistic).estimate()
    expected = bootstrap((values,), function, n_resamples=9999, method="percentile", rng=3).confidence_interval
    assert estimate.value == pytest.approx(function(values))
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), rel=0.05)
    assert estimate.count == 40


def test_intervals_of_shares_are_wilsons() -> None:
    estimate = measure([1, 0, 1, 1, float("nan")]).estimate()
    assert (estimate.value, estimate.count) == (0.75, 4)
    assert (estimate.low, estimate.high) == wilson_interval(3, 4)


def test_differences_are_paired() -> None:
    """The means differ by less than their intervals, but each photograph's values in one direction."""
    values = np.random.default_rng(0).normal(0, 10, 30)
    best, worse = measure(values), measure(values - 0.5 - 0.1 * np.arange(30) / 30)
    assert best.estimate().low < worse.estimate().value
    assert are_best([best, worse, None]) == [True, False, False]
    assert are_best([worse, best]) == [False, True]
    assert are_best([measure(values, "lower"), measure(values - 1, "lower")]) == [False, True]
    assert are_best([best, measure(values + (-1.0) ** np.arange(30))]) == [True, True]
    assert are_best([measure(values, None), worse]) == [False, False]
    assert are_best([best]) == [False]


def test_values_over_fewer_photographs_are_not_compared() -> None:
    """The median of an attack that fools the two easy photographs is below that of one that fools all."""
    few, many = measure([1.0, 2.0], "lower"), measure([1.5, 2.5, 9.0, 9.0], "lower")
    assert are_best([few, many]) == [False, False]
    assert are_best([few, many, measure([1.4, 2.4, 8.0, 8.0], "lower")]) == [False, False, True]
    unknown = measure([1.0, 2.0, float("nan"), float("inf")], "lower")
    assert are_best([unknown, many]) == [False, False]
    assert are_best([Measure("insertion", {"other": 1.0}, "lower"), few]) == [False, False]


def test_a_single_radius_has_no_curve(smooth: Network, figures: Any) -> None:
    options: dict[str, Any] = {"label": smooth.scores(PHOTOGRAPHS).argmax(1).tolist(), "logger": "none"}
    attacks = [lv.attacks.PGD(eps="4/255"), lv.attacks.PGD(eps="4/255", restarts=1)]
    comparison = lv.attack(smooth, PHOTOGRAPHS, attack=attacks, iterations=2, **options)
    texts = figures.texts(comparison.figure())
    assert "robust accuracy at L∞ 4/255 ↓" in texts
    assert not any("eps, L∞" in text for text in texts)


def test_faithfulness_is_stated_by_method(smooth: Network, figures: Any, tmp_path: Path) -> None:
    labels = smooth.scores(PHOTOGRAPHS).argmax(1).tolist()
    options: dict[str, Any] = {"label": labels[:3], "captum": "none", "logger": "none"}
    methods = [lv.attributions.SmoothGrad(0.05), lv.attributions.SmoothGrad(0.5)]
    out = tmp_path / "run"
    run = lv.saliency(smooth, PHOTOGRAPHS[:3], method=methods, iterations=2, out=out, faithfulness=True, **options)
    assert sorted(path.name for path in out.glob("comparison.*")) == ["comparison.csv", "comparison.png"]
    assert "comparison.png" in (out / "report.html").read_text()
    assert lv.check(out, smooth)
    frame = run.faithfulness().to_pandas()
    assert frame["method"].tolist() == ["SmoothGrad, sigma 0.05", "SmoothGrad, sigma 0.5", "random map (control)"]
    assert frame["photographs"].tolist() == [3, 3, 3]
    metrics = run.evidence.faithfulness
    assert metrics is not None
    areas = [entry.insertion["area"] for entry in metrics.maps]
    assert frame["insertion"].tolist()[:2] == pytest.approx([np.mean(areas[:3]), np.mean(areas[3:])])
    assert (frame["insertion_low"] <= frame["insertion"]).all()
    figure = run.faithfulness().figure()
    assert "insertion ↑" in figures.texts(figure)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == frame["method"].tolist()
    other = lv.saliency(smooth, PHOTOGRAPHS[:3], method="gradient", **options)
    table = lv.compare([out, other]).table()
    assert "gradient" in table
    assert "SmoothGrad" in table
    assert other.faithfulness().rows[0]["insertion_count"] == 3
    with pytest.raises(LitVizError, match="faithfulness does not apply to adversarial examples"):
        lv.attack(smooth, PHOTOGRAPHS[:1], faithfulness=True)


def test_attacks_are_compared_at_their_radii_by_the_command(
    smooth: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The distances of files that minimize the change give the robust accuracy at any radius."""
    labels = smooth.scores(PHOTOGRAPHS).argmax(1).tolist()
    labels[5] = (labels[5] + 1) % 5  # misclassified before the attack
    folders = []
    for attack, options in {"pgd": {"eps": ["4/255", "16/255"]}, "fmn": {"norm": "linf"}, "ddn": {}}.items():
        folders.append(str(tmp_path / attack))
        arguments: dict[str, Any] = {"label": labels, "attack": attack, "iterations": 10, "logger": "none"} | options
        with pytest.warns(UserWarning, match="skipped"):
            run = lv.attack(smooth, PHOTOGRAPHS, out=folders[-1], **arguments)
        if attack == "fmn":
            distances = [record.linf for record in run.records if record.success_file]
    main(["compare", *folders, "--out", str(tmp_path / "table")])
    assert "comparison.png" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "table").iterdir()) == ["comparison.csv", "comparison.png"]
    rows = {row["method"]: row for row in lv.compare(folders).rows}
    for radius in (4, 16):
        robust = 5 - sum(distance <= radius / 255 * (1 + 1e-6) for distance in distances)
        title = f"robust accuracy at L∞ {radius}/255"
        assert rows["fmn"][f"{title}_count"] == rows["fmn"]["photographs"] == 6
        assert rows["fmn"][title] == pytest.approx(robust / 6)
        low, high = wilson_interval(robust, 6)
        assert (rows["fmn"][f"{title}_low"], rows["fmn"][f"{title}_high"]) == pytest.approx((low, high))
        assert rows["ddn"][title] is None  # which minimizes the other norm
    assert rows["fmn"]["fooled in the file_count"] == 5
    assert "n=5" in lv.compare(folders).table()
    assert "robust accuracy at L2 0.5" in lv.compare(folders[2], eps=0.5).rows[0]


def test_folders_without_a_run_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LitVizError, match="is not a lit_viz run"):
        lv.compare(tmp_path / "missing")


def test_several_attacks_are_a_run_each_and_compared(smooth: Network, tmp_path: Path) -> None:
    labels = smooth.scores(PHOTOGRAPHS).argmax(1).tolist()
    attacks = ["pgd", lv.attacks.PGD(alpha=0.001, restarts=1), "ddn"]
    options: dict[str, Any] = {"label": labels, "iterations": 4, "eps": "4/255", "logger": "none"}
    with pytest.raises(LitVizError, match="eps must be an argument of the instance"):
        lv.attack(smooth, PHOTOGRAPHS, attack=attacks, **options)
    attacks[1] = lv.attacks.PGD(eps="4/255", alpha=0.001, restarts=1)
    del options["eps"]
    comparison = lv.attack(smooth, PHOTOGRAPHS, attack=attacks, out=tmp_path / "all", **options)
    assert [run.records[0]["attack"] for run in comparison.runs] == ["pgd", "pgd", "ddn"]
    assert [run.folder.name for run in comparison.runs] == ["pgd", "pgd_2", "ddn"]
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        "pgd", "pgd_2", "ddn", "comparison.csv", "comparison.png",
    }  # fmt: skip
    again = lv.compare([tmp_path / "all" / name for name in ("pgd", "pgd_2", "ddn")])
    assert [row["fooled in the file"] for row in again.rows] == [row["fooled in the file"] for row in comparison.rows]
    alone = lv.attack(smooth, PHOTOGRAPHS, attack="ddn", **options)
    assert torch.equal(alone.images, comparison.runs[2].images)


def test_the_command_runs_several_attacks_at_the_radius_of_those_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "90")
    words = ["attack", "zoo:fashion/bag_18", "zoo:fashion/coat_6", "--network", "zoo/fashion_cnn", "--logger", "none"]
    words += ["--eps", "2/255,4/255", "--attack.pgd.alpha", "1/255", "--iterations", "2", "--out", "all"]
    words += ["--attack", "fgsm,pgd,ddn"]
    main([*words, "--count"])
    assert not Path("all").exists()
    main(words)
    printed = capsys.readouterr().out
    table = printed[printed.index("method ") :].splitlines()
    assert max(len(line) for line in table if not line.startswith(("*", "n:", "results"))) <= 90
    assert "robust at L∞ 4/255" in table[0]
    assert [line.split()[0] for line in table if line][:4] == ["method", "fgsm", "pgd", "ddn"]
    assert "results  all/comparison.csv" in printed
    main([*words, "--resume"])
    assert capsys.readouterr().out.endswith("results  all/comparison.png\n")
    with pytest.raises(SystemExit):
        main([*words[:-1], "pgd,dnd"])
    assert "there is no attack 'dnd'; did you mean 'ddn'?" in capsys.readouterr().err


def test_the_command_states_the_table_of_methods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["saliency", "zoo:fashion/bag_18", "--network", "zoo/fashion_cnn", "--logger", "none", "--captum", "none"]
    main([*words, "--method", "gradient,input_x_gradient", "--out", "maps", "--faithfulness"])
    printed = capsys.readouterr()
    assert "random map (control)" in printed.err
    assert "figure   maps/comparison.png" in printed.out
