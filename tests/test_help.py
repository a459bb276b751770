"""The help of the commands: the packaged texts and docs/options.md are what scripts/write_help.py writes."""

from __future__ import annotations

import re

import pytest

from lit_viz.attacks import ATTACKS
from lit_viz.attributions import ATTRIBUTIONS
from lit_viz.cli import COMMAND_NAMES
from lit_viz.commands import command_parser, function_parser, help_text, parse_method
from lit_viz.errors import LitVizError
from lit_viz.launch.form import config_names
from lit_viz.launch.methods import COMMANDS
from scripts.write_help import FOLDER, PAGE, help_files, options_page


@pytest.fixture(autouse=True)
def terminal_of_another_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")


def test_the_packaged_help_is_up_to_date() -> None:
    files = help_files()
    assert set(files) == set(FOLDER.iterdir())
    for path, text in files.items():
        assert path.read_text(encoding="utf-8") == text, "run python scripts/write_help.py"


def test_the_page_of_options_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == options_page(), "run python scripts/write_help.py"
    for name in COMMAND_NAMES:
        for _, actions in command_parser(name).described():
            for action in actions:
                assert action.option_strings[0] in page


def test_the_help_names_all_parts_and_configurations() -> None:
    for name, command in COMMANDS.items():
        words = set(re.findall(r"\w+", help_text(name)))
        assert set(config_names(name)) <= words
        assert set({"attack": ATTACKS, "method": ATTRIBUTIONS}.get(command.part, ())) <= words


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_a_section_has_one_title_and_each_option_one_spelling(name: str) -> None:
    text = help_text(name, every=True)
    titles = re.findall(r"^\S.*:$", text, re.MULTILINE)
    assert len(set(titles)) == len(titles)
    assert not re.findall(r"^  .*--[\w.-]*_[\w.-]*", text, re.MULTILINE)


def test_options_that_do_not_apply_to_a_method_are_not_in_its_help() -> None:
    options = {name: set(re.findall(r"^  --([\w.-]+)", help_text(name, every=True), re.MULTILINE)) for name in COMMANDS}
    assert {"captum", "localize", "overlays"} <= options["saliency"]
    assert not {"captum", "localize", "overlays", "explain"} & options["visualize"]
    assert "explain" in options["attack"]
    assert not {"captum", "localize", "overlays"} & options["attack"]


def test_the_trainer_is_described_by_its_constructor() -> None:
    described = dict(command_parser("attack").described())["Lightning's Trainer"]
    assert all(action.help for action in described)


def test_varying_values_are_options() -> None:
    words = ["photo.png", "--vary.target", "bag", "coat", "--vary.eps", "1/255", "4/255"]
    values = parse_method(COMMANDS["attack"], words)
    assert values == {"images": ["photo.png"], "vary.target": ["bag", "coat"], "vary.eps": ["1/255", "4/255"]}
    assert parse_method(COMMANDS["visualize"], ["--vary.lr", "0.1", "0.2"]) == {"vary.lr": [0.1, 0.2]}
    assert parse_method(COMMANDS["visualize"], ["--vary.lr", "0.1,0.2", "--vary.lr", "0.3"]) == {
        "vary.lr": [0.1, 0.2, 0.3]
    }
    with pytest.raises(LitVizError, match=r"--vary.seed"):
        parse_method(COMMANDS["visualize"], ["--vary.seed", "1", "2"])


def test_the_microscope_has_the_names_of_its_function() -> None:
    words = "zoo/fashion_cnn --layers conv1 --images zoo:fashion --channel 0-3 --out runs/units"
    values = function_parser("microscope").values(words.split())
    assert set(values) == {"network", "layers", "images", "channel", "out"}
