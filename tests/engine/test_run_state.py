"""The state of a run in a checkpoint is validated before it is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lit_viz.engine.module import check_run_state
from lit_viz.engine.slots import ITERATION
from lit_viz.errors import LitVizError
from lit_viz.utils.files import FORMAT

GOOD_STATE: dict[str, Any] = {
    "format": FORMAT,
    "slots": [],
    "finished": {0: "done"},
    "sums": {"a": (1.0, 2)},
}
SLOT = {
    "task": 0,
    "completed": {"label": 1},
    "image": torch.zeros(3, 2, 2),
    "state": {ITERATION: torch.tensor(1)},
    "forwards": 1,
    "backwards": 1,
    "seconds": 0.5,
}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"slots": "x"}, "slots"),
        ({"slots": [1]}, "slots"),
        ({"slots": [{"task": 0}]}, "slots"),
        ({"slots": [{**SLOT, "task": "x"}]}, "slots"),
        ({"slots": [{**SLOT, "state": {ITERATION: [1]}}]}, "slots"),
        ({"slots": [{**SLOT, "earlier": 1}]}, "slots"),
        ({"slots": [{**SLOT, "completed": {"index": 4}}]}, "slots"),
        ({"finished": [1]}, "finished"),
        ({"finished": {"x": "done"}}, "finished"),
        ({"sums": 10**30}, "sums"),
        ({"sums": {"a": 1}}, "sums"),
        ({"inputs": ["q.png"]}, "inputs"),
        ({"inputs": {"q.png": "1"}}, "inputs"),
    ],
)
def test_entries_of_other_types_are_damage(changes: dict[str, Any], part: str) -> None:
    assert check_run_state({**GOOD_STATE, "slots": [SLOT]})
    with pytest.raises(LitVizError, match=rf"the checkpoint is damaged \(its entry of {part}\): start the run again"):
        check_run_state({**GOOD_STATE, **changes})


@pytest.mark.parametrize("found", ["x", [2], torch.ones(2), torch.zeros(9, 9)])
def test_a_format_of_another_type_is_another_format(found: Any) -> None:
    with pytest.raises(LitVizError, match=r"^the checkpoint must have format 2, got .*: use the release"):
        check_run_state({**GOOD_STATE, "format": found})


@pytest.mark.parametrize("state", [None, "x", [], {}])
def test_a_checkpoint_without_the_state_of_a_run_is_damage(state: Any) -> None:
    with pytest.raises(LitVizError, match="its entry of the state of the run"):
        check_run_state(state)
