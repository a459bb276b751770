"""Base class of parameterizations, the pixel parameterization, and the canvas of the optimized images.

A parameterization is a stateless, differentiable map from a parameter ``x`` ``(N, *shape)`` with independent rows to
images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.rng import Draws


@dataclass(frozen=True)
class Canvas:
    """Shape of the optimized images and normalization of the classifier.

    Args:
        channels: 3, or 1 for a gray classifier.
        height: in pixels.
        width: in pixels.
        mean: per channel; the input of the network is ``(image - mean) / std``.
        std: per channel.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise LitVizError(f"canvas must be at least 1 x 1 x 1, got {self.channels} x {self.height} x {self.width}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise LitVizError(
                f"mean and std must have {self.channels} values, one per channel, got {len(self.mean)} and "
                f"{len(self.std)}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width

    def normalization(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std as ``(C, 1, 1)`` with the dtype and device of ``like``."""
        mean, std = like.new_tensor(self.mean), like.new_tensor(self.std)
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)


class Parameterization(ABC):
    """Base class of differentiable maps from a parameter to images.

    Attributes:
        preserves: phrase for messages: the part of an encoded photograph that is preserved.
    """

    preserves: ClassVar[str] = "little of it"

    @abstractmethod
    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        """Draw the parameter ``(N, *shape)`` of N random images, one per row of ``draws``."""

    @abstractmethod
    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        """Compute the parameter that approximates images ``(N, C, H, W)`` in [0, 1]."""

    @abstractmethod
    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        """Compute the images ``(N, C, H, W)`` of a parameter; differentiable."""


@dataclass(frozen=True)
class Pixels(Parameterization):
    """Pixel values.

    Encoding is exact up to float rounding.

    Args:
        space: ``"unit"``: x is the image in [0, 1], and the start is clamped to [0, 1]. ``"normalized"``: x is the
            input of the network, ``decode(x) = x * std + mean``, as in Simonyan et al. (2014, section 2); images can
            leave [0, 1] unless the projection ``Clamp`` is used.
        sd: standard deviation of the initial noise in units of x, around gray (unit) or the mean color (normalized).
            None: 0.1 in unit space, 1 in normalized space.
    """

    space: Literal["unit", "normalized"] = "unit"
    sd: float | None = None

    def __post_init__(self) -> None:
        if self.space not in ("unit", "normalized"):
            raise LitVizError(f"space of Pixels must be 'unit' or 'normalized', got {self.space!r}")
        if self.sd is not None and not self.sd >= 0:
            raise LitVizError(f"sd of Pixels must be non-negative, got {self.sd}")

    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        """Draw noise ``(N, C, H, W)``."""
        noise = draws.normal("start", canvas.shape)
        if self.space == "normalized":
            return noise * (1.0 if self.sd is None else self.sd)
        return (0.5 + noise * (0.1 if self.sd is None else self.sd)).clamp_(0, 1)

    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        """Return the images, normalized in normalized space."""
        if self.space == "unit":
            return images.clone()
        mean, std = canvas.normalization(images)
        return (images - mean) / std

    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        """Return the images; in normalized space they can leave [0, 1]."""
        if self.space == "unit":
            return x
        mean, std = canvas.normalization(x)
        return torch.addcmul(mean, x, std)


def encoding_error(parameterization: Parameterization, images: Tensor, canvas: Canvas) -> tuple[float, float]:
    """Return maximum and mean of ``|decode(encode(images)) - images|``, in /255."""
    with torch.no_grad():
        difference = parameterization.decode(parameterization.encode(images, canvas), canvas).sub(images).abs().mul(255)
    return float(difference.max()), float(difference.mean())
