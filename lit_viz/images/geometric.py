"""Transforms of pixel positions; ``Compose`` fuses the affine ones into one resampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from lit_viz.errors import LitVizError
from lit_viz.images.transforms import GeometricTransform, Transform
from lit_viz.rng import Draws
from lit_viz.utils.device import to_list


@dataclass(frozen=True)
class RandomCrop(GeometricTransform):
    """Crop of random side and position, resized to the view.

    Args:
        low: smallest side, as a fraction of the canvas.
        high: largest side; above 1 the view includes the reflected surroundings of the canvas.
        shrink: factor of low and high at the last iteration, interpolated linearly from 1. Below 1, crops get smaller,
            so that detail is optimized last (Fel et al. 2023).
    """

    purpose: ClassVar[str] = "RandomCrop"

    low: float = 0.4
    high: float = 1.0
    shrink: float = 1.0

    def __post_init__(self) -> None:
        _check_range("RandomCrop", self.low, self.high)
        if not 0 < self.shrink < math.inf:
            raise LitVizError(f"shrink of RandomCrop must be positive, got {self.shrink}")

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Compute the matrices ``(M, 3, 3)``."""
        side = draws.uniform("side", self.low, self.high).double()
        if self.shrink != 1:
            side = side * (1 + (self.shrink - 1) * draws.progress).to(side)
        position = draws.uniform("place", -0.5, 0.5, (2,)).double()
        # |1 - side| keeps a small crop inside the canvas, and the canvas inside a large crop.
        shift = position * (1 - side).abs()[:, None] * position.new_tensor([size[1], size[0]])
        return _affine(side, 0.0, 0.0, side, shift[:, 0], shift[:, 1])


@dataclass(frozen=True)
class Scale(GeometricTransform):
    """Zoom about the center by a random factor.

    Args:
        low: smallest factor; below 1 the content shrinks.
        high: largest factor.
    """

    purpose: ClassVar[str] = "Scale"

    low: float = 0.9
    high: float = 1.1

    def __post_init__(self) -> None:
        _check_range("Scale", self.low, self.high)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Compute the matrices ``(M, 3, 3)``."""
        step = 1 / draws.uniform("factor", self.low, self.high).double()
        return _affine(step, 0.0, 0.0, step)


@dataclass(frozen=True)
class Rotate(GeometricTransform):
    """Rotation about the center by a random angle.

    Args:
        degrees: the angle is uniform in [-degrees, degrees].
    """

    purpose: ClassVar[str] = "Rotate"

    degrees: float = 15.0

    def __post_init__(self) -> None:
        _check_not_negative("Rotate", "degrees", self.degrees)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Compute the matrices ``(M, 3, 3)``."""
        angle = draws.uniform("angle", -self.degrees, self.degrees).double() * (math.pi / 180)
        return _affine(angle.cos(), -angle.sin(), angle.sin(), angle.cos())


@dataclass(frozen=True)
class Shear(GeometricTransform):
    """Random shear along both axes.

    Args:
        amount: each shear is uniform in [-amount, amount], in pixels per pixel.
    """

    purpose: ClassVar[str] = "Shear"

    amount: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.amount < 1:
            raise LitVizError(f"amount of Shear must be in [0, 1), got {self.amount}")

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Compute the matrices ``(M, 3, 3)``."""
        amount = draws.uniform("amount", -self.amount, self.amount, (2,)).double()
        return _affine(1.0, amount[:, 0], amount[:, 1], 1.0, like=amount[:, 0])


@dataclass(frozen=True)
class Flip(GeometricTransform):
    """Random horizontal flip.

    Args:
        probability: probability of a flip.
    """

    purpose: ClassVar[str] = "Flip"

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise LitVizError(f"probability of Flip must be in [0, 1], got {self.probability}")

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Compute the matrices ``(M, 3, 3)``."""
        sign = 1 - 2 * (draws.uniform("flip").double() < self.probability).double()
        return _affine(sign, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Jitter(GeometricTransform):
    """Random shift by integer pixels with reflection at the border; alone, it does not blur.

    Args:
        pixels: each shift is uniform in [-pixels, pixels], in pixels of the view.
    """

    purpose: ClassVar[str] = "Jitter"

    pixels: int = 8

    def __post_init__(self) -> None:
        _check_not_negative("Jitter", "pixels", self.pixels)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Compute the matrices ``(M, 3, 3)``."""
        shift = draws.integers("shift", -self.pixels, self.pixels, (2,)).double()
        return _affine(1.0, 0.0, 0.0, 1.0, shift[:, 0], shift[:, 1], like=shift[:, 0])


@dataclass(frozen=True)
class Roll(Transform):
    """Random cyclic shift by integer pixels (Mordvintsev, Olah and Tyka 2015; CS231n).

    The gradient is rolled back, so the image does not move.

    Args:
        pixels: each shift is uniform in [-pixels, pixels].
    """

    purpose: ClassVar[str] = "Roll"

    pixels: int = 16

    def __post_init__(self) -> None:
        _check_not_negative("Roll", "pixels", self.pixels)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Roll the images."""
        shifts = to_list(draws.integers("shift", -self.pixels, self.pixels, (2,)))
        rolled = [image.roll(shift, (-1, -2)) for image, shift in zip(images, shifts, strict=True)]
        return torch.stack(rolled)


@dataclass(frozen=True)
class DiverseInput(Transform):
    """Random downsizing and zero padding at a random position, for transferable adversarial examples (Xie et al. 2019,
    arXiv:1803.06978). The paper enlarges the canvas instead of shrinking the image.

    Args:
        probability: probability that an image is changed.
        low: smallest relative side; it is uniform in [low, 1], equal for height and width.
    """

    purpose: ClassVar[str] = "DiverseInput"

    probability: float = 0.5
    low: float = 0.9
    affects_success: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (0 <= self.probability <= 1 and 0 < self.low <= 1):
            raise LitVizError(
                f"DiverseInput: probability must be in [0, 1] and low in (0, 1], got {self.probability} and {self.low}"
            )

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Resize (bilinear) and zero-pad the selected images."""
        changed = [u < self.probability for u in to_list(draws.uniform("changed"))]
        sides, positions = to_list(draws.uniform("side", self.low, 1.0)), to_list(draws.uniform("place", shape=(2,)))
        return torch.stack(
            [
                _shrink(image, side, position) if change else image
                for image, change, side, position in zip(images, changed, sides, positions, strict=True)
            ]
        )


def _shrink(image: Tensor, side: float, position: list[float]) -> Tensor:
    """Shrink an image ``(C, H, W)`` by ``side`` and pad it with zeros to its size; ``position`` is in [0, 1]."""
    size = image.shape[-2:]
    small = [max(round(side * n), 1) for n in size]
    top, left = (min(int(p * (n - m + 1)), n - m) for p, n, m in zip(position, size, small, strict=True))
    bottom, right = size[0] - small[0] - top, size[1] - small[1] - left
    resized = interpolate(image[None], small, mode="bilinear", antialias=True, align_corners=False)[0]
    return pad(resized, (left, right, top, bottom))


def _affine(
    xx: Tensor | float,
    xy: Tensor | float,
    yx: Tensor | float,
    yy: Tensor | float,
    x: Tensor | float = 0.0,
    y: Tensor | float = 0.0,
    like: Tensor | None = None,
) -> Tensor:
    """Build matrices ``(M, 3, 3)`` from their entries; ``like`` defines M if ``xx`` is a number."""
    like = xx if isinstance(xx, Tensor) else like
    assert like is not None
    matrices = torch.eye(3, dtype=torch.float64).repeat(len(like), 1, 1)
    for row, column, value in ((0, 0, xx), (0, 1, xy), (1, 0, yx), (1, 1, yy), (0, 2, x), (1, 2, y)):
        matrices[:, row, column] = value
    return matrices


def _check_range(owner: str, low: float, high: float) -> None:
    if not 0 < low <= high < math.inf:
        raise LitVizError(f"{owner}: 0 < low <= high is required, got {low} and {high}")


def _check_not_negative(owner: str, argument: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise LitVizError(f"{argument} of {owner} must be non-negative, got {value}")
