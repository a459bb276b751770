"""``lit-viz check`` of class images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.evidence.judges import installed_judges
from lit_viz.networks import Network
from lit_viz.objectives import Logit
from lit_viz.optim import Evaluate, State, StepRule
from lit_viz.optim.rule import never
from lit_viz.outputs import load_network
from lit_viz.presentations.class_visualization import ClassVisualizationPresentation
from tests.support.networks import NAMES, smooth_network


def test_check_reads_the_pictures_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, records: Any, reseal: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    lit_viz("visualize", "0", "3", *small_options, "--iterations", "12", "--out", str(run))
    lit_viz("check", str(run))
    assert "evidence: 2 of 2 files classified as recorded" in capsys.readouterr().err
    held = json.loads((run / "evidence.json").read_text())["pictures"]
    assert [verdict["probability"] for verdict in held["verdicts"]] == pytest.approx(
        [record["probability"] for record in records(run)], abs=1e-3
    )
    file = run / records(run)[0]["file"]
    Image.fromarray(np.zeros_like(np.asarray(Image.open(file)))).save(file)
    reseal(run)
    lit_viz("check", str(run), expect=1)
    assert json.loads((run / "evidence.json").read_text())["pictures"]["same"] == 1


def test_next_steps_name_no_missing_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    broken = ["--network", "tests.launch.test_visualize_command:broken_network", *small_options[2:]]
    lit_viz("visualize", "0", *broken, "--iterations", "2", "--out", str(run), expect=1)
    lit_viz("check", str(run))
    assert "evidence: No image was verified." in capsys.readouterr().err


def broken_network() -> nn.Module:
    """A network whose logits are no numbers."""
    network = smooth_network()
    for parameter in network.parameters():
        nn.init.constant_(parameter, torch.nan)
    return network


def test_a_canvas_of_another_shape_is_resized_for_all_networks(smooth: Network) -> None:
    """The record describes the resized canvas, as in the training."""
    run = lv.visualize(smooth, [1], iterations=8, views=2, size=(16, 48))
    assert run.images.shape[-2:] == (16, 48)
    stretched = interpolate(run.images, (16, 16), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    expected = float(smooth.scores(stretched).softmax(1)[0, 1])
    assert run.records[0]["probability"] == pytest.approx(expected, abs=1e-4)


class Still(StepRule):
    """A rule without a learning rate."""

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        return x, state, never(x)


def test_a_rate_can_not_vary_where_the_rule_has_none(smooth: Network) -> None:
    with pytest.raises(LitVizError, match=r"^vary of lr requires a step rule with a learning rate, got Still"):
        lv.visualize(smooth, [1], iterations=2, step_rule=Still(), vary={"lr": [0.01, 0.5]})


def test_varied_options_are_drawn_as_a_grid(smooth: Network) -> None:
    options: dict[str, Any] = {"views": 1, "vary": {"lr": [0.01, 0.5], "iterations": [1, 2, 3]}}
    run = lv.visualize(smooth, [1, 2], **options)
    assert [record["lr"] for record in run.records] == [0.01] * 3 + [0.5] * 3 + [0.01] * 3 + [0.5] * 3
    figure = run.figure()
    texts = [text.get_text() for text in figure.texts]
    for text, count in {"banana": 2, "cherry": 2, "lr 0.01": 2, "lr 0.5": 2}.items():
        assert texts.count(text) == count
    assert all(texts.count(f"iterations {k}") == 1 for k in (1, 2, 3))
    drawn = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert len(drawn) == 12
    for picture, image in zip(drawn, run.images, strict=True):
        assert np.array_equal(picture, image.mul(255).round().byte().permute(1, 2, 0).numpy())
    layer = lv.visualize(
        smooth,
        iterations=2,
        views=1,
        layer="features.3",
        channel="1,2",
        vary={"lr": [0.01, 0.5]},
        config="channels",
    )
    texts = [text.get_text() for text in layer.figure().texts]
    assert {"features.3_ch1", "features.3_ch2", "lr 0.01", "lr 0.5"} <= set(texts)
    assert sum(text.startswith("objective ") for text in texts) == 4


def test_an_image_of_varied_options_is_that_of_a_run_of_its_own(smooth: Network) -> None:
    grid = lv.visualize(smooth, [0, 3], views=1, vary={"lr": [0.05, 0.4], "iterations": [4, 9]})
    records = [(r["target"], r["seed"], r["lr"], r["iterations"]) for r in grid.records]
    assert records == [(c, seed, lr, k) for c, seed in ((0, 0), (3, 1)) for lr in (0.05, 0.4) for k in (4, 9)]
    alone = lv.visualize(smooth, [0], views=1, step_rule="Adam", lr=0.4, iterations=9)
    assert (alone.images[0] - grid.images[3]).abs().max() <= 2 / 255  # arithmetic depends on the batch
    assert (alone.images[0] - grid.images[1]).abs().max() > 20 / 255


def test_captions_of_images_of_one_class_have_iterations_and_seed(smooth: Network, tmp_path: Path) -> None:
    how: dict[str, Any] = {"views": 1, "config": "small"}

    def names(run: lv.Run) -> list[str]:
        evolutions = ClassVisualizationPresentation().evolutions(run.outcomes)
        return [evolution.name.removesuffix(" (not recognized)") for evolution in evolutions]

    seeds = [f"banana, {k} iterations, seed {seed}" for seed in (0, 1) for k in (2, 3)]
    run = lv.visualize(smooth, [1, 1, 2], vary={"iterations": [2, 3]}, **how)
    assert names(run) == [*seeds, "cherry, 2 iterations", "cherry, 3 iterations"]
    assert names(lv.visualize(smooth, [1, 2], iterations=2, **how)) == NAMES[1:3]
    twice = lv.visualize(smooth, layer="features.3", channel="3,3,4", iterations=2, **how)
    texts = [text.get_text() for text in twice.figure().texts]
    assert [text for text in texts if text.startswith(("features.3", "3", "4"))] == [
        "features.3 · 2 channels",
        "3, seed 0",
        "3, seed 1",
        "4",
    ]


def test_images_of_an_objective_without_class_have_no_class_name(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lit_viz: Any,
    records: Any,
    sentence: Any,
    small_options: Any,
) -> None:
    run = tmp_path / "run"
    fixed = ["--objective", "Logit", "--objective.target", "2"]
    lit_viz("visualize", *small_options, *fixed, "--iterations", "2", "--out", str(run))
    (record,) = records(run)
    assert (record["name"], record.get("target")) == ("Logit", None)
    capsys.readouterr()
    lit_viz("visualize", "0", *small_options, *fixed, "--count", expect=1)
    assert "--target requires an objective of a class, got Logit: leave one out" in sentence(capsys)
    with pytest.raises(LitVizError, match="must be a class of Smooth, from 0 to 4, got 7"):
        lv.visualize(load_network(smooth_network(), mean=0.5, std=0.5, size=16), objective=Logit(7))


def test_judges_take_images_of_as_many_channels(lite0: Network) -> None:
    """A gray network with the labels of ImageNet has no judges."""
    grey = load_network(smooth_network(channels=1, classes=1000), labels=lite0.labels, mean=0.5, std=0.5, size=16)
    assert installed_judges(grey) == ()


def test_ignored_options_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    """Iterations after the last one, and a parameterization that does not preserve the photograph."""
    words = ["visualize", "0", *small_options, "--iterations", "4", "--log-at", "2,9,300", "--curve-at", "1,4"]
    lit_viz(*words, "--vary", '{"iterations": [3, 9]}', "--out", str(tmp_path / "run"))
    printed = capsys.readouterr().err
    assert "log_at=300 is not reached: the last iteration is 9" in printed
    assert "curve_at" not in printed
    photograph = ["--init", "packaged:chelsea"]
    lit_viz(*words, *photograph, "--parameterization", "MACO", "--out", str(tmp_path / "phases"))
    printed = capsys.readouterr().err
    assert "log_at=9,300 is not reached: the last iteration is 4" in printed
    assert "MACO does not preserve the photograph: it keeps its phases only" in printed
    assert "training starts from the photograph" not in printed
    lit_viz(*words, *photograph, "--out", str(tmp_path / "photograph"))
    assert "training starts from the photograph to within" in capsys.readouterr().err


def test_an_empty_folder_name_is_rejected(
    capsys: pytest.CaptureFixture[str], smooth: Network, lit_viz: Any, sentence: Any, small_options: Any
) -> None:
    lit_viz("visualize", "0", *small_options, "--out", "", expect=1)
    assert sentence(capsys) == "lit-viz: --out must not be empty, got ''"
    with pytest.raises(LitVizError, match=r"^out must not be empty"):
        lv.visualize(smooth, [1], out="")
