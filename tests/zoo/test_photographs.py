"""Images of the zoo by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_viz.errors import LitVizError
from lit_viz.images.listing import photographs
from lit_viz.images.reading import read_photograph
from lit_viz.zoo import FASHION_LABELS, PLANTED_LABELS, class_of_photograph, photograph_names, planted_images


def test_six_images_of_each_class_of_fashion() -> None:
    names = photograph_names("fashion")
    classes = [class_of_photograph(name).replace("_", " ") for name in names]
    assert {label: classes.count(label) for label in FASHION_LABELS} == dict.fromkeys(FASHION_LABELS, 6)
    assert names[:2] == ["fashion/T-shirt_19", "fashion/T-shirt_27"]


def test_planted_images_are_those_of_the_generator() -> None:
    names = photograph_names("planted")
    numbers = [int(name.rpartition("_")[2]) for name in names]
    assert sorted(numbers) == list(range(24))
    planted = planted_images(numbers)
    stored = torch.stack([read_photograph(f"zoo:{name}", (28, 28), channels=1).pixels for name in names])
    assert torch.equal(stored, planted.images)
    assert [class_of_photograph(name) for name in names] == [PLANTED_LABELS[label] for label in planted.labels]


def test_listing_of_a_group_an_image_and_a_table(tmp_path: Path) -> None:
    assert len(photographs(["zoo:fashion", "zoo:planted/cross_3"]).entries) == 61
    (tmp_path / "list.csv").write_text("file,label\nzoo:fashion/bag_18,bag\n")
    listing = photographs([str(tmp_path / "list.csv"), "zoo:fashion/bag_30"])
    assert [entry.path for entry in listing.entries] == ["zoo:fashion/bag_18", "zoo:fashion/bag_30"]
    assert listing.names() == ["bag_18", "bag_30"]
    assert listing.entries[0].label == "bag"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zoo:fashion/bag_19", "no image of the zoo is called 'fashion/bag_19'; did you mean"),
        ("zoo:digits", "called 'digits': give fashion, planted"),
        ("zoo:../fashion/bag_18", "no image of the zoo is called"),
    ],
)
def test_unknown_images_are_rejected(name: str, words: str) -> None:
    with pytest.raises(LitVizError, match=words):
        photographs([name])
    with pytest.raises(LitVizError, match=words):
        read_photograph(name, (28, 28))


def test_a_group_is_no_image() -> None:
    with pytest.raises(LitVizError, match="fashion has 60 images: give one of them, such as fashion/T-shirt_19"):
        read_photograph("zoo:fashion", (28, 28))
