"""Maps of a trained transformer, ``zoo/fashion_vit``: they find pixels that count, and depend on the class."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

import lit_viz as lv
from lit_viz.classifiers import Classifier
from lit_viz.evidence.saliency.ground_truth import removal_score
from lit_viz.evidence.saliency.metrics import random_map
from lit_viz.images.rendering import rank_correlation


@pytest.fixture(scope="module")
def transformer() -> Classifier:
    return lv.load_classifier("zoo/fashion_vit")


def explained(classifier: Classifier, method: str, targets: str) -> lv.Run:
    return lv.saliency(classifier, "zoo:fashion", labels="folders", targets=targets, method=method, check="none")


@pytest.mark.parametrize("method", ["attention_gradient", "legrad", "layer_cam"])
def test_salient_pixels_count(method: str, transformer: Classifier) -> None:
    """Replacing them first lowers the probability of the class more than a random order; not so with Grad-CAM."""
    run = explained(transformer, method, "label")
    found, by_chance = [], []
    for index in range(0, len(run), 2):
        image, target = run[index].source(), run.results[index]["target"]
        assert image is not None
        found.append(removal_score(transformer, image, target, run.maps[index], steps=14))
        by_chance.append(removal_score(transformer, image, target, random_map(run.maps[index], index), steps=14))
    assert fmean(found) > fmean(by_chance) + 0.05


@pytest.mark.parametrize("method", ["attention_gradient", "legrad", "grad_cam"])
def test_maps_depend_on_the_class(method: str, transformer: Classifier) -> None:
    own, other = (explained(transformer, method, targets).maps for targets in ("label", "least-likely"))
    pairs = zip(own, other, strict=True)
    correlations = torch.tensor([rank_correlation(a[None], b[None]) for a, b in pairs]).nan_to_num(0)
    assert correlations.mean() < 0.7


def test_rollout_does_not(transformer: Classifier) -> None:
    own, other = (explained(transformer, "attention_rollout", targets).maps for targets in ("label", "least-likely"))
    assert torch.equal(own, other)
