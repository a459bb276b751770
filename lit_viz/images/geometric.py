"""Transforms that move pixels; ``Compose`` fuses them into one resampling (but for those that wrap or pad)."""

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
    """A crop of random side at a random place, resized to the view.

    Args:
        low: smallest side, as a fraction of the canvas.
        high: largest side; above 1 the mirrored surroundings of the canvas come into view.
        shrink: by what low and high are multiplied at the image's last iteration; in between the factor is linear in
            the iteration. Below 1 the views come nearer and nearer, so that detail comes last (Fel et al. 2023).
    """

    purpose: ClassVar[str] = "RandomCrop"

    low: float = 0.4
    high: float = 1.0
    shrink: float = 1.0

    def __post_init__(self) -> None:
        _check_range("RandomCrop", "the side of the crop", self.low, self.high)
        if not 0 < self.shrink < math.inf:
            raise LitVizError(f"the shrink of RandomCrop is a factor above 0, not {self.shrink}")

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Return the reading places of each view."""
        side = draws.uniform("side", self.low, self.high).double()
        if self.shrink != 1:
            side = side * (1 + (self.shrink - 1) * draws.progress).to(side)
        place = draws.uniform("place", -0.5, 0.5, (2,)).double()
        # |1 - side| both inside (the crop stays on the canvas) and outside (the canvas stays in the crop).
        shift = place * (1 - side).abs()[:, None] * place.new_tensor([size[1], size[0]])
        return _affine(side, 0.0, 0.0, side, shift[:, 0], shift[:, 1])


@dataclass(frozen=True)
class Scale(GeometricTransform):
    """Zoom about the centre by a random factor.

    Args:
        low: smallest factor; below 1 the content shrinks.
        high: largest factor.
    """

    purpose: ClassVar[str] = "Scale"

    low: float = 0.9
    high: float = 1.1

    def __post_init__(self) -> None:
        _check_range("Scale", "the factor", self.low, self.high)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Return the reading places of each view."""
        step = 1 / draws.uniform("factor", self.low, self.high).double()
        return _affine(step, 0.0, 0.0, step)


@dataclass(frozen=True)
class Rotate(GeometricTransform):
    """Rotation about the centre.

    Args:
        degrees: the angle is uniform in [-degrees, degrees].
    """

    purpose: ClassVar[str] = "Rotate"

    degrees: float = 15.0

    def __post_init__(self) -> None:
        _check_not_negative("Rotate", "degrees", self.degrees)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Return the reading places of each view."""
        angle = draws.uniform("angle", -self.degrees, self.degrees).double() * (math.pi / 180)
        return _affine(angle.cos(), -angle.sin(), angle.sin(), angle.cos())


@dataclass(frozen=True)
class Shear(GeometricTransform):
    """Shear along both axes.

    Args:
        amount: each shear is uniform in [-amount, amount], in pixels a pixel.
    """

    purpose: ClassVar[str] = "Shear"

    amount: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.amount < 1:
            raise LitVizError(f"the amount of Shear lies in [0, 1), not at {self.amount}")

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Return the reading places of each view."""
        amount = draws.uniform("amount", -self.amount, self.amount, (2,)).double()
        return _affine(1.0, amount[:, 0], amount[:, 1], 1.0, like=amount[:, 0])


@dataclass(frozen=True)
class Flip(GeometricTransform):
    """Exchange of left and right.

    Args:
        probability: of a flip.
    """

    purpose: ClassVar[str] = "Flip"

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise LitVizError(f"the probability of Flip lies in [0, 1], not at {self.probability}")

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Return the reading places of each view."""
        sign = 1 - 2 * (draws.uniform("flip").double() < self.probability).double()
        return _affine(sign, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Jitter(GeometricTransform):
    """Shift by whole pixels, so that alone it moves and does not blur; what comes in is mirrored.

    Args:
        pixels: each shift is uniform in -pixels ... pixels, in pixels of the view.
    """

    purpose: ClassVar[str] = "Jitter"

    pixels: int = 8

    def __post_init__(self) -> None:
        _check_not_negative("Jitter", "pixels", self.pixels)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Return the reading places of each view."""
        shift = draws.integers("shift", -self.pixels, self.pixels, (2,)).double()
        return _affine(1.0, 0.0, 0.0, 1.0, shift[:, 0], shift[:, 1], like=shift[:, 0])


@dataclass(frozen=True)
class Roll(Transform):
    """Shift by whole pixels that wraps around, exactly (Mordvintsev, Olah and Tyka 2015; CS231n).

    The gradient comes back rolled the other way, so the image itself stays where it is.

    Args:
        pixels: each shift is uniform in -pixels ... pixels.
    """

    purpose: ClassVar[str] = "Roll"

    pixels: int = 16

    def __post_init__(self) -> None:
        _check_not_negative("Roll", "pixels", self.pixels)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the rolled images."""
        shifts = to_list(draws.integers("shift", -self.pixels, self.pixels, (2,)))
        rolled = [image.roll(shift, (-1, -2)) for image, shift in zip(images, shifts, strict=True)]
        return torch.stack(rolled)


@dataclass(frozen=True)
class DiverseInput(Transform):
    """With some probability the image smaller, at a random place on black, so that an adversarial example doesn't hang
    on where one network looks (Xie et al. 2019, arXiv:1803.06978).

    There the canvas grows beyond the network's input instead, and the image keeps its size at least.

    Args:
        probability: that an image is changed.
        low: smallest side, as a fraction of the image's; it is drawn uniformly in [low, 1], the same for both sides.
    """

    purpose: ClassVar[str] = "DiverseInput"

    probability: float = 0.5
    low: float = 0.9
    affects_success: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (0 <= self.probability <= 1 and 0 < self.low <= 1):
            raise LitVizError(
                "DiverseInput needs a probability in [0, 1] and a smallest side in (0, 1], "
                f"not {self.probability} and {self.low}"
            )

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the images, those that are changed resized bilinearly and padded with zeros."""
        changed = [u < self.probability for u in to_list(draws.uniform("changed"))]
        sides, places = to_list(draws.uniform("side", self.low, 1.0)), to_list(draws.uniform("place", shape=(2,)))
        return torch.stack(
            [
                _padded(image, side, place) if due else image
                for image, due, side, place in zip(images, changed, sides, places, strict=True)
            ]
        )


def _padded(image: Tensor, side: float, place: list[float]) -> Tensor:
    """Return an image ``(C, H, W)`` made smaller by ``side``, on black of its old size; places run from 0 to 1."""
    size = image.shape[-2:]
    small = [max(round(side * n), 1) for n in size]
    before = [min(int(p * (n - m + 1)), n - m) for p, n, m in zip(place, size, small, strict=True)]
    above, left = before
    below, right = (n - m - b for n, m, b in zip(size, small, before, strict=True))
    resized = interpolate(image[None], small, mode="bilinear", antialias=True, align_corners=False)[0]
    return pad(resized, (left, right, above, below))


def _affine(
    xx: Tensor | float,
    xy: Tensor | float,
    yx: Tensor | float,
    yy: Tensor | float,
    x: Tensor | float = 0.0,
    y: Tensor | float = 0.0,
    like: Tensor | None = None,
) -> Tensor:
    """Return ``(M, 3, 3)`` of the entries; numbers are the same for all rows (``like`` tells M if ``xx`` does not)."""
    like = xx if isinstance(xx, Tensor) else like
    assert like is not None
    matrices = torch.eye(3, dtype=torch.float64).repeat(len(like), 1, 1)
    for place, value in (((0, 0), xx), ((0, 1), xy), ((1, 0), yx), ((1, 1), yy), ((0, 2), x), ((1, 2), y)):
        matrices[:, place[0], place[1]] = value
    return matrices


def _check_range(owner: str, what: str, low: float, high: float) -> None:
    if not 0 < low <= high < math.inf:
        raise LitVizError(f"{what} of {owner} goes from low to high with 0 < low <= high, not from {low} to {high}")


def _check_not_negative(owner: str, what: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise LitVizError(f"the {what} of {owner} must be 0 or more, not {value}")
