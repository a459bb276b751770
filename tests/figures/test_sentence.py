"""Figure of the parts of a text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lit_viz.figures.sentence import Sentence, sentence_figure
from lit_viz.outputs.answer import readable_pieces


def sentence(name: str, text: str, factor: float = 1.0) -> Sentence:
    parts = [f"{place} {part}" for place, part in enumerate(text.split(), 1)]
    maps = {part: factor * torch.full((1, 8, 8), place + 1.0) for place, part in enumerate(parts)}
    return Sentence(name, torch.rand(3, 8, 8), text, maps, dict.fromkeys(parts, "p = 0.93"), "Gradient")


def test_parts_are_drawn_in_reading_order_with_one_scale_per_photograph(figures: Any) -> None:
    figure = sentence_figure([sentence("a.png", "a red car"), sentence("b.png", "a dog", 100.0)], "max_abs", False)
    texts = [text.get_text() for text in figure.texts]
    order = ["a.png", "says: a red car", "1 a", "2 red", "3 car", "3.00", "b.png", "says: a dog", "200"]
    assert sorted(order, key=texts.index) == order
    assert texts.count("p = 0.93") == 5
    figures.assert_no_overlap(figure)


def test_a_long_text_is_wrapped(figures: Any) -> None:
    figure = sentence_figure([sentence("a.png", " ".join("word" for _ in range(20)))], "max_abs")
    assert len(figures.images(figure)) == 21  # with the photograph
    figures.assert_no_overlap(figure)


@pytest.mark.parametrize(
    ("pieces", "readable"),
    [
        (["▁a", "▁tar", "ant", "ula", ".", "</s>"], ["a", "tar", "-ant", "-ula", ".", "</s>"]),
        (["Ġa", "Ġtar", "antula", ","], ["a", "tar", "-antula", ","]),
        (["a", "tar", "##antula", "[SEP]"], ["a", "tar", "-antula", "[SEP]"]),
    ],
)
def test_pieces_are_readable(pieces: list[str], readable: list[str]) -> None:
    assert readable_pieces(pieces) == readable
