from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from lit_viz.errors import LitVizError, did_you_mean, place_of, require


def test_near_names_are_offered() -> None:
    names = ["iterations", "seed", "tarantula", "wolf spider"]
    assert did_you_mean("itrations", names) == "; did you mean 'iterations'?"
    assert did_you_mean("TARANT", names) == "; did you mean 'tarantula'?"
    assert did_you_mean("seed_of_everything", names) == "; did you mean 'seed'?"
    assert did_you_mean("xyz", names) == ""
    assert did_you_mean("pdg", ["pgd", "apgd", "ddn"]) == "; did you mean 'pgd'?"


@pytest.mark.parametrize(
    ("name", "best"), [("hey", "hay"), ("quali", "quail"), ("tarantla", "tarantula"), ("hays", "hay")]
)
def test_the_name_with_the_least_typing_errors_is_the_first(name: str, best: str) -> None:
    choices = ["they", "heyday", "hayfield", "quail egg", "hay", "quail", "tarantula"]
    assert did_you_mean(name, choices).startswith(f"; did you mean {best!r}")


def test_an_option_is_suggested_with_its_dashes() -> None:
    options = ["--attack", "--out", "--seed"]
    assert did_you_mean("--atack", options) == "; did you mean --attack?"
    assert did_you_mean("--xyz", options) == ""


@pytest.mark.parametrize("value", ["'" + "two words " * 30 + "'", str(list(range(100))), "x" * 300])
def test_a_long_value_is_shortened(value: str) -> None:
    message = str(LitVizError(f"class must be a name or an index, got {value}: see lit-viz classes"))
    assert message == (f"class must be a name or an index, got {value[:60]} ... {value[-20:]}: see lit-viz classes")


def test_tensors_and_arrays_in_messages_are_shortened() -> None:
    tensor = torch.rand(3, 20, 20)
    for value in (tensor, [tensor], tensor.numpy()):
        message = str(LitVizError(f"layers must be text, got {value!r}: see lit-viz layers"))
        assert len(message) < 200
        assert message.endswith("see lit-viz layers")


def test_a_message_of_short_values_is_unchanged() -> None:
    names = ", ".join(f"'name {i}'" for i in range(50))
    path = "/folder" * 40
    message = f"file 'a' doesn't exist: choose one of {names}, or continue with: lit-viz resume {path}"
    assert str(LitVizError(message)) == message
    quoted = f"continue with: lit-viz resume '{path} of photographs/{'x' * 255}'"
    assert str(LitVizError(quoted)) == quoted


def test_an_unmet_constraint_is_stated_with_its_values() -> None:
    require(True, "p must be positive", 1)
    with pytest.raises(LitVizError) as caught:
        require(False, "0 < low <= high is required", 2.0, 1.0, hint="try 0.5")
    assert str(caught.value) == "0 < low <= high is required, got 2.0 and 1.0: try 0.5"
    with pytest.raises(LitVizError, match=r"got -1$"):
        require(False, "p must be positive", -1)


@pytest.mark.parametrize("folder", ["lit_viz", "mine"])
def test_the_place_of_an_error_is_in_the_file_of_the_user_wherever_it_lies(folder: str, tmp_path: Path) -> None:
    """A clone of the project is often in a folder ``lit_viz``, as the package is."""
    file = tmp_path / folder / "net.py"
    file.parent.mkdir()
    file.write_text("from lit_viz.errors import require\n\nrequire(False, 'p must be positive', 1)\n")
    with pytest.raises(LitVizError) as caught:
        runpy.run_path(str(file))
    assert place_of(caught.value) == "net.py:3"
