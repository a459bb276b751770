"""The fooling images of the original experiment: ascend the target's logit by steps of one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack, masked_gradient
from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.objectives import Objective, TargetLogit
from lit_viz.optim import Evaluation, LearningRate, State
from lit_viz.optim.rule import per_slot, unit
from lit_viz.optim.schedules import learning_rate
from lit_viz.types import Task

Space = Literal["pixels", "normalized"]
#: SqueezeNet on ImageNet takes ten to twenty such steps; as many in either space.
_RATES: dict[Space, float] = {"pixels": 0.1, "normalized": 0.5}


class NormalizedAscentAttack(Attack):
    """``x <- x + lr * g / ||g||_2`` with g the gradient of the target's logit, until the target is predicted (the
    fooling images of CS231n; Szegedy et al. 2014, arXiv:1312.6199, asked the question).

    Args:
        lr: Euclidean length of a step, a number or a schedule; 0.1 in pixels and 0.5 in normalized space unless given.
            A task's option ``lr`` overrides it.
        space: where a step has that length: ``pixels``, images in [0, 1], or ``normalized``, as the network sees them
            ``(x - mean) / std``, as published.
        clamp: whether a moved image is brought back into [0, 1]. Published without, so that the image which was found
            to fool is not quite the one that can be saved.
        objective: what is maximized; the target's logit (untargeted: minus the label's) unless given.

    Raises:
        LitVizError: for values that make no attack.
    """

    iterations: int = 100

    def __init__(
        self,
        lr: float | LearningRate | None = None,
        space: Space = "pixels",
        clamp: bool = True,
        objective: Objective | None = None,
    ) -> None:
        if space not in get_args(Space):
            raise LitVizError(f"there is no space '{space}' to take steps in: take pixels or normalized.")
        self.lr = learning_rate(_RATES[space] if lr is None else lr)
        self.space = space
        self.clamp = clamp
        self.objective = TargetLogit() if objective is None else objective
        self.scale: Tensor | None = None

    def bind(self, classifier: Classifier) -> None:
        """Take the scale of normalized space, the classifier's ``std``."""
        super().bind(classifier)
        if self.space == "normalized":
            self.scale = torch.tensor(classifier.std, dtype=torch.float64).view(-1, 1, 1)

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the base rate ``lr`` ``(N,)`` besides.

        Raises:
            LitVizError: normalized space is that of a classifier, and none was bound.
        """
        if self.space == "normalized" and self.scale is None:
            raise LitVizError("normalized space is a classifier's own: bind the attack to one, or take space='pixels'.")
        return {**super().init(x, tasks), **self.lr.init(x, tasks)}

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Take a step of length lr in the space: there the gradient is ``g * std``, and a change of 1 is std in
        pixels."""
        gradient = masked_gradient(evaluation, x, rows)
        if self.scale is None:
            step = unit(gradient)
        else:
            scale = self.scale.to(x)
            step = scale * unit(scale * gradient)
        moved = torch.addcmul(x, step, per_slot(self.lr(state), x))
        return (moved.clamp_(0, 1) if self.clamp else moved), state
