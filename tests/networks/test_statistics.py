"""Mean and variance of the inputs of layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_viz.errors import LitVizError
from lit_viz.networks.layers import statistics_of
from lit_viz.networks.reading import activation_statistics
from lit_viz.outputs import load_network
from tests.support.networks import smooth_network

NORM = "features.1"


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4, 7), (4, 3), (2, 2, 1, 1)])
def test_mean_and_variance_and_their_gradient(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    places = x.detach().flatten(2) if x.ndim > 2 else x.detach()[..., None]
    expected = torch.stack([places.mean(2), places.var(2, correction=0)], 1)
    torch.testing.assert_close(activation_statistics(x), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(activation_statistics, x)


@pytest.mark.parametrize("is_original", [False, True])
def test_statistics_of_a_kept_batch_norm_are_those_of_the_original(is_original: bool) -> None:
    network = smooth_network().double()
    if is_original:
        network.__deepcopy__ = None  # can't be copied, so it is used as it is
    classifier = load_network(network, mean=[0.5] * 3, std=[0.25] * 3, size=16)
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    _, read = classifier.fast([statistics_of(NORM)], dtype=torch.float64)(images, [statistics_of(NORM)])
    inputs = network.features[0](classifier.normalize(images)).flatten(2)
    expected = torch.stack([inputs.mean(2), inputs.var(2, correction=0)], 1)
    torch.testing.assert_close(read[statistics_of(NORM)], expected, rtol=0, atol=1e-9)
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in network.modules())


def test_folded_layers_and_unknown_names_are_rejected() -> None:
    network = load_network(smooth_network(), mean=[0.5] * 3, std=[0.25] * 3, size=16)
    with pytest.raises(LitVizError, match=r"features\.1:statistics' is folded"):
        network.fast()(torch.rand(1, 3, 16, 16), [statistics_of(NORM)])
    with pytest.raises(LitVizError, match=r"no layer 'features\.9'"):
        network.fast([statistics_of("features.9")])


def test_statistics_are_read_before_an_in_place_layer() -> None:
    network = smooth_network()
    network.features[2] = nn.ReLU(inplace=True)
    classifier = load_network(network, mean=[0.5] * 3, std=[0.25] * 3, size=16)
    images = torch.rand(2, 3, 16, 16)
    _, read = classifier.fast([NORM])(images.requires_grad_(), [statistics_of(NORM), NORM])
    read[statistics_of(NORM)].sum().backward()
    inputs = network.features[0](classifier.normalize(images)).flatten(2).mean(2)
    torch.testing.assert_close(read[statistics_of(NORM)][:, 0], inputs, rtol=0, atol=1e-5)
