from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from lit_viz.errors import LitVizError
from lit_viz.images import Flip
from lit_viz.utils.checking import check_fields, checked_types

Mode = Literal["fast", "exact"]


@checked_types
def call(
    count: int = 1,
    rate: float = 0.5,
    *,
    name: str | None = None,
    folder: str | Path = ".",
    flag: bool = False,
    mode: Mode = "fast",
    sizes: int | Sequence[int] = 1,
    place: Flip | None = None,
    values: Mapping[str, Sequence[float]] | None = None,
    other: Any = None,
    **options: int,
) -> str:
    return "called"


@pytest.mark.parametrize(
    "arguments",
    [
        {"count": np.int64(3), "rate": np.float32(0.5)},
        {"rate": 1},
        {"name": None, "folder": Path("a")},
        {"sizes": [1, 2]},
        {"sizes": (1, 2)},
        {"sizes": range(3)},
        {"sizes": np.arange(3)},
        {"sizes": torch.arange(3)},
        {"values": {"a": [1, 0.5], "b": np.ones(2)}},
        {"values": {}},
        {"mode": "exact", "flag": True},
        {"place": Flip()},
        {"other": object()},
        {"more": "x"},
    ],
)
def test_values_of_the_annotated_type_are_accepted(arguments: dict[str, Any]) -> None:
    assert call(**arguments) == "called"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 1.5}, "count must be a whole number, got 1.5"),
        ({"count": True}, "count must be a whole number, got True"),
        ({"count": None}, "count must be a whole number, got None"),
        ({"rate": "1"}, "rate must be a number, got '1'"),
        ({"name": 3}, "name must be text, got 3"),
        ({"folder": 3}, "folder must be a path, got 3"),
        ({"place": 224}, "place must be an instance of Flip, got 224"),
        ({"flag": 1}, "flag must be True or False, got 1"),
        ({"mode": "fats"}, "mode must be fast or exact, got 'fats'; did you mean 'fast'?"),
        ({"sizes": "ab"}, "sizes must be a whole number or a list of them, got 'ab'"),
        ({"sizes": [1, "2"]}, r"sizes must be a whole number or a list of them, got [1, '2']"),
        ({"sizes": torch.ones(1)}, "sizes must be a whole number or a list of them, got Tensor of shape (1,)"),
        ({"values": 3}, "values must be a mapping from text to a list of numbers, got 3"),
        ({"values": {"a": 3}}, "values must be a mapping from text to a list of numbers, got {'a': 3}"),
        ({"values": {"a": ["x"]}}, "values must be a mapping from text to a list of numbers, got {'a': ['x']}"),
        ({"values": {1: [2]}}, "values must be a mapping from text to a list of numbers, got {1: [2]}"),
    ],
)
def test_values_of_another_type_are_rejected(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LitVizError) as raised:
        call(**arguments)
    assert str(raised.value) == message


def test_positional_arguments_are_checked() -> None:
    with pytest.raises(LitVizError, match="rate must be a number"):
        call(1, "fast")  # type: ignore[arg-type]


def test_missing_arguments_are_reported_by_python_and_unknown_ones_with_similar_names() -> None:
    @checked_types
    def required(count: int) -> int:
        return count

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'count'"):
        required()  # type: ignore[call-arg]
    with pytest.raises(LitVizError, match=r"^coutn is not an argument of .*required; did you mean 'count'\?$"):
        required(coutn=2)  # type: ignore[call-arg]


def test_the_fields_of_dataclasses_are_checked() -> None:
    @dataclass(frozen=True)
    class Size:
        side: int = 1

        def __post_init__(self) -> None:
            check_fields(self)

    assert Size(2).side == 2
    with pytest.raises(LitVizError, match=r"side must be a whole number, got 2\.5"):
        Size(2.5)  # type: ignore[arg-type]
