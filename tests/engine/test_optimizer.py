"""The bridge between a step rule and the slots."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lit_viz.engine.slots import Slots
from lit_viz.engine.step import StepRuleOptimizer
from lit_viz.optim import Evaluate, State, StepRule
from lit_viz.types import Task


class Return(StepRule):
    """Returns to the initial image, which its state holds, and is done in the first slot."""

    done: Tensor

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return {"source": x}

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        return state["source"], state, self.done


@pytest.mark.parametrize("done", [torch.tensor([True, False]), torch.tensor([1, 0])])
def test_finished_images_and_tensors_of_the_rule_are_not_overwritten(done: Tensor) -> None:
    slots, rule = Slots(), Return()
    rule.done = done
    initial, now = torch.rand(2, 1, 3, 3), torch.rand(2, 1, 3, 3)
    count = torch.zeros(2, dtype=torch.long)
    slots.append(
        [Task(n, str(n), n) for n in range(2)],
        now,
        {"source": initial.clone(), "iteration": count, "iterations": count + 5},
    )

    method = SimpleNamespace(slots=slots, step_rule=rule, project=lambda x: x)
    optimizer = StepRuleOptimizer(method, lambda *_, **__: None)  # type: ignore[arg-type, return-value]
    optimizer.step()

    assert torch.equal(slots.x, torch.stack([now[0], initial[1]]))
    assert torch.equal(slots.state["source"], initial)
    assert slots.iteration == [0, 1]
