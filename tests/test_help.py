"""The help of the commands and what scripts/write_help.py writes: packaged texts, docs/options.md, a table of docs/."""

from __future__ import annotations

import re

import pytest

from lit_viz.attacks import ATTACKS
from lit_viz.attributions import ATTRIBUTIONS
from lit_viz.cli import commands
from lit_viz.commands import command_parser, function_parser, help_text, parse_method
from lit_viz.errors import LitVizError
from lit_viz.launch.form import config_names
from lit_viz.launch.methods import METHODS
from tests.support.ranks import ROOT
from tests.support.scripts import run_script

DOCS = ROOT / "docs"


@pytest.fixture(autouse=True)
def terminal_of_another_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")


def test_the_help_and_its_pages_are_up_to_date() -> None:
    run_script("write_help.py", "--check")


def test_the_page_of_options_names_every_option() -> None:
    page = (DOCS / "options.md").read_text(encoding="utf-8")
    for name in commands():
        for options in command_parser(name).sections().values():
            for option in options:
                assert option.words[0] in page


def test_options_that_the_page_describes_by_hand_are_options() -> None:
    by_hand, _, generated = (DOCS / "options.md").read_text(encoding="utf-8").partition("## All options\n")
    named = set(re.findall(r"(?<!tensorboard )--[a-z][\w.-]*", by_hand))
    assert len(named) > 40
    for option in named:
        last_word = option.lstrip("-").rpartition(".")[2]
        assert option in generated or f"`--{last_word}`" in generated


def test_the_table_of_captums_methods() -> None:
    page = (DOCS / "saliency_details.md").read_text(encoding="utf-8")
    assert "| `smoothgrad` | `NoiseTunnel` | map of the same noise |" in page
    assert "| `rise` | - | map of the same masks |" in page


def test_the_page_of_saliency_maps_defines_every_method() -> None:
    page = (DOCS / "saliency.md").read_text(encoding="utf-8")
    table = page.partition("| method | definition |")[2].partition("\n\n")[0]
    first_cells = re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(first_cells))) == sorted(ATTRIBUTIONS)


def test_the_help_names_all_parts_and_configurations() -> None:
    for name, command in METHODS.items():
        words = set(re.findall(r"\w+", help_text(name)))
        assert set(config_names(name)) <= words
        assert set({"attack": ATTACKS, "method": ATTRIBUTIONS}.get(command.part, ())) <= words


@pytest.mark.parametrize("name", commands())
def test_a_section_has_one_title_and_each_option_one_spelling(name: str) -> None:
    text = help_text(name, every=True)
    titles = re.findall(r"^\S.*:$", text, re.MULTILINE)
    assert len(set(titles)) == len(titles)
    assert not re.findall(r"^  .*--[\w.-]*_[\w.-]*", text, re.MULTILINE)


def test_options_that_do_not_apply_to_a_method_are_not_in_its_help() -> None:
    options = {name: set(re.findall(r"^  --([\w.-]+)", help_text(name, every=True), re.MULTILINE)) for name in METHODS}
    assert {"captum", "localize", "overlays"} <= options["saliency"]
    assert not {"captum", "localize", "overlays", "explain"} & options["visualize"]
    assert "explain" in options["attack"]
    assert not {"captum", "localize", "overlays"} & options["attack"]


def test_the_trainer_is_described_by_its_constructor() -> None:
    parser = command_parser("attack")
    assert all(parser.help_of(option) for option in parser.sections()["Lightning's Trainer"])


def test_varying_values_are_options() -> None:
    words = ["photo.png", "--vary.target", "bag", "coat", "--vary.eps", "1/255", "4/255"]
    values = parse_method(METHODS["attack"], words)
    assert values == {"images": ["photo.png"], "vary.target": ["bag", "coat"], "vary.eps": ["1/255", "4/255"]}
    assert parse_method(METHODS["visualize"], ["--vary.lr", "0.1", "0.2"]) == {"vary.lr": [0.1, 0.2]}
    assert parse_method(METHODS["visualize"], ["--vary.lr", "0.1,0.2", "--vary.lr", "0.3"]) == {
        "vary.lr": [0.1, 0.2, 0.3]
    }
    with pytest.raises(LitVizError, match=r"--vary.seed"):
        parse_method(METHODS["visualize"], ["--vary.seed", "1", "2"])


def test_the_microscope_has_the_names_of_its_function() -> None:
    words = "zoo/fashion_cnn --layers conv1 --images zoo:fashion --channel 0-3 --out runs/units"
    values = function_parser("microscope").values(words.split())
    assert set(values) == {"network", "layers", "images", "channel", "out"}
