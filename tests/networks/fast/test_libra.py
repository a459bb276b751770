"""The rule libra: unchanged forwards, completeness, derivatives against written-out ones, and refused networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.networks.fast.libra import Libra, libra, nonlinear_layer
from lit_viz.networks.outputs import LOGITS, Logits
from lit_viz.outputs import load_network
from lit_viz.zoo import build
from tests.support.networks import Attending, conv_net


def images(*shape: int) -> Tensor:
    return torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def random_network(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a network of which no parameter is zero, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make().double().eval()
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return net


def hugging_face(attention: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=5)
    config._attn_implementation = attention
    net = transformers.ViTForImageClassification(config)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).logits

    return Logits()


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def within(activation: nn.Module) -> nn.Module:
    net = copy.deepcopy(Attending())
    net.blocks[1].mlp[1] = activation
    return net


#: Parts of the names of parameters that are added.
ADDED = ("bias", "token", "pos", "prefix")
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
SWIN = {"depths": [1, 1], "num_heads": [1, 2]}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "planted_vit": (lambda: build("planted_vit"), (1, 28, 28)),
    "fused": (Attending, (3, 16, 24)),
    "by hand": (lambda: Attending(fused=False), (3, 16, 24)),
    "quick gelu": (lambda: within(QuickGelu()), (3, 16, 24)),
    "timm": (lambda: timm.models.VisionTransformer(**VIT), (3, 32, 32)),
    "timm, registers": (lambda: timm.models.VisionTransformer(**VIT, reg_tokens=2, init_values=0.5), (3, 32, 32)),
    "torchvision": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5), (3, 32, 32)),
    "hugging face": (lambda: hugging_face("sdpa"), (3, 32, 32)),
    "hugging face, eager": (lambda: hugging_face("eager"), (3, 32, 32)),
    "swin": (lambda: torchvision.models.SwinTransformer([4, 4], 12, **SWIN, window_size=[4, 4]), (3, 32, 32)),
    "convnext": (lambda: timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 8, 8, 8), num_classes=5), (3, 64, 64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_added_times_its_gradient_sums_to_the_score(name: str) -> None:
    """Input, biases, class token, registers and position embedding; the forward is the same, bit by bit."""
    make, shape = NETWORKS[name]
    net = random_network(make)
    x = images(*shape).requires_grad_()
    added = {"input": x}
    for key, parameter in net.named_parameters():
        if any(word in key for word in ADDED):
            added[key] = parameter
    expected = net(x)
    with Libra():
        logits = net(x)
    assert torch.equal(logits, expected)

    def error(scores: Tensor) -> float:
        score = scores[:, 1].sum()
        gradients = torch.autograd.grad(score, [*added.values()], allow_unused=True)
        total = torch.zeros((), dtype=torch.float64)
        for values, gradient in zip(added.values(), gradients, strict=True):
            if gradient is not None:
                total = total + (values * gradient).sum()
        return ((total - score).abs() / score.abs()).item()

    assert error(logits) < 1e-6
    assert error(expected) > 0.01
    assert nonlinear_layer(net.requires_grad_(False), x.detach(), LOGITS) is None


@pytest.mark.parametrize("fused", [True, False])
def test_the_gradient_is_that_of_a_forward_with_detached_parts(fused: bool) -> None:
    net = Attending(fused=fused)
    network = load_network(net, size=(16, 24), mean=0.5, std=0.25)
    x = images(3, 16, 24).requires_grad_()
    weights = {name: value.double() for name, value in net.state_dict().items()}

    def linear(name: str, values: Tensor) -> Tensor:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, values: Tensor) -> Tensor:
        centered = values - values.mean(-1, keepdim=True)
        deviation = (values.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt().detach()
        return centered / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    normalized = (x - 0.5) / 0.25
    patches = F.conv2d(normalized, weights["embed.weight"], weights["embed.bias"], 4).flatten(2).mT
    tokens = torch.cat([weights["prefix"].expand(2, -1, -1), patches], 1) + weights["position"]
    for block in ("blocks.0", "blocks.1"):
        parts = linear(f"{block}.attention.qkv", norm(f"{block}.norm1", tokens))
        query, key, value = parts.unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        attention = (query @ key.mT / 2).exp()
        attention = (attention / attention.sum(-1, keepdim=True)).detach()
        tokens = tokens + linear(f"{block}.attention.out", (attention @ value).transpose(1, 2).flatten(2))
        hidden = linear(f"{block}.mlp.0", norm(f"{block}.norm2", tokens))
        tokens = tokens + linear(f"{block}.mlp.2", hidden * torch.special.ndtr(hidden).detach())
    expected = linear("head", norm("norm", tokens)[:, 0])
    (expected_gradient,) = torch.autograd.grad(expected[:, 2].sum(), x)

    logits, _ = network.fast(dtype=torch.float64, backprop="libra")(x)
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), x)
    assert torch.allclose(logits, expected, rtol=1e-10)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-12)
    (plain,) = torch.autograd.grad(network.fast(dtype=torch.float64)(x)[0][:, 2].sum(), x)
    assert (gradient - plain).abs().max() > 0.1 * plain.abs().max()


def normalized(x: Tensor, dims: tuple[int, ...], center: bool = True) -> Tensor:
    centered = x - x.mean(dims, keepdim=True) if center else x
    return centered / (centered.square().mean(dims, keepdim=True) + 1e-3).sqrt().detach()


SCALE, SHIFT = torch.linspace(-1, 2, 6).double(), torch.linspace(3, 1, 6).double()
CASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "gelu, tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: x * (0.5 + 0.5 * ((x + 0.044715 * x**3) * (2 / torch.pi) ** 0.5).tanh()).detach(),
    ),
    "silu": (F.silu, lambda x: x * x.sigmoid().detach()),
    "silu, in place": (lambda x: F.silu(2 * x, inplace=True), lambda x: 2 * x * (2 * x).sigmoid().detach()),
    "hardswish": (F.hardswish, lambda x: x * (x.clamp(-3, 3) / 6 + 0.5).detach()),
    "mish": (F.mish, lambda x: x * F.softplus(x).tanh().detach()),
    "layer norm": (
        lambda x: F.layer_norm(x, normalized_shape=(6, 4), eps=1e-3),
        lambda x: normalized(x, (-2, -1)),
    ),
    "rms norm": (
        lambda x: F.rms_norm(x.mT, (6,), SCALE, 1e-3),
        lambda x: normalized(x.mT, (-1,), center=False) * SCALE,
    ),
    "group norm": (
        lambda x: F.group_norm(x, 2, SCALE, SHIFT, 1e-3),
        lambda x: normalized(x.unflatten(1, (2, 3)), (2, 3)).flatten(1, 2) * SCALE[:, None] + SHIFT[:, None],
    ),
    "softmax": (lambda x: x.softmax(-1) * x, lambda x: x.softmax(-1).detach() * x),
}


@pytest.mark.parametrize("name", CASES)
def test_every_function_has_the_derivative_of_its_linear_part(name: str) -> None:
    function, expected_function = CASES[name]
    x = images(6, 4) * 6 - 3
    x[0, 0, 0] = 0.0
    x.requires_grad_()
    expected = expected_function(x)
    with Libra():
        y = function(x)
    assert torch.equal(y, function(x))
    assert torch.allclose(y, expected, rtol=1e-12)
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)
    (gradient,) = torch.autograd.grad((weight * y).sum(), x)
    (expected_gradient,) = torch.autograd.grad((weight * expected).sum(), x)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("need_weights", [True, False])
def test_multi_head_attention_with_a_mask_of_its_keys(need_weights: bool) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True, bias=False).double().eval().requires_grad_(False)
    x = images(5, 8).requires_grad_()
    options = {"key_padding_mask": torch.tensor([[False] * 4 + [True]] * 2), "need_weights": need_weights}
    with Libra():
        y, _ = attention(x, x, x, **options)
    assert torch.equal(y, attention(x, x, x, **options)[0])
    weights = attention(x, x, x, average_attn_weights=False, **options | {"need_weights": True})[1].detach()
    values = (x @ attention.in_proj_weight[16:].T).unflatten(2, (2, 4)).transpose(1, 2)
    expected = (weights @ values).transpose(1, 2).flatten(2) @ attention.out_proj.weight.T
    (gradient,) = torch.autograd.grad(y[..., 0].sum(), x)
    (expected_gradient,) = torch.autograd.grad(expected[..., 0].sum(), x)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


def test_the_logits_are_those_of_the_plain_copy_bit_by_bit() -> None:
    network = lv.load_network("zoo/planted_vit")
    x = images(1, 28, 28).float().requires_grad_()
    assert torch.equal(network.fast(backprop="libra")(x)[0], network.fast()(x)[0])


class Glu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.silu, self.identity = nn.SiLU(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.identity(self.silu(x) * x)


class Reciprocal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(1) / (2 + x.abs())


class Squared(Attending):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) ** 2


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (within(nn.Sigmoid()), "its layer 'blocks.1.mlp.1' computes sigmoid"),
        (within(Glu()), "its layer 'blocks.1.mlp.1' computes a product of activations"),
        (within(nn.Tanh()), "its layer 'blocks.1.mlp.1' computes tanh"),
        (within(Reciprocal()), "its layer 'blocks.1.mlp.1' computes a product of activations"),
        (Squared(), "it computes pow"),
    ],
    ids=["sigmoid", "glu", "tanh", "reciprocal", "network"],
)
def test_other_functions_are_refused_with_their_layer(net: nn.Module, words: str) -> None:
    network = load_network(net.eval(), size=(16, 24))
    with pytest.raises(
        LitVizError, match=f"^the rule libra can't be used with {type(net).__name__}: {words}, which has"
    ):
        network.fast(backprop="libra")


def test_piecewise_linear_networks_keep_their_gradient() -> None:
    network = load_network(conv_net(), size=16)
    x = images(3, 16, 16).requires_grad_()
    gradients: list[Any] = []
    for backprop in ("plain", "libra"):
        logits, _ = network.fast(dtype=torch.float64, backprop=backprop)(x)  # type: ignore[arg-type]
        gradients.append(torch.autograd.grad(logits[:, 0].sum(), x)[0])
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-14)


class Told(nn.Module):
    """A transformer as the backbone of a head that the rule refuses, after a filter that it refuses too."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.head = Attending(), nn.Linear(5, 3)

    def before(self, x: Tensor) -> Tensor:
        return x + 0.1 * x.sin()

    def after(self, features: Tensor) -> Tensor:
        return self.head(features.tanh()).square()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.tower(self.before(x)))


class OfTower(Logits):
    backbone = "tower"


def test_of_an_output_with_a_backbone_the_rule_applies_inside_of_it() -> None:
    """The gradient by the backbone's output and that of its input by the images are autograd's."""
    net = random_network(Told)
    x = images(3, 16, 24).requires_grad_()
    with libra(net, OfTower()):
        scores = net(x)
    assert torch.equal(scores, net(x))
    (own,) = torch.autograd.grad(scores[:, 1].sum(), x)
    start = net.before(x).detach().requires_grad_()
    with Libra():
        features = net.tower(start)
    leaf = features.detach().requires_grad_()
    (of_features,) = torch.autograd.grad(net.after(leaf)[:, 1].sum(), leaf)
    (of_start,) = torch.autograd.grad(features, start, of_features)
    (expected,) = torch.autograd.grad(net.before(x), x, of_start)
    (plain,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    assert (own - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert (plain - expected).abs().max() > 1e-2 * expected.abs().max()
    network = load_network(Told(), size=(16, 24), output=OfTower())
    assert lv.attributions.automatic_method(network) == "libra_gradient"
    assert lv.attributions.automatic_method(load_network(Told(), size=(16, 24))) == "gradient"
    refused = Told()
    refused.tower.blocks[1].mlp[1] = nn.Tanh()
    with pytest.raises(LitVizError, match=r"its layer 'tower\.blocks\.1\.mlp\.1' computes tanh"):
        load_network(refused, size=(16, 24), output=OfTower()).fast(backprop="libra")
