"""Robustness transforms: random views of an image, so that what is trained does not hang on single pixels.

Every view draws for itself, by key. All geometric transforms of a list are fused into one resampling, and the views of
an image are read from that one image. (The samplers of kornia and torchvision draw from the global random state, or
for a whole batch at once, and resample once a transform.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_viz.errors import LitVizError, check_shape
from lit_viz.images.resampling import resample
from lit_viz.rng import Draws


class Transform(ABC):
    """A random, differentiable map of images; called alone, it keeps their size.

    Attributes:
        affects_success: whether an adversarial example must succeed under the transform. Otherwise the transform
            changes the gradient only, and success is tested on the image itself.
        purpose: part of the key of its random draws (see :class:`~lit_viz.randomness.Draws`). It is a frozen string,
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
        """Return a view ``(M, C, H, W)`` of each image ``(M, C, H, W)``; row m draws by ``draws.keys[m]``."""


class GeometricTransform(Transform):
    """A transform that moves pixels by an affine map, and so can be fused with others of its kind."""

    @abstractmethod
    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """Return float64 ``(M, 3, 3)``: where each pixel of the view is read.

        They map homogeneous (x, y, 1) to (x, y, 1), in pixels of a view of ``size`` (H, W), from its centre.
        """

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the resampled images (bilinear; beyond the border the image is mirrored)."""
        size = (images.shape[-2], images.shape[-1])
        return resample(images, self.matrices(draws, size), size)


class Compose:
    """A list of transforms, applied to several views of every image.

    The geometric transforms come first, fused in the order of the list: the first one acts on the whole canvas, the
    second on what the first shows, and so on; the result is read from the canvas once, bilinearly, mirrored beyond the
    border. The others follow in the order of the list. Without a geometric transform and with a canvas of the wanted
    size nothing is resampled.

    Args:
        transforms: what a view goes through; may be empty.
    """

    def __init__(self, transforms: Sequence[Transform] = ()) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, images: Tensor, draws: Draws, size: tuple[int, int] | None = None) -> Tensor:
        """Return the views ``(N * B, C, *size)``; row n * B + b is view b of image n.

        Args:
            images: ``(N, C, H, W)``.
            draws: of the N * B views.
            size: (height, width) of the views; None keeps that of the images.

        Raises:
            LitVizError: the draws are not a whole number of views an image.
        """
        if len(images) == 0 or len(draws) % len(images):
            raise LitVizError(f"{len(draws)} views can't be shared among {len(images)} images")
        # A place in the list is part of the key: two transforms of one kind draw differently.
        scoped = [(t, draws.scoped(f"{place}.{t.purpose}")) for place, t in enumerate(self.transforms)]
        canvas = (images.shape[-2], images.shape[-1])
        size = size or canvas
        here = torch.device("cpu")  # where matrices are put together, without waiting for a GPU at each entry
        geometric = [
            t.matrices(replace(own, device=here), size) for t, own in scoped if isinstance(t, GeometricTransform)
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
