from __future__ import annotations

import pytest
import torch

from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from tests.support.networks import Lockable, conv_net


@pytest.mark.parametrize("make", [conv_net, lambda: Lockable(conv_net())])
def test_activations_have_a_graph_and_no_hook_stays(make: object) -> None:
    classifier = load_network(make(), size=16)  # type: ignore[operator]
    frozen = classifier.fast()
    layer = next(n for n, m in classifier.original.named_modules() if isinstance(m, torch.nn.ReLU))
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    logits, activations = frozen(x, [layer])
    assert list(activations) == [layer]
    assert activations[layer].shape == (2, 8, 16, 16)
    assert activations[layer].min() >= 0
    (gradient,) = torch.autograd.grad(activations[layer][:, 3].sum(), x, retain_graph=True)
    assert gradient.abs().max() > 0
    torch.autograd.grad(logits.sum(), x)
    network = frozen._own or frozen._original[0]
    assert not any(m._forward_hooks for m in network.modules())


def test_no_hook_stays_after_an_error() -> None:
    frozen = load_network(conv_net(), size=16).fast()
    with pytest.raises(RuntimeError):
        frozen(torch.rand(1, 2, 16, 16), ["2"])
    assert not any(m._forward_hooks for m in frozen.modules())


def test_an_unknown_layer_lists_similar_names() -> None:
    network = load_network(Lockable(conv_net()), size=16)
    frozen = network.fast()
    with pytest.raises(LitVizError, match=r"no layer 'iner.1'; did you mean .*'inner.1'"):
        frozen(torch.rand(1, 3, 16, 16), ["iner.1"])
    with pytest.raises(LitVizError, match=r"no layer 'iner.1'; did you mean .*'inner.1'"):
        network.fast(keep=["iner.1"])
    with pytest.raises(LitVizError, match=r"no layer 'xyz'; it has 10, such as inner.6, inner.7, inner.8"):
        network.fast(keep=["xyz"])


def test_a_layer_that_no_forward_calls_is_an_error() -> None:
    net = conv_net()
    net[0].spare = torch.nn.ReLU()
    frozen = load_network(net, size=16).fast()
    with pytest.raises(LitVizError, match=r"'0.spare' can't be read: a forward doesn't call it"):
        frozen(torch.rand(1, 3, 16, 16), ["0.spare"])


def test_images_of_any_layout_and_dtype_are_normalized() -> None:
    network = load_network(conv_net(), size=16, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4])
    frozen = network.fast()
    x = torch.rand(2, 3, 16, 16)
    expected = network.scores(x)
    assert torch.allclose(frozen(x)[0], expected, atol=1e-5)
    assert torch.allclose(frozen(x.to(memory_format=torch.channels_last))[0], expected, atol=1e-5)
    assert torch.allclose(frozen(x.double())[0], expected, atol=1e-5)


def test_its_layers_compute_channels_last(lite0: Network) -> None:
    _, read = lite0.fast(["blocks.3.2"])(torch.rand(2, 3, 96, 96), ["blocks.3.2"])
    assert read["blocks.3.2"].is_contiguous(memory_format=torch.channels_last)


def test_bfloat16_copies_return_float32() -> None:
    network = load_network(conv_net(), size=16)
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    logits, _ = network.fast(dtype=torch.bfloat16)(x)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, network.scores(x), atol=0.1)
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert gradient.dtype == torch.float32


def test_the_original_is_no_submodule() -> None:
    frozen = load_network(Lockable(conv_net()), size=16).fast()
    assert frozen.state_dict() == {}
    assert list(frozen.children()) == []
