"""Adapter of step rules to the optimizer interface of torch and Lightning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lit_viz.engine.slots import Slots
from lit_viz.errors import check_shape
from lit_viz.optim import Evaluate, StepRule
from lit_viz.optim.rule import chosen


class StepRuleOptimizer(torch.optim.Optimizer):
    """Update the images in the slots by a step rule.

    A rule may evaluate several times per step, so the closure of Lightning, which returns one scalar, is not used.

    Args:
        slots: images and their state.
        rule: step rule.
        evaluate: evaluation of the images by the network.
        project: projection of updated images onto their feasible set.

    Attributes:
        done: ``(N,)`` bool, images that the rule reported as done in the last step; they are left unchanged.
    """

    def __init__(self, slots: Slots, rule: StepRule, evaluate: Evaluate, project: Callable[[Tensor], Tensor]) -> None:
        super().__init__([slots.image], {})
        self.slots, self.rule, self.evaluate, self.project = slots, rule, evaluate, project
        self.done = torch.zeros(0, dtype=torch.bool)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one update x_k -> x_k+1 of all slots."""
        before = self.slots.x
        advance = self.rule.advance(self.slots.state)
        x, state, self.done = self.rule.step(before, self.slots.state, self.evaluate)
        check_shape(self.rule, x, before.shape, meaning="an image for each slot")
        check_shape(self.rule, self.done, before.shape[:1], meaning="whether each slot is done")
        self.done = self.done.bool()
        x = chosen(self.done, before, self.project(x))  # not in place: the rule may keep what it returned
        self.slots.update(x, state, advance.masked_fill(self.done, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state; checkpoints store images and states by task (:meth:`Slots.dump`)."""
        return {"state": {}, "param_groups": []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing; see :meth:`state_dict`."""
