"""The examples of docs/any_network.md, with small networks."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import lit_viz as lv
from lit_viz import outputs

PAGE = Path(__file__).parents[2] / "docs" / "any_network.md"


class Clip(nn.Module):
    """The part of a CLIP that embeds images."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = embedder()

    def forward(self, x: Tensor) -> Tensor:
        return self.vision(x)

    def encode_image(self, x: Tensor) -> Tensor:
        return self.vision(x)


def embedder() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval()


@cache
def detector() -> nn.Module:
    make = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    network = make(weights=None, weights_backbone=None, num_classes=4).eval()
    network.transform.min_size, network.transform.max_size = (96,), 96
    return network


@cache
def segmenter() -> nn.Module:
    make = torchvision.models.segmentation.lraspp_mobilenet_v3_large
    return make(weights=None, weights_backbone=None, num_classes=5).eval()


def blocks() -> dict[str, str]:
    text = PAGE.read_text(encoding="utf-8")
    return dict(re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize(
    "name",
    [
        "region",
        "embedding",
        "zero_shot",
        "regression",
        "keypoint",
        "own",
        pytest.param("detection", marks=pytest.mark.slow),
    ],
)
def test_an_example_runs_and_is_short(name: str) -> None:
    torch.manual_seed(0)
    poser = nn.Sequential(nn.Conv2d(3, 2, 5, padding=2), nn.Sigmoid()).eval()
    names = {
        "lv": lv,
        "torch": torch,
        **{word: getattr(outputs, word) for word in outputs.__all__},
        "photograph": torch.rand(3, 64, 64),
        "segmenter": segmenter(),
        "detector": detector(),
        "embedder": embedder(),
        "clip": Clip().eval(),
        "text_embeddings": torch.randn(2, 32),
        "regressor": nn.Sequential(embedder(), nn.Linear(32, 1)).eval(),
        "poser": poser,
    }
    code = blocks()[name]
    assert len(code.strip().splitlines()) <= 11
    exec(code, names)
    if name == "own":
        net = lv.load_network(poser, output=names["Word"](), size=[96, 240], mean=0.5, std=0.5)
        names["run"] = lv.saliency(net, torch.rand(3, 96, 240))
    assert {record["status"] for record in names["run"].results} <= {"done", "skipped"}
