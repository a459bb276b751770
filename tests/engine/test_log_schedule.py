from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lit_viz.engine.method import LogSchedule
from lit_viz.errors import LitVizError


@pytest.mark.parametrize(
    ("text", "last", "expected"),
    [
        ("1,50,100,200", 200, [1, 50, 100, 200]),
        ("1, 5", 7, [1, 5, 7]),
        (3, 6, [3, 6]),
        (np.array(3), 6, [3, 6]),
        (torch.tensor([1, 3]), 6, [1, 3, 6]),
        ("every:4", 10, [0, 4, 8, 10]),
        ("geometric", 20, [0, 1, 2, 4, 8, 16, 20]),
        ("last", 3, [3]),
    ],
)
def test_which_iterations_are_due(text: Any, last: int, expected: list[int]) -> None:
    schedule = LogSchedule.parse(text)
    assert [k for k in range(last + 1) if schedule.due(k, last)] == expected


@pytest.mark.parametrize("text", ["often", "every:0", "every:", "every:1,2", "-3", "1,,2", "1.5", ""])
def test_an_invalid_log_schedule_is_rejected(text: str) -> None:
    with pytest.raises(LitVizError, match="log schedule"):
        LogSchedule.parse(text)
