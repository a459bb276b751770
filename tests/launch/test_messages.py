"""Errors of the library name arguments; the command line shows their options."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.errors import LitVizError, require
from lit_viz.networks import Network
from lit_viz.networks.labels import find_class

PHOTO = "packaged:chelsea"


@pytest.mark.parametrize(
    ("message", "argument", "expected"),
    [
        ("iterations must be at least 1, got 0", "iterations", "--iterations must be at least 1, got 0"),
        ("log_at must be iterations", "log_at", "--log-at must be iterations"),
        ("network.size must be positive", "network.size", "--network.size must be positive"),
        ("the size is odd", None, "the size is odd"),
        ("the size is odd", "size", "the size is odd"),  # not at the beginning
        ("sizes must be even", "size", "sizes must be even"),  # another word
    ],
)
def test_an_error_has_the_option_of_its_argument(message: str, argument: str | None, expected: str) -> None:
    error = LitVizError(message, argument=argument)
    assert str(error) == message
    assert error.as_option == expected


def test_a_constraint_begins_with_its_argument() -> None:
    with pytest.raises(LitVizError) as error:
        require(False, "log_at must be positive", -1, hint="try 1")
    assert str(error.value) == "log_at must be positive, got -1: try 1"
    assert (error.value.argument, error.value.value) == ("log_at", -1)
    assert error.value.as_option.startswith("--log-at must")


@pytest.mark.parametrize(
    ("command", "name", "value", "constraint"),
    [
        ("visualize", "iterations", 0, "iterations must be at least 1, got 0"),
        ("visualize", "devices_mode", "both", "devices_mode must be "),
        ("saliency", "checkpoint_every", 0, "checkpoint_every must be at least 1, got 0"),
        ("attack", "eps", -1, "eps of PGD must be 0 or more and finite, got -1"),
    ],
)
def test_both_doors_name_the_argument(
    command: str,
    name: str,
    value: Any,
    constraint: str,
    smooth: Network,
    capsys: pytest.CaptureFixture[str],
    lit_viz: Any,
    sentence: Any,
    small_options: Any,
) -> None:
    first: Any = torch.rand(1, 3, 16, 16)
    words = [PHOTO]
    options: dict[str, Any] = {"label": 0, "attack": "pgd"} if command == "attack" else {"target": 1}
    if command == "visualize":
        first, words, options = [1], ["1"], {}
    with pytest.raises(LitVizError) as error:
        getattr(lv, command)(smooth, first, **options, **{name: value})
    assert str(error.value).startswith(constraint)
    words += [word for option, given in options.items() for word in (f"--{option}", str(given))]
    lit_viz(command, *words, *small_options, f"--{name.replace('_', '-')}", str(value), "--count", expect=1)
    printed = sentence(capsys)
    option = constraint.replace(name, f"--{name.replace('_', '-')}", 1)
    assert printed.startswith(f"lit-viz: {option}")


def test_names_in_one_word_are_given_separately(capsys: pytest.CaptureFixture[str], lit_viz: Any) -> None:
    with pytest.raises(LitVizError, match=r"give classes separately"):
        find_class("hay,quail", ["hay", "quail"])
    lit_viz("saliency", PHOTO, "--target", "quail,hay", "--count", expect=1)
    error = capsys.readouterr().err
    assert "give classes separately" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["layers", "torch.nn:Identity"], ["visualize", "1", "--network", "torch.nn:Identity"]]
)
def test_the_input_size_of_a_network_is_required(
    words: list[str], capsys: pytest.CaptureFixture[str], lit_viz: Any
) -> None:
    lit_viz(*words, expect=1)
    error = capsys.readouterr().err
    assert "size" in error
    assert "mean" in error
    assert error.count("\n") == 1
