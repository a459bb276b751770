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

PHOTO = "packaged:chelsea"
IMAGE = torch.full((1, 3, 16, 16), 0.5)


def resolved(capsys: pytest.CaptureFixture[str], *words: str, lit_viz: Any, small_options: Any) -> Any:
    """Return the arguments of the module of a command."""
    lit_viz(*words, *small_options, "--print-config")
    return yaml.safe_load(capsys.readouterr().out)["module"]["init_args"]


def test_lr_is_a_short_option(capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any) -> None:
    assert (
        resolved(capsys, "visualize", "1", "--lr", "0.3", lit_viz=lit_viz, small_options=small_options)["step_rule"][
            "init_args"
        ]["lr"]
        == 0.3
    )
    assert (
        resolved(capsys, "attack", PHOTO, "--lr", "0.3", lit_viz=lit_viz, small_options=small_options)["attack"][
            "init_args"
        ]["lr"]
        == 0.3
    )
    words = ["attack", PHOTO, "--attack", "carlini_wagner", "--lr", "0.3"]
    assert resolved(capsys, *words, lit_viz=lit_viz, small_options=small_options)["attack"]["init_args"]["lr"] == 0.3


@pytest.mark.parametrize("is_file", [False, True])
def test_options_of_one_of_several_methods(
    is_file: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    given = ["--method", "gradient,smoothgrad"]
    if is_file:
        listed = [{"class_path": f"lit_viz.attributions.{name}"} for name in ("Gradient", "SmoothGrad")]
        config = {"module": {"init_args": {"method": listed}}}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
        given = ["--config", str(tmp_path / "own.yaml")]
    methods = resolved(
        capsys,
        "saliency",
        PHOTO,
        "--method.smoothgrad.sigma",
        "0.2",
        *given,
        lit_viz=lit_viz,
        small_options=small_options,
    )["method"]
    default = resolved(capsys, "saliency", PHOTO, *given, lit_viz=lit_viz, small_options=small_options)["method"]
    assert [method["class_path"] for method in methods] == [method["class_path"] for method in default]
    for before, after in zip(default, methods, strict=True):
        changed = {"sigma": 0.2} if after["class_path"].endswith("SmoothGrad") else {}
        assert (after.get("init_args") or {}) == {**(before.get("init_args") or {}), **changed}


def test_options_of_one_method_by_its_name(
    capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    words = ["saliency", PHOTO, "--method", "smoothgrad", "--method.sigma", "0.2"]
    assert resolved(capsys, *words, lit_viz=lit_viz, small_options=small_options)["method"]["init_args"]["sigma"] == 0.2


def test_python_options_have_the_same_names_and_suggestions(smooth: Network, tmp_path: Path) -> None:
    run = lv.visualize(smooth, [1], iterations=1, views=1, lr=0.3, out=tmp_path / "run", wandb="disabled")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["module"]["init_args"]["step_rule"]["init_args"]["lr"] == 0.3
    assert run.records[0]["forwards"] == lv.visualize(smooth, [1], iterations=1, views=1).records[0]["forwards"]
    lv.attack(smooth, IMAGE, label=[0], lr=0.3, iterations=1, out=tmp_path / "attack", wandb="disabled")
    config = yaml.safe_load((tmp_path / "attack" / "config.yaml").read_text())
    assert config["module"]["init_args"]["attack"]["init_args"]["lr"] == 0.3
    with pytest.raises(LitVizError, match=r"^batch_size is not an argument of .*: use slots$"):
        lv.visualize(smooth, [1], batch_size=3)
    with pytest.raises(LitVizError, match="lr is not an argument of AdversarialExample or PGD: use alpha"):
        lv.attack(smooth, IMAGE, label=[0], attack="pgd", lr=0.1)


def test_equal_names_at_every_door(
    smooth: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    """Keywords, options with dashes or underscores, dotted names and a configuration give the same form."""
    lv.visualize(smooth, [1], iterations=3, curve_at="every:2", lr=0.3, out=tmp_path / "run", logger="none")
    keywords = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["module"]["init_args"]
    doors = [
        ["--iterations", "3", "--curve-at", "every:2", "--lr", "0.3"],
        ["--iterations=3", "--curve_at=every:2", "--step-rule.lr=0.3"],
        ["--iterations", "3", "--curve-at", "every:2", "--step_rule.lr", "0.3"],
        ["--config", str(tmp_path / "run" / "config.yaml")],
    ]
    for words in doors:
        options = resolved(capsys, "visualize", "1", *words, lit_viz=lit_viz, small_options=small_options)
        assert options == keywords
