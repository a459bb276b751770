"""Figure of the parts of a text."""

from __future__ import annotations

from typing import Any

import pytest

from lit_viz.figures.sentence import sentence_figure
from lit_viz.outputs.answer import readable_pieces
from tests.support.figures import sentence


def test_parts_are_drawn_in_reading_order_with_one_scale_per_photograph(figures: Any) -> None:
    figure = sentence_figure([sentence("a.png", "a red car"), sentence("b.png", "a dog", 100.0)], "max_abs", False)
    texts = [text.get_text() for text in figure.texts]
    order = ["a.png", "says: a red car", "1 a", "2 red", "3 car", "3.00", "b.png", "says: a dog", "200"]
    assert sorted(order, key=texts.index) == order
    assert texts.count("p = 0.93") == 5


def test_a_long_text_is_wrapped(figures: Any) -> None:
    figure = sentence_figure([sentence("a.png", " ".join("word" for _ in range(20)))], "max_abs")
    assert len(figures.images(figure)) == 21  # with the photograph


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
