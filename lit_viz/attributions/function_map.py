"""Maps by a plain function of the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lit_viz.attributions.gradient import Gradient
from lit_viz.errors import check_shape, require
from lit_viz.networks.sources import import_object
from lit_viz.optim import Evaluate, Evaluation
from lit_viz.optim.rule import per_slot

#: Score of each image, ``(M, C, H, W) -> (M,)``, which is differentiable.
Score = Callable[[Tensor], Tensor]


class FunctionMap(Gradient):
    """A map by a function ``f(score, x)`` of the score and the images, which evaluates the score any number of times.

    A run records the path of the function. ``lit-viz resume`` can't continue a run with a local function or a lambda.

    Args:
        function: ``f(score, x) -> maps``, or its path ``module:function``. ``x`` has the images ``(M, C, H, W)`` in
            [0, 1], ``score(x)`` their explained scores ``(M,)``, which are differentiable; the maps are
            ``(M, C, H, W)`` or ``(M, 1, H, W)``.
    """

    def __init__(self, function: Callable[[Score, Tensor], Tensor] | str) -> None:
        self.function = import_object(function, "method") if isinstance(function, str) else function
        require(callable(self.function), "function must be callable", repr(function))

    @property
    def function_name(self) -> str:
        """Name of the function, of the method in records and figures."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def evaluate_map(self, x: Tensor, slots: Tensor, evaluate: Evaluate) -> Tensor:
        def score(images: Tensor) -> Tensor:
            check_shape(self, images, x.shape, meaning="images to its score")
            scores: Tensor = _Score.apply(images, evaluate, slots)  # type: ignore[no-untyped-call]
            return scores

        with torch.enable_grad():
            maps = self.function(score, x.detach().clone())
        shapes = dict.fromkeys([tuple(x.shape), (len(x), 1, *x.shape[2:])])
        check_shape(self, maps, *shapes, meaning="a map of each image")
        detached: Tensor = maps.detach()
        return detached


class _Score(torch.autograd.Function):
    """The score of images with the gradient of an :class:`~lit_viz.optim.Evaluation`."""

    @staticmethod
    def forward(context: Any, images: Tensor, evaluate: Evaluate, slots: Tensor) -> Tensor:
        needs_gradient = context.needs_input_grad[0]
        evaluation = context.evaluation = evaluate(images.detach(), gradient=needs_gradient, slots=slots)
        return evaluation.score.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        evaluation: Evaluation = context.evaluation
        gradient: Tensor = evaluation.gradient * per_slot(gradients[0], evaluation.gradient)
        return gradient, None, None
