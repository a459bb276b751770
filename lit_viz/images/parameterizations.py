"""What is trained instead of the pixels: a parameter ``x`` of another shape, and its differentiable way to the images.

A parameterization has no state: ``x`` is a plain tensor ``(N, *shape)`` whose rows are independent.
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
    """The images that are trained: their shape, and the normalization of the classifier that will see them.

    Args:
        channels: 3, or 1 for a grey classifier.
        height: in pixels.
        width: in pixels.
        mean: by channel; the classifier sees ``(image - mean) / std``.
        std: by channel.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise LitVizError(f"a canvas of {self.channels} x {self.height} x {self.width} (C x H x W) is empty")
        if not len(self.mean) == len(self.std) == self.channels:
            raise LitVizError(
                f"the canvas has {self.channels} channels, but the classifier's mean has {len(self.mean)} values "
                f"and its std {len(self.std)}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width

    def normalization(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std as ``(C, 1, 1)``, of the dtype and on the device of ``like``."""
        mean, std = like.new_tensor(self.mean), like.new_tensor(self.std)
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)


class Parameterization(ABC):
    """A differentiable map from a parameter to images.

    Attributes:
        preserves: what of a photograph that is encoded, in words.
    """

    preserves: ClassVar[str] = "little of it"

    @abstractmethod
    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        """Return the parameter ``(N, *shape)`` of N random images, one for each row of ``draws``."""

    @abstractmethod
    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        """Return the parameter of given images ``(N, C, H, W)`` in [0, 1], as close as it allows."""

    @abstractmethod
    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        """Return the images ``(N, C, H, W)`` of a parameter; differentiable."""


@dataclass(frozen=True)
class Pixels(Parameterization):
    """The pixels themselves.

    Args:
        space: ``"unit"``: x is the image in [0, 1]. ``"normalized"``: x is the image as the classifier sees it, and
            ``decode(x) = x * std + mean``, as in the experiment of Simonyan et al. (2014, section 2); noise of
            standard deviation 1 leaves [0, 1], until a ``Clamp`` brings it back.
        sd: standard deviation of the starting noise, in the units of x, around grey (unit) or the mean colour
            (normalized). None means 0.1 in unit space and 1 in normalized space.

    In unit space the start is clamped to [0, 1]. Encoding is exact up to float rounding.
    """

    space: Literal["unit", "normalized"] = "unit"
    sd: float | None = None

    def __post_init__(self) -> None:
        if self.space not in ("unit", "normalized"):
            raise LitVizError(f"the space of Pixels is 'unit' or 'normalized', not {self.space!r}")
        if self.sd is not None and not self.sd >= 0:
            raise LitVizError(f"the sd of Pixels is a standard deviation of 0 or more, not {self.sd}")

    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        """Return noise ``(N, C, H, W)``."""
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
        """Return the images; in normalized space they may leave [0, 1]."""
        if self.space == "unit":
            return x
        mean, std = canvas.normalization(x)
        return torch.addcmul(mean, x, std)


def encoding_error(parameterization: Parameterization, images: Tensor, canvas: Canvas) -> tuple[float, float]:
    """Return the largest and the mean absolute difference of ``decode(encode(images))`` to the images, in /255."""
    with torch.no_grad():
        difference = parameterization.decode(parameterization.encode(images, canvas), canvas).sub(images).abs().mul(255)
    return float(difference.max()), float(difference.mean())
