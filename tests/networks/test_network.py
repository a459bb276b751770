from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lit_viz.errors import LitVizError
from lit_viz.networks import FrozenNetwork, Network, layer_names
from lit_viz.outputs import load_network
from tests.support.networks import Lockable, conv_net, smooth_network


def test_the_fast_copy_is_made_once_and_again_when_the_weights_change() -> None:
    net = conv_net()
    network = load_network(net, size=16)
    first = network.fast()
    x = torch.rand(1, 3, 16, 16)
    assert network.fast() is first
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    net(x).sum().backward()
    optimizer.step()
    again = network.fast()
    assert again is not first
    assert network.fast(keep=["1"]) is not again
    assert network.fast() is again
    assert network.fast(dtype=torch.float64) is not again
    assert torch.allclose(again(x)[0], network.scores(x), atol=1e-4)
    assert len(network._copies) == 3  # copies of weights that are gone are dropped


def test_any_fast_copy_is_one_that_exists() -> None:
    net = conv_net()
    network = load_network(net, size=16)
    network.fast(backprop="guided")
    network.fast(dtype=torch.float16)
    kept = network.fast(keep=["1"])
    assert network.any_fast() is kept
    with torch.no_grad():
        net[0].weight.mul_(2)
    assert network.any_fast() is network.fast()


def test_a_call_gives_differentiable_logits_of_the_original() -> None:
    net = conv_net().train()
    network = load_network(net, mean=0.5, std=0.25, size=16)
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    expected = net.eval()((x - 0.5) / 0.25)
    net.train()
    logits = network(x)
    assert torch.allclose(logits, expected, atol=1e-5)
    gradients = [torch.autograd.grad(value[:, 1].sum(), x)[0] for value in (logits, expected)]
    assert torch.allclose(*gradients, atol=1e-5)
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    with pytest.raises(LitVizError, match=r"takes floating-point images in \[0, 1\], got torch.uint8"):
        network(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(LitVizError, match=r"takes images \(N, 3, H, W\) as a tensor, got shape \(3, 16, 16\)"):
        network(x[0])


class _Tempered(torch.nn.Module):
    """Logits over a temperature, which is a plain attribute, plus a buffer that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.temperature = conv_net(), 1.0
        self.register_buffer("shift", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) / self.temperature + self.shift


def _hook(net: _Tempered) -> None:
    net.layers.register_forward_hook(lambda _, __, logits: -logits)


def _temper(net: _Tempered) -> None:
    net.temperature = 0.5


def _shift(net: _Tempered) -> None:
    net.shift.data += 1


def _forward(net: _Tempered) -> None:
    net.forward = lambda x: net.layers(x.flip(3))  # type: ignore[method-assign]


@pytest.mark.parametrize("change", [_hook, _temper, _shift, _forward])
def test_refresh_discards_copies_of_a_changed_network(change: Callable[[_Tempered], None]) -> None:
    net = _Tempered()
    network = load_network(net, size=16)
    network.refresh()
    first = network.fast()
    network.refresh()
    assert network.fast() is first
    change(net)
    network.refresh()
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(network.fast()(x)[0], network.scores(x), atol=1e-4, rtol=1e-4)


def test_a_network_that_casts_is_used_as_it_is() -> None:
    class Casting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(3 * 16 * 16, 4).double())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).double() @ self.weight

    network = load_network(Casting(), size=16)
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(network.fast()(x)[0].float(), network.scores(x))
    assert any("used as it is" in note and "float32" in note for note in network.notes)


def test_notes_about_copies_are_those_of_the_current_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(network: Network, dtype: torch.dtype, **_: Any) -> FrozenNetwork:
        return FrozenNetwork(network.original, network.mean, network.std, notes=[f"copied in {dtype}"])

    monkeypatch.setattr("lit_viz.networks.network.fast_copy", copied)
    network = load_network(conv_net(), size=16)
    own = network.notes
    network.fast()
    network.fast(dtype=torch.float64)
    assert network.notes == (*own, "copied in torch.float32", "copied in torch.float64")
    network.refresh()
    assert network.notes == own
    network.fast()  # cached
    assert network.notes == (*own, "copied in torch.float32")


def test_attributes() -> None:
    network = load_network(conv_net(channels=1), size=(16, 20), labels=list("abcde"), mean=0.5, std=[0.25])
    assert (network.channels, network.size, network.num_classes) == (1, (16, 20), 5)
    assert (network.mean, network.std) == ((0.5,), (0.25,))
    assert (network.name, network.weights, network.sha256) == ("Sequential", "given", None)
    assert network.index_of("C") == 2
    assert repr(network) == "Network('Sequential', 1 x 16 x 20, 5 classes, weights='given')"


def test_images_of_a_wrong_shape_are_rejected() -> None:
    network = load_network(conv_net(), size=16)
    for shape in ((1, 1, 16, 16), (3, 16, 16)):
        with pytest.raises(LitVizError, match=r"takes images \(N, 3, H, W\) as a tensor, got shape"):
            network.scores(torch.rand(shape))


def test_layer_names_exclude_containers() -> None:
    net = conv_net()
    net[0].extra = torch.nn.ModuleList([torch.nn.ReLU()])
    names = layer_names(load_network(Lockable(net), size=16).original)
    assert names[:4] == ("inner", "inner.0", "inner.0.extra.0", "inner.1")
    assert names == layer_names(Lockable(net))


def test_layers_of_the_network_are_attributes() -> None:
    network = smooth_network()
    classifier = load_network(network, size=16)
    assert classifier.features is network.features
    assert copy.copy(classifier).head is network.head
    for name in ("heads", "training", "original_"):
        with pytest.raises(AttributeError, match=f"'Network' object has no attribute '{name}'"):
            getattr(classifier, name)
