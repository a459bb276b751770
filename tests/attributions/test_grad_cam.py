"""Grad-CAM and guided Grad-CAM against Captum and against their definition, elementwise in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import captum.attr
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import lit_viz as lv
import lit_viz.attributions
from lit_viz.attributions.base import attribute
from lit_viz.attributions.grad_cam import GradCAM, GradCAMPlusPlus, GuidedGradCAM, HiResCAM, LayerCAM
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from tests.support.attributions import MEAN, STD, Normalized, made
from tests.support.marks import slow
from tests.support.networks import Lockable, conv_net


def network_of(net: nn.Module, size: int | tuple[int, int]) -> Network:
    return load_network(net.eval(), size=size, mean=MEAN, std=STD)


def photographs(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def our(method: GradCAM, network: Network, x: Tensor) -> Tensor:
    method.bind(network)
    networks = {
        name: network.fast(method.layers, dtype=torch.float64, backprop=name)  # type: ignore[arg-type]
        for name in method.networks
    }
    return attribute(method, networks, x, TARGETS)[0]


def same(actual: Tensor, expected: Tensor) -> bool:
    assert actual.shape == expected.shape
    assert expected.abs().max() > 0
    return bool((actual - expected).abs().max() <= 1e-8 * expected.abs().max())


TARGETS = [3, 0]
NETS = [
    pytest.param(conv_net, 16, "4", id="batch norm that is not folded"),
    pytest.param(conv_net, 16, "3", id="changed in place later"),
    pytest.param(conv_net, 18, None, id="default, with as many channels as rows"),
    slow(lambda: made(torchvision.models.resnet18), 40, "layer3.0.conv2", id="resnet18"),
    pytest.param(lambda: made(torchvision.models.squeezenet1_1), 40, "features", id="squeezenet"),
]


@pytest.mark.filterwarnings("ignore:Setting .* hooks:UserWarning")
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("build", "size", "layer"), NETS)
def test_grad_cam_equals_captum(build: Callable[[], nn.Module], size: int, layer: str | None, relu: bool) -> None:
    net = build()
    x, method = photographs(size), GradCAM(layer, relu=relu)
    actual = our(method, network_of(net, size), x)
    model = Normalized(net)
    captums = captum.attr.LayerGradCam(model, model.net.get_submodule(method.layers[0]))
    maps = captums.attribute(x, TARGETS, relu_attributions=relu).detach()
    assert actual.shape == (2, 1, size, size)
    assert same(actual, captum.attr.LayerAttribution.interpolate(maps, (size, size), "bilinear"))


@pytest.mark.filterwarnings("ignore:Setting .* hooks:UserWarning")
@pytest.mark.parametrize(("build", "size", "layer"), NETS)
def test_guided_grad_cam_equals_captum(build: Callable[[], nn.Module], size: int, layer: str | None) -> None:
    net = build()
    x, method = photographs(size), GuidedGradCAM(layer)
    actual = our(method, network_of(net, size), x)
    model = Normalized(net)
    captums = captum.attr.GuidedGradCam(model, model.net.get_submodule(method.layers[0]))
    assert same(actual, captums.attribute(x.clone().requires_grad_(), TARGETS, interpolate_mode="bilinear").detach())


def mean_gradient(activation: Tensor, gradient: Tensor) -> Tensor:
    return gradient.flatten(2).mean(2)[..., None, None].expand_as(gradient)


def by_definition(
    net: nn.Module,
    layer: str,
    maps: Callable[[Tensor], Tensor],
    x: Tensor,
    weights: Callable[[Tensor, Tensor], Tensor] = mean_gradient,
) -> Tensor:
    """Return Grad-CAM with the gradient that a hook of autograd receives."""
    net = copy.deepcopy(net).double().eval()
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        seen.append(output.detach().clone())  # it may be changed in place later
        output.register_hook(seen.append)

    net.get_submodule(layer).register_forward_hook(hook)
    mean, std = (torch.tensor(values, dtype=x.dtype).view(3, 1, 1) for values in (MEAN, STD))
    net(((x - mean) / std).requires_grad_()).gather(1, torch.tensor(TARGETS)[:, None]).sum().backward()
    activation, gradient = (maps(tensor) for tensor in seen)
    cam = torch.einsum("nchw,nchw->nhw", activation, weights(activation, gradient)).relu()[:, None]
    return F.interpolate(cam, x.shape[2:], mode="bilinear", align_corners=False)


def test_maps_that_are_not_of_the_images_proportions_are_no_channels_last_maps() -> None:
    net, x = conv_net(), torch.rand(2, 3, 16, 23, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert same(our(GradCAM("5"), network_of(net, (16, 23)), x), by_definition(net, "5", lambda maps: maps, x))


def vit(**options: Any) -> nn.Module:
    sizes = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
    return made(timm.models.VisionTransformer, **sizes, **options)


def swin() -> nn.Module:
    sizes = {"img_size": 32, "patch_size": 2, "embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
    return made(timm.models.SwinTransformer, **sizes)


def grid(prefix: int) -> Callable[[Tensor], Tensor]:
    return lambda tokens: torch.stack([t[prefix:].T.reshape(-1, 4, 6) for t in tokens])


@pytest.mark.parametrize(
    ("net", "size", "layer", "maps"),
    [
        (vit(), (32, 48), "blocks.1.norm1", grid(1)),
        (vit(reg_tokens=2, global_pool="avg"), (32, 48), "blocks.1.norm1", grid(3)),
        (vit(class_token=False, global_pool="avg"), (32, 48), "blocks.1.norm1", grid(0)),
        (swin(), (32, 32), "norm", lambda maps: torch.einsum("nhwc->nchw", maps)),
    ],
    ids=["vit", "vit with registers", "vit without a class token", "swin"],
)
def test_tokens_of_timm_transformers_are_detected(net: nn.Module, size: Any, layer: str, maps: Any) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    method = GradCAM()
    actual = our(method, network_of(net, size), x)
    assert method.layers == (layer,)
    assert same(actual, by_definition(net, layer, maps, x))


def plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return equations 11 and 19 of the paper, channel by channel."""
    weights = torch.zeros_like(gradient)
    for n, c in torch.cartesian_prod(*map(torch.arange, gradient.shape[:2])).tolist():
        g, total = gradient[n, c], activation[n, c].sum()
        alpha = (g**2 / (2 * g**2 + total * g**3)).nan_to_num(0.0)
        weights[n, c] = (alpha * g.clamp(min=0)).sum()
    return weights


VARIANTS = {
    GradCAMPlusPlus: plus_plus,
    LayerCAM: lambda activation, gradient: gradient.clamp(min=0),
    HiResCAM: lambda activation, gradient: gradient,
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_variants_of_grad_cam_are_their_definitions(kind: type[GradCAM]) -> None:
    x = torch.rand(2, 3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for net, layer, maps in ((vit(), "blocks.1.norm1", grid(1)), (conv_net(), "4", lambda maps: maps)):
        actual = our(kind(layer), network_of(net, (32, 48)), x)
        assert same(actual, by_definition(net, layer, maps, x, VARIANTS[kind]))


@pytest.mark.slow
@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize("name", ["GradCAM", "GradCAMPlusPlus", "LayerCAM", "HiResCAM"])
def test_variants_of_grad_cam_are_those_of_pytorch_grad_cam(name: str) -> None:
    """It scales the positive part of each map to [0, 1], in float32."""
    import pytorch_grad_cam as package
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    x, net = photographs(32), made(torchvision.models.resnet18)
    model = Normalized(net)
    with getattr(package, name)(model=model, target_layers=[model.net.layer2]) as cam:
        reference = torch.from_numpy(cam(x.clone().requires_grad_(), [ClassifierOutputTarget(t) for t in TARGETS]))
    actual = our(getattr(lit_viz.attributions, name)("layer2"), network_of(net, 32), x)[:, 0]
    actual = actual - actual.amin((1, 2), keepdim=True)
    assert (actual / actual.amax((1, 2), keepdim=True) - reference).abs().max() < 0.01


def test_the_last_block_of_a_transformer_gives_nothing() -> None:
    """Only the class token leaves it, which is why the default is the norm before its attention."""
    assert our(GradCAM("blocks.1"), network_of(vit(), (32, 48)), torch.rand(2, 3, 32, 48)).abs().max() == 0


@pytest.mark.parametrize(
    ("build", "size", "layer"),
    [
        (conv_net, 16, "5"),
        (torchvision.models.resnet18, 64, "layer4"),
        (torchvision.models.squeezenet1_1, 64, "classifier.2"),
        (torchvision.models.mobilenet_v2, 64, "features"),
        (lambda: Lockable(conv_net()), 16, "inner.5"),
        (lambda: torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4]), 32, "permute"),
        (lambda: torchvision.models.VisionTransformer(16, 8, 2, 2, 12, 24), 16, "encoder.layers.encoder_layer_1.ln_1"),
        (lambda: timm.models.MlpMixer(img_size=16, patch_size=8, num_blocks=1, embed_dim=12), 16, "norm"),
    ],
)
def test_the_default_is_the_last_layer_before_places_are_pooled(
    build: Callable[[], nn.Module], size: int, layer: str
) -> None:
    net = build()
    method = GradCAM()
    method.bind(network_of(net, size))
    assert method.layers == (layer,)


def test_the_default_of_hugging_face_swin_is_its_last_norm() -> None:
    """Its pooler returns tokens of one feature, its window shrinks on small inputs, and its blocks return tuples."""
    transformers = pytest.importorskip("transformers")
    sizes = {"image_size": 64, "embed_dim": 12, "depths": [1, 1, 1], "num_heads": [1, 2, 2], "window_size": 4}
    net = transformers.SwinForImageClassification(transformers.SwinConfig(**sizes, num_labels=5)).eval()
    method = GradCAM()
    method.bind(network_of(net, 64))
    assert method.layers == ("swin.layernorm",)
    assert our(method, network_of(net, 64), photographs(64)).shape[-2:] == (64, 64)
    assert net.swin.encoder.layers[0].blocks[0].window_size == 4


def test_a_bound_method_can_be_bound_to_another_classifier() -> None:
    method = GradCAM()
    for net, size, layer in ((conv_net(), 16, "5"), (swin(), 32, "norm"), (conv_net(), 16, "5")):
        method.bind(network_of(net, size))
        assert method.layers == (layer,)
    network, x = network_of(net, 16), photographs(16)
    assert torch.equal(our(method, network, x), our(GradCAM(), network, x))


def test_binding_preserves_the_state_of_the_module() -> None:
    net = conv_net()
    network = network_of(net, 16)
    net.train()
    state = copy.deepcopy(net.state_dict())
    GradCAM().bind(network)
    assert all(module.training and not module._forward_hooks for module in net.modules())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_a_custom_reshape() -> None:
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 12, "mlp_dim": 24}
    net = made(torchvision.models.VisionTransformer, **sizes)
    nn.init.constant_(net.heads.head.weight[3, :6], 1.0)  # a new head is zero
    nn.init.constant_(net.heads.head.weight[0, 3:9], 1.0)
    layer = "encoder.layers.encoder_layer_1.ln_1"

    x = photographs(32)
    for reshape in (patches, f"{__name__}:patches"):
        actual = our(GradCAM(layer, reshape=reshape), network_of(net, 32), x)
        assert same(actual, by_definition(net, layer, patches, x))
    with pytest.raises(LitVizError, match=r"must return feature maps \(N, C, h, w\), got shape \(2, 17, 12\) from an"):
        our(GradCAM(layer, reshape=lambda tokens: tokens), network_of(net, 32), x)


@pytest.mark.parametrize(
    ("reshape", "sentence"),
    [
        (f"{__name__}:patchs", "has no 'patchs'; did you mean 'patches'"),
        (f"{__name__}:VARIANTS", "^reshape of Grad-CAM must be a function, got dict$"),
        ("no_such_file:patches", "^'no_such_file' of reshape 'no_such_file:patches' can't be imported"),
        (f"{__name__}.patches", "^reshape must be module:name, got"),
        ("os:system", "^reshape must not be of Python's standard library, got 'os:system'$"),
    ],
)
def test_a_reshape_that_cannot_be_imported_is_rejected(reshape: str, sentence: str) -> None:
    with pytest.raises(LitVizError, match=sentence):
        GradCAM(reshape=reshape)


def test_a_reshape_is_a_function_or_its_path(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    network, x = network_of(conv_net(), 16), photographs(16).float()
    options: dict[str, Any] = {"captum": "none", "wandb": "disabled"}
    expected = lv.saliency(network, x, target=TARGETS, method=GradCAM("4", reshape=flipped), **options).maps
    for number, reshape in enumerate((flipped, f"{__name__}:flipped")):
        method = GradCAM("4", reshape=reshape)
        run = lv.saliency(network, x, target=TARGETS, method=method, out=tmp_path / str(number), **options)
        assert torch.equal(run.maps, expected)
    assert not [warning for warning in recwarn if "serialize" in str(warning.message)]
    for name in ("0", "1"):
        (tmp_path / name / "report.html").unlink()
        assert torch.equal(lv.resume(tmp_path / name, network).maps, expected)


def patches(tokens: Tensor) -> Tensor:
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


def flipped(maps):  # type: ignore[no-untyped-def]
    return maps.flip(3)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))


@pytest.mark.parametrize(
    ("net", "layer", "sentence"),
    [
        (linear(), None, r"^Grad-CAM requires a layer with feature maps .*, and Sequential has none: use gradient"),
        (conv_net(), "7", r"got \(1, 8\) from layer '7' of Sequential: choose another layer, or give reshape"),
        (conv_net(), "33", "no layer '33'"),
    ],
)
def test_a_network_without_feature_maps_is_rejected(net: nn.Module, layer: str | None, sentence: str) -> None:
    with pytest.raises(LitVizError, match=sentence):
        GradCAM(layer).bind(network_of(net, 16))


def test_a_layer_that_is_not_called_is_rejected() -> None:
    net = conv_net()
    net[0].spare = nn.ReLU()
    with pytest.raises(LitVizError, match=r"^layer '0.spare' can't be read: a forward doesn't call it"):
        GradCAM("0.spare").bind(network_of(net, 16))


def test_before_any_evaluation_the_map_is_zero_and_one_is_enough() -> None:
    network, x = network_of(conv_net(), 16), torch.rand(2, 3, 16, 16)
    for method, channels in ((GradCAM("4"), 1), (GuidedGradCAM("4"), 3)):
        networks = {name: network.fast(["4"], backprop=name) for name in method.networks}  # type: ignore[arg-type]
        maps = [attribute(method, networks, x, TARGETS, evaluations=n)[0] for n in range(3)]
        assert torch.equal(maps[0], torch.zeros(2, channels, 16, 16))
        assert torch.equal(maps[1], maps[2])
        assert method.spatial == (channels == 1)


class TwoHeads(nn.Module):
    """Classifies, and makes a mask afterwards, which decides nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head, self.mask = nn.Conv2d(3, 5, 3), nn.Linear(5, 4), nn.Conv2d(5, 1, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x).relu()
        return self.head(features.mean((2, 3))), self.mask(features)


def test_a_layer_without_influence_on_the_logits_is_rejected() -> None:
    torch.manual_seed(3)
    network = network_of(TwoHeads(), 12)
    method = GradCAM()
    method.bind(network)
    assert method.layers == ("features",)
    with pytest.raises(LitVizError, match="the score does not depend on layer 'mask'"):
        our(GradCAM("mask"), network, photographs(12))
