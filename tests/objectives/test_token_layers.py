"""Layers of tokens: transformers of tiny size with random weights, their axes, prefix tokens and gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from lit_viz.errors import LitVizError
from lit_viz.images import Fourier
from lit_viz.methods import ClassVisualization
from lit_viz.methods.recipes import PictureOptions
from lit_viz.networks import Network
from lit_viz.networks.layers import Layout, layout, layout_of, layouts, prefix_tokens
from lit_viz.objectives import Channel, Direction, Diversity, Layer, Logit, Neuron, Objective, Outputs
from lit_viz.optim import Adam
from lit_viz.outputs import load_network
from lit_viz.types import Task
from tests.support.networks import NAMES, vit_network
from tests.support.runs import Train, tasks_for

MLP, STAGE, FLAT = "blocks.1.mlp.act", "layers.1.blocks.0", "layers.1.blocks.0.mlp.act"


def loaded(network: nn.Module) -> Network:
    return load_network(network.eval(), labels=NAMES, mean=[0.5] * 3, std=[0.5] * 3, size=32)


@pytest.fixture(scope="module")
def vit() -> Network:
    return loaded(vit_network())


@pytest.fixture(scope="module")
def swin() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SwinTransformer(
            img_size=32, patch_size=2, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2), num_classes=5
        )
    return loaded(network)


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def read(network: Network, layer: str, x: Tensor) -> Tensor:
    """Return what a layer gives, by a hook of our own."""
    found: list[Tensor] = []
    handle = network.original.get_submodule(layer).register_forward_hook(lambda m, a, y: found.append(y.clone()))
    with torch.no_grad():
        network.original((x.to(torch.float32) - 0.5) / 0.5)
    handle.remove()
    return found[0]


def scores(network: Network, objective: Objective, x: Tensor, channels: tuple[int, ...] = (3, 7)) -> Tensor:
    objective.bind(network)
    logits, activations = network.fast(objective.layers)(x.float(), layers=objective.layers)
    rows = torch.zeros(len(x), dtype=torch.long)
    return objective(Outputs(logits, rows, activations, channels=torch.tensor(channels), inputs=1))


def test_layouts_of_transformers(vit: Network, swin: Network) -> None:
    assert layout(vit, MLP) == Layout((17, 96), "tokens", 1)
    assert str(layout(vit, MLP)) == "17 x 96, 96 features of 16 tokens after 1 without a place"
    assert layout(vit, "patch_embed") == Layout((16, 24), "tokens", 0)  # no class token yet
    assert layout(vit, "patch_embed.proj") == Layout((24, 4, 4), "maps")
    assert layout(vit, "head") == Layout((5,), "vector")
    assert layout(vit, "blocks.1.attn.q_norm").kind == "maps"  # heads x tokens x features: not told from feature maps
    assert layout(swin, STAGE) == Layout((8, 8, 16), "grid")
    assert str(layout(swin, STAGE)) == "8 x 8 x 16, 16 features of 64 tokens"
    assert layout(swin, FLAT) == Layout((64, 64), "tokens", 0)
    assert layout(swin, "patch_embed.proj").kind == "maps"
    assert layout(swin, "layers.1.blocks.0.attn.qkv").kind == "other"  # windows stand in the place of images
    assert layout(swin, "layers.1.blocks.0.attn.qkv").channels == 0
    assert all(len(found.shape) > 0 for found in layouts(swin).values())


def test_as_many_features_as_places_are_last_in_transformers_only() -> None:
    convolutional = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.Flatten(), nn.Linear(64, 5))
    assert layout(loaded(convolutional), "0") == Layout((4, 4, 4), "maps")
    sixteen = SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=16, depths=(1, 1), num_heads=(1, 2), num_classes=5
    )
    assert layout(loaded(sixteen), "layers.0") == Layout((16, 16, 16), "grid")


def test_patches_are_counted_not_guessed() -> None:
    rectangle = vit_network(img_size=(32, 40), patch_size=4)  # 80 patches and a class token are 9 x 9
    network = load_network(rectangle.eval(), labels=NAMES, mean=[0.5] * 3, std=[0.5] * 3, size=(32, 40))
    assert layout(network, "blocks.0") == Layout((81, 24), "tokens", 1)
    assert layout(network, "patch_embed") == Layout((80, 24), "tokens", 0)


@pytest.mark.parametrize(
    ("shape", "size", "kind"),
    [
        ((7, 7, 768), (224, 224), "grid"),
        ((768, 7, 7), (224, 224), "maps"),
        ((7, 7, 7), (224, 224), "maps"),
        ((6, 8, 12), (192, 256), "grid"),
        ((12, 6, 8), (192, 256), "maps"),
        ((28, 37, 64), (224, 300), "grid"),  # rounded sides
        ((64, 28, 37), (224, 300), "maps"),
    ],
)
def test_channels_last_is_detected_by_the_shape_of_the_input(
    shape: tuple[int, ...], size: tuple[int, int], kind: str
) -> None:
    assert layout_of(torch.zeros(1, *shape), size).kind == kind


def test_registers_and_class_tokens_are_detected() -> None:
    registers = loaded(vit_network(reg_tokens=4))
    assert prefix_tokens(registers.original) == 5
    assert layout(registers, "blocks.0").prefix == 5
    assert layout_of(torch.zeros(1, 16, 24), (32, 32), 5).prefix == 0
    assert prefix_tokens(loaded(vit_network(class_token=False, global_pool="avg")).original) == 0

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))

    assert prefix_tokens(Own()) == 1


def test_a_feature_is_the_mean_over_the_patch_tokens_without_the_class_token(vit: Network) -> None:
    activation = read(vit, MLP, images())
    expected = torch.stack([activation[m, 1:, d].mean() for m, d in enumerate((3, 7))])
    torch.testing.assert_close(scores(vit, Channel(MLP, axis="feature"), images()), expected)


def test_a_token_is_the_mean_over_its_features(vit: Network) -> None:
    activation = read(vit, MLP, images())
    expected = torch.stack([activation[m, 1 + t].mean() for m, t in enumerate((3, 7))])
    torch.testing.assert_close(scores(vit, Channel(MLP, axis="token"), images()), expected)


def test_swins_features_and_tokens(swin: Network) -> None:
    activation = read(swin, STAGE, images())
    feature = torch.stack([activation[m, :, :, d].mean() for m, d in enumerate((3, 7))])
    token = torch.stack([activation[m, t // 8, t % 8].mean() for m, t in enumerate((3, 63))])
    torch.testing.assert_close(scores(swin, Channel(STAGE, axis="feature"), images()), feature)
    torch.testing.assert_close(scores(swin, Channel(STAGE, axis="token"), images(), (3, 63)), token)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_neuron_is_a_feature_of_one_patch(name: str, request: pytest.FixtureRequest) -> None:
    network = request.getfixturevalue(name)
    layer, prefix, side = (MLP, 1, 4) if name == "vit" else (FLAT, 0, 8)
    activation = read(network, layer, images())
    place = prefix + 2 * side + 1
    expected = torch.stack([activation[m, place, d] for m, d in enumerate((3, 7))])
    objective = Neuron(layer, place=(2, 1), axis="feature")
    torch.testing.assert_close(scores(network, objective, images()), expected)


def test_the_whole_layer_leaves_the_class_token_out(vit: Network) -> None:
    activation = read(vit, MLP, images())
    expected = activation[:, 1:].square().mean((1, 2)) / 2
    torch.testing.assert_close(scores(vit, Layer(MLP), images()), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("layer", "axis"), [("vit", None), ("swin", None), ("other", "feature"), ("maps", "token")])
def test_an_ambiguous_axis_is_rejected(layer: str, axis: Any, vit: Network, swin: Network) -> None:
    cases = {
        "vit": (vit, MLP, "16 tokens of 96 features: give axis feature .* or axis token"),
        "swin": (swin, STAGE, "64 tokens of 16 features: give axis feature"),
        "other": (swin, "layers.1.blocks.0.attn.qkv", "must have channels for each image"),
        "maps": (vit, "patch_embed.proj", "axis requires a layer of tokens"),
    }
    network, name, message = cases[layer]
    with pytest.raises(LitVizError, match=message):
        Channel(name, axis=axis).bind(network)


def test_the_number_of_channels_depends_on_the_axis(vit: Network) -> None:
    for axis, count in (("feature", 96), ("token", 16)):
        objective = Channel(MLP, axis=axis)  # type: ignore[arg-type]
        objective.bind(vit)
        assert objective.channels == count
        with pytest.raises(LitVizError, match=f"between 0 and {count - 1}, got {count}"):
            Channel(MLP, count, axis=axis).bind(vit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("vit", Channel(MLP, 5, "feature")),
        ("vit", Channel(MLP, 5, "token")),
        ("vit", Neuron(MLP, 5, (1, 2), "feature")),
        ("vit", Layer("blocks.0")),
        ("vit", Direction("blocks.0", [1.0, -1.0] * 12, "cosine", "feature")),
        ("vit", Logit(2)),
        ("swin", Channel(STAGE, 5, "feature")),
        ("swin", Channel(FLAT, 5, "token")),
        ("swin", Layer(STAGE) * Channel(STAGE, 1, "feature") - 0.1 * Diversity(FLAT, "feature")),
        ("swin", Logit(2)),
    ],
)
def test_the_gradient_is_that_of_finite_differences(
    name: str, objective: Objective, request: pytest.FixtureRequest
) -> None:
    """In float64 along a random direction, of the frozen copy that reads its layers."""
    classifier = request.getfixturevalue(name)
    objective.bind(classifier)
    network = classifier.fast(objective.layers, dtype=torch.float64)
    direction = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def total(x: Tensor) -> Tensor:
        logits, activations = network(x, layers=objective.layers)
        return objective(Outputs(logits, torch.zeros(2).long(), activations, members=torch.tensor([0, 1]))).sum()

    x = images().requires_grad_()
    (gradient,) = torch.autograd.grad(total(x), x)
    step = 1e-5
    with torch.no_grad():
        derivative = (total(x + step * direction) - total(x - step * direction)) / (2 * step)
    assert float(derivative.abs()) > 1e-9
    assert math.isclose(float((gradient * direction).sum()), float(derivative), rel_tol=1e-6)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_transformers_are_trained_against(name: str, train: Train, request: pytest.FixtureRequest) -> None:
    """Class images and channel images of a network that takes one size only, on a larger canvas."""
    network = request.getfixturevalue(name)
    layer = MLP if name == "vit" else STAGE
    options: dict[str, Any] = {"iterations": 15, "picture": PictureOptions(40, oversample=1.2)}
    module = ClassVisualization(network, parameterization=Fourier(), step_rule=Adam(0.1), **options)
    seen = train(module, tasks_for(network, [1])).snapshots[0]
    assert seen[-1].metrics["probability"] > seen[0].metrics["probability"]
    assert seen[-1].image.shape == (3, 40, 40)
    channel = Task(0, "c", 0, layer=layer, channel=2)
    module = ClassVisualization(
        network, parameterization=Fourier(), step_rule=Adam(0.1), objective=Channel(layer, axis="feature"), **options
    )
    seen = train(module, [channel]).snapshots[0]
    assert seen[-1].metrics["objective"] > seen[0].metrics["objective"]
    native = {"objective": Channel(layer, axis="feature"), "picture": PictureOptions(40, native=True)}
    with pytest.raises(LitVizError, match="takes no images of 40 x 40 pixels"):
        ClassVisualization(network, parameterization=Fourier(), step_rule=Adam(0.1), **native)
