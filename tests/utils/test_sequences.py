from __future__ import annotations

import pytest

from lit_viz.utils.sequences import LazySequence


class Squares(LazySequence[int]):
    def __len__(self) -> int:
        return 5

    def make(self, position: int) -> int:
        assert 0 <= position < 5
        return position**2


def test_a_lazy_sequence_is_indexed_as_a_list() -> None:
    squares, listed = Squares(), [0, 1, 4, 9, 16]
    assert list(squares) == listed
    assert squares[-1] == 16
    for key in (slice(None), slice(1, 3), slice(None, None, -2), slice(3, 100), slice(-2, None)):
        assert squares[key] == listed[key]
    for position in (5, -6):
        with pytest.raises(IndexError):
            squares[position]
