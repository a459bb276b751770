"""Architectures of the zoo."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer as Reference

from lit_viz.zoo import NAMES, build, labels_of
from lit_viz.zoo.networks import VisionTransformer


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
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, len(labels_of(name)))
    assert build(name, classes=3)(torch.rand(2, 1, 28, 28)).shape == (2, 3)
