"""Robustness transforms: random views of an image, and their composition with one fused resampling.

Each view has its own keyed draws. All geometric transforms of a list are fused into one resampling of the image.
(kornia and torchvision draw from the global random state or per batch, and resample once per transform.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_viz.errors import LitVizError, check_shape
from lit_viz.rng import Draws
from lit_viz.utils.device import to_device


class Transform(ABC):
    """Base class of random, differentiable maps of images that keep their size.

    Attributes:
        affects_success: whether an adversarial example must succeed under the transform. Otherwise the transform
            changes the gradient only, and success is tested on the image itself.
        purpose: part of the key of the random draws (see :class:`~lit_viz.rng.Draws`), a frozen string that is
            independent of the class name. A class that defines none, also a subclass of another transform, gets its
            class name, so renaming that class changes its draws.
    """

    affects_success: ClassVar[bool] = True
    purpose: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "purpose" not in vars(cls):
            cls.purpose = cls.__name__

    @abstractmethod
    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Transform each image ``(M, C, H, W)``; row m draws with ``draws.keys[m]``."""


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
        self.transforms = tuple(transforms)

    def __call__(self, images: Tensor, draws: Draws, size: tuple[int, int] | None = None) -> Tensor:
        """Compute the views ``(N * B, C, *size)``; row n * B + b is view b of image n.

        Args:
            images: ``(N, C, H, W)``.
            draws: of the N * B views.
            size: (height, width) of the views; None for that of the images.

        Raises:
            LitVizError: if the number of draws is not a multiple of the number of images.
        """
        if len(images) == 0 or len(draws) % len(images):
            raise LitVizError(f"the number of views must be a multiple of {len(images)} images, got {len(draws)}")
        # The index in the list is part of the key: two transforms of one class draw differently.
        scoped = [(t, draws.scoped(f"{index}.{t.purpose}")) for index, t in enumerate(self.transforms)]
        canvas = (images.shape[-2], images.shape[-1])
        size = size or canvas
        cpu = torch.device("cpu")  # matrices are composed on the CPU, without GPU synchronizations
        geometric = [
            t.matrices(replace(own, device=cpu), size) for t, own in scoped if isinstance(t, GeometricTransform)
        ]
        if geometric or size != canvas:
            views = resample(images, _product(geometric, len(draws)), size)
        else:
            views = images.repeat_interleave(len(draws) // len(images), 0) if len(draws) > len(images) else images
        for transform, own in scoped:
            if not isinstance(transform, GeometricTransform):
                shape, views = views.shape, transform(views, own)
                check_shape(transform, views, shape, meaning="a view of each image, of the same size")
        return views

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self.transforms))}])"


def _product(matrices: Sequence[Tensor], count: int) -> Tensor:
    product = torch.eye(3, dtype=torch.float64).expand(count, 3, 3)
    for matrix in matrices:
        product = product @ matrix
    return product


def resample(images: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample affine views of images, bilinear with reflection at the border.

    Bilinear sampling reads four pixels. If the whole image in a view would skip pixels (a side more than twice as
    long), a pixel of the view is the mean over several positions.

    Args:
        images: ``(N, C, H, W)``.
        matrices: float64 ``(N * B, 3, 3)`` on the CPU; row n * B + b maps positions in view b of image n, (x, y, 1)
            relative to the center, to positions in the image, both in pixels of the view. The identity shows the whole
            image, stretched to ``size``.
        size: (height, width) of the views.

    Returns:
        ``(N * B, C, *size)``, differentiable in the images.
    """
    count, channels, height, width = images.shape
    views = len(matrices) // count
    factor = max(1, math.ceil(max(height / size[0], width / size[1]) / 2))  # positions along a side of a pixel
    fine = (size[0] * factor, size[1] * factor)
    # grid_sample parallelizes over images, so one image would use one thread: two copies share its views. The number of
    # copies is independent of N, because the order in which gradients are summed changes the last bit.
    copies = 2 if images.device.type == "cpu" and views % 2 == 0 else 1
    sources = images.repeat_interleave(copies, 0) if copies > 1 else images
    # The views of an image are stacked in one tall grid, so the image is not repeated, nor its gradient summed.
    grid = _grid(matrices, size, fine, images).view(count * copies, views // copies * fine[0], fine[1], 2)
    tall = F.grid_sample(sources, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    tall = tall if factor == 1 else F.avg_pool2d(tall, factor)
    stacked = tall.view(count * copies, channels, views // copies, *size)
    return stacked.transpose(1, 2).reshape(count * views, channels, *size)


def _grid(matrices: Tensor, size: tuple[int, int], fine: tuple[int, int], like: Tensor) -> Tensor:
    """Compute the sampling positions ``(M, *fine, 2)`` as (x, y), with the image in [-1, 1] x [-1, 1].

    Sums of a column and a row term: twenty times as fast on a CPU as ``affine_grid``, which multiplies matrices.
    """
    height, width = fine
    extent = matrices.new_tensor([size[1], size[0]])
    # From pixels of the view to [-1, 1] in both coordinates.
    linear = to_device(matrices[:, :2, :2] * extent / extent[:, None], like.device, like.dtype)
    offset = to_device(matrices[:, :2, 2] * 2 / extent, like.device, like.dtype)
    x, y = _centers(width, like), _centers(height, like)
    grid = like.new_empty(len(matrices), height, width, 2)
    for axis in (0, 1):
        rows = linear[:, axis, 1:] * y + offset[:, axis, None]
        columns = linear[:, axis, :1] * x
        torch.add(rows[:, :, None], columns[:, None, :], out=grid[..., axis])
    return grid


def _centers(length: int, like: Tensor) -> Tensor:
    """Return the centers of ``length`` pixels in [-1, 1]."""
    return (2 * torch.arange(length, device=like.device, dtype=like.dtype) + 1) / length - 1
