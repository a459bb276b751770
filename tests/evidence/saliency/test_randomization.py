"""Layers are drawn anew from the top down, in a copy; maps that don't depend on them stay."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from lit_viz.attributions import Gradient, GuidedBackprop, attribute
from lit_viz.attributions.base import Network
from lit_viz.classifiers import Classifier, FrozenNetwork, layer_names, load_classifier
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.randomization import (
    Stage,
    alike,
    cascading_randomization,
    randomized,
    spearman,
    unchanged,
)
from tests.conftest import NAMES, smooth_network

TARGET = 2


def photograph() -> Tensor:
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(4))


def gradient(networks: Mapping[str, Network]) -> Tensor:
    return attribute(Gradient(), networks, photograph()[None], [TARGET])[0][0]


def whole(classifier: Classifier, *names: str) -> dict[str, FrozenNetwork]:
    return {name: classifier.fast(layer_names(classifier.original), backprop=name) for name in names or ("plain",)}  # type: ignore[arg-type]


def parameters(network: FrozenNetwork) -> dict[str, Tensor]:
    return {name.partition(".")[2]: value.clone() for name, value in network.named_parameters()}


# -- what is drawn anew


def test_layers_are_drawn_anew_from_the_top_down_and_stay_so() -> None:
    network = smooth_network()
    nn.init.uniform_(network.features[1].weight, generator=torch.Generator().manual_seed(0))
    networks = whole(load_classifier(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16))
    before, upwards = parameters(networks["plain"]), ["features.0", "features.1", "features.3", "head"]
    seen = []
    for layer, count, drawn in randomized(networks, seed=0, stages=4):
        now = parameters(drawn["plain"])
        changed = {name.rpartition(".")[0] for name in now if not torch.equal(now[name], before[name])}
        assert changed == set(upwards[-count:])
        assert upwards[-count] == layer
        seen.append(count)
    assert seen == [1, 2, 3, 4]
    after = parameters(networks["plain"])
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_parameter_keeps_its_mean_and_spread_and_its_draws_are_its_own() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 64, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
        network[0].weight.data.mul_(3).add_(2)
    networks = whole(load_classifier(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16))
    state = torch.get_rng_state()
    last = {stages: parameters(list(randomized(networks, 0, stages))[-1][2]["plain"]) for stages in (1, 2, 9)}
    assert torch.equal(torch.get_rng_state(), state)
    old, new = parameters(networks["plain"])["0.weight"], last[2]["0.weight"]
    assert float(new.mean()) == pytest.approx(float(old.mean()), rel=0.02)
    assert float(new.std()) == pytest.approx(float(old.std()), rel=0.05)
    assert abs(spearman(new, old)) < 0.1
    assert all(torch.equal(last[2][name], last[9][name]) for name in last[2])
    (another,) = list(randomized(networks, 1, 2))[-1:]
    assert not torch.equal(parameters(another[2]["plain"])["0.weight"], new)


def test_draws_depend_on_the_name_alone_and_not_on_the_stages_before() -> None:
    layers = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    networks = whole(load_classifier(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16))
    few, many = (parameters(list(randomized(networks, 0, stages))[-1][2]["plain"]) for stages in (2, 5))
    assert all(torch.equal(few[name], many[name]) for name in few)
    kernels = [few[f"{i}.weight"] for i in range(4)]
    assert all(abs(spearman(kernels[0], other)) < 0.5 for other in kernels[1:])


def test_copies_with_another_backward_stay_equal() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()
    classifier = load_classifier(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)
    for _, _, drawn in randomized(whole(classifier, "plain", "guided"), 0, 3):
        plain, guided = (parameters(drawn[name]) for name in ("plain", "guided"))
        assert plain.keys() == guided.keys()
        assert all(torch.equal(plain[name], guided[name]) for name in plain)
    assert GuidedBackprop.networks == ("guided",)


def test_a_network_that_cant_be_copied_is_refused() -> None:
    is_original = FrozenNetwork(nn.Conv2d(3, 2, 1), [0.5] * 3, [0.5] * 3, is_original=True)
    with pytest.raises(LitVizError, match="can't be copied"):
        cascading_randomization(gradient, {"plain": is_original}, photograph())


# -- what becomes of maps


def test_a_map_that_ignores_the_network_never_changes(smooth: Classifier) -> None:
    edges = photograph().diff(dim=-1)
    stages = cascading_randomization(lambda networks: edges, whole(smooth), edges, stages=3)
    assert [(stage.layer, stage.layers) for stage in stages] == [("head", 1), ("features.3", 2), ("features.0", 4)]
    assert all(stage.spearman == pytest.approx(1) and stage.ssim == pytest.approx(1) for stage in stages)
    assert unchanged(stages) == stages[-1]


def test_a_gradient_changes_at_once(smooth: Classifier) -> None:
    networks = whole(smooth)
    stages = cascading_randomization(gradient, networks, gradient(networks), stages=4)
    assert len(stages) == 4
    assert unchanged(stages) is None
    assert all(stage.spearman < 0.9 for stage in stages)


def test_of_a_linear_network_the_map_is_what_was_drawn() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    networks = whole(load_classifier(network, labels=NAMES, mean=[0.0] * 3, std=[1.0] * 3, size=16))
    (stage,) = cascading_randomization(gradient, networks, gradient(networks), seed=3, stages=1)
    ((_, _, drawn),) = randomized(networks, 3, 1)
    old, new = (
        parameters(found["plain"])["1.weight"][TARGET].view(3, 16, 16).abs().amax(0) for found in (networks, drawn)
    )
    assert stage.layer == "1"
    assert stage.spearman == pytest.approx(stats.spearmanr(old.flatten(), new.flatten()).statistic)


def test_only_the_stages_before_the_first_change_count() -> None:
    stages = [Stage(str(i), i, value, 0.0) for i, value in enumerate((0.99, 0.95, 0.5, 0.99), 1)]
    assert unchanged(stages) == stages[1]
    assert unchanged(stages[2:]) is None
    assert unchanged([]) is None


# -- likeness


@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_rank_correlation_is_scipys_also_with_ties(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    a = torch.randint(levels, (400,), generator=generator).double()
    b = (a + torch.randint(levels, (400,), generator=generator)).double()
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_rank_correlation_of_large_maps_that_are_mostly_zero() -> None:
    a = torch.randn(3, 300, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp(min=0)
    b = torch.randn(3, 300, 300, generator=torch.Generator().manual_seed(1), dtype=torch.float64).clamp(min=0) + a
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a.flatten(), b.flatten()).statistic, abs=1e-9)
    assert spearman(a, torch.ones_like(a)) == 0


def test_likeness_is_of_magnitudes_whatever_their_scale() -> None:
    map_ = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert alike(-1000 * map_, map_) == pytest.approx((1, 1))
    assert alike(map_.abs().amax(0, keepdim=True), map_) == pytest.approx((1, 1))
    assert alike(torch.zeros_like(map_), map_)[0] == 0
    noise = alike(torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1)), map_)
    assert abs(noise[0]) < 0.2
    assert abs(noise[1]) < 0.3
    assert all(value != value for value in alike(map_ * float("nan"), map_))
