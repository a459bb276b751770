"""Gradients of batch norms for one image, which torch computes wrongly where a transposition follows."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lit_viz as lv
from lit_viz.networks import Network
from lit_viz.networks.batch_norms import LaidOutGradients
from tests.support.networks import Around, conv_net, trained


class PatchEmbedding(nn.Module):
    """Tokens of patches, normalized by a batch norm as in LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(tokens.square().tanh().mean(1))


def patch_embedding() -> nn.Module:
    return trained(PatchEmbedding())


def loaded(net: nn.Module) -> Network:
    return lv.load_network(net, mean=0.5, std=0.25, size=16)


def gradient(net: nn.Module, x: Tensor) -> Tensor:
    """Return torch's own gradient of the first class for the first image."""
    leaf = x.clone().requires_grad_()
    (result,) = torch.autograd.grad(net(leaf)[:, 0].sum(), leaf)
    return result[:1]


def torch_is_wrong() -> bool:
    net, x = patch_embedding(), torch.rand(1, 3, 16, 16)
    alone, repeated = gradient(net, x), gradient(net, torch.cat([x, x]))
    return not torch.allclose(alone, repeated, rtol=1e-3, atol=1e-6)


def test_torch_is_still_wrong_for_one_image() -> None:
    if not torch_is_wrong():
        pytest.skip(
            f"torch {torch.__version__} computes the gradient of a batch norm for one image: once no supported "
            "version is wrong, remove networks/batch_norms.py, its note in networks/loading.py and docs/numbers.md"
        )


@pytest.mark.parametrize("shape", [(1, 4, 3, 5), (1, 4, 1, 5), (2, 4, 3, 5), (1, 4, 5)])
def test_gradients_in_any_layout_are_the_closed_form(shape: tuple[int, ...]) -> None:
    mean, variance, weight, bias = torch.rand(4, 4, dtype=torch.float64) + 0.5
    x, outer = torch.rand(2, *shape, dtype=torch.float64)
    expected = outer * (weight * (variance + 1e-5).rsqrt()).view(-1, *[1] * (len(shape) - 2))
    for order in permutations(range(len(shape))):
        back = [order.index(axis) for axis in range(len(shape))]
        leaf = x.clone().requires_grad_()
        with LaidOutGradients():
            y = functional.batch_norm(leaf, mean, variance, weight, bias)
        transposed = outer.permute(order).contiguous().permute(back)
        (found,) = torch.autograd.grad(y, leaf, transposed)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_gradient_of_the_original_is_that_of_central_differences() -> None:
    network = loaded(patch_embedding().double())
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64).requires_grad_()
    (found,) = torch.autograd.grad(network(x)[0, 0], x)
    for index in range(0, found.numel(), 37):
        step = torch.zeros(found.numel(), dtype=torch.float64)
        step[index] = 1e-5
        with torch.no_grad():
            above, below = network(x + step.view_as(x))[0, 0], network(x - step.view_as(x))[0, 0]
        expected = float(above - below) / 2e-5
        assert float(found.flatten()[index]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("method", ["gradient", "input_x_gradient", "smoothgrad", "integrated_gradients"])
def test_the_comparison_with_captum_is_of_the_right_gradient(method: str) -> None:
    images = torch.rand(1, 3, 16, 16)
    run = lv.saliency(loaded(patch_embedding()), images, target=2, method=method, captum="captum")
    assert run.evidence.captum is not None
    (agreement,) = run.evidence.captum.maps
    assert agreement.passed
    assert agreement.formula is None or agreement.formula.passed


def test_a_network_with_hooks_is_explained_by_the_right_gradient() -> None:
    net = patch_embedding()
    net.head.register_forward_hook(lambda module, args, output: 2 * output)
    x = torch.rand(1, 3, 16, 16)
    network = loaded(net)
    assert network.fast().is_original
    expected = gradient(Around(net, lambda inner, z: inner((z - 0.5) / 0.25)), torch.cat([x, x]))
    run = lv.saliency(network, x, target=0, method="gradient")
    torch.testing.assert_close(torch.as_tensor(run.arrays[0]), expected[0], rtol=1e-5, atol=1e-7)


def test_loading_names_a_network_with_wrong_gradients() -> None:
    notes = [note for note in loaded(patch_embedding()).notes if "wrong gradient" in note]
    if torch_is_wrong():
        assert notes == [
            f"torch {torch.__version__} computes a wrong gradient of PatchEmbedding for one image, since a batch norm "
            "is followed by a transposition: maps of lit_viz are right, and code of your own needs batches of two "
            "images or more"
        ]
    else:
        assert not notes


@pytest.mark.parametrize("net", [conv_net(), nn.Sequential(nn.Flatten(), nn.Linear(768, 5))])
def test_other_networks_have_no_such_note(net: nn.Module) -> None:
    assert not any("wrong gradient" in note for note in loaded(net).notes)
