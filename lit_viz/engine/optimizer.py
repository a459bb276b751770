"""The one bridge between step rules and Lightning: a step rule in the clothes of a torch optimizer."""

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
    """Moves the slots' images by a step rule, once a call of :meth:`step`.

    The rule asks for as many evaluations as it wants, so Lightning's closure (which hands over a scalar) is not used.

    Args:
        slots: the images and their state.
        rule: how they move.
        evaluate: asks the network about them.
        project: brings moved images back to where they belong (clamp, blur).

    Attributes:
        done: which images the rule found done in the last step, and left as they were, ``(N,)`` bool.
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
        self.done = self.done.bool()  # of an own rule it may be numbers
        x = chosen(self.done, before, self.project(x))  # not in place: what a rule returns it may keep as well
        self.slots.update(x, state, advance.masked_fill(self.done, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: a checkpoint keeps images and states by task (see :class:`~lit_viz.engine.slots.Slots`)."""
        return {"state": {}, "param_groups": []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing."""
