"""SmoothGrad and variants: mean, mean square and variance of the gradient under noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attributions.base import GradientRule, Sampling, gather_rows, keys, networks_of, welford_update
from lit_viz.errors import require
from lit_viz.optim import Evaluate, State
from lit_viz.rng import Draws, Key
from lit_viz.types import Task

_MOST_SIGMA = 10.0  # nothing is left of an image in [0, 1]


class SmoothGrad(Sampling):
    """Mean of the signed gradient over copies of the image with Gaussian noise.
    Smilkov et al. 2017, arXiv:1706.03825, section 3.

    Noisy copies are not clipped to [0, 1].

    Args:
        sigma: standard deviation of the noise, for images in [0, 1]; the paper recommends 0.1 to 0.2.
        backprop: ``libra`` detaches attention weights, deviations of norms and gates of activations in the backward
            (:class:`~lit_viz.attributions.gradient.LibraGradient`).
    """

    title = "SmoothGrad"
    evaluations = 128

    def __init__(self, sigma: float = 0.15, backprop: GradientRule = "plain") -> None:
        constraint = f"sigma of SmoothGrad must be positive and at most {_MOST_SIGMA:g}, for images in [0, 1]"
        require(0 < sigma <= _MOST_SIGMA, constraint, sigma, hint="0.1 to 0.2 is usual")
        self.sigma, self.networks = sigma, networks_of(backprop)

    def samples(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> Tensor:
        noisy = noise(keys(state, slots, numbers), x, self.sigma).add_(gather_rows(x, slots))
        return evaluate(noisy, slots=slots, network=self.networks[0]).gradient


class SmoothGradSquared(SmoothGrad):
    """Mean of the squared gradient over noisy copies (Hooker et al. 2019, arXiv:1806.10758); unsigned."""

    title = "SmoothGrad, squared"
    evaluations = 32

    def samples(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> Tensor:
        return super().samples(x, state, slots, numbers, evaluate).square()


class VarGrad(SmoothGrad):
    """Unbiased variance of the gradient over noisy copies (Adebayo et al. 2018, arXiv:1810.03292); unsigned.

    The square of the k-th recursive residual (:func:`~lit_viz.attributions.base.welford_update`) has the variance
    as its expectation, and the mean of the squares over k = 2 ... n is the sample variance with divisor n - 1 (Welford
    1962). The residuals are uncorrelated (Brown, Durbin and Evans 1975, J. R. Stat. Soc. B 37:149) and, for Gaussian
    gradients, independent. The spread of the n - 1 squares therefore gives the standard error: exactly for Gaussian
    gradients, and up to terms of order log(n) / n otherwise. The first gradient gives no sample.
    """

    title = "VarGrad"
    evaluations = 32
    skipped: ClassVar[int] = 1
    fewest: ClassVar[int] = 8

    @property
    def recorded(self) -> str | None:
        return None  # the samples depend on each other

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return super().init(x, tasks) | {"centre": torch.zeros_like(x)}

    def samples(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> Tensor:
        gradients = super().samples(x, state, slots, numbers, evaluate)
        state["centre"], residuals = welford_update(state["centre"], slots, numbers, gradients)
        return residuals.square_()


def noise(keys: Sequence[Key], x: Tensor, sigma: float) -> Tensor:
    """Draw the noise ``(M, ...)`` of evaluations: keys ``Key(seed of the task, number of the evaluation from 0)``,
    images ``x`` ``(N, ...)``, standard deviation ``sigma``."""
    return Draws(keys, x.device).scoped("smoothgrad").noise("noise", x.shape[1:]).to(x.dtype).mul_(sigma)
