from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lit_viz.errors import LitVizError
from lit_viz.networks.summaries import relative_difference
from lit_viz.outputs import load_network
from tests.support.networks import Answering, conv_net


@pytest.mark.parametrize("way", ["tuple", "list", "object", "dict"])
def test_logits_are_found_in_the_output_of_a_network(way: str) -> None:
    net = Answering(way)
    x = torch.rand(2, 3, 8, 8)
    network = load_network(net, size=8)
    net.way = "tensor"
    with torch.no_grad():
        expected = net(x)
    net.way = way
    assert torch.equal(network.scores(x), expected)
    assert torch.allclose(network.fast()(x)[0], expected, atol=1e-6)
    assert network.labels == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize("way", ["tensor", "flat"])
def test_one_logit_is_read_as_two(way: str) -> None:
    net = Answering(way, classes=1, channels=1)
    network = load_network(net, size=8, labels=["benign", "malign"])
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        z = net(x).reshape(4)
    assert torch.equal(network.scores(x), torch.stack([-z / 2, z / 2], dim=1))
    probability = network.scores(x).softmax(dim=1)[:, 1]
    assert torch.allclose(probability, torch.sigmoid(z))  # as the network was trained to say


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("none", "NoneType"),
        ("integers", "int64"),
        ("map", r"\(2, 3, 1, 1\)"),
        ("other dict", "'out'"),
        ("one row", "one row of logits per image, got 1 for 2 images"),
    ],
)
def test_other_outputs_are_rejected(way: str, words: str) -> None:
    with pytest.raises(LitVizError, match=words):
        load_network(Answering(way), size=8)


@pytest.mark.parametrize("way", ["softmax", "log-softmax"])
def test_functional_probabilities_are_rejected(way: str) -> None:
    with pytest.raises(LitVizError, match=r"ends in (log)?softmax, but must return logits: remove"):
        load_network(Answering(way), size=8)


@pytest.mark.parametrize("head", [nn.Softmax(dim=1), nn.LogSoftmax(dim=1), nn.Sigmoid()])
def test_a_probability_layer_is_rejected(head: nn.Module) -> None:
    net = nn.Sequential(conv_net(), head)
    with pytest.raises(LitVizError, match=rf"ends in {type(head).__name__.lower()}, .*remove its last layer"):
        load_network(net, size=16)


def test_an_inner_softmax_is_accepted() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.softmax = nn.Softmax(dim=1)
            self.net = conv_net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z: torch.Tensor = self.net(x)
            return z * self.softmax(z)

    assert load_network(Attending(), size=16).num_classes == 5


def test_constant_logits_are_accepted() -> None:
    net = conv_net()
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    assert load_network(net, size=16).num_classes == 5


def test_relative_difference() -> None:
    a, nan, infinite = torch.tensor([1.0, -4.0]), torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.inf])
    assert relative_difference(a, a) == relative_difference(torch.zeros(1), torch.zeros(1)) == 0
    assert relative_difference(a + 1, a) == 0.25
    assert relative_difference(infinite, infinite) == 0
    assert relative_difference(nan, a) == relative_difference(infinite, a) == relative_difference(a[:1], a) == math.inf
