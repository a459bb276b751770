"""Normalized gradient ascent on the target's logit: fooling images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack, masked_gradient
from lit_viz.errors import LitVizError, require
from lit_viz.networks import Network
from lit_viz.objectives import Objective, TargetLogit
from lit_viz.optim import Evaluation, LearningRate, State
from lit_viz.optim.rule import learning_rate, per_slot, unit
from lit_viz.types import Task

Space = Literal["pixels", "normalized"]
#: Classifiers of ImageNet need five to thirty such steps in either space.
_RATES: dict[Space, float] = {"pixels": 0.2, "normalized": 0.5}


class NormalizedAscentAttack(Attack):
    """Fooling images (CS231n assignment; after Szegedy et al. 2014, arXiv:1312.6199).

    ``x <- x + lr * g / ||g||_2`` with g the gradient of the target's logit, until the target is predicted.

    Args:
        lr: L2 length of a step, a number or a schedule; 0.2 in pixels and 0.5 in normalized space by default. A task's
            option ``lr`` overrides it.
        space: space of the step: ``pixels``, images in [0, 1], or ``normalized``, ``(x - mean) / std``, as published.
        clamp: whether images are clamped to [0, 1]. As published, without: then the saved image differs from the
            evaluated one.
        objective: what is maximized; the target's logit (untargeted, minus the label's) by default.
    """

    def __init__(
        self,
        lr: float | LearningRate | None = None,
        space: Space = "pixels",
        clamp: bool = True,
        objective: Objective | None = None,
    ) -> None:
        require(space in get_args(Space), "space must be pixels or normalized", repr(space))
        if lr is None:
            lr = _RATES[space]
        self.lr = learning_rate(lr)
        self.space = space
        self.clamp = clamp
        if objective is None:
            objective = TargetLogit()
        self.objective = objective
        self.scale: Tensor | None = None

    def bind(self, network: Network) -> None:
        super().bind(network)
        if self.space == "normalized":
            self.scale = torch.tensor(network.std, dtype=torch.float64).view(-1, 1, 1)

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        if self.space == "normalized" and self.scale is None:
            raise LitVizError("space 'normalized' needs a network: call bind first, or set space='pixels'")
        return super().init(x, tasks) | self.lr.init(x, tasks)

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        gradient = masked_gradient(evaluation, x, rows)
        if self.scale is None:
            step = unit(gradient)
        else:  # the gradient in normalized space is g * std, and a change of 1 there is std in pixels
            scale = self.scale.to(x)
            step = scale * unit(scale * gradient)
        moved = torch.addcmul(x, step, per_slot(self.lr(state), x))
        if self.clamp:
            moved.clamp_(0, 1)
        return moved, state
