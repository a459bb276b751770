"""Networks of transformers and timm by the name of a folder, or of a repository of the Hugging Face Hub."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.images import packaged_photograph, read_photograph
from lit_viz.networks.processors import KINDS, processor_options
from lit_viz.networks.resizing import Resizing
from lit_viz.outputs import load_network

NAMES = ["ant", "bee", "cat", "dog", "elk"]


def _hugging_face(kind: str) -> tuple[nn.Module, Any]:
    """Return a network with random weights, and its image processor."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    vit = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    values = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    if kind == "vit":
        config = transformers.ViTConfig(image_size=(24, 32), patch_size=8, **vit, **labels)
        return (
            transformers.ViTForImageClassification(config),
            transformers.ViTImageProcessor(size={"height": 24, "width": 32}, **values),
        )
    if kind == "gray":
        config = transformers.ViTConfig(image_size=28, patch_size=7, num_channels=1, num_labels=2, **vit)
        return (
            transformers.ViTForImageClassification(config),
            transformers.ViTImageProcessor(size={"height": 28, "width": 28}),
        )
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, **values)
    if kind == "convnext":
        config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, **labels)
        return transformers.ConvNextForImageClassification(config), processor
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels
    )
    return transformers.ResNetForImageClassification(config), processor


def _timm(kind: str) -> nn.Module:
    torch.manual_seed(0)
    gray = {"in_chans": 1} if kind == "gray" else {}
    network = timm.create_model("test_resnet" if gray else f"test_{kind}", num_classes=5, **gray)
    for parameter in network.get_classifier().parameters():  # 0 at first
        nn.init.normal_(parameter)
    return network


def _save(folder: Path, name: str) -> nn.Module:
    """Save a network as ``transformers-vit`` or ``timm-vit`` into a folder, and return it."""
    library, kind = name.split("-")
    if library == "transformers":
        network, processor = _hugging_face(kind)
        network.save_pretrained(folder)
        processor.save_pretrained(folder)
    else:
        network = _timm(kind)
        config: dict[str, Any] = {"label_names": NAMES}
        if kind == "gray":
            # timm 1.0.30 and older saves the channels, and the preprocessing of one channel, only where they are given.
            config["model_args"] = {"in_chans": 1}
            network.pretrained_cfg.update(input_size=(1, 160, 160), mean=(0.5,), std=(0.5,))
        timm.models.save_for_hf(network, folder, model_config=config, safe_serialization=True)
    return network.eval()


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """Return the folder of a network of transformers."""
    _save(tmp_path / "vit", "transformers-vit")
    return tmp_path / "vit"


def _picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def _pixels(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("kind", ["vit", "convnext", "resnet"])
def test_logits_are_those_of_transformers_and_its_image_processor(tmp_path: Path, kind: str) -> None:
    network = _save(tmp_path / "saved", f"transformers-{kind}")
    classifier = load_network(str(tmp_path / "saved"))
    assert classifier.labels == tuple(NAMES)
    assert classifier.size == ((24, 32) if kind == "vit" else (32, 32))
    assert classifier.sha256 is not None
    picture = _picture(*classifier.size)
    _, processor = _hugging_face(kind)
    if kind != "vit":
        processor.crop_pct = 1.0  # keeps the pixels of a picture of the input size
    with torch.no_grad():
        expected = network(processor(images=picture, return_tensors="pt")["pixel_values"]).logits
    torch.testing.assert_close(classifier.scores(_pixels(picture)), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["{}", "timm/local-dir:{}", "timm/hf-hub:{}"])
def test_logits_are_those_of_timm(tmp_path: Path, name: str) -> None:
    network = _save(tmp_path / "saved", "timm-resnet")
    classifier = load_network(name.format(tmp_path / "saved"))
    assert (classifier.labels, classifier.size) == (tuple(NAMES), (160, 160))
    transform = timm.data.create_transform(**timm.data.resolve_data_config({"crop_pct": 1.0}, model=network))
    picture = _picture(160, 160)
    with torch.no_grad():
        expected = network(transform(Image.fromarray(picture))[None])
    torch.testing.assert_close(classifier.scores(_pixels(picture)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "convnext", "resnet", "gray"])
@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_a_folder_in_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, kind: str, lit_viz: Any, records: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    _save(Path("saved"), f"{library}-{kind}")
    Image.fromarray(_picture(40, 40)).save("picture.png")
    few = ["--network", "saved", "--wandb", "disabled"]
    lit_viz("visualize", "1", "--config", "small", "--iterations", "2", *few, "--out", "class")
    lit_viz("saliency", "picture.png", "--method", "gradient", *few, "--out", "map")
    lit_viz("attack", "picture.png", "--attack", "pgd", *few, "--out", "attack")
    for run in ("class", "map", "attack"):
        assert [record["status"] for record in records(Path(run))] == ["done"], run


def test_published_labels_are_listed_by_the_command(
    vit: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any
) -> None:
    lit_viz("classes", "do", "--network", str(vit))
    assert capsys.readouterr().out.split() == ["3", "dog"]


def test_a_gray_network_of_two_classes(tmp_path: Path) -> None:
    """Its image processor has options for three channels."""
    network = _save(tmp_path, "transformers-gray")
    classifier = load_network(str(tmp_path))
    assert (classifier.channels, classifier.size, classifier.mean) == (1, (28, 28), (0.5,))
    assert classifier.labels == ("class 0", "class 1")
    x = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(classifier.scores(x), network((x - 0.5) / 0.5).logits)


def test_weights_of_another_number_of_classes_and_none(tmp_path: Path, vit: Path) -> None:
    network, _ = _hugging_face("vit")
    network.classifier = nn.Linear(16, 3)
    torch.save(network.state_dict(), tmp_path / "three.pth")
    classifier = load_network(str(vit), weights=tmp_path / "three.pth")
    assert (classifier.num_classes, classifier.labels[2], classifier.mean) == (3, "class 2", (0.5, 0.4, 0.3))
    assert torch.equal(classifier.original.state_dict()["classifier.weight"], network.classifier.weight)
    first, again = (load_network(str(vit), weights="none").original.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_repository_in_the_cache_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub.constants

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(LitVizError) as caught:
        load_network("transformers/someone/vit")
    assert str(caught.value).startswith(
        "transformers/someone/vit can't be downloaded (Name or service not known): config.json of the Hugging Face"
    )
    snapshot = tmp_path / "models--someone--vit" / "snapshots" / ("0" * 40)
    _save(snapshot, "transformers-vit")
    (tmp_path / "models--someone--vit" / "refs").mkdir()
    (tmp_path / "models--someone--vit" / "refs" / "main").write_text("0" * 40)
    capfd.readouterr()
    network = load_network("transformers/someone/vit")
    assert (network.labels, network.mean) == (tuple(NAMES), (0.5, 0.4, 0.3))
    assert capfd.readouterr() == ("", "")  # no progress bar


def test_the_image_processor_of_a_repository_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    _save(tmp_path / "remote", "transformers-vit")
    (tmp_path / "cache").mkdir()
    downloaded: list[str] = []

    def download(repository: str, filename: str) -> str:
        downloaded.append(filename)
        return str(shutil.copy(tmp_path / "remote" / filename, tmp_path / "cache"))

    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: io.BytesIO())
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for weights in (None, "none"):
        network = load_network("transformers/someone/vit", weights=weights)
        assert (network.mean, network.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
        assert "preprocessor_config.json" in downloaded
        (tmp_path / "cache" / "preprocessor_config.json").unlink()
        downloaded.clear()


# -- what is rejected


def _edit(file: str, **options: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | options))

    return edit


def _write(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(content) and None


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"classifier.weight": Evil()}, folder / "pytorch_model.bin")


def _shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "must contain config.json: save the network by"),
        (_write("config.json", b"{"), r"^config.json of .* can't be read \(Expecting property name"),
        (_write("config.json", b"[1]"), "must be a mapping, got a list"),
        (
            _write("config.json", b"{}"),
            r"must have a model_type \(transformers\) or .*, got neither",
        ),
        (_edit("config.json", model_type="bert"), r"transformers can't load .* as an image classifier \(.*BertConfig"),
        (_edit("config.json", model_type="unheard"), r"transformers can't load .* \(.*model type `unheard`"),
        (_edit("config.json", auto_map={"AutoConfig": "net.C"}), r"requires code of its repository \(auto_map in"),
        (
            _edit("config.json", model_type="timm_wrapper", architecture="hf-hub:other/network"),
            "must name its architecture without another repository, got 'hf-hub:other/network'",
        ),
        (_edit("config.json", attn_implementation="someone/kernel"), r"\(attn_implementation in .* never executed"),
        (_edit("config.json", text={"_attn_implementation": "flash_attention_2"}), r"\(_attn_implementation in"),
        (
            _edit("config.json", num_hidden_layers=3),
            r"must be of a trained network, but have no vit.*16 missing keys",
        ),
        (_edit("config.json", hidden_size=32), r"transformers can't load .*\(.*mismatch"),
        (_write("preprocessor_config.json", b"{"), "^preprocessor_config.json in .* can't be used"),
        (_edit("preprocessor_config.json", image_std=[0.0]), "std must be positive, got"),
        (_edit("preprocessor_config.json", image_mean="gray"), "ViTImageProcessor.* has invalid attributes"),
        (_write("model.safetensors", b"<html>"), "is damaged or no weights file: copy or download it again"),
        (_pickle, "contains Python objects, and loading these could run code"),
        (_shards, "must contain model.safetensors or pytorch_model.bin: .* with its weights in one file"),
    ],
)
def test_damaged_and_hostile_folders_are_rejected(
    vit: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], words: str
) -> None:
    change(vit)
    monkeypatch.chdir(vit)
    with pytest.raises(LitVizError, match=words) as caught:
        load_network(str(vit))
    assert "\n" not in str(caught.value)
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_edit("config.json", architecture="test_resnett"), r"^timm can't load .* \(Unknown model \(test_resnett\)\)"),
        (_edit("config.json", architecture="test_vit"), r"^timm can't load .* as an image classifier \("),
        (_edit("config.json", model_args={"num_classes": 7}), "must have the num_classes of its weights, 5, got 7"),
    ],
)
def test_weights_of_another_network_of_timm_are_rejected(
    tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    _save(tmp_path, "timm-resnet")
    change(tmp_path)
    with pytest.raises(LitVizError, match=words):
        load_network(str(tmp_path))


def test_missing_transformers_is_one_sentence(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LitVizError, match=r"requires transformers 5 .*: pip install 'lit-viz\[transformers\]'"):
        load_network(str(vit))


# -- image processors


def test_a_second_division_and_an_unused_crop_size_are_read() -> None:
    """EfficientNet's divides by the standard deviation twice, and has a crop size that it does not use."""
    transformers = pytest.importorskip("transformers")
    network, _ = _hugging_face("resnet")
    processor = transformers.EfficientNetImageProcessor(size={"height": 24, "width": 40}, image_mean=[0.5, 0.4, 0.3])
    classifier = load_network(network, processor=processor)
    assert classifier.size == (24, 40)
    picture = _picture(24, 40)
    expected = processor(images=picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(classifier.normalize(_pixels(picture)), expected, rtol=0, atol=1e-5)
    assert load_network(network, processor=processor, mean=0.1).mean == (0.1,) * 3


def _distance(read: Tensor, reference: Tensor) -> float:
    """Return the mean difference of two photographs in [0, 1], in levels of 255."""
    assert read.shape == reference.shape
    return float((read - reference).abs().mean()) * 255


@pytest.mark.parametrize(
    ("kind", "options", "size"),
    [
        ("ViT", {}, 224),
        ("DeiT", {}, 224),
        ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.95, "resample": 2}, 224),
        ("ConvNext", {"size": {"shortest_edge": 384}}, 384),
        ("Bit", {"size": {"shortest_edge": 256}}, 224),
        ("CLIP", {}, 224),
        ("EfficientNet", {"size": {"height": 346, "width": 346}, "do_center_crop": True}, 289),
        ("Beit", {"size": {"height": 256, "width": 256}, "do_center_crop": True}, 224),
        ("MobileNetV1", {}, 224),
        ("MobileNetV2", {"do_rescale": False}, 224),
        ("PoolFormer", {}, 224),
        ("PoolFormer", {"crop_pct": None}, 224),
        ("Pvt", {"do_normalize": False}, 224),
        ("Segformer", {"rescale_factor": 1 / 127.5}, 512),
        ("Siglip", {}, 224),
    ],
)
def test_photographs_have_the_pixels_of_the_image_processor(kind: str, options: dict[str, Any], size: int) -> None:
    """Size, crop and filter; the odd margins of a photograph of 300 x 451 pixels show the rounding of the crop."""
    assert kind in KINDS
    processor = getattr(pytest.importorskip("transformers"), f"{kind}ImageProcessor")(**options)
    found = processor_options(processor, 3)
    assert found["size"] == (size, size)
    with Image.open(path := packaged_photograph("chelsea")) as picture:
        values = processor(images=picture, return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(found[name]).view(-1, 1, 1) for name in ("mean", "std"))
    assert _distance(read_photograph(path, (size, size), fit=found["resizing"]).pixels, values * std + mean) < 0.3


@pytest.mark.parametrize("crop", [{"crop_pct": 0.9}, {"crop_pct": 0.95, "crop_mode": "squash"}])
def test_photographs_have_the_pixels_of_timm(tmp_path: Path, crop: dict[str, Any]) -> None:
    network = _timm("resnet")
    network.pretrained_cfg |= {"interpolation": "bilinear", **crop}
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=network))
    classifier = load_network(str(tmp_path))
    with Image.open(path := packaged_photograph("coffee")) as picture:
        values = transform(picture)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (classifier.mean, classifier.std))
    assert _distance(read_photograph(path, (160, 160), fit=classifier.resizing).pixels, values * std + mean) < 0.3


def test_photographs_of_a_run_are_resized_as_published() -> None:
    network = load_network("torchvision/squeezenet1_1", weights="none")
    options = {"method": "gradient", "captum": "none"}
    boxes = {
        fit: lv.saliency(network, "packaged:coffee", **options, **fit_option).records[0]["original_box"]
        for fit, fit_option in {"published": {}, "crop": {"fit": "crop"}}.items()
    }
    assert boxes["published"] == [125, 25, 475, 375]  # 224 of 256 pixels, of the side of 400
    assert boxes["crop"] == [100, 0, 500, 400]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop_pct": 1.5}, r"crop fraction of photographs must be in \(0, 1\], got 1.5"),
        ({"interpolation": "sharp"}, "interpolation must be one of nearest, .*, got 'sharp'"),
    ],
)
def test_damaged_resizing_of_timm_is_rejected(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    network = _timm("resnet")
    network.pretrained_cfg |= options
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    with pytest.raises(LitVizError, match=words):
        load_network(str(tmp_path))


def test_every_kind_of_image_processor_is_compared() -> None:
    (mark,) = test_photographs_have_the_pixels_of_the_image_processor.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in mark.args[1]} == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "options", "size"),
    [
        ("ViT", {"do_resize": False}, None),
        ("ViT", {"size": {"shortest_edge": 224}}, None),
        ("CLIP", {"do_resize": False}, (224, 224)),
        ("CLIP", {"size": {"shortest_edge": 200}}, (224, 224)),  # adds borders
        ("CLIP", {"crop_size": {"height": 224, "width": 200}}, (224, 200)),
        ("Beit", {"size": {"shortest_edge": 224, "longest_edge": 300}}, None),
    ],
)
def test_unknown_resizing_and_size(kind: str, options: dict[str, Any], size: tuple[int, int] | None) -> None:
    found = processor_options(getattr(pytest.importorskip("transformers"), f"{kind}ImageProcessor")(**options), 3)
    assert found["resizing"] is None
    assert found.get("size") == size


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("MobileViTImageProcessor", {}, r"exchanges color channels \(BGR\), .* and a network that does so in its forw"),
        ("PerceiverImageProcessor", {}, "processor must be timm's or an image processor of .* got PerceiverImageProc"),
        ("LevitImageProcessor", {}, "got LevitImageProcessor: give mean, std and size instead"),
        ("ViTConfig", {}, "got ViTConfig: give mean"),
        ("EfficientNetImageProcessor", {"rescale_offset": True}, "must not have the option rescale_offset: give mean"),
        ("ViTImageProcessor", {"image_std": [0.0] * 3}, "std must be positive"),
    ],
)
def test_processors_that_cannot_be_used_are_rejected(name: str, options: dict[str, Any], words: str) -> None:
    processor = getattr(pytest.importorskip("transformers"), name)(**options)
    network = _hugging_face("resnet")[0]
    with pytest.raises(LitVizError, match=words):
        load_network(network, processor=processor)
    classifier = load_network(network, processor=processor, mean=0.4, std=0.2, size=40)
    assert (classifier.mean, classifier.std, classifier.size) == ((0.4,) * 3, (0.2,) * 3, (40, 40))


def test_a_stored_processor_that_cannot_be_used_needs_mean_std_and_size(vit: Path) -> None:
    _write("preprocessor_config.json", b"{")(vit)
    with pytest.raises(LitVizError, match=r"can't be used .*: give mean, std and size instead"):
        load_network(str(vit))
    assert load_network(str(vit), mean=0.4, std=0.2, size=(24, 32)).mean == (0.4,) * 3


def test_the_data_configuration_of_timm_is_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = {"input_size": (3, 96, 96), "mean": [0.1, 0.2, 0.3], "std": [0.3] * 3, "crop_pct": 0.75}
    processor = transformers.TimmWrapperImageProcessor(config | {"interpolation": "bilinear"})
    network = load_network(_hugging_face("resnet")[0], processor=processor)
    assert (network.mean, network.std, network.size) == ((0.1, 0.2, 0.3), (0.3,) * 3, (96, 96))
    assert network.resizing == Resizing(0.75, "bilinear")
