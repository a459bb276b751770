"""Robustness transforms: random views of an image, and their composition with one fused resampling.

Each view has its own keyed draws. All geometric transforms of a list are fused into one resampling of the image.
(kornia and torchvision draw from the global random state or per batch, and resample once per transform.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from lit_viz.errors import check_shape, require
from lit_viz.images.filters import gaussian_blur, resample
from lit_viz.rng import Draws
from lit_viz.utils.device import to_device, to_list
from lit_viz.utils.parts import Part


class Transform(Part, ABC):
    """Base class of random, differentiable maps of images that keep their size.

    Attributes:
        affects_success: whether an adversarial example must succeed under the transform. Otherwise the transform
            changes the gradient only, and success is tested on the image itself.
        purpose: part of the key of the random draws (see :class:`~lit_viz.rng.Draws`), given as the class argument
            ``purpose``: a frozen string, independent of the class name. Default: the class name, so renaming the class
            changes its draws.
    """

    affects_success: ClassVar[bool] = True
    purpose: ClassVar[str]

    def __init_subclass__(cls, purpose: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.purpose = purpose or vars(cls).get("purpose", cls.__name__)

    @abstractmethod
    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Transform each image ``(M, C, H, W)``; row m draws with ``draws.keys[m]``."""

    def _require(self, valid: bool, constraint: str, *values: float) -> None:
        require(valid, f"{type(self).__name__}: {constraint}", *values)


class GeometricTransform(Transform):
    """Base class of affine maps of the pixel positions, which :class:`Compose` fuses."""

    @abstractmethod
    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Compute the matrices from positions in the view to positions in the image, float64 ``(M, 3, 3)``.

        Positions are homogeneous (x, y, 1), in pixels of a view of ``size`` (H, W), relative to its center.
        """

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Resample the images, bilinear with reflection at the border."""
        size = (images.shape[-2], images.shape[-1])
        return resample(images, self.matrices(draws, size), size)


class Compose:
    """Apply a list of transforms to several views of each image.

    The geometric transforms are applied first, fused in list order, by one bilinear resampling with reflection at the
    border. The others follow in list order. Without geometric transforms and with views of the images' size, nothing is
    resampled.

    Args:
        transforms: list of transforms; can be empty.
    """

    def __init__(self, transforms: Sequence[Transform] = ()) -> None:
        for transform in transforms:
            require(isinstance(transform, Transform), "transforms must be objects such as Noise(0.1)", repr(transform))
        self.transforms = tuple(transforms)

    def __call__(self, images: Tensor, draws: Draws, size: tuple[int, int] | None = None) -> Tensor:
        """Compute the views ``(N * B, C, *size)``; row n * B + b is view b of image n.

        Args:
            images: ``(N, C, H, W)``.
            draws: of the N * B views.
            size: (height, width) of the views; None for that of the images.
        """
        canvas = (images.shape[-2], images.shape[-1])
        size = size or canvas
        matrices = None
        others: list[tuple[Transform, Draws]] = []
        for index, transform in enumerate(self.transforms):
            # The index in the list is part of the key: two transforms of one class draw differently.
            own_draws = draws.scoped(f"{index}.{transform.purpose}")
            if not isinstance(transform, GeometricTransform):
                others.append((transform, own_draws))
                continue
            if matrices is None:
                matrices = _identities(len(draws))
            # Matrices are composed on the CPU, without GPU synchronizations.
            matrices = matrices @ transform.matrices(replace(own_draws, device=torch.device("cpu")), size)
        views = images
        if matrices is not None:
            views = resample(images, matrices, size)
        elif size != canvas:
            views = resample(images, _identities(len(draws)), size)
        elif len(draws) > len(images):
            views = images.repeat_interleave(len(draws) // len(images), 0)
        for transform, own_draws in others:
            shape, views = views.shape, transform(views, own_draws)
            check_shape(transform, views, shape, meaning="a view of each image, of the same size")
        return views

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self.transforms))}])"


def _identities(count: int) -> Tensor:
    return torch.eye(3, dtype=torch.float64).expand(count, 3, 3)


# -- geometric


@dataclass(frozen=True)
class RandomCrop(GeometricTransform, purpose="RandomCrop"):
    """Crop of random side and position, resized to the view.

    Args:
        low: smallest side, as a fraction of the canvas.
        high: largest side; above 1 the view includes the reflected surroundings of the canvas.
        shrink: factor of low and high at the last iteration, interpolated linearly from 1. Below 1, crops get smaller,
            so that detail is optimized last (Fel et al. 2023).
    """

    low: float = 0.4
    high: float = 1.0
    shrink: float = 1.0

    def __post_init__(self) -> None:
        self._require(0 < self.low <= self.high < math.inf, "0 < low <= high is required", self.low, self.high)
        self._require(0 < self.shrink < math.inf, "shrink must be positive", self.shrink)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        side = draws.uniform("side", self.low, self.high).double()
        if self.shrink != 1:
            side = side * (1 + (self.shrink - 1) * draws.progress).to(side)
        position = draws.uniform("place", -0.5, 0.5, (2,)).double()
        # |1 - side| keeps a small crop inside the canvas, and the canvas inside a large crop.
        shift = position * (1 - side).abs()[:, None] * position.new_tensor([size[1], size[0]])
        return _affine(len(draws), xx=side, yy=side, x=shift[:, 0], y=shift[:, 1])


@dataclass(frozen=True)
class Scale(GeometricTransform, purpose="Scale"):
    """Zoom about the center by a random factor.

    Args:
        low: smallest factor; below 1 the content shrinks.
        high: largest factor.
    """

    low: float = 0.9
    high: float = 1.1

    def __post_init__(self) -> None:
        self._require(0 < self.low <= self.high < math.inf, "0 < low <= high is required", self.low, self.high)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        step = 1 / draws.uniform("factor", self.low, self.high).double()
        return _affine(len(draws), xx=step, yy=step)


@dataclass(frozen=True)
class Rotate(GeometricTransform, purpose="Rotate"):
    """Rotation about the center by a random angle.

    Args:
        degrees: the angle is uniform in [-degrees, degrees].
    """

    degrees: float = 15.0

    def __post_init__(self) -> None:
        self._require(0 <= self.degrees < math.inf, "degrees must be non-negative", self.degrees)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        angle = draws.uniform("angle", -self.degrees, self.degrees).double() * (math.pi / 180)
        return _affine(len(draws), xx=angle.cos(), xy=-angle.sin(), yx=angle.sin(), yy=angle.cos())


@dataclass(frozen=True)
class Shear(GeometricTransform, purpose="Shear"):
    """Random shear along both axes.

    Args:
        amount: each shear is uniform in [-amount, amount], in pixels per pixel.
    """

    amount: float = 0.2

    def __post_init__(self) -> None:
        self._require(0 <= self.amount < 1, "amount must be in [0, 1)", self.amount)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        amount = draws.uniform("amount", -self.amount, self.amount, (2,)).double()
        return _affine(len(draws), xy=amount[:, 0], yx=amount[:, 1])


@dataclass(frozen=True)
class Flip(GeometricTransform, purpose="Flip"):
    """Random horizontal flip.

    Args:
        probability: probability of a flip.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        self._require(0 <= self.probability <= 1, "probability must be in [0, 1]", self.probability)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        return _affine(len(draws), xx=1 - 2 * (draws.uniform("flip").double() < self.probability).double())


@dataclass(frozen=True)
class Jitter(GeometricTransform, purpose="Jitter"):
    """Random shift by integer pixels with reflection at the border; alone, it does not blur.

    Args:
        pixels: each shift is uniform in [-pixels, pixels], in pixels of the view.
    """

    pixels: int = 8

    def __post_init__(self) -> None:
        self._require(self.pixels >= 0, "pixels must be non-negative", self.pixels)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        shift = draws.integers("shift", -self.pixels, self.pixels, (2,)).double()
        return _affine(len(draws), x=shift[:, 0], y=shift[:, 1])


def _affine(count: int, **entries: Tensor) -> Tensor:
    """Build matrices ``(count, 3, 3)``: the identity, with these entries of ``((xx, xy, x), (yx, yy, y))``."""
    places = {"xx": (0, 0), "xy": (0, 1), "x": (0, 2), "yx": (1, 0), "yy": (1, 1), "y": (1, 2)}
    matrices = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    for name, value in entries.items():
        row, column = places[name]
        matrices[:, row, column] = value
    return matrices


@dataclass(frozen=True)
class Roll(Transform, purpose="Roll"):
    """Random cyclic shift by integer pixels (Mordvintsev, Olah and Tyka 2015; CS231n).

    The gradient is rolled back, so the image does not move.

    Args:
        pixels: each shift is uniform in [-pixels, pixels].
    """

    pixels: int = 16

    def __post_init__(self) -> None:
        self._require(self.pixels >= 0, "pixels must be non-negative", self.pixels)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        shifts = to_list(draws.integers("shift", -self.pixels, self.pixels, (2,)))
        return torch.stack([image.roll(shift, (-1, -2)) for image, shift in zip(images, shifts, strict=True)])


@dataclass(frozen=True)
class DiverseInput(Transform, purpose="DiverseInput"):
    """Random downsizing and zero padding at a random position, for transferable adversarial examples.
    Xie et al. 2019, arXiv:1803.06978. The paper enlarges the canvas instead of shrinking the image.

    Args:
        probability: probability that an image is changed.
        low: smallest relative side; it is uniform in [low, 1], equal for height and width.
    """

    affects_success: ClassVar[bool] = False

    probability: float = 0.5
    low: float = 0.9

    def __post_init__(self) -> None:
        self._require(0 <= self.probability <= 1, "probability must be in [0, 1]", self.probability)
        self._require(0 < self.low <= 1, "low must be in (0, 1]", self.low)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        chances = to_list(draws.uniform("changed"))
        sides, positions = to_list(draws.uniform("side", self.low, 1.0)), to_list(draws.uniform("place", shape=(2,)))
        changed = list(images)
        for n, chance in enumerate(chances):
            if chance < self.probability:
                changed[n] = _shrink(changed[n], sides[n], positions[n])
        return torch.stack(changed)


def _shrink(image: Tensor, side: float, position: list[float]) -> Tensor:
    """Shrink an image ``(C, H, W)`` by ``side`` and pad it with zeros to its size; ``position`` is in [0, 1]."""
    height, width = image.shape[-2:]
    small = (max(round(side * height), 1), max(round(side * width), 1))
    rows, columns = height - small[0], width - small[1]  # of zeros
    top, left = min(int(position[0] * (rows + 1)), rows), min(int(position[1] * (columns + 1)), columns)
    resized = interpolate(image[None], small, mode="bilinear", antialias=True, align_corners=False)[0]
    return pad(resized, (left, columns - left, top, rows - top))


# -- pixel values


@dataclass(frozen=True)
class ColorShift(Transform, purpose="ColorShift"):
    """Random scale and offset per channel (after Ghiasi et al. 2022).

    Args:
        scale: factors are uniform in [1 - scale, 1 + scale]; in [0, 1).
        offset: offsets are uniform in [-offset, offset], for images in [0, 1].
    """

    scale: float = 0.3
    offset: float = 0.15

    def __post_init__(self) -> None:
        self._require(0 <= self.scale < 1, "scale must be in [0, 1)", self.scale)
        self._require(self.offset >= 0, "offset must be non-negative", self.offset)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        shape = (images.shape[1], 1, 1)
        scale = draws.uniform("scale", 1 - self.scale, 1 + self.scale, shape)
        offset = draws.uniform("offset", -self.offset, self.offset, shape)
        return torch.addcmul(offset.to(images), images, scale.to(images))


@dataclass(frozen=True)
class ExponentialColorShift(Transform, purpose="ExponentialColorShift"):
    """``(x - mean) / std`` with random mean and std per channel and view; stronger than :class:`ColorShift`.
    Ghiasi et al. 2021, "Plug-In Inversion", arXiv:2201.12961.

    Args:
        mean: means are uniform in [-mean, mean], for images in [0, 1].
        log_std: logarithms of the std are uniform in [-log_std, log_std].
    """

    mean: float = 1.0
    log_std: float = 1.0

    def __post_init__(self) -> None:
        valid = self.mean >= 0 and self.log_std >= 0
        self._require(valid, "mean and log_std must be non-negative", self.mean, self.log_std)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        shape = (images.shape[1], 1, 1)
        mean = draws.uniform("mean", -self.mean, self.mean, shape).to(images)
        std = draws.uniform("log_std", -self.log_std, self.log_std, shape).to(images).exp()
        return (images - mean) / std


@dataclass(frozen=True)
class Saturation(Transform, purpose="Saturation"):
    """Random saturation: interpolation between each pixel and the mean of its channels.

    Args:
        low: smallest factor; 0 is gray.
        high: largest factor; 1 leaves the colors unchanged.
    """

    low: float = 0.3
    high: float = 1.2

    def __post_init__(self) -> None:
        self._require(0 <= self.low <= self.high, "0 <= low <= high is required", self.low, self.high)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Change the saturation; single-channel images are unchanged."""
        factor = draws.uniform("factor", self.low, self.high, (1, 1, 1)).to(images)
        if images.shape[1] == 1:
            return images
        return torch.lerp(images.mean(1, keepdim=True), images, factor)


@dataclass(frozen=True)
class Noise(Transform, purpose="Noise"):
    """Additive Gaussian noise.

    Args:
        sd: standard deviation, for images in [0, 1].
    """

    sd: float = 0.04

    def __post_init__(self) -> None:
        self._require(self.sd >= 0, "sd must be non-negative", self.sd)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        if self.sd == 0:
            return images
        return torch.add(images, draws.noise("noise", images.shape[1:]).to(images), alpha=self.sd)


@dataclass(frozen=True)
class Blur(Transform, purpose="Blur"):
    """Gaussian blur of random width at every n-th iteration.

    Args:
        low: smallest sigma, in pixels of the view.
        high: largest sigma.
        every: blur at iterations divisible by this number: 1 is all, 2 is 0, 2, 4 ...
    """

    low: float = 0.1
    high: float = 1.6
    every: int = 2

    def __post_init__(self) -> None:
        self._require(0 <= self.low <= self.high, "0 <= low <= high is required", self.low, self.high)
        self._require(self.every >= 1, "every must be at least 1", self.every)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        due = [key.iteration % self.every == 0 for key in draws.keys]
        if not any(due):
            return images
        sigmas = to_list(draws.uniform("sigma", self.low, self.high))
        for n, is_due in enumerate(due):
            if not is_due:
                sigmas[n] = 0.0
        # Truncation at 3 sigma removes 0.3 % of the kernel's weight and a quarter of the work.
        return gaussian_blur(images, to_device(sigmas, images.device), truncate=3.0)
