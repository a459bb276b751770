from __future__ import annotations

import math

import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.difference import difference, gray_levels, psnr, rank_correlation, ssim


def levels(seed, channels=3, size=(8, 8)):
    """Return a random image of 8-bit levels."""
    drawn = torch.randint(20, 236, (channels, *size), generator=torch.Generator().manual_seed(seed))
    return drawn / 255


@pytest.mark.parametrize(
    ("change", "shown", "level", "clipped"),
    [(0.7, 1.0, 255, 1), (-0.6, 0.0, 0, 1), (0.5, 1.0, 255, 0), (-0.5, 0.0, 0, 0), (0.0, 0.5, 128, 0)],
)
def test_difference_is_clipped(change, shown, level, clipped):
    source = torch.full((3, 2, 2), 0.65 if change < 0 else 0.2)
    picture, share = difference(source + change, source)
    assert picture.shape == (3, 2, 2)
    assert picture.numpy() == pytest.approx(shown, abs=1e-6)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert (gray_levels(picture) == level).all()
    assert share == clipped


def test_zero_is_mid_gray_and_levels_are_preserved():
    source = torch.arange(20, 236).float().expand(3, 1, -1) / 255
    assert (difference(source, source)[0] == 0.5).all()
    for steps in range(-12, 13):
        moved = (source * 255 + steps) / 255
        assert (gray_levels(difference(moved, source)[0]) == 128 + steps).all()
        picture, share = difference(moved, source, 10)
        assert (gray_levels(picture) == 128 + 10 * steps).all()
        assert share == 0


def test_the_clipped_share_counts_values():
    source = torch.full((3, 4, 4), 0.5)
    image = source.clone()
    image[0, 0, :3] += 0.06
    image[1, 0, 0] -= 0.06
    image[2] += 0.04
    picture, share = difference(image, source, 10)
    assert share == pytest.approx(4 / 48)
    assert picture[:, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.9])
    assert difference(image, source)[1] == 0


def test_one_channel_becomes_gray():
    source = levels(0, channels=1)
    picture, _ = difference(source + 0.1, source)
    assert picture.shape == (3, 8, 8)
    assert picture.numpy() == pytest.approx(0.6)


def test_non_finite_values_count_as_clipped():
    image = levels(0)
    image[0, 0, :2] = torch.tensor([math.nan, math.inf])
    picture, share = difference(image, levels(0))
    assert share == pytest.approx(2 / 192)
    assert picture[0, 0, :3].tolist() == [0, 1, 0.5]


def test_rejects_different_shapes():
    with pytest.raises(LitVizError, match="same shape, got 3 x 8 x 8 and 1 x 8 x 8"):
        difference(levels(0), levels(0, 1))


def image(seed: int, size: tuple[int, int] = (24, 31)) -> Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))


def test_ssim_equals_scikit_image_on_the_valid_region() -> None:
    a, b = image(0), (image(0) + 0.2 * image(1)).clamp(0, 1)
    expected = structural_similarity(
        a.double().numpy(),
        b.double().numpy(),
        channel_axis=0,
        data_range=1,
        gaussian_weights=True,
        use_sample_covariance=False,
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-5)
    assert ssim(a, a) == pytest.approx(1)


def test_ssim_of_small_images_is_nan() -> None:
    assert math.isnan(ssim(image(0, (10, 40)), image(1, (10, 40))))
    assert not math.isnan(ssim(image(0, (11, 11)), image(1, (11, 11))))


def test_psnr_in_closed_form() -> None:
    a = torch.full((3, 4, 4), 0.5, dtype=torch.float64)
    assert psnr(a + 0.1, a) == pytest.approx(20)
    assert psnr(a, a) == math.inf


def test_rank_correlation() -> None:
    a, b = torch.tensor([[1.0, 5.0], [2.0, 9.0]]), torch.tensor([[0.0, 2.0], [7.0, 8.0]])
    assert rank_correlation(a, b) == pytest.approx(1 - 6 * 2 / (4 * 15))  # ranks 1 3 2 4 and 1 2 3 4
    assert rank_correlation(a, -1000 * a) == pytest.approx(-1)
    ties = torch.tensor([0.0, 0.0, 1.0, 1.0])  # ranks 1.5 1.5 3.5 3.5
    assert rank_correlation(ties, torch.arange(4.0)) == pytest.approx(4 / math.sqrt(4 * 5))


def test_rank_correlation_of_constant_and_non_finite_tensors() -> None:
    a = torch.arange(4.0)
    assert rank_correlation(a, torch.ones(4)) == 0
    assert math.isnan(rank_correlation(a, torch.tensor([0.0, 1.0, 2.0, torch.nan])))
