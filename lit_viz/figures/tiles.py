"""Many pictures as one array."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_viz.images.reading import to_uint8
from lit_viz.types import Picture

#: A picture so many times as wide as high is of several images beside one another, and wants room.
WIDE = 1.8


def pixels(picture: Picture) -> NDArray[np.uint8]:
    """Return a picture as ``(H, W, 3)`` uint8."""
    if isinstance(picture, Tensor):
        return to_uint8(picture)
    with Image.open(picture) as file:
        return np.asarray(file.convert("RGB"))


def grid_shape(count: int, columns: int | None = None) -> tuple[int, int]:
    """Return (rows, columns) for ``count`` pictures: up to three beside one another, more nearly square."""
    columns = min(columns or max(3 if count <= 3 else 2, math.ceil(math.sqrt(count))), count) or 1
    return math.ceil(count / columns), columns


def tile(
    images: Sequence[NDArray[np.uint8]], columns: int | None = None, gap: int = 4, side: int = 4096
) -> NDArray[np.uint8]:
    """Put pictures side by side on white.

    Args:
        images: ``(H, W, 3)`` uint8; smaller ones are centred in the place of the largest.
        columns: how many beside one another; nearly square if not given.
        gap: white pixels between two.
        side: the longest side of the result in pixels; larger grids are scaled down.

    Returns:
        ``(H', W', 3)`` uint8.
    """
    rows, columns = grid_shape(len(images), columns)
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        top = row * (height + gap) + (height - image.shape[0]) // 2
        left = column * (width + gap) + (width - image.shape[1]) // 2
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return _at_most(canvas, side)


def _at_most(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
