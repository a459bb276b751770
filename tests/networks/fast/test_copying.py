from __future__ import annotations

import contextlib
import copy
import threading
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lit_viz.errors import LitVizError
from lit_viz.networks import Network, layer_names
from lit_viz.networks.fast import convolution
from lit_viz.networks.fast import copying as copying_module
from lit_viz.outputs import load_network
from tests.support.networks import Around, Residual, Storing, conv_net, merged, scripted, smooth_network, trained


def exact(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and gradient of their weighted sum in float64, by the original unfolded network."""
    net = copy.deepcopy(network.original).double().eval()
    x = x.double().requires_grad_()
    logits = net(network.normalize(x))
    return logits.detach(), torch.autograd.grad(weighted(logits), x)[0]


def weighted(logits: Tensor) -> Tensor:
    return (logits * torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype)).sum()


@pytest.mark.parametrize("net", [conv_net(), trained(Residual())])
def test_the_float64_copy_agrees_with_the_original_to_float64(net: nn.Module) -> None:
    network = load_network(net, size=16, mean=0.5, std=0.25)
    x = torch.rand(2, 3, 16, 16)
    expected, expected_gradient = exact(network, x)
    frozen = network.fast(dtype=torch.float64)
    x64 = x.double().requires_grad_()
    logits, _ = frozen(x64)
    (gradient,) = torch.autograd.grad(weighted(logits), x64)
    assert merged(frozen, net)[0] == 2
    assert torch.allclose(logits, expected, rtol=1e-10, atol=1e-12)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("net", [conv_net(), trained(Residual())])
def test_the_float32_copy_agrees_to_float32(net: nn.Module) -> None:
    network = load_network(net, size=16, mean=0.5, std=0.25)
    x = torch.rand(2, 3, 16, 16)
    logits, _ = network.fast()(x)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits.double(), exact(network, x)[0], rtol=1e-4, atol=1e-5)


def test_the_embedded_network_is_folded_and_fused_whole(lite0: Network) -> None:
    frozen = lite0.fast()
    assert (*merged(frozen, lite0.original), frozen.notes) == (49, 33, ())
    x = torch.rand(2, 3, 224, 224)
    expected = lite0.scores(x)
    assert (frozen(x)[0] - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
def test_resnet50_is_folded_whole() -> None:
    net = trained(torchvision.models.resnet50()).eval()
    frozen = load_network(net, size=64).fast()
    assert (*merged(frozen, net), frozen.notes) == (53, 33, ())


def test_the_copy_is_private_frozen_and_without_user_hooks() -> None:
    net = conv_net().train()
    called: list[str] = []
    net[0].register_forward_hook(lambda *_: called.append("hook"))
    frozen = load_network(net, size=16).fast()
    called.clear()
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    frozen.train()
    frozen.requires_grad_(True)
    frozen(x)[0].sum().backward()
    assert called == []
    assert not any(m.training for m in frozen.modules())
    assert not any(p.requires_grad or p.grad is not None for p in frozen.parameters())
    assert {id(p) for p in frozen.parameters()}.isdisjoint(id(p) for p in net.parameters())


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.lock = conv_net(), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            y: Tensor = self.net(x)
        return y


def scaled_by_a_hook() -> nn.Module:
    net = conv_net()
    net[-1].register_forward_hook(lambda module, args, output: 2 * output)
    return net


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Locked, "it can't be copied (cannot pickle '_thread.lock' object)"),
        (scaled_by_a_hook, "a copy of it (without its hooks) gives other logits"),
    ],
)
def test_networks_that_cannot_be_copied_are_used_directly(make: Any, reason: str) -> None:
    net = make().eval()
    network = load_network(net, size=16)
    frozen = network.fast()
    assert network.notes[-1:] == frozen.notes == (f"{network.name} is used as it is, which is slower: {reason}",)
    assert list(frozen.parameters()) == []
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    logits, _ = frozen(x)
    assert torch.equal(logits, net(x))
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert gradient.abs().max() > 0


class Without(nn.Module):
    """Runs its own forward without gradients."""

    def __init__(self, around: Any) -> None:
        super().__init__()
        self.net, self.around = conv_net(), around

    def forward(self, x: Tensor) -> Tensor:
        with self.around():
            y: Tensor = self.net(x.detach())
        return y


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, contextlib.nullcontext])
def test_a_forward_without_gradients_is_noted_and_usable(around: Any) -> None:
    net = Without(around).eval()
    network = load_network(net, size=16)
    frozen = network.fast()
    assert network.notes[-1].endswith("its forward gives no gradient")
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(frozen(x)[0], net(network.normalize(x)))
    with pytest.raises(LitVizError, match=r"is not differentiable with respect to its input: remove torch.no_grad"):
        frozen(x.requires_grad_())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("part", [1.0, 0.5])
def test_a_scripted_layer_is_copied(part: float) -> None:
    """It takes no hooks, so it is none of the layers that are read."""
    net = conv_net()
    net[5] = scripted(nn.ReLU6())
    frozen = load_network(net.eval(), size=16, mean=[0.5] * 3, std=[0.25] * 3).fast(residual_gradient=part)
    assert not frozen.is_original
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    logits, _ = frozen(x)
    assert torch.allclose(logits, net((x - 0.5) / 0.25), atol=1e-5)
    assert torch.autograd.grad(logits.sum(), x)[0].abs().max() > 0


def test_a_stored_activation_is_copied() -> None:
    net = Storing()
    net(torch.rand(1, 3, 16, 16))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    assert merged(load_network(net, size=16).fast(), net)[0] == 2


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_weight_and_spectral_norm_stay_and_only_their_layer_is_not_folded(wrap: Any) -> None:
    net = conv_net()
    wrap(net[3])
    network = load_network(net, size=16)
    frozen = network.fast()
    assert (merged(frozen, net)[0], frozen.notes) == (1, ())
    x = torch.rand(1, 3, 16, 16)
    assert torch.allclose(frozen(x)[0], network.scores(x), atol=1e-5)
    assert network.fast(dtype=torch.float64)(x)[0].dtype == torch.float64


def test_a_fold_that_changes_the_logits_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(network: nn.Module, pairs: Any) -> None:
        network[0].weight.mul_(1 + 1e-7)

    monkeypatch.setattr(copying_module, "fold_batch_norms", wrong)
    frozen = load_network(conv_net(), size=16).fast()
    assert merged(frozen, conv_net())[0] == 0
    assert "not folded, which is slower: in float64 the folded logits differ by" in frozen.notes[0]
    assert torch.equal(frozen._own[0].weight, conv_net()[0].weight)  # type: ignore[index]


@pytest.mark.parametrize(("broken", "what"), [("_convolve", "logits"), ("input_gradient", "gradients")])
def test_a_wrong_kernel_is_not_used(broken: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(convolution, broken)
    monkeypatch.setattr(convolution, broken, lambda *args: right(*args) * 1.1)
    frozen = load_network(conv_net(), size=16).fast()
    assert merged(frozen, conv_net()) == (2, 0)
    assert f"not fused, which is slower: another kernel gives other {what}" in frozen.notes[0]


def test_a_wrong_gradient_is_detected_without_fused_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    right = convolution.input_gradient
    monkeypatch.setattr(convolution, "input_gradient", lambda *args: right(*args).roll(1, 3))
    frozen = load_network(smooth_network(), size=16).fast()
    assert "another kernel gives other gradients" in frozen.notes[0]
    assert not any(isinstance(m, convolution.FastConvolution) for m in frozen.modules())


def test_an_output_changed_in_place_after_its_activation_is_not_fused() -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.conv2 = nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.conv(x))
            y += 0.5
            y = self.act(y)
            return self.conv2(y).mean((2, 3))

    network = load_network(Changing(), size=16)
    frozen = network.fast()
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    logits, _ = frozen(x)
    assert torch.allclose(logits, network.scores(x), atol=1e-6)
    torch.autograd.grad(logits.sum(), x)


def test_a_network_that_fails_in_float64_is_not_folded() -> None:
    frozen = load_network(Around(conv_net(), lambda net, x: net(x.float())), size=16).fast()
    assert merged(frozen, conv_net()) == (0, 0)
    assert "doesn't run in float64" in frozen.notes[0]


def test_a_network_that_draws_leaves_the_global_random_state() -> None:
    network = load_network(Around(conv_net(), lambda net, x: net(x + 0.1 * torch.randn_like(x))), size=16)
    before = torch.get_rng_state()
    frozen = network.fast()
    frozen(torch.rand(1, 3, 16, 16, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), before)
    assert "draws random numbers" in frozen.notes[0]


def outputs_of(net: nn.Module, x: Tensor, names: Any) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    for name in names:
        net.get_submodule(name).register_forward_hook(lambda m, a, y, name=name: outputs.update({name: y.clone()}))
    with torch.no_grad():
        net(x)
    return outputs


@pytest.mark.parametrize(
    "make", [conv_net, lambda: trained(Residual()).eval(), lambda: nn.Sequential(conv_net()[:2], *conv_net()[2:])]
)
def test_every_layer_reads_as_in_the_original_when_it_is_kept(make: Any) -> None:
    net = make()
    network = load_network(net, size=16)
    x = torch.rand(1, 3, 16, 16)
    names = layer_names(network.original)
    expected = outputs_of(copy.deepcopy(net), x, names)
    for name in names:
        frozen = network.fast(keep=[name])
        assert torch.allclose(frozen(x, [name])[1][name], expected[name], atol=1e-5), name
    everything = network.fast(keep=names)
    assert merged(everything, net) == (0, 0)
    assert all(torch.allclose(y, expected[k], atol=1e-5) for k, y in everything(x, names)[1].items())


def test_unmodified_layers_can_be_read_and_modified_ones_are_rejected() -> None:
    net = trained(Residual()).eval()
    network = load_network(net, size=16)
    x = torch.rand(1, 3, 16, 16)
    names = layer_names(network.original)
    expected = outputs_of(copy.deepcopy(net), x, names)
    frozen = network.fast()
    for name in names:
        if name in frozen.modified_layers:
            with pytest.raises(LitVizError, match=rf"layer '{name}' is folded in this copy: make it with fast\(keep="):
                frozen(x, [name])
        else:
            assert torch.allclose(frozen(x, [name])[1][name], expected[name], atol=1e-5), name
    assert {"conv1", "bn1", "conv2"} == frozen.modified_layers


def test_activations_between_fused_convolutions_have_their_own_gradient() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        net = nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Identity(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 14)),
            nn.Flatten(),
        ).eval()
    network = load_network(net, size=16, mean=0.5, std=0.25)
    frozen = network.fast()
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    leaf, exact_leaf = x.clone().requires_grad_(), x.double().requires_grad_()
    exact_net = copy.deepcopy(network.original).double().eval()
    between = exact_net[:3](network.normalize(exact_leaf))
    expected = torch.autograd.grad(weighted(exact_net[3:](between)), [between, exact_leaf])
    logits, activations = frozen(leaf, ["2"])
    actual = torch.autograd.grad(weighted(logits), [activations["2"], leaf])
    assert merged(frozen, net)[1] == 2
    for gradient, expected_gradient in zip(actual, expected, strict=True):
        assert torch.allclose(
            gradient.double(), expected_gradient, rtol=1e-4, atol=1e-5 * expected_gradient.abs().max().item()
        )


def test_a_layout_in_which_a_kernel_is_wrong_is_not_used() -> None:
    """Of one channel, a stride across and an output one pixel wide, oneDNN reads another's memory (torch 2.13)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 16, (3, 7), stride=(1, 2)), nn.Flatten(), nn.Linear(16 * 30, 5)).eval()
    classifier = load_network(network, size=(32, 8))
    x = torch.rand(3, 1, 32, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(classifier.fast()(x)[0], classifier.scores(x), rtol=1e-4, atol=1e-5)


def test_a_network_with_kernels_of_three_dimensions_is_copied() -> None:
    """Channels-last is of two dimensions; filters of depth 1 are shared over the bands of an image."""
    torch.manual_seed(0)
    layers = [nn.Unflatten(1, (1, 4)), nn.Conv3d(1, 3, (1, 3, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 36, 5)]
    network = load_network(nn.Sequential(*layers).eval(), channels=4, size=8, mean=0.5, std=0.25)
    frozen = network.fast()
    assert not frozen.is_original
    assert not frozen.notes
    x = torch.rand(2, 4, 8, 8)
    expected, expected_gradient = exact(network, x)
    leaf = x.clone().requires_grad_()
    logits = frozen(leaf)[0]
    assert torch.allclose(logits.double(), expected, atol=1e-5)
    (gradient,) = torch.autograd.grad(weighted(logits), leaf)
    assert torch.allclose(gradient.double(), expected_gradient, atol=1e-5)
    network.fast(backprop="rescale")
