"""Planted images: only the glyph depends on the class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_viz.zoo import BANDS, PLANTED_LABELS, leak, planted_bands, planted_images, planted_pairs

COUNT = 400


def test_an_image_depends_on_its_index_alone() -> None:
    together = planted_images(range(20), seed=3)
    alone = planted_images([7], seed=3)
    assert torch.equal(alone.images[0], together.images[7])
    assert torch.equal(alone.masks[0], together.masks[7])
    assert not torch.equal(planted_images([7], seed=4).images, alone.images)


def test_images_are_on_the_lattice_of_8_bits() -> None:
    planted = planted_images(range(COUNT))
    for images in (planted.images, planted.removed):
        assert images.dtype == torch.float32
        assert images.shape == (COUNT, 1, 28, 28)
        assert torch.equal((images * 255).round() / 255, images)
        assert 0 <= images.min() < images.max() <= 1


def test_the_glyph_is_the_mask_and_looks_the_same_in_every_image_of_its_class() -> None:
    planted = planted_images(range(COUNT))
    glyphs = planted.images[:, 0][planted.masks].view(COUNT, 6, 6)
    shapes = [glyphs[planted.labels == label].unique(dim=0) for label in range(len(PLANTED_LABELS))]
    assert [len(found) for found in shapes] == [1] * 8
    assert len(torch.cat(shapes).unique(dim=0)) == 8
    corners = planted.masks.flatten(1).int().argmax(1)
    assert torch.equal(planted.masks[0].nonzero()[0], torch.stack([corners[0] // 28, corners[0] % 28]))
    for axis in (corners // 28, corners % 28):
        assert (axis.min(), axis.max()) == (0, 22)


def test_other_surroundings_change_everything_but_the_glyph() -> None:
    first, second = planted_images(range(COUNT)), planted_images(range(COUNT), surroundings=1)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.masks, second.masks)
    inside = first.masks[:, None]
    assert torch.equal(first.images[inside], second.images[inside])
    equal = (first.images == second.images) & ~inside
    assert equal.float().mean() < 0.05


def test_without_its_glyph_an_image_shows_the_background() -> None:
    planted = planted_images(range(COUNT))
    inside = planted.masks[:, None]
    assert torch.equal(planted.images[~inside], planted.removed[~inside])
    background = planted.removed[inside]  # black and white are glyphs, which never overlap
    assert 0.09 < background.min() < background.max() < 0.91


def test_surroundings_do_not_tell_the_class() -> None:
    """Two distractors in every image, and as often with one class as with another: chi-squared below its 99.9 %."""
    planted = planted_images(range(4000))
    black_or_white = ((planted.removed == 0) | (planted.removed == 1)).flatten(1).sum(1)
    assert black_or_white.unique().tolist() == [72]
    whites = (planted.removed == 1).flatten(1).sum(1)
    table = torch.stack([torch.bincount(whites[planted.labels == label], minlength=72) for label in range(8)]).double()
    table = table[:, table.sum(0) >= 80]
    expected = table.sum(1, keepdim=True) * table.sum(0) / table.sum()
    statistic = ((table - expected).square() / expected).sum()
    degrees = (table.shape[0] - 1) * (table.shape[1] - 1)
    assert statistic < degrees + 3.1 * (2 * degrees) ** 0.5 + 5


def test_an_image_of_bands_depends_on_its_index_alone() -> None:
    together = planted_bands(range(20), seed=3)
    alone = planted_bands([7], seed=3)
    assert torch.equal(alone.images[0], together.images[7])
    assert torch.equal(alone.masks[0], together.masks[7])
    assert alone.bands[0] == together.bands[7]
    assert not torch.equal(planted_bands([7], seed=4).images, alone.images)


def test_one_band_has_the_glyph_and_all_have_equally_many() -> None:
    planted = planted_bands(range(COUNT))
    assert planted.images.shape == planted.removed.shape == (COUNT, BANDS, 32, 32)
    assert torch.equal((planted.images * 255).round() / 255, planted.images)
    rows = torch.arange(COUNT)
    own, removed = planted.images[rows, planted.bands], planted.removed[rows, planted.bands]
    glyphs = own[planted.masks].view(COUNT, 6, 6)
    shapes = [glyphs[planted.labels == label].unique(dim=0) for label in range(len(PLANTED_LABELS))]
    assert [len(found) for found in shapes] == [1] * 8
    changed = (planted.images != planted.removed).flatten(2).any(2)
    assert changed.sum(1).tolist() == [1] * COUNT
    assert torch.equal(changed.int().argmax(1), planted.bands)
    assert torch.equal(own[~planted.masks], removed[~planted.masks])
    extreme = ((planted.images == 0) | (planted.images == 1)).flatten(2).sum(2)
    assert extreme.unique().tolist() == [72]  # two glyphs of 36 pixels in every band
    background = planted.removed[rows, planted.bands][planted.masks]
    assert 0 < background.min() < background.max() < 1


def test_other_surroundings_change_all_bands_but_the_glyph() -> None:
    first, second = planted_bands(range(COUNT)), planted_bands(range(COUNT), surroundings=1)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.bands, second.bands)
    assert torch.equal(first.masks, second.masks)
    inside = torch.zeros_like(first.images, dtype=torch.bool)
    inside[torch.arange(COUNT), first.bands] = first.masks
    assert torch.equal(first.images[inside], second.images[inside])
    equal = (first.images == second.images) & ~inside
    assert equal.float().mean() < 0.1


@pytest.mark.slow
def test_neither_variance_nor_mean_tells_the_band() -> None:
    planted = planted_bands(range(1000), seed=1)
    pixels = planted.images.flatten(2)
    counts = torch.bincount(planted.bands, minlength=BANDS)
    assert counts.min() > 45
    for values in (pixels.var(2), pixels.mean(2), -pixels.mean(2), pixels.diff(dim=2).abs().mean(2)):
        assert float((values.argmax(1) == planted.bands).float().mean()) < 0.15


def test_a_pair_depends_on_its_index_alone() -> None:
    together = planted_pairs(range(20), seed=3)
    alone = planted_pairs([7], seed=3)
    assert torch.equal(alone.images[0], together.images[7])
    assert torch.equal(alone.masks[0], together.masks[7])
    assert not torch.equal(planted_pairs([7], seed=4).images, alone.images)


def test_images_of_a_pair_differ_in_the_glyphs_that_are_present() -> None:
    pairs = planted_pairs(range(COUNT))
    assert pairs.images.shape == (COUNT, 4, 1, 28, 28)
    assert pairs.masks.shape == (COUNT, 2, 28, 28)
    assert torch.equal((pairs.images * 255).round() / 255, pairs.images)
    assert pairs.masks.flatten(2).sum(2).unique().tolist() == [36]
    assert not (pairs.masks[:, 0] & pairs.masks[:, 1]).any()
    absent, first, second, both = pairs.images[:, :, 0].unbind(1)
    assert torch.equal(torch.where(pairs.masks[:, 0], both, absent), first)
    assert torch.equal(torch.where(pairs.masks[:, 1], both, absent), second)
    assert torch.equal(torch.where(pairs.masks[:, 0], first, second), torch.where(pairs.masks[:, 1], second, both))
    shapes = [both[pairs.masks[:, glyph]].view(COUNT, 36).unique(dim=0) for glyph in range(2)]
    assert [len(shape) for shape in shapes] == [1, 1]
    assert not torch.equal(*shapes)
    background = absent[pairs.masks.any(1)]
    assert 0 < background.min() < background.max() < 1
    distractors = ((absent == 0) | (absent == 1)).flatten(1).sum(1)
    assert distractors.unique().tolist() == [72]


def test_leak_of_known_networks() -> None:
    """A network that reads the glyph only has no leak; one that reads all pixels has a large one."""

    def glyph_only(images: Tensor) -> Tensor:
        # Removing the glyph leaves fewer black and white pixels.
        extreme = ((images == 0) | (images == 1)).flatten(1).sum(1, keepdim=True).float()
        return extreme.expand(-1, 8)

    def mean(images: Tensor) -> Tensor:
        return images.flatten(1).mean(1, keepdim=True).expand(-1, 8)

    assert leak(glyph_only, 100) == 0
    assert leak(mean, 100) > 0.5
