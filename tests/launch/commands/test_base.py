"""Options of photographs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lit_viz.launch.commands import COMMANDS
from lit_viz.launch.commands.base import PhotographCommand


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    PhotographCommand.add_arguments(COMMANDS["attack"], parser)  # type: ignore[arg-type]
    return parser


@pytest.mark.parametrize(
    ("words", "target"),
    [
        ([], None),
        (["--target", "stingray"], "stingray"),
        (["--target", "6"], "6"),
        (["--target=tench, Tinca tinca"], "tench, Tinca tinca"),
        (["--target", '["stingray", 6, "6"]'], ["stingray", 6, "6"]),
        (["--target+", "hay", "--target+", "6"], ["hay", "6"]),
    ],
)
def test_a_target_is_parsed_as_one_or_several(words: list[str], target: Any, parser: ArgumentParser) -> None:
    config = parser.parse_args(["--photographs", '["a b.jpg", "6"]', *words])
    assert config.target == target
    assert config.photographs == ["a b.jpg", "6"]
    assert (config.labels, config.fit) == ("predicted", None)


def test_options_are_parsed_from_a_dictionary_and_dumped_to_the_same(parser: ArgumentParser) -> None:
    given = {"photographs": ["größe.jpg"], "target": [6, "hay"], "labels": "x.csv", "fit": "pad"}
    config = parser.parse_object(given)
    assert config.as_dict() == given
    assert parser.parse_string(parser.dump(config)).as_dict() == given


def test_a_long_list_is_not_copied_for_each_of_its_items(
    parser: ArgumentParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Any] = []
    monkeypatch.setattr("jsonargparse._typehints.deepcopy", lambda value: copies.append(value) or copy.deepcopy(value))

    def copied(count: int) -> int:
        copies.clear()
        rows = [{"file": f"{i}.jpg", "target": i} for i in range(count)]
        assert parser.parse_object({"photographs": rows}).photographs == rows
        return len(copies)

    assert copied(100) == copied(3)


def test_an_unknown_fit_is_rejected(parser: ArgumentParser) -> None:
    with pytest.raises(Exception, match="fit"):
        parser.parse_args(["--fit", "cut"])
