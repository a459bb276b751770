"""Texts for the terminal."""

from __future__ import annotations

from lit_viz.types import Record
from lit_viz.utils.formatting import status_summary


def test_the_summary_has_every_status() -> None:
    status = ["failed", "unfinished", "done", "done"]
    records = [Record(index=i, name="a", status=name) for i, name in enumerate(status)]
    assert status_summary(records) == "2 done, 1 unfinished, 1 failed"
