from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.rendering import (
    Heat,
    clip_limits,
    difference,
    gray_levels,
    heat,
    overlay,
    psnr,
    rank_correlation,
    signed_heat,
    ssim,
)


def test_clip_limits_are_quantiles_of_absolute_values():
    values = torch.arange(1.0, 101.0).view(10, 10)
    values[9, 9] = 1e6
    assert clip_limits([values], 0.9) == [pytest.approx(np.quantile(values.numpy(), 0.9))]
    assert clip_limits([-values], 0.9) == clip_limits([values], 0.9)
    assert clip_limits([values], 1.0) == [1e6]


def test_clip_limits_are_shared_or_per_map():
    maps = torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), 8.0)])
    assert clip_limits(maps, 1.0, shared=False) == [1, 8]
    assert clip_limits(maps, 1.0) == [8, 8]
    assert clip_limits([maps[0, :2], maps[1]], 1.0) == [8, 8]
    assert clip_limits([]) == []


def test_clip_limits_of_zero_sparse_and_non_finite_maps():
    sparse, broken = torch.zeros(100, 100), torch.full((4, 4), math.nan)
    sparse[0, 0] = -5
    assert clip_limits([torch.zeros(4, 4), sparse, broken], shared=False) == [0, 5, 0]
    broken[0, 0], broken[0, 1] = 2, math.inf
    assert clip_limits([broken]) == [2]


def test_invalid_quantiles_are_rejected():
    with pytest.raises(LitVizError, match=r"between 0 and 1, got 99\.5"):
        clip_limits([torch.ones(1, 1)], 99.5)


def test_heat_equals_matplotlib():
    values = torch.linspace(0, 2, 64).view(8, 8)
    expected = mpl.colormaps["hot"](np.clip(values.numpy().astype(np.float64) / 1.5, 0, 1))[..., :3]
    assert np.allclose(heat(values, 1.5).permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert heat(values, 1.5)[:, -1, -1].tolist() == [1, 1, 1]


def test_heat_equals_matplotlib_bit_for_bit_at_the_borders_of_the_colors():
    borders = torch.arange(257, dtype=torch.float64) / 256
    values = torch.stack([borders.nextafter(torch.tensor(-1.0)), borders, borders.nextafter(torch.tensor(2.0))])
    expected = torch.from_numpy(mpl.colormaps["hot"](values.clamp(0, 1).numpy())[..., :3]).float()
    assert torch.equal(heat(values, 1.0), expected.permute(2, 0, 1))


def test_a_map_is_drawn_once_when_its_picture_is_read(monkeypatch):
    values = torch.rand(5, 7)
    drawing = Heat(values)
    expected = heat(values, clip_limits([values])[0])
    assert torch.equal(drawing.picture, expected)
    monkeypatch.setattr("lit_viz.images.rendering.heat", lambda *_: pytest.fail("drawn again"))
    assert torch.equal(drawing.picture, expected)


@pytest.mark.parametrize("colors", [heat, signed_heat])
def test_the_zero_map_has_the_color_of_zero(colors):
    zero = colors(torch.zeros(2, 2), 0.0)
    assert torch.equal(zero, colors(torch.zeros(2, 2), 1.0))
    assert zero.amax() < 0.05 if colors is heat else zero.amin() == 1


@pytest.mark.parametrize("colors", [heat, signed_heat])
def test_non_finite_values_are_black(colors):
    values = torch.tensor([[math.nan, math.inf, -math.inf, 0.5]])
    picture = colors(values, 1.0)
    assert picture[:, 0, :3].abs().sum() == 0
    assert torch.equal(picture[:, 0, 3], colors(values[:, 3:], 1.0)[:, 0, 0])


def test_signed_heat_is_white_at_zero_and_red_and_blue_by_sign():
    picture = signed_heat(torch.tensor([[-2.0, -1.0, -0.5, 0.0, 0.5, 1.0]]), 1.0)[:, 0]
    red, _, blue = picture
    assert torch.equal(picture[:, 0], picture[:, 1])
    assert picture[:, 3].tolist() == [1, 1, 1]
    assert (blue[:3] > red[:3]).all()
    assert (red[4:] > blue[4:]).all()
    assert torch.allclose(picture[:, 4], (picture[:, 3] + picture[:, 5]) / 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_overlay_is_the_gray_photograph_where_the_map_is_zero(channels):
    photograph = torch.tensor([1.0, 0.5, 0.2])[:channels].view(-1, 1, 1).expand(-1, 1, 3)
    blended = overlay(photograph, torch.tensor([[0.0, 2.0, math.nan]]), 1.0, alpha=1.0)
    gray = 0.299 * 1 + 0.587 * 0.5 + 0.114 * 0.2 if channels == 3 else 1.0
    assert torch.allclose(blended[:, 0, 0], torch.full((3,), 0.7 * gray))
    assert blended[:, 0, 1:].T.tolist() == [[1, 1, 1], [0, 0, 0]]


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
