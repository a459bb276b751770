"""Short options and names of other tools, on the command line and in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.networks import Network

IMAGE = torch.full((1, 3, 16, 16), 0.5)


def resolved(capsys: pytest.CaptureFixture[str], *words: str, lit_viz: Any, small_options: Any) -> Any:
    lit_viz(*words, *small_options, "--print_config")
    return yaml.safe_load(capsys.readouterr().out)["model"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("saliency", "--steps", "3"), "--steps is not available: use --iterations"),
        (("attack", "--epsilon=4/255"), "--epsilon is not available: use --eps"),
        (("visualize", "--batch-size", "2"), "--batch_size is not available: use --slots"),
        (("saliency", "--methods", "gradient"), "unrecognized option --methods; did you mean --method?"),
        (("attack", "--attack", "pgd", "--lr", "0.1"), "PGD has no option lr; did you mean 'alpha'?"),
        (("saliency", "--method.smoothgrad.sigma", "0.2"), "--method.smoothgrad.sigma requires --method smoothgrad"),
        (
            ("saliency", "--method", "gradient,smoothgrad", "--method.smoothgrad.sgma", "0.2"),
            "SmoothGrad has no option sgma; did you mean 'sigma'?",
        ),
    ],
)
def test_option_names_of_other_tools_get_a_suggestion(
    words: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    lit_viz: Any,
    sentence: Any,
    small_options: Any,
) -> None:
    lit_viz(*words, *small_options, expect=1)
    assert sentence(capsys) == f"lit-viz: {message}"


def test_lr_is_a_short_option(capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any) -> None:
    assert (
        resolved(capsys, "visualize", "1", "--lr", "0.3", lit_viz=lit_viz, small_options=small_options)["step_rule"][
            "init_args"
        ]["lr"]
        == 0.3
    )
    assert (
        resolved(capsys, "attack", "x.png", "--lr", "0.3", lit_viz=lit_viz, small_options=small_options)["attack"][
            "init_args"
        ]["lr"]
        == 0.3
    )
    words = ["attack", "x.png", "--attack", "carlini_wagner", "--lr", "0.3"]
    assert resolved(capsys, *words, lit_viz=lit_viz, small_options=small_options)["attack"]["init_args"]["lr"] == 0.3


@pytest.mark.parametrize("given", [["--method", "gradient,smoothgrad"], ["--config", "compare_methods"]])
def test_options_of_one_of_several_methods(
    given: list[str], capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    methods = resolved(
        capsys,
        "saliency",
        "x.png",
        "--method.smoothgrad.sigma",
        "0.2",
        *given,
        lit_viz=lit_viz,
        small_options=small_options,
    )["method"]
    default = resolved(capsys, "saliency", "x.png", *given, lit_viz=lit_viz, small_options=small_options)["method"]
    assert [method["class_path"] for method in methods] == [method["class_path"] for method in default]
    for before, after in zip(default, methods, strict=True):
        changed = {"sigma": 0.2} if after["class_path"].endswith("SmoothGrad") else {}
        assert (after.get("init_args") or {}) == {**(before.get("init_args") or {}), **changed}


def test_options_of_one_method_by_its_name(
    capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    words = ["saliency", "x.png", "--method", "smoothgrad", "--method.smoothgrad.sigma", "0.2"]
    assert resolved(capsys, *words, lit_viz=lit_viz, small_options=small_options)["method"]["init_args"]["sigma"] == 0.2


def test_python_options_have_the_same_names_and_suggestions(smooth: Network, tmp_path: Path) -> None:
    run = lv.visualize(smooth, [1], iterations=1, views=1, lr=0.3, out=tmp_path / "run", wandb="disabled")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model"]["step_rule"]["init_args"]["lr"] == 0.3
    assert run.records[0]["forwards"] == lv.visualize(smooth, [1], iterations=1, views=1).records[0]["forwards"]
    lv.attack(smooth, IMAGE, label=[0], lr=0.3, iterations=1, out=tmp_path / "attack", wandb="disabled")
    config = yaml.safe_load((tmp_path / "attack" / "config.yaml").read_text())
    assert config["model"]["attack"]["init_args"]["lr"] == 0.3
    with pytest.raises(LitVizError, match=r"^epsilon is not an argument: use eps$"):
        lv.attack(smooth, IMAGE, label=[0], epsilon=0.1)
    with pytest.raises(LitVizError, match=r"^steps is not an argument: use iterations$"):
        lv.saliency(smooth, IMAGE, target=1, steps=3)
    with pytest.raises(LitVizError, match=r"^batch_size is not an argument: use slots$"):
        lv.visualize(smooth, [1], batch_size=3)
    with pytest.raises(LitVizError, match="lr is not an argument of AdversarialExample or PGD; did you mean 'alpha'"):
        lv.attack(smooth, IMAGE, label=[0], attack="pgd", lr=0.1)
