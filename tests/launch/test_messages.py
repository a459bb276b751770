"""Errors of the library name arguments; the command line shows their options."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.errors import ArgumentError, LitVizError, require
from lit_viz.networks import Network
from lit_viz.utils.labels import find_class

PHOTO = "packaged:chelsea"


@pytest.mark.parametrize(
    ("argument", "option"), [("iterations", "--iterations"), ("log_at", "--log-at"), ("network.size", "--network.size")]
)
def test_an_error_has_the_option_of_its_argument(argument: str, option: str) -> None:
    error = ArgumentError(argument, "must be positive, got 0")
    assert str(error) == f"{argument} must be positive, got 0"
    assert error.as_option == f"{option} must be positive, got 0"
    assert LitVizError(f"{argument} is odd").as_option == f"{argument} is odd"


@pytest.mark.parametrize("constraint", ["lr must be positive", "photo.tif must have pixels"])
def test_a_constraint_on_no_argument_has_no_option(constraint: str) -> None:
    with pytest.raises(LitVizError) as error:
        require(False, constraint, 0, is_argument=False)
    assert error.value.as_option == f"{constraint}, got 0"


def test_constraints_that_start_with_a_word_start_with_an_argument() -> None:
    """The first word of a constraint in lower case is the name of a parameter, unless ``is_argument`` is false."""
    package = Path(lv.__file__).parent
    names: set[str] = set()
    first_words: dict[str, str] = {}
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.arg):
                names.add(node.arg)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
                text = ast.unparse(node.args[1]).removeprefix("f'").strip("\"'")
                if all(keyword.arg != "is_argument" for keyword in node.keywords):
                    first_words[f"{file.name}:{node.lineno}"] = text.split(" ")[0]
    is_word = re.compile(r"[a-z_]+").fullmatch
    wrong = {place: word for place, word in first_words.items() if is_word(word) and word not in names | {"constraint"}}
    assert not wrong


def test_a_constraint_begins_with_its_argument() -> None:
    with pytest.raises(LitVizError) as error:
        require(False, "log_at must be positive", -1, hint="try 1")
    assert str(error.value) == "log_at must be positive, got -1: try 1"
    assert isinstance(error.value, ArgumentError)
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
