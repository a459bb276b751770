import math

import matplotlib as mpl
import numpy as np
import pytest
import torch

from lit_viz.errors import LitVizError
from lit_viz.images.heatmap import clip_limits, heat, overlay, signed_heat


def test_outliers_are_clipped_by_the_number_of_pixels_not_by_their_mass():
    values = torch.arange(1.0, 101.0).view(10, 10)
    values[9, 9] = 1e6
    assert clip_limits([values], 0.9) == [pytest.approx(np.quantile(values.numpy(), 0.9))]
    assert clip_limits([-values], 0.9) == clip_limits([values], 0.9)
    assert clip_limits([values], 1.0) == [1e6]


def test_limits_are_shared_or_one_a_map():
    maps = torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), 8.0)])
    assert clip_limits(maps, 1.0, shared=False) == [1, 8]
    assert clip_limits(maps, 1.0) == [8, 8]
    assert clip_limits([maps[0, :2], maps[1]], 1.0) == [8, 8]
    assert clip_limits([]) == []


def test_limits_of_maps_that_are_zero_sparse_or_not_finite():
    sparse, broken = torch.zeros(100, 100), torch.full((4, 4), math.nan)
    sparse[0, 0] = -5
    assert clip_limits([torch.zeros(4, 4), sparse, broken], shared=False) == [0, 5, 0]
    broken[0, 0], broken[0, 1] = 2, math.inf
    assert clip_limits([broken]) == [2]


def test_a_quantile_that_is_none_is_refused():
    with pytest.raises(LitVizError, match=r"between 0 and 1, got 99\.5"):
        clip_limits([torch.ones(1, 1)], 99.5)


def test_heat_is_that_of_matplotlib():
    values = torch.linspace(0, 2, 64).view(8, 8)
    expected = mpl.colormaps["hot"](np.clip(values.numpy().astype(np.float64) / 1.5, 0, 1))[..., :3]
    assert np.allclose(heat(values, 1.5).permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert heat(values, 1.5)[:, -1, -1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("colors", [heat, signed_heat])
def test_the_zero_map_has_the_color_of_zero(colors):
    nothing = colors(torch.zeros(2, 2), 0.0)
    assert torch.equal(nothing, colors(torch.zeros(2, 2), 1.0))
    assert nothing.amax() < 0.05 if colors is heat else nothing.amin() == 1


@pytest.mark.parametrize("colors", [heat, signed_heat])
def test_what_is_not_finite_is_black_and_the_rest_as_ever(colors):
    values = torch.tensor([[math.nan, math.inf, -math.inf, 0.5]])
    picture = colors(values, 1.0)
    assert picture[:, 0, :3].abs().sum() == 0
    assert torch.equal(picture[:, 0, 3], colors(values[:, 3:], 1.0)[:, 0, 0])


def test_signs_are_told_apart_and_zero_is_white():
    picture = signed_heat(torch.tensor([[-2.0, -1.0, -0.5, 0.0, 0.5, 1.0]]), 1.0)[:, 0]
    red, _, blue = picture
    assert torch.equal(picture[:, 0], picture[:, 1])
    assert picture[:, 3].tolist() == [1, 1, 1]
    assert (blue[:3] > red[:3]).all()
    assert (red[4:] > blue[4:]).all()
    assert torch.allclose(picture[:, 4], (picture[:, 3] + picture[:, 5]) / 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_is_the_gray_photograph_where_nothing_was_found(channels):
    photograph = torch.tensor([1.0, 0.5, 0.2])[:channels].view(-1, 1, 1).expand(-1, 1, 3)
    laid = overlay(photograph, torch.tensor([[0.0, 2.0, math.nan]]), 1.0, alpha=1.0)
    gray = 0.299 * 1 + 0.587 * 0.5 + 0.114 * 0.2 if channels == 3 else 1.0
    assert torch.allclose(laid[:, 0, 0], torch.full((3,), 0.7 * gray))
    assert laid[:, 0, 1:].T.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_an_overlay_of_another_size_is_refused():
    with pytest.raises(LitVizError, match="one size, got 4 x 4 and 8 x 8"):
        overlay(torch.zeros(3, 8, 8), torch.zeros(4, 4), 1.0)
