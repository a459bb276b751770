from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lit_viz.networks.fast.backward import Activation
from lit_viz.networks.fast.convolution import FastConvolution, replace_convolutions
from lit_viz.networks.fast.kernels import kernels_available
from tests.support.networks import conv_net

pytestmark = pytest.mark.skipif(not kernels_available(), reason="this build of torch has no fused kernel")

SIZES = [(12, 9), (11, 16)]
FROM_IMAGE = [
    (nn.Conv2d, {"in_channels": c, "kernel_size": k, "stride": s, "padding": p})
    for c, k, s, p in [
        (3, 3, 1, 1),  # VGG
        (3, 3, 2, 1),  # MobileNet
        (3, 7, 2, 3),  # ResNet
        (3, 7, 2, 0),  # SqueezeNet 1.0
        (3, 3, 2, 0),  # SqueezeNet 1.1
        (3, 4, 4, 0),  # ConvNeXt, a patch a value
        (4, 5, 3, 1),
        (1, 2, 3, 0),  # every third pixel is in no window
        (2, (1, 4), (3, 1), (0, 2)),
        (3, 2, 2, 4),  # more padding than the kernel is wide
    ]
]
DEPTHWISE = [
    (nn.Conv2d, {"in_channels": 6, "groups": 6, "kernel_size": k, "stride": s, "padding": p, "dilation": d})
    for k, s, p, d in [(3, 1, 1, 1), (5, 1, 2, 1), (3, 1, 2, 2), ((3, 4), 1, (0, 3), 1), (3, 2, 1, 1), (2, 1, 3, 1)]
]
DENSE = [
    (nn.Conv2d, {"in_channels": 12, "groups": g, "kernel_size": k, "stride": s, "padding": p, "dilation": d})
    for g, k, s, p, d in [(1, 1, 1, 0, 1), (1, 3, 1, 1, 2), (3, (1, 4), 1, (0, 2), 1), (2, 3, 2, 1, 1), (1, 1, 1, 1, 1)]
]
SAME = [
    (Conv2dSame, {"in_channels": c, "groups": g, "kernel_size": k, "stride": s, "dilation": d})
    for c, g in [(6, 6), (6, 1), (3, 1)]
    for k, s, d in [(3, 2, 1), (5, 2, 1), (4, 1, 1), ((3, 4), (2, 1), 1), (3, 2, 2), (1, 2, 1)]
]


def fast_and_plain(kind: Any, options: dict[str, Any]) -> tuple[FastConvolution, nn.Conv2d]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv = kind(out_channels=6, **options).requires_grad_(False)
    return FastConvolution(conv), copy.deepcopy(conv).double()


def image(channels: int, size: tuple[int, int]) -> Tensor:
    x = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


class Called(TorchDispatchMode):
    """Collects the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "options"), FROM_IMAGE + DEPTHWISE + DENSE + SAME)
def test_value_and_gradient_are_those_of_the_convolution_in_float64(
    kind: Any, options: dict[str, Any], size: tuple[int, int]
) -> None:
    fast, plain = fast_and_plain(kind, options)
    x = image(options["in_channels"], size)
    exact = x.detach().double().requires_grad_()
    expected = plain(exact)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (exact_gradient,) = torch.autograd.grad(expected, exact, weights.double())
    for _ in range(3):  # at the second, the weights are laid out
        y = fast(x)
        (gradient,) = torch.autograd.grad(y, x, weights)
        assert torch.allclose(y.double(), expected, atol=1e-5)
        assert torch.allclose(gradient.double(), exact_gradient, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"), [FROM_IMAGE[1], FROM_IMAGE[2], DEPTHWISE[0], DENSE[1], DENSE[2], SAME[0], SAME[2], SAME[12]]
)
def test_the_gradient_can_be_differentiated(kind: Any, options: dict[str, Any]) -> None:
    fast, plain = fast_and_plain(kind, options)

    def second(conv: nn.Conv2d, x: Tensor) -> Tensor:
        (exact_gradient,) = torch.autograd.grad(conv(x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(exact_gradient.square().sum(), x)[0]

    x = image(options["in_channels"], (9, 8))
    expected = second(plain, x.detach().double().requires_grad_())
    assert expected.abs().max() > 1
    assert torch.allclose(second(fast, x).double(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_a_pixel_that_no_window_reaches_has_gradient_zero() -> None:
    fast, _ = fast_and_plain(nn.Conv2d, {"in_channels": 3, "kernel_size": 2, "stride": 3})
    x = image(3, (9, 8))
    (gradient,) = torch.autograd.grad(fast(x).sum(), x)
    assert gradient[:, :, 2::3].abs().max() == gradient[:, :, :, 2::3].abs().max() == 0
    assert (gradient[:, :, ::3, ::3] != 0).all()


@pytest.mark.parametrize(
    ("kind", "options"), [*FROM_IMAGE, *DEPTHWISE[:4], *DENSE[:3], (Conv2dSame, {**SAME[0][1], "stride": 1})]
)
def test_the_backward_from_an_image_or_without_a_stride_is_a_convolution(kind: Any, options: dict[str, Any]) -> None:
    fast, _ = fast_and_plain(kind, options)
    x = image(options["in_channels"], (12, 12))
    with Called() as called:
        torch.autograd.grad(fast(x).sum(), x)
    assert "convolution_backward" not in called.names


@pytest.mark.parametrize("size", [(12, 12), (11, 11), (12, 11)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_of_a_depthwise_layer_copies_no_image(kernel: int, size: tuple[int, int]) -> None:
    fast, _ = fast_and_plain(Conv2dSame, {"in_channels": 6, "groups": 6, "kernel_size": kernel, "stride": 2})
    x = image(6, size)
    with Called() as called:
        gradient = torch.autograd.grad(fast(x).sum(), x)[0]
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    assert not called.names & {"clone", "slice", "narrow"}


def test_same_padding_is_that_of_each_size_in_turn() -> None:
    fast, plain = fast_and_plain(Conv2dSame, {"in_channels": 6, "groups": 6, "kernel_size": 3, "stride": 2})
    for size in ((12, 12), (11, 11), (12, 11), (12, 12)):
        x = image(6, size)
        assert torch.allclose(fast(x).double(), plain(x.double()), atol=1e-5), size


def test_only_plain_convolutions_that_are_not_kept_are_replaced() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.Conv2d(8, 8, 3, groups=8, padding="same"),
        nn.Conv2d(8, 8, 3, groups=8, padding=1, padding_mode="reflect"),
    )
    weight = net[0].weight
    replace_convolutions(net, ("2",))
    assert [i for i, m in enumerate(net) if isinstance(m, FastConvolution)] == [0, 1, 3, 4]
    assert net[0].weight is weight


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")
def test_other_dtypes_autocast_and_a_build_without_onednn_fall_back() -> None:
    net = conv_net()
    fast = copy.deepcopy(net)
    replace_convolutions(fast, ())
    x = image(3, (9, 9))
    assert torch.equal(copy.deepcopy(fast).double()(x.double()), copy.deepcopy(net).double()(x.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), net(x))
    with Called() as called, torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(fast(x), net(x))
    assert "_convolution_pointwise" not in called.names


ACTIVATIONS = {"none": None, "relu": Activation(), "hardtanh": Activation(6.0)}


def chain(*activations: str) -> nn.Sequential:
    """Fused convolutions, one after the other; every value of the activations is past a kink for some pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        convolutions = [nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False) for _ in activations]
    for convolution in convolutions:
        convolution.weight.mul_(6)
    return nn.Sequential(*(FastConvolution(c, ACTIVATIONS[a]) for c, a in zip(convolutions, activations, strict=True)))


def exact_chain(net: nn.Sequential) -> list[Any]:
    """The same steps in float64, by torch."""

    def step(m: Any) -> Any:
        conv = lambda x: torch.conv2d(x, m.weight.double(), m.bias.double(), padding=1)  # noqa: E731
        return conv if m.activation is None else lambda x: conv(x).clamp(0, m.activation.top)

    return [step(m) for m in net]


WIRINGS: dict[str, Any] = {
    "straight": lambda a, b, c, x: c(b(a(x))),
    "taken twice": lambda a, b, c, x: (lambda y: c(y) + b(y))(a(x)),
    "taken first elsewhere": lambda a, b, c, x: (lambda y: (y * 2 + c(y)) * y)(a(x)),
    "one gradient for two": lambda a, b, c, x: c(a(x) + b(x)),
    "residual": lambda a, b, c, x: (lambda y: c(b(y) + y))(a(x)),
    "residual behind": lambda a, b, c, x: (lambda y: c(b(y)) + y)(a(x)),
}


@pytest.mark.parametrize("activations", [("hardtanh", "relu", "none"), ("relu", "hardtanh", "hardtanh")])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_gradients_equal_torch_for_every_wiring(wiring: str, activations: tuple[str, ...]) -> None:
    net, wire, x = chain(*activations), WIRINGS[wiring], image(4, (8, 7))
    exact = x.detach().double().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    (expected,) = torch.autograd.grad(wire(*exact_chain(net), exact), exact, weights.double())
    y = wire(*net, x)
    before = weights.clone()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(y, x, weights, retain_graph=True)
        assert torch.allclose(gradient.double(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert torch.equal(weights, before)
