"""Maps of a trained transformer, ``zoo/fashion_vit``: they find pixels that count, and depend on the class."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

import lit_viz as lv
from lit_viz.evidence.saliency.metrics import random_map
from lit_viz.images.rendering import rank_correlation
from lit_viz.networks import Network
from scripts.rankings.ground_truth import removal_score


@pytest.fixture(scope="module")
def transformer() -> Network:
    return lv.load_network("zoo/fashion_vit")


def explained(network: Network, method: str, targets: str) -> lv.Run:
    return lv.saliency(network, "zoo:fashion", label="folders", target=targets, method=method, captum="none")


@pytest.mark.parametrize("method", ["attention_gradient", "legrad", "layer_cam"])
def test_salient_pixels_count(method: str, transformer: Network) -> None:
    """Replacing them first lowers the probability of the class more than a random order; not so with Grad-CAM."""
    run = explained(transformer, method, "label")
    found, by_chance = [], []
    for index in range(0, len(run), 2):
        image, target = run[index].source(), run.records[index]["target"]
        assert image is not None
        found.append(removal_score(transformer, image, target, run.maps[index], steps=14))
        by_chance.append(removal_score(transformer, image, target, random_map(run.maps[index], index), steps=14))
    assert fmean(found) > fmean(by_chance) + 0.05


@pytest.mark.parametrize("method", ["attention_gradient", "legrad", "grad_cam"])
def test_maps_depend_on_the_class(method: str, transformer: Network) -> None:
    own, other = (explained(transformer, method, targets).maps for targets in ("label", "least-likely"))
    pairs = zip(own, other, strict=True)
    correlations = torch.tensor([rank_correlation(a[None], b[None]) for a, b in pairs]).nan_to_num(0)
    assert correlations.mean() < 0.7


def test_rollout_does_not(transformer: Network) -> None:
    own, other = (explained(transformer, "attention_rollout", targets).maps for targets in ("label", "least-likely"))
    assert torch.equal(own, other)
