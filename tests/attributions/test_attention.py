"""Attention rollout, attention times gradient and LeGrad against their definitions, elementwise in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import lit_viz as lv
from lit_viz.attributions import RISE, AttentionGradient, AttentionRollout, GradCAM, LeGrad
from lit_viz.attributions.attention import AttentionMap
from lit_viz.attributions.base import attribute
from lit_viz.attributions.rise import masks
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.networks.attention import attention_layers
from lit_viz.networks.outputs import logits_of
from lit_viz.objectives import Logit
from lit_viz.outputs import load_network
from lit_viz.rng import Key
from tests.support.attributions import MEAN, STD, made
from tests.support.networks import Around, Attending, conv_net
from tests.support.verdicts import verdicts

TARGETS = [3, 0]
METHODS = [AttentionRollout, AttentionGradient, LeGrad]


def network_of(net: nn.Module, size: Any) -> Network:
    return load_network(net.eval(), size=size, mean=MEAN, std=STD)


def photographs(size: tuple[int, int]) -> Tensor:
    return torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def normalized(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, dtype=x.dtype).view(3, 1, 1) for values in (MEAN, STD))
    return (x - mean) / std


def our(method: AttentionMap, network: Network, x: Tensor) -> Tensor:
    method.bind(network)
    return attribute(method, network.fast(method.layers, dtype=torch.float64), x, TARGETS)[0]


class Trace:
    """Attention maps, tokens after each block, and logits of a forward of one image."""

    def __init__(self, tail: Callable[[Tensor], Tensor]) -> None:
        self.tail, self.maps, self.tokens = tail, list[Tensor](), list[Tensor]()
        self.logits = torch.empty(0)


def by_definition(kind: type[AttentionMap], trace: Trace, target: int, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the relevance ``(T,)`` of the tokens, with matrices of all tokens; the mean over groups of rows."""
    count = trace.maps[0].shape[-1]
    identity = torch.eye(count, dtype=torch.float64)
    if kind is LeGrad:
        total = torch.zeros(count, dtype=torch.float64)
        for attention, tokens in zip(trace.maps, trace.tokens, strict=True):
            score = trace.tail(tokens.mean(1))[0, target]
            total += torch.autograd.grad(score, attention, retain_graph=True)[0][0].clamp(min=0).mean((0, 1))
        return total
    product = identity
    gradients = torch.autograd.grad(trace.logits[0, target], trace.maps, retain_graph=True)
    for attention, gradient in zip(trace.maps, gradients, strict=True):
        if kind is AttentionRollout:
            product = (identity + attention[0].detach().mean(0)) / 2 @ product
        else:
            product = product + (attention[0].detach() * gradient[0]).clamp(min=0).mean(0) @ product
    product = product if kind is AttentionRollout else product - identity
    return torch.stack([product[list(group)].mean(0) for group in rows]).mean(0)


def expected(
    kind: type[AttentionMap],
    trace: Callable[[Tensor], Trace],
    x: Tensor,
    rows: Sequence[Sequence[int]],
    grid: tuple[int, int],
) -> Tensor:
    places = grid[0] * grid[1]
    maps = [by_definition(kind, trace(normalized(row[None])), t, rows) for row, t in zip(x, TARGETS, strict=True)]
    patches = torch.stack([tokens[len(tokens) - places :].view(1, *grid) for tokens in maps])
    return F.interpolate(patches, x.shape[2:], mode="bilinear", align_corners=False)


def same(actual: Tensor, reference: Tensor) -> bool:
    assert actual.shape == reference.shape
    assert reference.abs().max() > 0
    return bool((actual - reference).abs().max() <= 1e-8 * reference.abs().max())


def written_out(net: Attending, x: Tensor) -> Trace:
    """Return the trace of the forward, computed from the weights."""
    weights = {name: value.double() for name, value in net.state_dict().items()}

    def linear(name: str, values: Tensor) -> Tensor:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, values: Tensor) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def heads(tokens: Tensor) -> Tensor:
        return linear("head", tokens)

    def mixed_heads(tokens: Tensor) -> Tensor:
        return (linear("head", tokens) + linear("head_dist", tokens)) / 2

    tail = mixed_heads if net.pool == "distilled" else heads
    trace = Trace(lambda tokens: tail(norm("norm", tokens)))
    squares = x.unfold(2, 4, 4).unfold(3, 4, 4)  # (1, 3, rows, columns, 4, 4)
    patches = torch.einsum("nchwij,dcij->nhwd", squares, weights["embed.weight"]) + weights["embed.bias"]
    tokens = torch.cat([weights["prefix"], patches.flatten(1, 2)], 1) + weights["position"]
    tokens.requires_grad_()
    for block in ("blocks.0", "blocks.1"):
        query, key, value = linear(f"{block}.attention.qkv", norm(f"{block}.norm1", tokens)).chunk(3, dim=2)
        logits = torch.einsum("nqhd,nkhd->nhqk", query.unflatten(2, (2, 4)), key.unflatten(2, (2, 4))) / 4**0.5
        attention = logits.exp() / logits.exp().sum(-1, keepdim=True)
        mixed = torch.einsum("nhqk,nkhd->nqhd", attention, value.unflatten(2, (2, 4))).flatten(2)
        tokens = tokens + linear(f"{block}.attention.out", mixed)
        hidden = linear(f"{block}.mlp.0", norm(f"{block}.norm2", tokens))
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        tokens = tokens + linear(f"{block}.mlp.2", hidden)
        trace.maps.append(attention)
        trace.tokens.append(tokens)
    final = norm("norm", tokens)
    if net.pool == "distilled":
        trace.logits = (linear("head", final[:, 0]) + linear("head_dist", final[:, 1])) / 2
    else:
        pooled = final[:, 0] if net.pool == "first" else final[:, weights["prefix"].shape[1] :].mean(1)
        trace.logits = heads(pooled)
    return trace


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize(
    ("options", "size", "rows"),
    [
        ({}, (16, 24), [[0]]),
        ({"fused": False, "prefix": 5}, (24, 16), [[0]]),
        ({"prefix": 2, "pool": "distilled"}, (16, 16), [[0], [1]]),
        ({"prefix": 0, "pool": "mean"}, (8, 24), [range(12)]),
    ],
    ids=["class token", "registers, not fused", "distillation token", "mean of the patches"],
)
def test_maps_are_those_of_two_blocks_written_out(
    kind: type[AttentionMap], options: dict[str, Any], size: tuple[int, int], rows: Any
) -> None:
    net, x = Attending(size, **options), photographs(size)
    torch.testing.assert_close(written_out(net, normalized(x[:1])).logits, net.double()(normalized(x[:1])))
    actual = our(kind(), network_of(net.float(), size), x)
    assert same(actual, expected(kind, lambda x: written_out(net, x), x, rows, (size[0] // 4, size[1] // 4)))


def timm_trace(net: Any, x: Tensor) -> Trace:
    trace = Trace(lambda tokens: net.head(net.fc_norm(net.norm(tokens))))
    for block in net.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, args, output: trace.maps.append(output))
        block.register_forward_hook(lambda module, args, output: trace.tokens.append(output))
    trace.logits = net(x)
    return trace


def torchvision_trace(net: Any, x: Tensor) -> Trace:
    def attend(attention: Any) -> Callable[..., Any]:
        def forward(tokens: Tensor, *args: Any, **options: Any) -> tuple[Tensor, None]:
            query, key, value = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=2)
            query, key, value = (part.unflatten(2, (2, 6)).transpose(1, 2) for part in (query, key, value))
            trace.maps.append((query @ key.transpose(2, 3) / 6**0.5).softmax(3))
            return attention.out_proj((trace.maps[-1] @ value).transpose(1, 2).flatten(2)), None

        return forward

    trace = Trace(lambda tokens: net.heads(net.encoder.ln(tokens)))
    for block in net.encoder.layers:
        block.self_attention.forward = attend(block.self_attention)
        block.register_forward_hook(lambda module, args, output: trace.tokens.append(output))
    trace.logits = net(x)
    return trace


def hugging_face_trace(net: Any, x: Tensor) -> Trace:
    base = net.base_model
    heads = [head for name, head in net.named_children() if "classifier" in name]
    trace = Trace(lambda tokens: torch.stack([head(base.layernorm(tokens)) for head in heads]).mean(0))
    net.set_attn_implementation("eager")
    for block in base.layers:
        block.register_forward_hook(lambda module, args, output: trace.tokens.append(output))
    with pytest.MonkeyPatch.context() as patch:  # its softmax rounds to float32
        patch.setattr(nn.functional, "softmax", lambda x, dim, dtype: x.softmax(dim))
        output = net(x, output_attentions=True)
    trace.maps, trace.logits = list(output.attentions), output.logits
    return trace


def timm_vit(**options: Any) -> nn.Module:
    sizes = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
    return made(timm.models.VisionTransformer, **sizes, **options)


def torchvision_vit() -> nn.Module:
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 12, "mlp_dim": 24}
    net = made(torchvision.models.VisionTransformer, **sizes)
    nn.init.normal_(net.heads.head.weight, generator=torch.Generator().manual_seed(1))  # a new head is zero
    return net


def hugging_face_vit(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name.removesuffix('WithTeacher').removesuffix('ForImageClassification')}Config")(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=32, patch_size=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config.num_labels = 5
        net: nn.Module = getattr(transformers, name)(config).eval()
    return net


LIBRARIES: dict[str, tuple[Callable[[], nn.Module], Callable[..., Trace], tuple[int, int], Any]] = {
    "timm": (timm_vit, timm_trace, (32, 48), [[0]]),
    "timm, registers and mean": (
        lambda: timm_vit(reg_tokens=2, global_pool="avg"), timm_trace, (32, 48), [range(3, 27)],
    ),
    "torchvision": (torchvision_vit, torchvision_trace, (32, 32), [[0]]),
    "transformers ViT": (lambda: hugging_face_vit("ViTForImageClassification"), hugging_face_trace, (32, 32), [[0]]),
    "transformers DeiT": (
        lambda: hugging_face_vit("DeiTForImageClassificationWithTeacher"), hugging_face_trace, (32, 32), [[0], [1]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("library", LIBRARIES)
def test_maps_are_those_of_the_libraries_own_attention(library: str) -> None:
    make, trace, size, rows = LIBRARIES[library]
    net = make()
    network, x = network_of(net, size), photographs(size)
    for kind in METHODS:
        reference = expected(
            kind,
            lambda x: trace(copy.deepcopy(net).double().requires_grad_(True), x),
            x, rows, (size[0] // 8, size[1] // 8),
        )  # fmt: skip
        assert same(our(kind(), network, x), reference)


def test_legrad_of_a_class_against_another() -> None:
    network, x = network_of(net := Attending(), (16, 24)), photographs((16, 24))
    method = LeGrad()
    method.objective = Logit(gamma=0.5)
    method.bind(network)
    actual, _ = attribute(method, network.fast(method.layers, dtype=torch.float64), x, TARGETS, against=[1, 2])

    def contrasted(x: Tensor) -> Trace:
        trace = written_out(net, x)
        weight = torch.eye(5, dtype=torch.float64)
        weight[1, 3], weight[2, 0] = -0.5, -0.5  # column c: the score of class c against its other class
        trace.tail = lambda tokens, tail=trace.tail: tail(tokens) @ weight
        return trace

    assert same(actual, expected(LeGrad, contrasted, x, [[0]], (4, 6)))


def test_two_resolutions_of_one_network() -> None:
    net = timm_vit(dynamic_img_size=True)
    method = LeGrad()
    for size in ((32, 48), (48, 40), (32, 48)):
        method.bind(network_of(net, size))
        assert method.record_fields() == {"grid": [size[0] // 8, size[1] // 8]}
        assert our(method, network_of(net, size), photographs(size)).shape == (2, 1, *size)


class Residuals(nn.ModuleList):
    """Pairs of layers, whose residuals are added outside of them."""

    def forward(self, x: Tensor) -> Tensor:
        for pair in self:
            for layer in pair:
                x = x + layer(x)
        return x


def test_blocks_may_be_containers_without_a_forward() -> None:
    net, x = Attending(), photographs((16, 24))
    pairs = [[nn.Sequential(b.norm1, b.attention), nn.Sequential(b.norm2, b.mlp)] for b in net.blocks]
    listed = copy.deepcopy(net)
    listed.blocks = Residuals(map(nn.ModuleList, pairs))
    for kind in (AttentionRollout, AttentionGradient):
        reference = our(kind(), network_of(net, (16, 24)), x)
        assert same(our(kind(), network_of(listed, (16, 24)), x), reference)
    with pytest.raises(LitVizError, match=r"got no output from block 'blocks.0' of Attending: use attention_gradient"):
        LeGrad().bind(network_of(listed, (16, 24)))


class SequenceFirst(nn.Sequential):
    """Blocks that return tokens ``(T, N, D)``."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = block(x).transpose(0, 1)
        return x


def test_blocks_that_do_not_return_tokens_of_an_image_are_rejected() -> None:
    net = Attending()
    net.blocks = SequenceFirst(*(Around(block, lambda block, x: block(x).transpose(0, 1)) for block in net.blocks))
    with pytest.raises(LitVizError, match=r"^the last block 'blocks.1' of Attending must return tokens \(N, 25, D\)"):
        AttentionRollout().bind(network_of(net, (16, 24)))


class UsesWeights(nn.Module):
    """Uses the weights that :class:`nn.MultiheadAttention` returns."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.embed(x).flatten(2).transpose(1, 2))
        mixed, weights = self.attention(tokens, tokens, tokens)
        return self.head((weights @ mixed).mean(1))


def test_a_network_that_uses_the_weights_of_its_attention() -> None:
    network = network_of(UsesWeights(), 16)
    with pytest.raises(LitVizError, match=r"got an error where they are read \(unsupported operand.*\): use grad_cam$"):
        AttentionRollout().bind(network)
    method = GradCAM()
    method.bind(network)
    assert method.layers == ("attention",)


def test_attention_that_is_not_computed_as_it_is_read_is_rejected() -> None:
    net = Attending()
    other = nn.MultiheadAttention(8, 2, batch_first=True, add_zero_attn=True)  # with another key and value of zero
    net.blocks[1].attention = Around(other, lambda attention, x: attention(x, x, x)[0])
    with pytest.raises(LitVizError, match=r"of Attending, got other outputs where they are read: use grad_cam$"):
        AttentionRollout().bind(network_of(net, (16, 24)))


@pytest.mark.parametrize("make", [lambda: Attending(), torchvision_vit], ids=["function", "module"])
def test_attention_layers_are_found_in_one_forward(make: Callable[[], nn.Module]) -> None:
    net, count = make(), 0

    def counted(module: nn.Module, args: Any) -> None:
        nonlocal count
        count += 1

    network = network_of(net, (16, 24) if isinstance(net, Attending) else 32)
    net.register_forward_pre_hook(counted)
    assert attention_layers(network).problem is None
    assert count == 1


def test_attention_of_a_network_in_half_precision_is_found() -> None:
    network = network_of(Attending().to(torch.bfloat16), (16, 24))
    LeGrad().bind(network)


def test_products_of_half_precision_do_not_underflow() -> None:
    small = torch.full((1, 1, 4, 4), 2e-5, dtype=torch.float16)
    evaluation = SimpleNamespace(activations={"layer": small}, gradients_at=lambda layers: {"layer": small})
    evaluation.backward = lambda at: small
    method: Any
    for method in (AttentionGradient((2, 2)), GradCAM("layer")):
        method.attention, method._pooled = ("layer",), [1.0, 0.0, 0.0, 0.0]
        result = method.evaluate_map(torch.rand(1, 3, 8, 8), torch.tensor([0]), lambda x, slots, **_: evaluation)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, torch.full_like(result, float(small[0, 0, 0, 0]) ** 2), rtol=1e-5, atol=0)


class Unfolded(nn.Module):
    """Patches without a convolution, and an unknown number of tokens before them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Attending((16, 24), prefix=4)
        self.net.embed = nn.Sequential(nn.Unfold(4, stride=4), nn.Unflatten(2, (4, 6)), nn.Flatten(2))
        self.width = nn.Linear(48, 8)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.width(self.net.embed[0](x).transpose(1, 2))
        tokens = torch.cat([self.net.prefix.expand(len(x), -1, -1), patches], 1) + self.net.position
        return self.net.head(self.net.norm(self.net.blocks(tokens))[:, 0])


def test_a_grid_that_is_named() -> None:
    network, x = network_of(Unfolded(), (16, 24)), photographs((16, 24))
    with pytest.raises(LitVizError, match=r"of the 28 tokens of Unfolded are unknown: give grid ROWS,COLUMNS$"):
        AttentionRollout().bind(network)
    assert torch.equal(our(AttentionRollout("4,6"), network, x), our(AttentionRollout((4, 6)), network, x))
    for grid, words in (("5,6", "at most the 28 tokens"), ("4", "must be rows,columns"), ((0, 6), "must be positive")):
        with pytest.raises(LitVizError, match=words):
            AttentionRollout(grid).bind(network)


def test_state_of_the_network_is_preserved() -> None:
    net = timm_vit().train()
    network, before = network_of(net, (32, 48)), copy.deepcopy(net.state_dict())
    net.train()
    for kind in METHODS:
        our(kind(), network, photographs((32, 48)))
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    assert all(block.attn.fused_attn for block in net.blocks)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def timm_swin() -> nn.Module:
    sizes = {"img_size": 32, "patch_size": 2, "embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
    return made(timm.models.SwinTransformer, **sizes)


def hugging_face_swin() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    net: nn.Module = transformers.SwinForImageClassification(config)
    return net


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (timm_swin, r"shape \(16, 2, 16, 16\) for one image"),
        (lambda: torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4]), r"shape \(4, 2, 16, 16\)"),
        (hugging_face_swin, r"shape \(16, 2, 16, 16\) for one image"),
        (conv_net, "got none from Sequential"),
    ],
)
def test_windows_and_networks_without_attention_are_rejected(make: Callable[[], nn.Module], got: str) -> None:
    with pytest.raises(LitVizError, match=r"requires attention maps \(N, heads, T, T\) of all T tokens"):
        LeGrad().bind(network_of(make(), 32))
    with pytest.raises(
        LitVizError, match=got.replace("got none from Sequential", "of Sequential, got none: use grad_cam")
    ):
        AttentionRollout().bind(network_of(make(), 32))


def test_a_run_gives_the_maps_of_the_loop() -> None:
    network, x = network_of(Attending(), (16, 24)), photographs((16, 24)).float()
    names = ["attention_rollout", "attention_gradient", "legrad", "layer_cam"]
    run = lv.saliency(network, x, target=TARGETS, method=names, captum="none")
    for kind, arrays in zip(METHODS, torch.stack(list(run.arrays)).view(4, 2, 1, 16, 24), strict=False):
        torch.testing.assert_close(arrays.double(), our(kind(), network, x.double()), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers ViT"])
def test_other_methods_agree_with_captum_on_transformers(library: str) -> None:
    make, _, size, _ = LIBRARIES[library]
    methods = ["gradient", "smoothgrad", "integrated_gradients"]
    x = photographs(size)[:1].float()
    run = lv.saliency(network_of(make(), size), x, target=TARGETS[:1], method=methods, iterations=6, captum="captum")
    assert verdicts(run) == [True] * 3


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers ViT"])
def test_rise_of_a_transformer_is_the_mean_over_its_masks(library: str) -> None:
    make, _, size, _ = LIBRARIES[library]
    net, x, seeds, count = make().eval(), photographs(size), [7, 1], 20
    expected = torch.zeros(2, 1, *size, dtype=torch.float64)
    exact = copy.deepcopy(net).double()
    for n, (seed, target) in enumerate(zip(seeds, TARGETS, strict=True)):
        for k in range(count):
            mask = masks([Key(seed, k)], x[n : n + 1], 3, 0.4)[0]
            logits = logits_of(exact(normalized(x[n] * mask)[None]), 1)
            expected[n] += logits.softmax(1)[0, target].detach() * mask / (0.4 * count)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        network = network_of(net, size).fast(dtype=dtype)
        actual, _ = attribute(RISE(3, 0.4), network, x.to(dtype), TARGETS, evaluations=count, seeds=seeds)
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max()
