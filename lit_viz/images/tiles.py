"""Tiles of large images: where they are, and the weights by which their maps are blended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lit_viz.types import Tile


def tiles_of(
    image: int, size: tuple[int, int], tile: tuple[int, int], overlap: int, *, covers: bool = True
) -> list[Tile]:
    """Return the tiles of an image, row by row.

    Args:
        image: index of the image.
        size: (height, width) of the image.
        tile: (height, width) of a tile; of an image that is smaller, the tile extends beyond it.
        overlap: pixels that neighbors share.
        covers: whether the tiles cover the image: the last ones of rows and columns are then shifted inside. If not,
            they are the tiles that fit.
    """
    tiles: list[Tile] = []
    height, width = min(tile[0], size[0]), min(tile[1], size[1])
    for row in starts(size[0], tile[0], overlap, covers):
        for column in starts(size[1], tile[1], overlap, covers):
            tiles.append(Tile(image=image, row=row, column=column, height=height, width=width))
    return tiles


def starts(length: int, tile: int, overlap: int, covers: bool = True) -> list[int]:
    """Return the first pixels of the tiles along an axis of ``length`` pixels; see :func:`tiles_of`."""
    last = max(length - tile, 0)
    found = list(range(0, last + 1, tile - overlap))
    if covers and found[-1] < last:
        found.append(last)
    return found


def blend_weights(first: Sequence[int], tile: int) -> list[NDArray[np.float64]]:
    """Return the weights of the pixels of each tile along an axis, ``(tile,)`` each.

    They rise and fall linearly over the pixels that neighbors share, and sum to one at each pixel.

    Args:
        first: ascending first pixels of the tiles.
        tile: pixels of a tile.
    """
    place = np.arange(tile)
    weights: list[NDArray[np.float64]] = []
    for index, start in enumerate(first):
        weight = np.ones(tile)
        if index > 0:
            shared = max(first[index - 1] + tile - start, 0)
            weight = np.minimum(weight, (place + 1) / (shared + 1))
        if index + 1 < len(first):
            shared = max(start + tile - first[index + 1], 0)
            weight = np.minimum(weight, (tile - place) / (shared + 1))
        weights.append(weight)
    total = np.zeros(first[-1] + tile)
    for start, weight in zip(first, weights, strict=True):
        total[start : start + tile] += weight
    return [weight / total[start : start + tile] for start, weight in zip(first, weights, strict=True)]
