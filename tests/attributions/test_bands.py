"""Truth of maps of several bands: gradients by autograd, bands that are not read, Captum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import lit_viz as lv
from lit_viz.attributions import ATTRIBUTIONS, ExpectedGradients, FeatureAblation, Gradient, KernelShap
from lit_viz.attributions.base import attribute
from lit_viz.errors import LitVizError
from tests.support.bands import BANDS, SingleBand, band_network
from tests.support.marks import slow

SIZE = 12
#: Methods of layers and regions, whose maps have no bands, and methods of transformers.
_SPATIAL = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "hires_cam", "occlusion", "rise", "extremal_perturbation")
_OF_TRANSFORMERS = ("attention_rollout", "attention_gradient", "legrad")


def _methods(channels: int, left_out: Sequence[str]) -> list[Any]:
    """Return all methods but some, for images of a number of bands."""
    methods: list[Any] = []
    for name in ATTRIBUTIONS:
        if name in (*left_out, "shapley_interactions"):  # which takes more evaluations and has a test of its own
            continue
        if name in ("feature_ablation", "kernel_shap"):
            methods.append(ATTRIBUTIONS[name](features="bands"))
        elif name == "expected_gradients":
            generator = torch.Generator().manual_seed(2)
            methods.append(ExpectedGradients(torch.rand(6, channels, SIZE, SIZE, generator=generator)))
        else:
            methods.append(name)
    return methods


def _transformer(channels: int) -> VisionTransformer:
    """Return a small vision transformer with fixed random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VisionTransformer(
            img_size=SIZE, patch_size=4, in_chans=channels, num_classes=5, embed_dim=16, depth=2, num_heads=2
        )
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
    return network.eval()


def _image(channels: int = BANDS) -> torch.Tensor:
    return torch.rand(channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def _network(module: nn.Module, **options: Any) -> lv.Network:
    return lv.load_network(module, size=SIZE, mean=0.5, std=0.25, **options)


@pytest.mark.parametrize("band", [slow(0), slow(6), 12])
def test_a_network_that_reads_one_band_has_a_zero_map_elsewhere(band: int) -> None:
    network = _network(SingleBand(band))
    methods = _methods(BANDS, (*_OF_TRANSFORMERS, *_SPATIAL))
    run = lv.saliency(network, _image(), target=1, method=methods, iterations=32, captum="none")
    assert len(run.outcomes) == len(methods)
    for outcome in run.outcomes:
        attribution = outcome.array()
        assert attribution is not None
        assert attribution.shape[0] == BANDS, outcome.record
        others = [other for other in range(BANDS) if other != band]
        largest = float(attribution.abs().max())
        assert largest > 0, outcome.record
        # Regressions round; all other methods are exactly zero.
        allowed = 1e-5 * largest if outcome.record["method"] == "kernel_shap" else 0.0
        assert float(attribution[others].abs().max()) <= allowed, outcome.record


@pytest.mark.parametrize("channels", [2, 4, 13])
@pytest.mark.parametrize("value_range", [None, (-1000.0, 3000.0)])
def test_gradients_equal_autograd_in_float64(channels: int, value_range: tuple[float, float] | None) -> None:
    module = band_network(channels).double()
    options: dict[str, Any] = {"mean": 0.5, "std": 0.25}
    if value_range is not None:
        options = {"mean": 1000.0, "std": 500.0, "value_range": value_range}
    network = lv.load_network(module, size=SIZE, **options)
    image = _image(channels).double()
    values = image
    if value_range is not None:
        values = value_range[0] + image * (value_range[1] - value_range[0])
    found, _ = attribute(Gradient(), network.fast(dtype=torch.float64), image[None], [1])
    leaf = image.clone().requires_grad_()
    files = leaf if value_range is None else value_range[0] + leaf * (value_range[1] - value_range[0])
    score = module((files - options["mean"])[None] / options["std"])[0, 1]
    (expected,) = torch.autograd.grad(score, leaf)
    assert float((found[0] - expected).abs().max() / expected.abs().max()) < 1e-8
    run = lv.saliency(network, values, target=1, captum="none")
    assert torch.allclose(run.arrays[0].double(), expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("channels", [slow(2), 13])
def test_captum_agrees_with_every_method(channels: int) -> None:
    assert _compared(_network(band_network(channels)), _methods(channels, _OF_TRANSFORMERS)) == []


@pytest.mark.slow
@pytest.mark.parametrize("channels", [2, 13])
def test_captum_agrees_with_every_method_of_a_transformer(channels: int) -> None:
    methods = _methods(channels, ("guided_backprop", "deconvolution", "guided_grad_cam"))  # of networks with ReLU
    assert _compared(_network(_transformer(channels)), methods) == []


@pytest.mark.parametrize("evaluations", [4, 8, 20])
def test_captum_agrees_with_regressions_on_fewer_coalitions_than_bands(evaluations: int) -> None:
    images = torch.rand(4, BANDS, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    method = KernelShap(features="bands")
    run = lv.saliency(_network(band_network(BANDS)), images, target=1, method=method, iterations=evaluations)
    assert run.evidence.captum is not None
    assert [record.passed for record in run.evidence.captum.maps] == [True] * len(images)


def _compared(network: lv.Network, methods: list[Any]) -> list[str]:
    """Return the methods whose map is not that of the reference; every map must have one, except learned masks."""
    run = lv.saliency(network, _image(network.channels), target=1, method=methods, iterations=32, captum="captum")
    assert [record.status for record in run.records] == ["done"] * len(methods)
    captum = run.evidence.captum
    assert captum is not None
    assert [unchecked.method for unchecked in captum.unchecked] == ["extremal_perturbation"]
    assert len(captum.maps) == len(methods) - 1
    return [comparison.method for comparison in captum.maps if not comparison.passed]


@pytest.mark.parametrize("band", [slow(0), slow(6), 12])
def test_a_transformer_that_reads_one_band_has_a_zero_map_elsewhere(band: int) -> None:
    transformer = _transformer(BANDS)
    others = [other for other in range(BANDS) if other != band]
    transformer.patch_embed.proj.weight.data[:, others] = 0
    methods = ["gradient", "integrated_gradients", "gradient_shap", "smoothgrad", "deep_lift"]
    run = lv.saliency(_network(transformer), _image(), target=1, method=methods, iterations=16, captum="none")
    for attribution in run.arrays:
        assert float(attribution[band].abs().max()) > 0
        assert float(attribution[others].abs().max()) == 0


@pytest.mark.parametrize("channels", [2, 13])
def test_attention_maps_of_bands_are_those_of_the_weights(channels: int) -> None:
    """Rollout of two blocks, from the attention that the transformer computes in float64."""
    transformer = _transformer(channels)
    image = _image(channels)
    run = lv.saliency(_network(transformer), image, target=1, method="attention_rollout", captum="none")
    x = transformer.double().patch_embed((image.double()[None] - 0.5) / 0.25)
    x = torch.cat([transformer.cls_token, x], 1) + transformer.pos_embed
    rollout = torch.eye(10, dtype=torch.float64)
    with torch.no_grad():
        for block in transformer.blocks:
            query, key, _ = block.attn.qkv(block.norm1(x)).view(10, 3, 2, 8).permute(1, 2, 0, 3)
            attention = (query @ key.transpose(1, 2) / 8**0.5).softmax(-1).mean(0)
            rollout = (attention + torch.eye(10)) / 2 @ rollout
            x = block(x)
    coarse = rollout[0, 1:].view(1, 1, 3, 3)
    expected = nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear", align_corners=False)
    assert torch.allclose(run.arrays.double(), expected, rtol=1e-4)


def test_bands_as_features_are_the_differences_of_the_scores() -> None:
    """Of a linear network, ablation and Shapley values are the same, and the weights times the change."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    network = lv.load_network(module, channels=4, size=SIZE, mean=0.0, std=1.0)
    image = _image(4)
    methods = [FeatureAblation(features="bands", baseline="black"), KernelShap(features="bands", baseline="black")]
    run = lv.saliency(network, image, target=1, method=methods, captum="none")
    expected = (module[2].weight[1] * image.mean((1, 2))).detach().numpy()
    for record in run.records:
        assert np.allclose(list(record.bands.values()), expected, atol=1e-5)


def test_bands_as_features_require_several() -> None:
    with pytest.raises(LitVizError, match="features=bands requires at least 2 bands, got 1"):
        lv.saliency(_network(band_network(1)), _image(1), method=FeatureAblation(features="bands"))


def test_superpixels_of_bands_follow_the_content() -> None:
    """An edge in one of 13 bands divides the image."""
    image = torch.full((BANDS, 24, 24), 0.2)
    image[7, :, 12:] = 0.9
    segments = FeatureAblation(segments=8).segments(image[None])[0, 0]
    assert not set(segments[:, :12].flatten().tolist()) & set(segments[:, 12:].flatten().tolist())
