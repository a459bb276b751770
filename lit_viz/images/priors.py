"""Image priors: penalties that are subtracted from the score, and projections after an update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.errors import require
from lit_viz.images.canvas import Canvas
from lit_viz.images.filters import gaussian_blur
from lit_viz.images.parameterizations import Parameterization, Pixels
from lit_viz.utils.parts import Part


class Prior(Part, ABC):
    """Base class of penalties on the normalized image, in which zero is the mean color.

    Attributes:
        name: of the logged metric.
    """

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Compute the penalties ``(N,)`` of normalized images ``(N, C, H, W)``; differentiable."""


@dataclass(frozen=True)
class _Weighted(Prior):
    """Base class of priors with a weight.

    Args:
        weight: factor of the penalty, non-negative.
    """

    weight: float = 1e-3

    def __post_init__(self) -> None:
        require(self.weight >= 0, f"weight of {type(self).__name__} must be non-negative", self.weight)


class L2(_Weighted):
    """``weight * ||x||``, the Euclidean norm of each image (weight 1e-3 in the original experiment)."""

    name = "l2"

    def __call__(self, images: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
        return self.weight * norms


class SquaredL2(_Weighted):
    """``weight * ||x||^2`` (Simonyan et al. 2014, equation 1)."""

    name = "squared_l2"

    def __call__(self, images: Tensor) -> Tensor:
        return self.weight * images.flatten(1).square().sum(1)


class TotalVariation(_Weighted):
    """``weight`` times the sum of the absolute differences of horizontal and vertical neighbors."""

    name = "total_variation"

    def __call__(self, images: Tensor) -> Tensor:
        vertical, horizontal = images.diff(dim=-2), images.diff(dim=-1)
        return self.weight * (vertical.abs().flatten(1).sum(1) + horizontal.abs().flatten(1).sum(1))


class Projection(Part, ABC):
    """Base class of operations on the parameter after an update, without gradient."""

    def check(self, parameterization: Parameterization) -> None:
        """Raise a LitVizError unless the parameterization is :class:`Pixels`; called when a method is built."""
        constraint = f"{type(self).__name__} requires the parameterization Pixels"
        require(isinstance(parameterization, Pixels), constraint, type(parameterization).__name__)

    @abstractmethod
    def __call__(self, x: Tensor, iteration: Tensor, parameterization: Parameterization, canvas: Canvas) -> Tensor:
        """Project the parameter.

        Args:
            x: ``(N, C, H, W)``.
            iteration: int64 ``(N,)``, number of updates of each image.
            parameterization: of x; accepted by :meth:`check`.
            canvas: of the images.
        """


@dataclass(frozen=True)
class GaussianBlur(Projection):
    """Gaussian blur after every n-th update (Yosinski et al. 2015).

    Args:
        sigma: in pixels.
        every: period in updates: 10 blurs after updates 10, 20, 30 ...
    """

    sigma: float = 0.5
    every: int = 10

    def __post_init__(self) -> None:
        valid = self.sigma >= 0 and self.every >= 1
        require(valid, "GaussianBlur: sigma must be non-negative and every at least 1", self.sigma, self.every)

    def __call__(self, x: Tensor, iteration: Tensor, parameterization: Parameterization, canvas: Canvas) -> Tensor:
        due = iteration.to(x.device) % self.every == 0
        if not due.any():
            return x
        return gaussian_blur(x, self.sigma * due.to(x.dtype))


@dataclass(frozen=True)
class Clamp(Projection):
    """Clamp of the image to [0, 1], in the space of the parameter."""

    def __call__(self, x: Tensor, iteration: Tensor, parameterization: Parameterization, canvas: Canvas) -> Tensor:
        black, white = x.new_zeros(canvas.channels, 1, 1), x.new_ones(canvas.channels, 1, 1)
        return x.clamp(parameterization.encode(black, canvas), parameterization.encode(white, canvas))
