"""Networks of transformers that read their own layers by hooks have a copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_viz.outputs import load_network

SIZE = 32


class Pooled(nn.Module):
    """The mean of a map of scores over the image."""

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.net, self.name = net, name

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = getattr(self.net(pixel_values=x), self.name)
        return scores.flatten(2).mean(2) if scores.ndim == 4 else scores.flatten(1)[:, ::97]


def segformer(transformers: Any) -> nn.Module:
    sizes = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1]}
    config = transformers.SegformerConfig(**sizes, decoder_hidden_size=8, num_labels=4)
    return Pooled(transformers.SegformerForSemanticSegmentation(config), "logits")


def dpt(transformers: Any) -> nn.Module:
    config = transformers.DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=SIZE, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
    )  # fmt: skip
    return Pooled(transformers.DPTForDepthEstimation(config), "predicted_depth")


@pytest.mark.parametrize("make", [segformer, dpt])
def test_networks_that_read_their_layers_by_hooks_have_an_exact_copy(make: Any) -> None:
    transformers = pytest.importorskip("transformers")
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("transformers reads layers by hooks from version 5 on")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = load_network(make(transformers).double().eval(), size=SIZE, mean=0.5, std=0.25)
    frozen = network.fast(dtype=torch.float64)
    assert not frozen.is_original
    x = torch.rand(2, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    maps = []
    for scores in (lambda images: frozen(images)[0], lambda images: network.original(network.normalize(images))):
        leaf = x.clone().requires_grad_()
        values = scores(leaf)
        (gradient,) = torch.autograd.grad(values[:, 1].sum(), leaf)
        maps.append((values.detach(), gradient))
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-9, atol=1e-12)
