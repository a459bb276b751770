"""The table at a run's end fits the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lit_viz.cli.console import _print_table
from lit_viz.types import Record

ROWS = [
    {
        "photograph": "a photograph with a long name", "target": "any other", "status": "done", "in the file": "fooled",
        "seen as": "American black bear", "before": "0.273", "after": "0.218", "iterations": "37", "L2": "5.796",
        "Linf": "145/255",
    }
]  # fmt: skip
RECORDS = [Record(index=7, name="a photograph", seconds=1.25)]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (150, "photograph target status in the file seen as before after iterations L2 Linf seconds"),
        (100, "photograph target in the file seen as before after iterations L2 Linf"),
        (60, "photograph in the file seen as after Linf"),
        (52, "photograph in the file seen as Linf"),
    ],
)
def test_a_narrow_terminal_goes_without_what_matters_least(width: int, columns: str) -> None:
    """Each column was folded to a few letters."""
    file = io.StringIO()
    _print_table(Console(file=file, width=width), ROWS, RECORDS)
    header, first, *_ = file.getvalue().splitlines()
    assert " ".join(header.split()) == columns
    assert first.startswith("7  a photograph")
    assert "145/255" in first
    assert all(len(line) <= width for line in file.getvalue().splitlines())
