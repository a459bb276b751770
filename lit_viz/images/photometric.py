"""Transforms of pixel values: color, saturation, noise and blur."""

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
    """Random scale and offset per channel (after Ghiasi et al. 2022).

    Args:
        scale: factors are uniform in [1 - scale, 1 + scale]; in [0, 1).
        offset: offsets are uniform in [-offset, offset], for images in [0, 1].
    """

    purpose: ClassVar[str] = "ColorShift"

    scale: float = 0.3
    offset: float = 0.15

    def __post_init__(self) -> None:
        if not (0 <= self.scale < 1 and self.offset >= 0):
            raise LitVizError(
                f"ColorShift: scale must be in [0, 1) and offset non-negative, got {self.scale} and {self.offset}"
            )

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Shift the colors of the images."""
        shape = (images.shape[1], 1, 1)
        scale = draws.uniform("scale", 1 - self.scale, 1 + self.scale, shape)
        offset = draws.uniform("offset", -self.offset, self.offset, shape)
        return torch.addcmul(offset.to(images), images, scale.to(images))


@dataclass(frozen=True)
class ExponentialColorShift(Transform):
    """``(x - mean) / std`` with random mean and std per channel and view; stronger than :class:`ColorShift` (Ghiasi et
    al. 2021, "Plug-In Inversion", arXiv:2201.12961).

    Args:
        mean: means are uniform in [-mean, mean], for images in [0, 1].
        log_std: logarithms of the std are uniform in [-log_std, log_std].
    """

    purpose: ClassVar[str] = "ExponentialColorShift"

    mean: float = 1.0
    log_std: float = 1.0

    def __post_init__(self) -> None:
        if not (self.mean >= 0 and self.log_std >= 0):
            raise LitVizError(
                f"ExponentialColorShift: mean and log_std must be non-negative, got {self.mean} and {self.log_std}"
            )

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Shift the colors of the images."""
        shape = (images.shape[1], 1, 1)
        mean = draws.uniform("mean", -self.mean, self.mean, shape).to(images)
        std = draws.uniform("log_std", -self.log_std, self.log_std, shape).to(images).exp()
        return (images - mean) / std


@dataclass(frozen=True)
class Saturation(Transform):
    """Random saturation: interpolation between each pixel and the mean of its channels.

    Args:
        low: smallest factor; 0 is gray.
        high: largest factor; 1 leaves the colors unchanged.
    """

    purpose: ClassVar[str] = "Saturation"

    low: float = 0.3
    high: float = 1.2

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise LitVizError(f"Saturation: 0 <= low <= high is required, got {self.low} and {self.high}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Change the saturation of the images; single-channel images are unchanged."""
        factor = draws.uniform("factor", self.low, self.high, (1, 1, 1)).to(images)
        return torch.lerp(images.mean(1, keepdim=True), images, factor) if images.shape[1] > 1 else images


@dataclass(frozen=True)
class Noise(Transform):
    """Additive Gaussian noise.

    Args:
        sd: standard deviation, for images in [0, 1].
    """

    purpose: ClassVar[str] = "Noise"

    sd: float = 0.04

    def __post_init__(self) -> None:
        if not self.sd >= 0:
            raise LitVizError(f"sd of Noise must be non-negative, got {self.sd}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Add noise to the images."""
        if self.sd == 0:
            return images
        return torch.add(images, draws.noise("noise", images.shape[1:]).to(images), alpha=self.sd)


@dataclass(frozen=True)
class Blur(Transform):
    """Gaussian blur of random width at every n-th iteration.

    Args:
        low: smallest sigma, in pixels of the view.
        high: largest sigma.
        every: blur at iterations divisible by this number: 1 is all, 2 is 0, 2, 4 ...
    """

    purpose: ClassVar[str] = "Blur"

    low: float = 0.1
    high: float = 1.6
    every: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise LitVizError(f"Blur: 0 <= low <= high is required, got {self.low} and {self.high}")
        if self.every < 1:
            raise LitVizError(f"every of Blur must be at least 1, got {self.every}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Blur the images whose iteration is divisible by ``every``."""
        due = [key.iteration % self.every == 0 for key in draws.keys]
        if not any(due):
            return images
        drawn = to_list(draws.uniform("sigma", self.low, self.high))
        sigmas = [sigma if is_due else 0.0 for sigma, is_due in zip(drawn, due, strict=True)]
        # Truncation at 3 sigma removes 0.3 % of the kernel's weight and a quarter of the work.
        return gaussian_blur(images, to_device(sigmas, images.device), truncate=3.0)
