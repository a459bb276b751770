from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from lit_viz.errors import LitVizError
from lit_viz.outputs import load_network

SQUEEZENET = "squeezenet1_1-b8a52dc0.pth"


def no_network(*args: Any, **kwargs: Any) -> None:
    raise urllib.error.URLError(OSError(-2, "Name or service not known"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_without_a_network_the_error_has_file_folder_and_alternative(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(LitVizError) as caught:
        load_network("torchvision/squeezenet1_1")
    message = str(caught.value)
    assert message.startswith(
        "the weights of torchvision/squeezenet1_1 can't be downloaded (Name or service not known)"
    )
    assert SQUEEZENET in message
    assert str(cache) in message
    assert "efficientnet_lite0" in message
    assert "\n" not in message


def test_published_weights_are_loaded_from_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    published = torchvision.models.squeezenet1_1()
    cache.mkdir(parents=True)
    torch.save(published.state_dict(), cache / SQUEEZENET)
    network = load_network("torchvision/squeezenet1_1")
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = published.eval()(network.normalize(x))
    assert torch.equal(network.scores(x), expected)
    assert (network.size, network.labels[85], network.weights) == ((224, 224), "quail", "DEFAULT")
    assert (network.mean, network.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert network.sha256 is not None


def test_a_download_is_cached_and_has_a_timeout(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def download(url: str, path: str, prefix: str | None, progress: bool) -> None:
        seen.append((url, prefix, socket.getdefaulttimeout()))
        torch.save(torchvision.models.squeezenet1_1().state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    load_network("torchvision/squeezenet1_1")
    assert seen == [(f"https://download.pytorch.org/models/{SQUEEZENET}", "b8a52dc0", 20.0)]
    assert (cache / SQUEEZENET).is_file()
    assert socket.getdefaulttimeout() is None


def test_a_damaged_file_in_the_cache_is_reported(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / SQUEEZENET).write_bytes(b"<html>")
    with pytest.raises(LitVizError, match=rf"{SQUEEZENET}' is damaged"):
        load_network("torchvision/squeezenet1_1")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub.constants
    import huggingface_hub.file_download

    for module in (huggingface_hub.constants, huggingface_hub.file_download.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_timm_without_a_network_fails_at_once_with_file_and_folder(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    start = time.monotonic()
    with pytest.raises(LitVizError) as caught:
        load_network("timm/resnet18.a1_in1k")
    assert time.monotonic() - start < 120  # a hang
    message = str(caught.value)
    assert message.startswith("the weights of timm/resnet18.a1_in1k can't be downloaded (Name or service not known)")
    assert "model.safetensors" in message
    assert str(hub / "models--timm--resnet18.a1_in1k") in message
    assert "efficientnet_lite0" in message
    assert "\n" not in message


def test_timm_weights_are_loaded_from_the_cache(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch
    import timm
    from safetensors.torch import save_file

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    published = timm.create_model("test_resnet")
    snapshot = hub / "models--timm--test_resnet.r160_in1k" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(published.state_dict(), snapshot / "model.safetensors")
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    read, load_file = list[object](), safetensors.torch.load_file
    monkeypatch.setattr(
        safetensors.torch, "load_file", lambda path, *args, **options: read.append(path) or load_file(path)
    )
    network = load_network("timm/test_resnet.r160_in1k")
    assert read == [snapshot / "model.safetensors"]
    assert "state_dict" not in network.original.pretrained_cfg
    x = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(network.scores(x), published.eval()(network.normalize(x)))
    assert (network.size, network.labels[85]) == ((160, 160), "quail")
    assert network.sha256 is not None
