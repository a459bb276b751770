import math

import pytest
import torch

from lit_viz.attributions.reducers import REDUCERS, reduce_channels, to_one_channel
from lit_viz.errors import LitVizError

PIXEL = torch.tensor([1.0, -3.0, 1.0]).view(3, 1, 1).expand(3, 2, 2)


@pytest.mark.parametrize(
    ("how", "value"), [("max_abs", 3), ("sum_abs", 5), ("l2", math.sqrt(11)), ("positive", 0), ("sum", -1)]
)
def test_channels_are_reduced(how, value):
    assert torch.allclose(reduce_channels(PIXEL, how), torch.full((1, 2, 2), float(value)))
    assert torch.equal(reduce_channels(torch.stack([-PIXEL, PIXEL]), how)[1], reduce_channels(PIXEL, how)[0])


def test_canceling_gradients_are_preserved_by_default():
    cancelling = torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1)
    assert reduce_channels(cancelling).item() == 1


def test_a_spatial_map_keeps_positive_evidence():
    spatial = torch.tensor([[[-2.0, 3.0]]])
    assert {how: reduce_channels(spatial, how).flatten().tolist() for how in REDUCERS} == {
        "max_abs": [2, 3],
        "sum_abs": [2, 3],
        "l2": [2, 3],
        "positive": [0, 3],
        "above_least": [0, 5],
        "sum": [-2, 3],
    }


def test_above_least_ignores_nonfinite_pixels_and_other_maps():
    maps = torch.tensor([[[[0.5, 0.75], [math.nan, 0.625]]], [[[3.0, 1.0], [1.0, 2.0]]]])
    reduced = reduce_channels(maps, "above_least")
    assert reduced.nan_to_num(-1).tolist() == [[[0, 0.25], [-1, 0.125]], [[2, 0], [0, 1]]]


def test_an_unknown_reducer_is_rejected_with_a_suggestion():
    with pytest.raises(LitVizError, match=r"must be one of max_abs, sum_abs.*did you mean 'max_abs'"):
        reduce_channels(PIXEL, "maxabs")


def test_one_channel_keeps_its_sign_and_several_are_reduced() -> None:
    values = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_one_channel(values[:, :1], "max_abs"), values[:, :1])
    assert torch.equal(to_one_channel(values, "max_abs"), values.abs().amax(1, keepdim=True))
    assert torch.equal(to_one_channel(values[0], "sum"), values[0].sum(0, keepdim=True))
