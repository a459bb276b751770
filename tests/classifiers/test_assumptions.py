"""What is assumed about a network that does not state it: normalization and labels that exclude each other."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

import lit_viz as lv
from lit_viz.classifiers import Classifier, load_classifier
from tests.classifiers.networks import conv_net


def hugging_face(name: str = "", **config: Any) -> nn.Module:
    network = conv_net()
    id2label = {i: f"name {i}" for i in range(5)}
    network.config = SimpleNamespace(_name_or_path=name, id2label=id2label, **config)  # type: ignore[assignment]
    return network


def processor(folder: Path, **options: Any) -> str:
    given = {
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.3],
        "size": {"height": 16, "width": 20},
        **options,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    return str(folder)


def normalization(classifier: Classifier) -> list[str]:
    return [note for note in classifier.notes if "normalized by" in note]


def test_the_normalization_of_a_module_is_logged_at_load_and_in_every_run(caplog: pytest.LogCaptureFixture) -> None:
    note = (
        "Sequential: images are normalized by mean 0 and std 1 (none was given); give mean= and std= if it was trained "
        "with others, and multi_label=True if its labels do not exclude each other"
    )
    with caplog.at_level(logging.WARNING, "lit_viz"):
        classifier = load_classifier(conv_net(), size=16)
        assert caplog.messages == [note]
        caplog.clear()
        lv.saliency(classifier, torch.rand(1, 3, 16, 16), 0, check="none")
        assert caplog.messages == [note]
        caplog.clear()
        load_classifier(conv_net(), size=16, mean=0.5, std=0.5)
        assert caplog.messages == []


def test_the_normalization_of_own_weights_is_that_of_the_published_ones(tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "own.pth")
    classifier = load_classifier("torchvision/squeezenet1_1", weights=tmp_path / "own.pth")
    (note,) = normalization(classifier)
    assert "mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225 (of the published weights)" in note
    assert not normalization(load_classifier("torchvision/squeezenet1_1", weights="none"))


def test_timm_and_torchvision_modules_have_their_own_normalization() -> None:
    classifier = load_classifier(timm.create_model("test_vit"))
    assert (classifier.mean, classifier.size) == ((0.5,) * 3, (160, 160))
    assert "mean 0.5 and std 0.5 (of its pretrained_cfg)" in normalization(classifier)[0]
    classifier = load_classifier(torchvision.models.squeezenet1_1(), size=64)
    assert classifier.mean == (0.485, 0.456, 0.406)
    assert "of torchvision's published weights" in normalization(classifier)[0]


def test_hugging_face_networks_have_the_normalization_of_their_image_processor(tmp_path: Path) -> None:
    classifier = load_classifier(hugging_face(processor(tmp_path)))
    assert (classifier.mean, classifier.std, classifier.size) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), (16, 20))
    assert "of its preprocessor_config.json" in normalization(classifier)[0]
    half = processor(tmp_path, image_mean=[0.5] * 3, image_std=[0.5] * 3, rescale_factor=1 / 127.5, rescale_offset=True)
    x = torch.rand(2, 3, 16, 20)
    expected = ((255 * x / 127.5 - 1) - 0.5) / 0.5
    assert torch.allclose(load_classifier(hugging_face(half)).normalize(x), expected, atol=1e-6)
    plain = load_classifier(hugging_face(processor(tmp_path, do_normalize=False, size={"shortest_edge": 16})))
    assert (plain.mean, plain.std, plain.size) == ((0.0,) * 3, (1.0,) * 3, (16, 16))


def test_the_image_processor_is_read_from_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(processor(tmp_path), "preprocessor_config.json")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, _: str(file) if name == "a/b" else None)
    assert load_classifier(hugging_face("a/b")).mean == (0.5, 0.4, 0.3)
    unknown = load_classifier(hugging_face("a/c", image_size=16))
    assert unknown.mean == (0.0,) * 3
    assert "(none was given)" in normalization(unknown)[0]
