"""GradientSHAP: mean of input times gradient between random baselines and the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from lit_viz.attributions.base import GradientRule, Sampling, gather_rows, keys, networks_of
from lit_viz.attributions.baselines import BaselineLike, DrawnBaselines
from lit_viz.errors import require
from lit_viz.optim import Evaluate, State
from lit_viz.optim.rule import per_slot
from lit_viz.rng import Draws
from lit_viz.types import Task, seeds_of


class GradientShap(Sampling):
    """Mean of ``(x' - b) * gradient at b + a (x' - b)`` (Lundberg and Lee 2017, arXiv:1705.07874).

    Each sample draws the position a uniformly from [0, 1], the baseline b, and noise, ``x' = x +
    sigma z``. Without noise the map sums to the score less the mean score of the baselines, in expectation.

    Args:
        baseline: one or several, of which each sample draws one; see
            :class:`~lit_viz.attributions.baselines.DrawnBaselines`.
        sigma: standard deviation of the noise, for images in [0, 1].
        backprop: ``libra`` detaches attention weights, deviations of norms and gates of activations in the backward
            (:class:`~lit_viz.attributions.gradient.LibraGradient`).
    """

    title = "GradientSHAP"
    signed: ClassVar[bool] = True
    evaluations = 128
    fewest: ClassVar[int] = 128  # the samples have heavy tails

    baseline: DrawnBaselines

    def __init__(
        self, baseline: BaselineLike = ("black", 0.5, 1.0), sigma: float = 0.0, backprop: GradientRule = "plain"
    ) -> None:
        name = type(self).__name__
        is_empty = isinstance(baseline, (Sequence, Tensor)) and not len(baseline)
        require(not is_empty, f"{name} must have at least one baseline", "none")
        require(0 <= sigma < math.inf, f"sigma of {name} must be at least 0", sigma)
        self.baseline, self.sigma = DrawnBaselines(baseline), sigma
        self.networks = networks_of(backprop)

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return super().init(x, tasks) | self.baseline.init(x, seeds_of(tasks))

    def samples(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> Tensor:
        start, end, position = self.draw(x, state, slots, numbers)
        evaluation = evaluate(start.lerp(end, per_slot(position, x)), slots=slots, network=self.networks[0])
        return (end - start) * evaluation.gradient

    def draw(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw baseline ``(M, ...)``, noisy image ``(M, ...)`` and position between them ``(M,)``; arguments as for
        :meth:`accumulate`."""
        draws = Draws(keys(state, slots, numbers), x.device).scoped("gradient_shap")
        start = self.baseline.draw(draws, x, state, slots)
        end = gather_rows(x, slots)
        if self.sigma > 0:
            end = end + draws.noise("noise", x.shape[1:]).to(x.dtype).mul_(self.sigma)
        return start, end, draws.uniform("position").to(x.dtype)
