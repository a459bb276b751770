"""Truth of maps of several bands: gradients by autograd, bands that are not read, Captum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lit_viz as lv
from lit_viz.attributions import ATTRIBUTIONS, FeatureAblation, Gradient, KernelShap
from lit_viz.attributions.base import attribute
from lit_viz.errors import LitVizError
from tests.support.bands import BANDS, SingleBand, band_network

SIZE = 12
#: Methods of layers and regions, whose maps have no bands, of transformers, and that need photographs of these bands.
_SPATIAL = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "hires_cam", "occlusion", "rise", "extremal_perturbation")
_OTHERS = ("attention_rollout", "attention_gradient", "legrad", "expected_gradients")
_BY_BAND = {"feature_ablation": FeatureAblation(features="bands"), "kernel_shap": KernelShap(features="bands")}
_METHODS = [_BY_BAND.get(name, name) for name in ATTRIBUTIONS if name not in _OTHERS]
#: Methods whose maps have a value per band.
PER_BAND = [_BY_BAND.get(name, name) for name in ATTRIBUTIONS if name not in (*_OTHERS, *_SPATIAL)]


def _image(channels: int = BANDS) -> torch.Tensor:
    return torch.rand(channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def _network(module: nn.Module, **options: Any) -> lv.Network:
    return lv.load_network(module, size=SIZE, mean=0.5, std=0.25, **options)


@pytest.mark.parametrize("band", range(BANDS))
def test_a_network_that_reads_one_band_has_a_zero_map_elsewhere(band: int) -> None:
    network = _network(SingleBand(band))
    run = lv.saliency(network, _image(), target=1, method=PER_BAND, iterations=32, captum="none")
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


@pytest.mark.parametrize("channels", [2, 13])
def test_captum_agrees_with_every_method(channels: int) -> None:
    network = _network(band_network(channels))
    run = lv.saliency(network, _image(channels), target=1, method=_METHODS, iterations=64, captum="captum")
    assert [record.status for record in run.records] == ["done"] * len(_METHODS)
    captum = run.evidence.captum
    assert captum is not None
    differing = [comparison.method for comparison in captum.maps if not comparison.passed]
    assert not differing


#: Methods of transformers, and those that need photographs of these bands.
_OTHERS = ("attention_rollout", "attention_gradient", "legrad", "expected_gradients")


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
