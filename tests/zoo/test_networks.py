"""Architectures of the zoo."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer as Reference

from lit_viz.utils.zoo_names import trained_names
from lit_viz.zoo import NAMES, build, labels_of, shape_of
from lit_viz.zoo.networks import VisionTransformer, planted_bands_cnn


@pytest.mark.parametrize("class_token", [True, False])
def test_transformer_is_that_of_timm(class_token: bool) -> None:
    torch.manual_seed(0)
    network = VisionTransformer(class_token=class_token).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    reference = Reference(
        img_size=28, patch_size=4, in_chans=1, num_classes=10, embed_dim=64, depth=3, num_heads=4, mlp_ratio=2,
        class_token=class_token, global_pool="token" if class_token else "avg", fc_norm=False,
    ).eval()  # fmt: skip
    reference.load_state_dict(network.state_dict())
    images = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(network(images), reference(images))


@pytest.mark.parametrize("name", NAMES)
def test_networks_are_small_and_have_a_logit_per_class(name: str) -> None:
    network = build(name)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters <= (150_000 if "vit" in name else 350_000)
    images = torch.rand(2, *shape_of(name))
    assert network(images).shape == (2, len(labels_of(name)))
    assert build(name, classes=3)(images).shape == (2, 3)


def test_each_card_is_of_a_network_that_can_be_built() -> None:
    assert trained_names()
    assert set(trained_names()) <= set(NAMES)


def test_filters_are_shared_over_bands() -> None:
    """Exchanged bands give the same logits, and a network of one band has the same parameters."""
    network, one = planted_bands_cnn().eval(), planted_bands_cnn(bands=1).eval()
    one.load_state_dict(network.state_dict())
    images = torch.rand(2, 13, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images.flip(1)), network(images))
        torch.testing.assert_close(network(images[:, :1].expand_as(images)), one(images[:, :1]))
