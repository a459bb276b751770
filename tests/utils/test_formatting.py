"""Texts for the terminal."""

from __future__ import annotations

import pytest

from lit_viz.utils.formatting import notify, number_text, status_summary, text_table


def test_the_summary_has_every_status() -> None:
    assert status_summary(["failed", "unfinished", "done", "done"]) == "2 done, 1 unfinished, 1 failed"
    assert status_summary({"skipped": 3, "failed": 0, "done": 12}) == "12 done, 3 skipped"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25 / 255, "0.25/255"), (4 / 255, "4/255"), (0.035, "0.035"), (1 / 3, "0.3333"), (12_345, "12345"), (0.0, "0")],
)
def test_numbers_of_levels_are_fractions(value: float, text: str) -> None:
    assert number_text(value) == text


def test_names_between_colons_do_not_become_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    notify("my_net:bear: images are normalized")
    assert capsys.readouterr().err == "my_net:bear: images are normalized\n"
    assert "my_net:bear:" in text_table([{"network": "my_net:bear:"}], words=1)
