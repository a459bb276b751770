"""What is assumed about a network that does not state it: normalization and labels that exclude each other."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import timm
import torch
import torchvision

import lit_viz as lv
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from tests.support.networks import conv_net


def normalization(network: Network) -> list[str]:
    return [note for note in network.notes if "normalized by" in note]


def test_the_normalization_of_a_module_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    note = (
        "Sequential: images are normalized by mean 0 and std 1 (none was given); give mean and std if it was trained "
        "with others, and multi_label=True if its labels do not exclude each other"
    )
    with caplog.at_level(logging.WARNING, "lit_viz"):
        network = load_network(conv_net(), size=16)
        assert caplog.messages == [note]
        caplog.clear()
        lv.saliency(network, torch.rand(1, 3, 16, 16), target=0, captum="none")
        assert caplog.messages == []
        caplog.clear()
        load_network(conv_net(), size=16, mean=0.5, std=0.5)
        assert caplog.messages == []


def test_the_normalization_of_own_weights_is_that_of_the_published_ones(tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "own.pth")
    network = load_network("torchvision/squeezenet1_1", weights=tmp_path / "own.pth")
    (note,) = normalization(network)
    assert "mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225 (of the published weights)" in note
    assert not normalization(load_network("torchvision/squeezenet1_1", weights="none"))


def test_timm_and_torchvision_modules_have_their_own_normalization() -> None:
    network = load_network(timm.create_model("test_vit"))
    assert (network.mean, network.size) == ((0.5,) * 3, (160, 160))
    assert "mean 0.5 and std 0.5 (of its pretrained_cfg)" in normalization(network)[0]
    network = load_network(torchvision.models.squeezenet1_1(), size=64)
    assert network.mean == (0.485, 0.456, 0.406)
    assert "of torchvision's published weights" in normalization(network)[0]


def test_a_stored_image_processor_is_used(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=5)
    network = transformers.ResNetForImageClassification(config)
    options = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    transformers.ViTImageProcessor(size={"height": 16, "width": 20}, **options).save_pretrained(tmp_path)
    unknown = load_network(network, size=16)
    assert "by mean 0 and std 1 (none was given)" in normalization(unknown)[0]
    network.config._name_or_path = str(tmp_path)
    classifier = load_network(network)
    assert (classifier.mean, classifier.std, classifier.size) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), (16, 20))
    assert "of its image processor" in normalization(classifier)[0]
