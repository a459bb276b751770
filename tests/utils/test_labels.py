from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lit_viz.errors import LitVizError
from lit_viz.utils.labels import find_class, imagenet_labels, numbered_labels, read_labels

ANIMALS = ["tench, Tinca tinca", "great white shark, shark", "hammerhead, shark", "ox"]


@pytest.mark.parametrize(
    ("target", "index"),
    [("tarantula", 76), ("Tarantula", 76), ("Tibetan_mastiff", 244), (" border  TERRIER ", 182), ("85", 85), (6, 6)],
)
def test_imagenet_classes_by_name_and_index(target: str | int, index: int) -> None:
    assert find_class(target, imagenet_labels()) == index


@pytest.mark.parametrize(
    ("target", "index"), [("tench", 0), ("tinca tinca", 0), ("Great_white_shark", 1), ("tench, Tinca tinca", 0)]
)
def test_synonyms(target: str, index: int) -> None:
    assert find_class(target, ANIMALS) == index


@pytest.mark.parametrize(("target", "choices"), [("crane", "134 .*517 "), ("maillot", "638 .*639 ")])
def test_an_ambiguous_name_lists_the_choices(target: str, choices: str) -> None:
    with pytest.raises(LitVizError, match=rf"{target}' is ambiguous.*{choices}"):
        find_class(target, imagenet_labels())


def test_repeated_names_are_ambiguous_and_whole_labels_are_not() -> None:
    with pytest.raises(LitVizError, match=r"indices 0 \(crane\), 2 \(Crane\)"):
        find_class("crane", ["crane", "bee", "Crane"])
    assert find_class("bee", imagenet_labels()) == 309  # not 92, the bee eater
    assert find_class("crane_bird", ["crane", "crane bird"]) == 1


@pytest.mark.parametrize(
    ("target", "labels", "words"),
    [
        (" ", None, "empty"),
        ("shark", ANIMALS, r"1 \(great white shark, shark\), 2 \(hammerhead, shark\)"),
        ("tarantola", None, "unknown class 'tarantola'; did you mean 'tarantula'"),
        (
            "zebra",
            ["cat", "dog"],
            "unknown class 'zebra': the classes are cat, dog",
        ),
        ("qqqqqq", None, "unknown class 'qqqqqq': see lit-viz classes"),
        ("stingray,tabby", None, "unknown class 'stingray,tabby'; give classes separately"),
        ("tarantola,tabby", None, "'tarantola,tabby'; did you mean"),
        ("ox", numbered_labels(4), "unknown class 'ox'; the classes have no names: give an index, or names by"),
    ],
)
def test_a_name_of_no_class_is_rejected_with_what_to_give(target: str, labels: Any, words: str) -> None:
    with pytest.raises(LitVizError, match=words):
        find_class(target, labels or imagenet_labels())


@pytest.mark.parametrize("target", [1000, -1, "1000", "-1"])
def test_an_index_out_of_range_is_rejected(target: str | int) -> None:
    with pytest.raises(LitVizError, match=r"class index must be between 0 and 999, got -?\d+"):
        find_class(target, imagenet_labels())


def test_a_numeric_label_is_matched_as_a_name_first() -> None:
    assert find_class("7", ["7", "3", "1"]) == 0
    assert find_class("2", ["7", "3", "1"]) == 2


def test_labels_from_a_file_and_a_sequence(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffquail\r\n\r\n brown bear \r\nMünze\n".encode())
    assert read_labels(file) == read_labels(str(file)) == ("quail", "brown bear", "Münze")
    assert read_labels(["a", "b"]) == ("a", "b")
    assert numbered_labels(2) == ("class 0", "class 1")


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"\n \n", "is empty"), (b"\xff\xfe\xfa", "is not UTF-8")]
)
def test_a_bad_labels_file_is_rejected(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "labels.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LitVizError, match=rf"labels.txt' .*{words}.*one name per line"):
        read_labels(file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="requires FIFOs")
def test_a_fifo_is_no_labels_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.txt")
    with pytest.raises(LitVizError, match="must be a regular file"):
        read_labels(tmp_path / "labels.txt")
