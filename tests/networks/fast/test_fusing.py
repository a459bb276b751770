from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from lit_viz.networks.fast import convolution
from lit_viz.networks.fast.backward import Backprop, replace_rectifiers
from lit_viz.networks.fast.convolution import FastConvolution, fuse_activations
from lit_viz.networks.fast.folding import fold_batch_norms, foldable_pairs
from lit_viz.networks.fast.kernels import kernels_available
from lit_viz.outputs import load_network
from tests.support.networks import Residual, conv_net, merged

pytestmark = pytest.mark.skipif(not kernels_available(), reason="this build of torch has no fused kernel")


def outputs(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = net(x)
    weights = torch.linspace(-1, 1, y.shape[1])
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    return y.detach(), gradient


def plain_and_fused(net: nn.Module, x: Tensor) -> tuple[nn.Module, nn.Module, int]:
    net = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    fused = copy.deepcopy(net)
    return net, fused, len(fuse_activations(fused, x, ()))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.ReLU6(inplace=True)])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"groups": 4}, {"dilation": 2, "bias": False}])
def test_fused_equals_unfused_in_value_and_gradient(activation: nn.Module, options: dict[str, int]) -> None:
    x = 6 * torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    net, fused, count = plain_and_fused(nn.Sequential(nn.Conv2d(4, 8, 3, **options), activation, nn.Flatten()), x)
    assert count == 1
    y, gradient = outputs(net, x)
    value, fused_gradient = outputs(fused, x)
    assert 0.2 < (y > 0).float().mean() < 0.8  # both sides of the kink occur
    assert torch.allclose(value, y, atol=1e-6)
    assert torch.allclose(fused_gradient, gradient, atol=1e-6)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(inplace=True), nn.Hardtanh(0, 2)])
@pytest.mark.parametrize("backprop", ["guided", "deconvolution"])
def test_rectifiers_with_another_backward_are_fused_with_it(activation: nn.Module, backprop: Backprop) -> None:
    # The middle rectifier is given a gradient that is its convolution's alone, the outer ones are not.
    net = nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.Conv2d(8, 8, 3), activation, nn.Conv2d(8, 4, 3), activation)
    replace_rectifiers(net, backprop)
    net.append(nn.Flatten())
    x = 6 * torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    net, fused, count = plain_and_fused(net, x)
    assert count == 3
    y, gradient = outputs(net, x)
    value, fused_gradient = outputs(fused, x)
    assert torch.allclose(value, y, atol=1e-6)
    assert torch.allclose(fused_gradient, gradient, atol=1e-6)
    x.requires_grad_()
    (kept,) = torch.autograd.grad(fused(x).sum(), x, create_graph=True)  # nothing is written over then
    assert torch.equal(kept, torch.autograd.grad(fused(x).sum(), x)[0])


def test_same_padding_of_timm() -> None:
    from timm.layers.conv2d_same import Conv2dSame

    x = torch.randn(1, 3, 11, 12)
    net, fused, count = plain_and_fused(nn.Sequential(Conv2dSame(3, 4, 3, stride=2), nn.ReLU6(), nn.Flatten()), x)
    assert count == 1
    for value, expected in zip(outputs(fused, x), outputs(net, x), strict=True):
        assert torch.allclose(value, expected, atol=1e-6)


def test_a_shared_relu_still_activates_other_tensors() -> None:
    x = torch.randn(2, 3, 8, 8)
    net = Residual()
    net.bn1, net.bn2 = nn.Identity(), nn.Identity()
    net, fused, count = plain_and_fused(net, x)
    assert count == 1  # after conv1; not after the addition
    for value, expected in zip(outputs(fused, x), outputs(net, x), strict=True):
        assert torch.allclose(value, expected, atol=1e-6)


def test_the_gradient_passes_only_where_the_output_is_strictly_between_the_limits() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(conv.weight)
    x = torch.tensor([-1.0, 0.0, 1.0, 5.9, 6.0, 7.0]).view(1, 1, 1, 6)
    _, relu6, _ = plain_and_fused(nn.Sequential(conv, nn.ReLU6(), nn.Flatten()), x)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(relu6(x).sum(), x)
    assert gradient.flatten().tolist() == [0, 0, 1, 1, 0, 0]


def test_the_second_derivative_is_that_of_the_unfused_network() -> None:
    x = torch.randn(1, 3, 9, 9)
    net, fused, _ = plain_and_fused(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Softplus()), x)

    def second(network: nn.Module) -> Tensor:
        leaf = x.clone().requires_grad_()
        (first_gradient,) = torch.autograd.grad(network(leaf).sum(), leaf, create_graph=True)
        return torch.autograd.grad(first_gradient.square().sum(), leaf)[0]

    assert second(net).abs().max() > 0
    assert torch.allclose(second(fused), second(net), atol=1e-6)


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")
def test_other_dtypes_autocast_and_a_build_without_onednn_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 3, 9, 9)
    net, fused, _ = plain_and_fused(conv_net(), x)
    monkeypatch.setattr(convolution, "_convolve", lambda *_: pytest.fail("the fused kernel was called"))
    assert torch.equal(copy.deepcopy(fused).double()(x.double()), copy.deepcopy(net).double()(x.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fused(x), net(x))
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(fused(x), net(x))


def test_a_network_is_not_fused_without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_viz.networks.fast.copying.kernels_available", lambda: False)
    frozen = load_network(conv_net(), size=16).fast()
    assert (*merged(frozen, conv_net()), frozen.notes) == (2, 0, ())


@pytest.mark.parametrize("keep", ["0", "1"])
def test_neither_a_kept_layer_nor_its_partner_is_fused(keep: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert fuse_activations(net, torch.randn(1, 3, 8, 8), (keep,)) == []
    assert type(net[0]) is nn.Conv2d


def test_a_convolution_with_other_padding_is_not_fused() -> None:
    for options in ({"padding": "same"}, {"padding": 1, "padding_mode": "circular"}):
        net = nn.Sequential(nn.Conv2d(3, 4, 3, **options), nn.ReLU())
        assert fuse_activations(net, torch.randn(1, 3, 8, 8), ()) == []


def test_the_fused_convolution_is_still_a_convolution_with_its_attributes() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
    weight = net[0].weight
    fuse_activations(net, torch.randn(1, 3, 8, 8), ())
    assert isinstance(net[0], FastConvolution)
    assert net[0].weight is weight
    assert net[0].stride == (2, 2)
    assert [name for name, _ in net.named_modules()] == ["", "0", "1"]


def test_every_convolution_before_a_relu6_is_fused_in_efficientnet_lite() -> None:
    net, x = timm.create_model("tf_efficientnet_lite0").eval(), torch.randn(1, 3, 64, 64)
    pairs = foldable_pairs(net, x, ())
    assert len(pairs) == 49
    fold_batch_norms(net, pairs)
    assert len(fuse_activations(net, x, ())) == sum(isinstance(m, nn.ReLU6) for m in net.modules()) + 33
