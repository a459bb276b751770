"""Transforms that change values and move nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.gaussian import gaussian_blur
from lit_viz.images.transforms import Transform
from lit_viz.rng import Draws
from lit_viz.utils.device import to_device, to_list


@dataclass(frozen=True)
class ColorShift(Transform):
    """Another scale and offset for every channel (after Ghiasi et al. 2022).

    Args:
        scale: the factor is uniform in [1 - scale, 1 + scale].
        offset: what is added is uniform in [-offset, offset], with images in [0, 1].
    """

    purpose: ClassVar[str] = "ColorShift"

    scale: float = 0.3
    offset: float = 0.15

    def __post_init__(self) -> None:
        if not (0 <= self.scale < 1 and self.offset >= 0):
            raise LitVizError(
                f"ColorShift needs a scale in [0, 1) and an offset of 0 or more, not {self.scale} and {self.offset}"
            )

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the shifted images."""
        shape = (images.shape[1], 1, 1)
        scale = draws.uniform("scale", 1 - self.scale, 1 + self.scale, shape)
        offset = draws.uniform("offset", -self.offset, self.offset, shape)
        return torch.addcmul(offset.to(images), images, scale.to(images))


@dataclass(frozen=True)
class ExponentialColorShift(Transform):
    """``(x - mean) / std`` with another mean and std for every channel and view: far stronger than :class:`ColorShift`
    (Ghiasi et al. 2021, "Plug-In Inversion", arXiv:2201.12961).

    Args:
        mean: it is uniform in [-mean, mean], with images in [0, 1].
        log_std: the logarithm of the std is uniform in [-log_std, log_std].
    """

    purpose: ClassVar[str] = "ExponentialColorShift"

    mean: float = 1.0
    log_std: float = 1.0

    def __post_init__(self) -> None:
        if not (self.mean >= 0 and self.log_std >= 0):
            raise LitVizError(
                f"ExponentialColorShift needs a mean and a log_std of 0 or more, not {self.mean} and {self.log_std}"
            )

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the shifted images."""
        shape = (images.shape[1], 1, 1)
        mean = draws.uniform("mean", -self.mean, self.mean, shape).to(images)
        std = draws.uniform("log_std", -self.log_std, self.log_std, shape).to(images).exp()
        return (images - mean) / std


@dataclass(frozen=True)
class Saturation(Transform):
    """Another saturation: each pixel is mixed with the mean of its channels.

    Args:
        low: smallest factor; 0 is grey.
        high: largest factor; 1 leaves the colours as they are, more makes them gaudy.
    """

    purpose: ClassVar[str] = "Saturation"

    low: float = 0.3
    high: float = 1.2

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise LitVizError(f"Saturation needs 0 <= low <= high, not {self.low} and {self.high}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the images with another saturation; one channel has none to change."""
        factor = draws.uniform("factor", self.low, self.high, (1, 1, 1)).to(images)
        return torch.lerp(images.mean(1, keepdim=True), images, factor) if images.shape[1] > 1 else images


@dataclass(frozen=True)
class Noise(Transform):
    """Added Gaussian noise.

    Args:
        sd: its standard deviation, with images in [0, 1].
    """

    purpose: ClassVar[str] = "Noise"

    sd: float = 0.04

    def __post_init__(self) -> None:
        if not self.sd >= 0:
            raise LitVizError(f"the sd of Noise is a standard deviation of 0 or more, not {self.sd}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the noisy images."""
        if self.sd == 0:
            return images
        return torch.add(images, draws.noise("noise", images.shape[1:]).to(images), alpha=self.sd)


@dataclass(frozen=True)
class Blur(Transform):
    """Gaussian blur of random width on every n-th iteration of the image.

    Args:
        low: smallest sigma, in pixels of the view.
        high: largest sigma.
        every: blurred are the iterations that it divides: 1 is all, 2 is 0, 2, 4 ...
    """

    purpose: ClassVar[str] = "Blur"

    low: float = 0.1
    high: float = 1.6
    every: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise LitVizError(
                f"the sigma of Blur goes from low to high, 0 <= low <= high, not {self.low} to {self.high}"
            )
        if self.every < 1:
            raise LitVizError(f"Blur needs every >= 1 (1 blurs on every iteration), not {self.every}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the images, blurred where their iteration asks for it."""
        due = [key.iteration % self.every == 0 for key in draws.keys]
        if not any(due):
            return images
        sigmas = to_list(draws.uniform("sigma", self.low, self.high))
        mine = [sigma if now else 0.0 for sigma, now in zip(sigmas, due, strict=True)]
        # Truncated at 3 sigma: 0.3 % of the kernel's weight, for three quarters of the work.
        return gaussian_blur(images, to_device(mine, images.device), truncate=3.0)
