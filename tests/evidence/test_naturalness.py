"""The sanity figure of synthetic images: against scipy, and on images whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from lit_viz.errors import LitVizError
from lit_viz.evidence.naturalness import channel_means, compared_layers, naturalness, null_deviations
from lit_viz.images.rendering import rank_correlations
from lit_viz.outputs import load_network


def test_spearman_equals_scipy_with_ties() -> None:
    torch.manual_seed(0)
    a, b = torch.randint(0, 5, (3, 20)).float(), torch.randn(4, 20)
    ours = rank_correlations(a, b)
    for i in range(3):
        for j in range(4):
            assert float(ours[i, j]) == pytest.approx(spearmanr(a[i], b[j]).statistic, abs=1e-9)


def means(center: torch.Tensor, count: int, noise: float = 0.3) -> torch.Tensor:
    return center + noise * torch.randn(count, len(center))


def test_the_scale_has_natural_images_at_one_and_random_ones_at_zero() -> None:
    torch.manual_seed(0)
    shared, own = torch.randn(60), torch.randn(60)
    natural, random = means(shared + own, 9), means(shared, 60, noise=1.0)
    like_natural = naturalness({"a": means(shared + own, 1)[0]}, {"a": natural}, {"a": random})[0]
    like_random = naturalness({"a": means(shared, 1, noise=1.0)[0]}, {"a": natural}, {"a": random})[0]
    assert like_natural.is_decidable
    assert like_natural.value == pytest.approx(1.0, abs=0.15)
    assert like_random.value == pytest.approx(0.0, abs=0.35)
    assert like_natural.low <= like_natural.value <= like_natural.high
    opposite = naturalness({"a": -(shared + own)}, {"a": natural}, {"a": random})[0]
    assert opposite.value < -1


def test_the_bootstrap_equals_a_plain_one() -> None:
    torch.manual_seed(2)
    synthetic, natural, random = torch.randn(20), torch.randn(4, 20) + torch.randn(20), torch.randn(6, 20)
    own = rank_correlations(synthetic[None], natural)[0]
    among, others = rank_correlations(natural, natural), rank_correlations(natural, random)
    generator = torch.Generator().manual_seed(0)
    values = []
    for resample in range(501):
        images, strangers = torch.arange(4), torch.arange(6)
        if resample:
            images = torch.randint(4, (4,), generator=generator)
            strangers = torch.randint(6, (6,), generator=generator)
        pairs = [among[i, j] for i in images for j in images if i != j]
        if not pairs:
            continue
        zero = others[images][:, strangers].mean()
        values.append((own[images].mean() - zero) / (torch.stack(pairs).mean() - zero))
    found = naturalness({"a": synthetic}, {"a": natural}, {"a": random})[0]
    low, high = torch.stack(values[1:]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert (found.value, found.low, found.high) == pytest.approx((float(values[0]), low, high))


def test_natural_images_that_are_random_photographs_decide_nothing() -> None:
    torch.manual_seed(1)
    images = torch.randn(30, 40)
    figure = naturalness({"a": torch.randn(40)}, {"a": images[:9]}, {"a": images[9:]})[0]
    assert not figure.is_decidable


def test_channel_means_are_those_of_the_plain_network() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 9)
    ).eval()
    net = load_network(network, size=16, mean=0.5, std=0.5)
    assert list(compared_layers(net, "3")) == ["0", "1", "2", "3"]
    assert list(compared_layers(net, "1")) == ["0", "1"]
    images = torch.rand(20, 3, 16, 16)
    with torch.no_grad():
        expected = network[:2]((images - 0.5) / 0.5).mean((2, 3))
    assert torch.allclose(channel_means(net, compared_layers(net, "1"), images)["1"], expected, atol=1e-5)


def test_too_few_images_are_one_sentence() -> None:
    with pytest.raises(LitVizError, match="at least 3 natural images"):
        naturalness({"a": torch.ones(4)}, {"a": torch.ones(2, 4)}, {"a": torch.ones(5, 4)})


def test_a_figure_is_compared_with_those_of_the_other_images() -> None:
    figures = [0.2, 0.5, 0.6, None, 0.7, 0.8, 0.9, 1.0, 1.1, 1.4, -2.0]
    found = null_deviations(figures)
    assert found[3] is None
    others = np.array([0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.4])
    spread = 1.4826 * np.median(np.abs(others - 0.8))
    assert found[-1] == pytest.approx((-2.0 - 0.8) / spread)
    assert null_deviations([1.0] * 8) == [None] * 8


def test_a_third_of_manipulated_images_does_not_hide_in_the_null_distribution() -> None:
    generator = np.random.default_rng(0)
    figures = [*generator.normal(0.7, 0.2, 20), *generator.normal(-1.0, 0.2, 8)]
    deviations = null_deviations(figures)
    assert max(deviations[20:]) < -4
    assert min(deviations[:20]) > -3
