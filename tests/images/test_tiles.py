"""Tiles: every pixel is in one, and the weights of the tiles of a pixel sum to one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from lit_viz.images.tiles import blend_weights, starts, tiles_of


@pytest.mark.parametrize("overlap", [0, 1, 4, 15, 31])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 63, 64, 65, 100, 257])
def test_tiles_cover_an_axis_and_their_weights_sum_to_one(length: int, overlap: int) -> None:
    first = starts(length, 32, overlap)
    assert first[0] == 0
    assert first[-1] == max(length - 32, 0)
    assert all(0 < after - before <= 32 - overlap for before, after in pairwise(first))
    total = np.zeros(max(length, 32))
    for start, weight in zip(first, blend_weights(first, 32), strict=True):
        assert weight.min() > 0
        total[start : start + 32] += weight
    assert np.abs(total - 1).max() < 1e-12


def test_weights_are_linear_over_the_overlap() -> None:
    first, second = blend_weights([0, 12], 16)
    assert np.allclose(first[12:], [0.8, 0.6, 0.4, 0.2])
    assert np.allclose(second[:4], [0.2, 0.4, 0.6, 0.8])
    assert np.array_equal(first[:12], np.ones(12))
    assert np.array_equal(second[4:], np.ones(12))


def test_tiles_that_fit_share_no_pixel() -> None:
    tiles = tiles_of(3, (70, 100), (32, 32), 0, covers=False)
    assert [(tile.row, tile.column) for tile in tiles] == [(0, 0), (0, 32), (0, 64), (32, 0), (32, 32), (32, 64)]
    assert {(tile.image, tile.height, tile.width) for tile in tiles} == {(3, 32, 32)}


def test_the_last_tiles_are_shifted_inside() -> None:
    tiles = tiles_of(0, (40, 33), (32, 32), 4)
    assert [(tile.row, tile.column) for tile in tiles] == [(0, 0), (0, 1), (8, 0), (8, 1)]


def test_a_small_image_is_one_tile_of_its_size() -> None:
    (tile,) = tiles_of(0, (20, 30), (32, 32), 4)
    assert (tile.row, tile.column, tile.height, tile.width) == (0, 0, 20, 30)
