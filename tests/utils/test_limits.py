"""Numbers of items."""

from __future__ import annotations

from lit_viz.utils.limits import evenly


def test_items_are_evenly_spaced_with_both_ends() -> None:
    assert evenly("abc", 5) == ["a", "b", "c"]
    assert evenly(range(11), 5) == [0, 2, 5, 8, 10]
    assert evenly(range(100), 1) == [99]
