"""Small detectors of torchvision and transformers with random weights; tests skip where transformers is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

NAMES = ("cat", "cup", "tree")
#: Classes by family.
FAMILIES = (
    "Detr",
    "ConditionalDetr",
    "DeformableDetr",
    "Yolos",
    "RTDetr",
    "DFine",
    "RfDetr",
)
SIDE = 64


def detector(family: str) -> nn.Module:
    """Return a detector of a family for images of 64 pixels, with its three labels."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = _CONFIGURATIONS[family](transformers)
    network: nn.Module = getattr(transformers, f"{family}ForObjectDetection")(config)
    for name, parameter in network.named_parameters():  # the last layers begin with zeros, and ties
        if parameter.ndim > 1 and any(part in name for part in ("embed", "classifier", "bbox", "score_head")):
            nn.init.normal_(parameter, std=0.3)
    return network.eval()


class _TwoScales(nn.Module):
    """Maps of two scales."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, stride=4, padding=1)
        self.second = nn.Conv2d(32, 32, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.first(x).tanh()
        return {"0": fine, "1": self.second(fine).tanh()}


def torchvision_detector(family: str) -> nn.Module:
    """Return a detector of torchvision, by the name of its class, of four classes for images of 64 pixels."""
    from torchvision.models import detection
    from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator

    torch.manual_seed(0)
    ratios = (1.0,) if family == "FCOS" else (0.5, 1.0, 2.0)
    anchors: Any = AnchorGenerator(((16,), (32,)), (ratios, ratios))
    backbone: Any = _TwoScales()
    options: dict[str, Any] = {"min_size": SIDE, "max_size": SIDE}
    if family == "SSD":
        backbone.out_channels = (32, 32)
        network: nn.Module = detection.ssd.SSD(backbone, DefaultBoxGenerator([[2], [2]]), (SIDE, SIDE), 4)
    elif family.endswith("RCNN"):
        options |= {"rpn_anchor_generator": anchors, "rpn_post_nms_top_n_test": 50, "box_detections_per_img": 5}
        network = getattr(detection, family)(backbone, 4, **options)
    else:
        network = getattr(detection, family)(backbone, 4, anchor_generator=anchors, **options)
    for name, parameter in network.named_parameters():
        if "head" in name and parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def _labels() -> dict[str, Any]:
    return {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}


def _backbone(transformers: Any) -> Any:
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", hidden_act="silu",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def _detr(transformers: Any, kind: str = "DetrConfig", width: int = 16, **options: Any) -> Any:
    sizes = {"d_model": width, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 6}
    backbone = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    backbone["backbone_config"] = _backbone(transformers)
    return getattr(transformers, kind)(**sizes, **heads, **backbone, **options, **_labels())


def _deformable(transformers: Any) -> Any:
    return _detr(transformers, "DeformableDetrConfig", 32, num_feature_levels=3, encoder_n_points=2, decoder_n_points=2)


def _yolos(transformers: Any) -> Any:
    return transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=[SIDE, SIDE],
        patch_size=16, num_detection_tokens=6, **_labels(),
    )  # fmt: skip


def _rt_detr(transformers: Any, kind: str = "RTDetrConfig", **options: Any) -> Any:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return getattr(transformers, kind)(
        backbone_config=backbone, backbone=None, encoder_hidden_dim=16, encoder_in_channels=[8, 16, 16],
        encoder_ffn_dim=16, encoder_attention_heads=2, encoder_layers=1, d_model=16, num_queries=6,
        decoder_in_channels=[16, 16, 16], decoder_ffn_dim=16, decoder_attention_heads=2, decoder_layers=2,
        decoder_n_points=2, num_denoising=0, **options, **_labels(),
    )  # fmt: skip


def _d_fine(transformers: Any) -> Any:
    return _rt_detr(transformers, "DFineConfig", max_num_bins=8)


def _rf_detr(transformers: Any) -> Any:
    backbone = transformers.RfDetrDinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=1, image_size=SIDE, patch_size=16,
        num_windows=1, out_features=["stage1", "stage2"],
    )  # fmt: skip
    return transformers.RfDetrConfig(
        backbone_config=backbone, num_queries=6, d_model=16, decoder_layers=2, decoder_ffn_dim=16, group_detr=1,
        decoder_self_attention_heads=2, decoder_cross_attention_heads=2, decoder_n_points=2, **_labels(),
    )  # fmt: skip


_CONFIGURATIONS: dict[str, Callable[[Any], Any]] = {
    "Detr": _detr,
    "ConditionalDetr": lambda transformers: _detr(transformers, "ConditionalDetrConfig"),
    "DeformableDetr": _deformable,
    "Yolos": _yolos,
    "RTDetr": _rt_detr,
    "DFine": _d_fine,
    "RfDetr": _rf_detr,
    "TableTransformer": lambda transformers: _detr(transformers, "TableTransformerConfig"),
}
