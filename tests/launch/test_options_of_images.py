"""Options of images: classes, files and how they are fitted."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from lit_viz.commands import parse_method
from lit_viz.errors import LitVizError
from lit_viz.launch.form import Form
from lit_viz.launch.methods import METHODS, method_form

ATTACK = METHODS["attack"]


def parsed(*words: str) -> dict[str, Any]:
    return parse_method(ATTACK, words)


@pytest.mark.parametrize(
    ("words", "target"),
    [
        ([], None),
        (["--target", "stingray"], "stingray"),
        (["--target", "6"], 6),
        (["--target=tench, Tinca tinca"], "tench, Tinca tinca"),
        (["--target", '["stingray", 6, "6"]'], ["stingray", 6, "6"]),
        (["--target", "hay", "--target", "6"], ["hay", 6]),
    ],
)
def test_a_target_is_parsed_as_one_or_several(words: list[str], target: Any) -> None:
    values = parsed("a b.jpg", "6", *words)
    assert values.get("target") == target
    assert values["images"] == ["a b.jpg", "6"]
    assert "label" not in values


def test_images_are_given_by_words_or_by_an_option() -> None:
    assert parsed("--images", '["a b.jpg", "6"]')["images"] == ["a b.jpg", "6"]
    with pytest.raises(LitVizError, match=r"images must be given once, got x.jpg and an option"):
        parsed("x.jpg", "--images", "y.jpg")


def test_options_are_written_to_the_form_and_read_back() -> None:
    given = {"images": ["größe.jpg"], "target": [6, "hay"], "label": "x.csv", "fit": "pad", "attack": "pgd"}
    form = method_form(ATTACK, given)
    read = Form.of_mapping(yaml.safe_load(form.to_yaml()), "config.yaml")
    assert read.tasks["init_args"] == {"images": ["größe.jpg"], "target": [6, "hay"], "label": "x.csv"}
    assert read.module["init_args"]["fit"] == "pad"
    assert read.module["init_args"]["attack"]["class_path"] == "lit_viz.attacks.PGD"


def test_an_unknown_fit_is_rejected() -> None:
    with pytest.raises(LitVizError, match=r"^--fit must be crop or squash or pad, got 'cut'"):
        parsed("x.jpg", "--fit", "cut")
