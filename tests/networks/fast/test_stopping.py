"""Forwards that stop at the last layer that is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.networks import Network
from lit_viz.objectives import Channel, Logit
from lit_viz.outputs import load_network
from tests.support.networks import conv_net


class Twice(nn.Module):
    """Calls one layer twice, and counts the calls of its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shared(self.shared(x).relu()).mean((2, 3)))


def calls_of(network: Any, layer: str) -> list[int]:
    """Return a list to which each call of a layer of the copy appends."""
    calls: list[int] = []
    network.get_submodule("_own").get_submodule(layer).register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("layers", [["1"], ["3"], ["1", "4"]])
def test_activations_and_gradients_are_those_of_a_whole_forward(layers: list[str]) -> None:
    net = load_network(conv_net(), size=32, mean=0.5, std=0.5)
    network = net.fast(layers)
    x = torch.rand(2, 3, 32, 32)

    def gradient(activations: dict[str, Tensor], leaf: Tensor) -> Tensor:
        return torch.autograd.grad(sum(a[:, 0].mean() for a in activations.values()), leaf)[0]

    leaf = x.clone().requires_grad_()
    expected = network(leaf, layers)[1]
    expected_gradient = gradient(expected, leaf)
    calls = calls_of(network, "8")
    for forward in range(3):
        leaf = x.clone().requires_grad_()
        actual = network.activations(leaf, layers)
        assert all(torch.equal(actual[name], expected[name]) for name in layers)
        assert torch.equal(gradient(actual, leaf), expected_gradient)
        assert len(calls) == 1, forward  # only the first forward reaches the last layer


def test_a_layer_that_is_called_twice_is_read_at_its_last_call() -> None:
    net = load_network(Twice().eval(), size=16, mean=0.5, std=0.5)
    network = net.fast(["shared"])
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = network(x, ["shared"])[1]["shared"]
        for _ in range(2):
            assert torch.equal(network.activations(x, ["shared"])["shared"], expected)


def test_an_objective_of_a_layer_stops_and_one_of_a_class_does_not(smooth: Network) -> None:
    layer = Channel("conv1", 0)
    assert not layer.reads_logits
    assert (layer + 0.1 * Logit()).reads_logits
    assert not (layer + 0.5 * Channel("conv1", 1)).reads_logits


def test_pictures_of_a_channel_do_not_depend_on_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    net = load_network(conv_net(), size=32, mean=0.5, std=0.5)
    stopped = lv.visualize(net, layer="3", channel=[1, 2], iterations=4)
    monkeypatch.setattr(Channel, "reads_logits", True)
    whole = lv.visualize(net, layer="3", channel=[1, 2], iterations=4)
    assert torch.equal(stopped.images, whole.images)
    assert stopped.records[0]["objective"] == whole.records[0]["objective"]
