"""What is believed of images beforehand: penalties on the image, and projections of the parameter after an update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.gaussian import gaussian_blur
from lit_viz.images.parameterizations import Canvas, Parameterization, Pixels


class Prior(ABC):
    """A penalty, subtracted from the score; it sees the image as the classifier does (zero is the mean colour)."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Under which its value is logged."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Return the penalties ``(N,)`` of normalized images ``(N, C, H, W)``; differentiable."""


@dataclass(frozen=True)
class _Weighted(Prior):
    """A prior with a weight.

    Args:
        weight: the penalty's factor, 0 or more.
    """

    weight: float = 1e-3

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise LitVizError(f"the weight of {type(self).__name__} must be 0 or more, not {self.weight}")


class L2(_Weighted):
    """``weight * ||x||``, the Euclidean norm of each image (as in the original experiment, with weight 1e-3)."""

    @property
    def name(self) -> str:
        """``l2``."""
        return "l2"

    def __call__(self, images: Tensor) -> Tensor:
        """Return the penalties."""
        norms: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
        return self.weight * norms


class SquaredL2(_Weighted):
    """``weight * ||x||^2`` (Simonyan et al. 2014, equation 1)."""

    @property
    def name(self) -> str:
        """``squared_l2``."""
        return "squared_l2"

    def __call__(self, images: Tensor) -> Tensor:
        """Return the penalties."""
        return self.weight * images.flatten(1).square().sum(1)


class TotalVariation(_Weighted):
    """``weight`` times the sum of the absolute differences of all neighbours, across and down."""

    @property
    def name(self) -> str:
        """``total_variation``."""
        return "total_variation"

    def __call__(self, images: Tensor) -> Tensor:
        """Return the penalties."""
        down, across = images.diff(dim=-2), images.diff(dim=-1)
        return self.weight * (down.abs().flatten(1).sum(1) + across.abs().flatten(1).sum(1))


class Projection(ABC):
    """What is done to the parameter after an update, without a gradient."""

    def check(self, parameterization: Parameterization) -> None:
        """Raise a LitVizError where the parameter is not made of pixels (a method calls this when it is built)."""
        if not isinstance(parameterization, Pixels):
            raise LitVizError(
                f"{type(self).__name__} acts on pixels and can't be used with {type(parameterization).__name__}: "
                "leave it out, or use the parameterization Pixels"
            )

    @abstractmethod
    def __call__(self, x: Tensor, iteration: Tensor, parameterization: Parameterization, canvas: Canvas) -> Tensor:
        """Return the projected parameter.

        Args:
            x: ``(N, C, H, W)``.
            iteration: int64 ``(N,)``, the updates that each image has had.
            parameterization: what x means; one that :meth:`check` accepts.
            canvas: of the images.
        """


@dataclass(frozen=True)
class GaussianBlur(Projection):
    """A blur after every n-th update (Yosinski et al. 2015).

    Args:
        sigma: in pixels.
        every: 10 blurs after updates 10, 20, 30 ...
    """

    sigma: float = 0.5
    every: int = 10

    def __post_init__(self) -> None:
        if not (self.sigma >= 0 and self.every >= 1):
            raise LitVizError(
                f"GaussianBlur needs a sigma of 0 or more and every >= 1, not sigma {self.sigma} and every {self.every}"
            )

    def __call__(self, x: Tensor, iteration: Tensor, parameterization: Parameterization, canvas: Canvas) -> Tensor:
        """Return x, with the rows blurred whose turn it is."""
        due = iteration.to(x.device) % self.every == 0
        return gaussian_blur(x, self.sigma * due.to(x.dtype)) if due.any() else x


@dataclass(frozen=True)
class Clamp(Projection):
    """Brings every pixel back to what a picture can show: [0, 1], or what that is in normalized space."""

    def __call__(self, x: Tensor, iteration: Tensor, parameterization: Parameterization, canvas: Canvas) -> Tensor:
        """Return x within the range."""
        low, high = x.new_zeros(canvas.channels, 1, 1), x.new_ones(canvas.channels, 1, 1)
        if isinstance(parameterization, Pixels) and parameterization.space == "normalized":
            mean, std = canvas.normalization(x)
            low, high = (low - mean) / std, (high - mean) / std
        return x.clamp(low, high)
