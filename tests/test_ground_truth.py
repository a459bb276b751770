"""Scores of maps, mosaics, disconnected cells, budgets and ranks, with known results."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lit_viz.attributions import ATTRIBUTIONS, GradCAM, Gradient, Occlusion
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.zoo import planted_bands
from scripts.rankings.ground_truth import (
    BUDGETS,
    DisconnectedCells,
    Measurement,
    agreement_of_halves,
    band_accuracy,
    disconnected_truth,
    kendall_tau,
    mass_accuracy,
    method_at,
    mosaics,
    planted_truth,
    rank_accuracy,
    removal_score,
    saliency_maps,
    separated,
    stitched,
    summarize,
)

REGION = torch.zeros(4, 5, dtype=torch.bool)
REGION[1:3, 1:3] = True


def test_rank_accuracy() -> None:
    saliency = torch.zeros(4, 5)
    saliency[1, 1], saliency[2, 2], saliency[0, 0], saliency[3, 4] = 4, 3, 2, 1
    assert rank_accuracy(saliency, REGION) == 0.5
    assert rank_accuracy(REGION.float(), REGION) == 1
    assert rank_accuracy(-REGION.float(), REGION) == 0
    assert rank_accuracy(torch.ones(4, 5), REGION) == pytest.approx(4 / 20)
    tied = REGION.float()
    tied[1, 1] = 2
    tied[0] = 1  # three of the region and five others share three places
    assert rank_accuracy(tied, REGION) == pytest.approx((1 + 3 * 3 / 8) / 4)
    assert rank_accuracy(saliency, REGION, 3) == 0.5
    assert rank_accuracy(saliency, REGION, 2) == 0.5
    assert rank_accuracy(saliency, REGION, 1) == 0.25


def test_mass_accuracy() -> None:
    saliency = torch.zeros(4, 5)
    saliency[1, 1], saliency[0, 0], saliency[3, 3] = 3, 1, -5
    assert mass_accuracy(saliency, REGION) == 0.75
    assert mass_accuracy(torch.zeros(4, 5), REGION) == pytest.approx(0.2)


class Brightness(nn.Module):
    """Logits of the two classes: twenty times the mean of the left, and of the right half."""

    def forward(self, x: Tensor) -> Tensor:
        return 20 * torch.stack([half.mean((1, 2, 3)) for half in x.chunk(2, 3)], 1)


@pytest.fixture(scope="module")
def brightness() -> Network:
    return load_network(Brightness(), labels=["left", "right"], mean=0.0, std=1.0, size=8)


def test_removal_prefers_the_pixels_that_count(brightness: Network) -> None:
    image = torch.zeros(3, 8, 8)
    image[:, 2:6, :4] = 1
    bright = (image[0] > 0).float()
    scores = [removal_score(brightness, image, 0, saliency) for saliency in (bright, torch.rand(8, 8), 1 - bright)]
    assert scores[0] > scores[1] > scores[2]


def halves(count: int = 12) -> Tensor:
    """Return images that are bright on the left and right in turn, with noise."""
    images = 0.2 * torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for number, image in enumerate(images):
        image[:, :, 4 * (number % 2) :][:, :, :4] += 0.6
    return images


def test_mosaics_have_the_class_in_their_region(brightness: Network) -> None:
    """Two classes are too few for four cells, and those of a low probability are not used."""
    with pytest.raises(LitVizError, match=r"4 classes with a probability of at least 0\.8, got 2"):
        mosaics(brightness, halves(), 3, 2)
    truth = mosaics(brightness, halves(), 6, 1)
    assert truth.images.shape == (6, 3, 8, 8)
    assert torch.equal(brightness.scores(truth.images).argmax(1), truth.targets)
    assert truth.regions.all()
    with pytest.raises(LitVizError, match="got 0"):
        mosaics(brightness, halves() / 20, 3, 1)


def test_parts_of_a_mosaic_in_reading_order() -> None:
    parts = torch.arange(8.0)[:, None, None, None].expand(8, 2, 3, 4)
    images = stitched(parts, 2)
    assert images.shape == (2, 2, 6, 8)
    assert [images[0, 0, y, x].item() for y, x in ((0, 0), (0, 7), (5, 0), (5, 7))] == [0, 1, 2, 3]
    assert torch.equal(separated(images, 2), parts)


def disconnected() -> tuple[Network, Network]:
    """Return a network of one cell, and of four disconnected ones."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    labels = ["a", "b", "c"]
    one = load_network(nn.Sequential(features, head), labels=labels, mean=0.0, std=1.0, size=8)
    names = [f"{label} {cell}" for cell in range(4) for label in labels]
    return one, load_network(DisconnectedCells(features, head, 2), labels=names, mean=0.0, std=1.0, size=16)


def test_only_the_cell_of_a_class_influences_it() -> None:
    one, four = disconnected()
    photographs = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    truth = disconnected_truth(one, photographs, 5, 2, classes=3)
    logits = four.scores(truth.images).gather(1, truth.targets[:, None])
    torch.testing.assert_close(
        four.scores(truth.images * truth.regions[:, None]).gather(1, truth.targets[:, None]), logits
    )
    for image, target, region in zip(truth.images, truth.targets.tolist(), truth.regions, strict=True):
        cell = image[:, region].view(1, 3, 8, 8)
        assert one.scores(cell).argmax() == target % 3
    shares = four.scores(truth.images).softmax(1).gather(1, truth.targets[:, None])
    for image, target, share in zip(truth.images, truth.targets.tolist(), shares, strict=True):
        cell = separated(image[None], 2)[target // 3 : target // 3 + 1]
        torch.testing.assert_close(share[0], one.scores(cell).softmax(1)[0, target % 3] / 4)
    gradients = saliency_maps(Gradient(), four, truth)
    assert (gradients * ~truth.regions).max() == 0
    assert [mass_accuracy(*pair) for pair in zip(gradients, truth.regions, strict=True)] == [1] * 5
    cams = saliency_maps(GradCAM(layer="maps"), four, truth)
    assert min(mass_accuracy(*pair) for pair in zip(cams, truth.regions, strict=True)) < 0.9  # Rao et al., figure 4


def test_maps_are_those_of_a_run(brightness: Network) -> None:
    import lit_viz as lv

    truth = mosaics(brightness, halves(), 4, 1)
    maps = saliency_maps(Occlusion(4, 2), brightness, truth, 10, seed=3)
    run = lv.saliency(
        brightness, truth.images, target=truth.targets.tolist(), method=Occlusion(4, 2), captum="none", seed=3
    )
    torch.testing.assert_close(maps, run.maps)


def test_planted_images_have_glyphs_as_regions() -> None:
    truth = planted_truth(20, seed=4)
    assert truth.images.shape == (20, 1, 28, 28)
    assert truth.regions.flatten(1).sum(1).tolist() == [36] * 20
    assert not torch.equal(planted_truth(20, seed=5).images, truth.images)


def test_the_named_band_has_the_largest_sum_of_absolute_values() -> None:
    attribution = torch.zeros(3, 4, 4)
    attribution[0, 0, 0], attribution[1, :, 0] = 2.0, -1.0
    assert [band_accuracy(attribution, band) for band in range(3)] == [0.0, 1.0, 0.0]
    truth = planted_truth(5, 4, planted_bands)
    assert truth.images.shape == (5, 13, 32, 32)
    assert truth.bands is not None


def test_features_are_bands_within_a_budget() -> None:
    given = method_at("feature_ablation", 16, (13, 32, 32), by_bands=True)
    assert given is not None
    assert given[1] == 14
    assert method_at("feature_ablation", 1, (13, 32, 32), by_bands=True) is None


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_a_budget_is_not_exceeded(name: str, budget: int) -> None:
    """Forwards count a third; integrated gradients take two more."""
    given = method_at(name, budget, (3, 56, 56))
    if given is None:
        assert budget == 1
        return
    method, evaluations = given
    assert evaluations is not None
    is_forward_only = name in ("rise", "occlusion", "feature_ablation", "kernel_shap", "shapley_interactions")
    assert 1 <= evaluations <= (3 * budget if is_forward_only else budget)
    if name not in ("occlusion", "feature_ablation") and not method.fixed:
        assert evaluations == (3 * budget if is_forward_only else budget)


def test_the_default_is_that_of_the_method() -> None:
    default = method_at("smoothgrad", "default", (3, 56, 56))
    assert default is not None
    assert default[1] is None
    assert default[0].evaluations == 128


def measured(method: str, scores: list[float], network: str = "a") -> list[Measurement]:
    return [Measurement("planted", network, method, 1, n, 0, score) for n, score in enumerate(scores)]


def test_an_interval_contains_the_mean_and_has_its_width() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(400, generator=generator).tolist()
    summary = summarize(measured("x", scores))
    assert summary.mean == pytest.approx(sum(scores) / 400)
    assert summary.low < summary.mean < summary.high
    assert summary.high - summary.low == pytest.approx(2 * 1.96 / 20, rel=0.1)
    constant = summarize(measured("x", [0.3] * 5))
    assert (constant.low, constant.high) == (pytest.approx(0.3), pytest.approx(0.3))


def test_networks_count_equally_and_widen_the_interval() -> None:
    scores = [*measured("x", [0.0] * 30), *measured("x", [1.0] * 10, "b")]
    summary = summarize(scores)
    assert summary.mean == pytest.approx(0.5)
    assert (summary.low, summary.high) == (0, 1)
    assert summary.count == 40


def test_kendall_tau_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(0, 6, (12,), generator=generator).tolist() for _ in range(2))
    names = [f"method {n}" for n in range(12)]
    tau = kendall_tau(dict(zip(names, first, strict=True)), dict(zip(names, second, strict=True)))
    assert tau == pytest.approx(stats.kendalltau(first, second).statistic)
    assert math.isnan(kendall_tau({"a": 1, "b": 1}, {"a": 1, "b": 2}))


def test_agreement_of_halves() -> None:
    same = [*measured("a", [1, 1, 1, 1]), *measured("b", [2, 2, 2, 2]), *measured("c", [3, 3, 3, 3])]
    assert agreement_of_halves(same) == pytest.approx(1)
    reversed_ = [*measured("a", [1, 3, 1, 3]), *measured("b", [2, 2, 2, 2]), *measured("c", [3, 1, 3, 1])]
    assert agreement_of_halves(reversed_) == pytest.approx(-1)
