import math

import matplotlib as mpl
import numpy as np
import pytest
import torch

from lit_viz.attributions.reducers import REDUCERS, clip_limits, heat, overlay, reduce_channels, signed_heat
from lit_viz.errors import LitVizError

PIXEL = torch.tensor([1.0, -3.0, 1.0]).view(3, 1, 1).expand(3, 2, 2)


@pytest.mark.parametrize(
    ("how", "value"), [("max_abs", 3), ("sum_abs", 5), ("l2", math.sqrt(11)), ("positive", 0), ("sum", -1)]
)
def test_channels_are_reduced(how, value):
    assert torch.allclose(reduce_channels(PIXEL, how), torch.full((1, 2, 2), float(value)))
    assert torch.equal(reduce_channels(torch.stack([-PIXEL, PIXEL]), how)[1], reduce_channels(PIXEL, how)[0])


def test_gradients_that_cancel_are_not_lost_by_default():
    cancelling = torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1)
    assert reduce_channels(cancelling).item() == 1


def test_a_spatial_map_keeps_what_speaks_for_the_class():
    spatial = torch.tensor([[[-2.0, 3.0]]])
    assert {how: reduce_channels(spatial, how).flatten().tolist() for how in REDUCERS} == {
        "max_abs": [2, 3],
        "sum_abs": [2, 3],
        "l2": [2, 3],
        "positive": [0, 3],
        "above_least": [0, 5],
        "sum": [-2, 3],
    }


def test_what_a_map_has_above_its_least_pixel_leaves_out_what_is_not_finite_and_other_maps():
    maps = torch.tensor([[[[0.5, 0.75], [math.nan, 0.625]]], [[[3.0, 1.0], [1.0, 2.0]]]])
    ours = reduce_channels(maps, "above_least")
    assert ours.nan_to_num(-1).tolist() == [[[0, 0.25], [-1, 0.125]], [[2, 0], [0, 1]]]


def test_a_reducer_that_is_unknown_is_refused_with_the_near_name():
    with pytest.raises(LitVizError, match=r"choose max_abs, sum_abs.*did you mean 'max_abs'"):
        reduce_channels(PIXEL, "maxabs")


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
    with pytest.raises(LitVizError, match="between 0 and 1, and is not"):
        clip_limits([torch.ones(1, 1)], 99.5)


def test_heat_is_that_of_matplotlib():
    values = torch.linspace(0, 2, 64).view(8, 8)
    expected = mpl.colormaps["hot"](np.clip(values.numpy().astype(np.float64) / 1.5, 0, 1))[..., :3]
    assert np.allclose(heat(values, 1.5).permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert heat(values, 1.5)[:, -1, -1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("colours", [heat, signed_heat])
def test_the_zero_map_has_the_colour_of_zero(colours):
    nothing = colours(torch.zeros(2, 2), 0.0)
    assert torch.equal(nothing, colours(torch.zeros(2, 2), 1.0))
    assert nothing.amax() < 0.05 if colours is heat else nothing.amin() == 1


@pytest.mark.parametrize("colours", [heat, signed_heat])
def test_what_is_not_finite_is_black_and_the_rest_as_ever(colours):
    values = torch.tensor([[math.nan, math.inf, -math.inf, 0.5]])
    picture = colours(values, 1.0)
    assert picture[:, 0, :3].abs().sum() == 0
    assert torch.equal(picture[:, 0, 3], colours(values[:, 3:], 1.0)[:, 0, 0])


def test_signs_are_told_apart_and_zero_is_white():
    picture = signed_heat(torch.tensor([[-2.0, -1.0, -0.5, 0.0, 0.5, 1.0]]), 1.0)[:, 0]
    red, _, blue = picture
    assert torch.equal(picture[:, 0], picture[:, 1])
    assert picture[:, 3].tolist() == [1, 1, 1]
    assert (blue[:3] > red[:3]).all()
    assert (red[4:] > blue[4:]).all()
    assert torch.allclose(picture[:, 4], (picture[:, 3] + picture[:, 5]) / 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_is_the_grey_photograph_where_nothing_was_found(channels):
    photograph = torch.tensor([1.0, 0.5, 0.2])[:channels].view(-1, 1, 1).expand(-1, 1, 3)
    laid = overlay(photograph, torch.tensor([[0.0, 2.0, math.nan]]), 1.0, alpha=1.0)
    grey = 0.299 * 1 + 0.587 * 0.5 + 0.114 * 0.2 if channels == 3 else 1.0
    assert torch.allclose(laid[:, 0, 0], torch.full((3,), 0.7 * grey))
    assert laid[:, 0, 1:].T.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_an_overlay_of_another_size_is_refused():
    with pytest.raises(LitVizError, match="4 x 4 pixels can't be laid over a photograph of 8 x 8"):
        overlay(torch.zeros(3, 8, 8), torch.zeros(4, 4), 1.0)
