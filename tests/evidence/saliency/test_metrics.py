"""The metrics are compared with closed forms, plain loops in float64, Captum and Quantus."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from scipy import stats
from torch import Tensor, nn

from lit_viz.attributions import Gradient, GuidedBackprop, attribute
from lit_viz.attributions.base import LayeredNetwork
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.metrics import (
    RandomizationStage,
    cascading_randomization,
    is_pointing_hit,
    last_unchanged,
    map_similarity,
    max_sensitivity,
    replacement_curve,
    saliency_order,
)
from lit_viz.images.rendering import rank_correlation
from lit_viz.networks import FrozenNetwork, Network, layer_names
from lit_viz.outputs import load_network
from lit_viz.rng import Draws, Key
from tests.support.networks import NAMES, smooth_network

HEIGHT, WIDTH = 5, 6
PIXELS = HEIGHT * WIDTH
TARGET = 2


def shuffled() -> Tensor:
    """Return the numbers 1 ... n in a map, in no order."""
    values = torch.randperm(PIXELS, generator=torch.Generator().manual_seed(0)).double() + 1
    return values.view(HEIGHT, WIDTH)


def weighted(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the score of a linear network, which is 1 for an image of ones."""
    return lambda images: (images.mean(1) * weights / weights.sum()).sum((1, 2))


def image(size: int = 16, channels: int = 3) -> Tensor:
    return torch.rand(channels, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def draws(count: int = 8) -> Draws:
    return Draws([Key(7, 0, view) for view in range(count)])


ONES, ZEROS = torch.ones(3, HEIGHT, WIDTH).double(), torch.zeros(3, HEIGHT, WIDTH).double()


# -- deletion and insertion


def test_areas_of_a_linear_network() -> None:
    weights, best = shuffled(), (2 * PIXELS + 1) / (6 * PIXELS)
    for map_, deletion in ((weights, best), (-weights, 1 - best)):
        assert replacement_curve(weighted(weights), ONES, ZEROS, map_, steps=PIXELS).area == pytest.approx(deletion)
        insertion = replacement_curve(weighted(weights), ZEROS, ONES, map_, steps=PIXELS)
        assert insertion.area == pytest.approx(1 - deletion)


@pytest.mark.parametrize("steps", [1, 4, 7, 30, 1000])
def test_all_maps_are_equal_if_all_pixels_are(steps: int) -> None:
    curve = replacement_curve(weighted(torch.ones(HEIGHT, WIDTH)), ONES, ZEROS, shuffled(), steps=steps)
    assert len(curve.scores) == min(steps, PIXELS) + 1
    assert torch.allclose(curve.scores, 1 - curve.shares, atol=1e-12)
    assert curve.area == pytest.approx(0.5)


@pytest.mark.parametrize("map_", [torch.zeros(2, 3), torch.full((2, 3), 7.0)])
def test_ties_are_in_reading_order(map_: Tensor) -> None:
    seen: list[Tensor] = []

    def score(images: Tensor) -> Tensor:
        seen.extend(images[:, 0])
        return images.sum((1, 2, 3))

    replacement_curve(score, torch.ones(3, 2, 3), torch.zeros(3, 2, 3), map_, steps=6)
    assert [int(one.sum()) for one in seen] == [6, 5, 4, 3, 2, 1, 0]
    assert torch.equal(seen[4], torch.tensor([[0.0, 0, 0], [0, 1, 1]]))
    assert saliency_order(torch.tensor([[1.0, 2, 1], [2, 0, 2]])).tolist() == [1, 3, 5, 0, 2, 4]
    assert saliency_order(torch.arange(50_000) % 2).tolist()[:2] == [1, 3]


def test_the_batch_limits_the_images_per_forward() -> None:
    sizes: list[int] = []

    def score(images: Tensor) -> Tensor:
        sizes.append(len(images))
        assert not torch.is_grad_enabled()
        return images.sum((1, 2, 3))

    curves = [replacement_curve(score, ONES, ZEROS, shuffled(), steps=20, batch=batch) for batch in (8, 1, 64)]
    assert sizes == [8, 8, 5] + [1] * 21 + [21]
    assert all(torch.equal(curve.scores, curves[0].scores) for curve in curves)


def test_the_curve_equals_a_plain_loop_in_float64() -> None:
    network, x, blank = smooth_network().double(), image(), torch.full((3, 16, 16), 0.5, dtype=torch.float64)
    map_ = torch.rand(16, 16, generator=torch.Generator().manual_seed(1))

    def score(images: Tensor) -> Tensor:
        return network(images).softmax(1)[:, TARGET]

    expected = []
    ranked = sorted(((float(map_[i, j]), i, j) for i in range(16) for j in range(16)), reverse=True)
    for k in range(9):
        picture = x.numpy().copy()
        for _, i, j in ranked[: 32 * k]:
            picture[:, i, j] = 0.5
        logits = network(torch.from_numpy(picture)[None])[0].detach().numpy()
        expected.append(np.exp(logits[TARGET]) / np.exp(logits).sum())
    curve = replacement_curve(score, x, blank, map_, steps=8)
    assert curve.scores.numpy() == pytest.approx(np.array(expected), rel=1e-12)
    assert curve.area == pytest.approx(sum(expected[1:-1]) / 8 + (expected[0] + expected[-1]) / 16, rel=1e-12)
    backwards = replacement_curve(score, blank, x, -map_, steps=8)
    assert torch.allclose(backwards.scores.flip(0), curve.scores)


# -- max-sensitivity


def test_the_sensitivity_of_the_identity_is_the_largest_perturbation() -> None:
    x = 0.25 + 0.5 * image()
    noise = draws().uniform("perturbation", -0.1, 0.1, x.shape).double()
    expected = float(noise.flatten(1).norm(dim=1).max() / x.norm())
    found = [max_sensitivity(lambda x: x, x, x, draws(), radius=0.1, batch=batch) for batch in (1, 3, 8, 100)]
    assert found == pytest.approx([expected] * 4)
    assert noise.abs().max() > 0.099
    assert max_sensitivity(lambda x: x, x, x, draws(2), radius=0.1) <= expected


def test_sensitivity_of_constant_and_zero_maps() -> None:
    x = image()
    assert max_sensitivity(lambda x: torch.ones(len(x), 4), x, torch.ones(4), draws()) == 0
    assert max_sensitivity(lambda x: torch.zeros(len(x), 4), x, torch.zeros(4), draws()) == 0
    assert max_sensitivity(lambda x: torch.ones(len(x), 4), x, torch.zeros(4), draws()) == float("inf")


def test_perturbed_photographs_are_in_range_and_within_the_radius() -> None:
    x = torch.tensor([0.0, 0.005, 1.0]).view(3, 1, 1).expand(3, 4, 4).clone()

    def explain(images: Tensor) -> Tensor:
        assert images.shape[0] <= 3
        assert images.min() == 0
        assert images.max() == 1
        assert (images - x).abs().max() <= 0.02
        return images

    assert max_sensitivity(explain, x, x, draws(), batch=3) > 0


def explained(x: Tensor) -> Tensor:
    network = smooth_network().double()
    return attribute(Gradient(), lambda x, layers=(): (network(x), {}), x, [TARGET] * len(x))[0]


def test_the_sensitivity_equals_captum() -> None:
    x = image()
    noise = draws().uniform("perturbation", -0.05, 0.05, x.shape).double()
    reference = sensitivity_max(
        lambda inputs: (explained(inputs[0] if isinstance(inputs, tuple) else inputs),),
        x[None],
        perturb_func=lambda inputs, radius: (x + noise).clamp(0, 1),
        n_perturb_samples=8,
    )
    assert max_sensitivity(explained, x, explained(x[None])[0], draws(), radius=0.05) == pytest.approx(float(reference))


# -- the pointing game


@pytest.mark.parametrize(
    ("place", "hit"),
    [
        ((30, 40), True),
        ((30, 64), True),
        ((30, 65), False),
        ((30, 5), True),
        ((30, 4), False),
        ((4, 59), True),
        ((4, 64), False),
        ((54, 30), True),
    ],
)
def test_a_hit_is_in_or_near_a_box(place: tuple[int, int], hit: bool) -> None:
    map_ = torch.zeros(100, 90)
    map_[place] = 1
    box = (20.5, 15.5, 49.5, 39.5)  # pixel centers are at half numbers
    assert is_pointing_hit(map_, [box]) is hit
    assert is_pointing_hit(map_, [(80.0, 90.0, 85.0, 95.0), box]) is hit
    assert not is_pointing_hit(map_, [])


def test_the_first_of_several_maxima_counts() -> None:
    assert is_pointing_hit(torch.ones(50, 50), [(0, 0, 3, 3)], tolerance=0)
    assert not is_pointing_hit(torch.ones(50, 50), [(1, 1, 50, 50)], tolerance=0)


def photograph() -> Tensor:
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(4))


def gradient(networks: Mapping[str, LayeredNetwork]) -> Tensor:
    return attribute(Gradient(), networks, photograph()[None], [TARGET])[0][0]


def whole(network: Network, *names: str) -> dict[str, FrozenNetwork]:
    return {name: network.fast(layer_names(network.original), backprop=name) for name in names or ("plain",)}  # type: ignore[arg-type]


def parameters(network: FrozenNetwork) -> dict[str, Tensor]:
    return {name.partition(".")[2]: value.clone() for name, value in network.named_parameters()}


# -- cascading randomization


def stages_of(
    explain: Callable[[Mapping[str, FrozenNetwork]], Tensor],
    networks: Mapping[str, FrozenNetwork],
    map_: Tensor,
    stages: int,
    seed: int = 0,
) -> list[RandomizationStage]:
    found = cascading_randomization(networks, seed, stages)
    return [RandomizationStage(layer, count, *map_similarity(explain(drawn), map_)) for layer, count, drawn in found]


def test_layers_are_randomized_from_the_top_down() -> None:
    network = smooth_network()
    nn.init.uniform_(network.features[1].weight, generator=torch.Generator().manual_seed(0))
    networks = whole(load_network(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16))
    before, upwards = parameters(networks["plain"]), ["features.0", "features.1", "features.3", "head"]
    seen = []
    for layer, count, drawn in cascading_randomization(networks, seed=0, stages=4):
        now = parameters(drawn["plain"])
        changed = {name.rpartition(".")[0] for name in now if not torch.equal(now[name], before[name])}
        assert changed == set(upwards[-count:])
        assert upwards[-count] == layer
        seen.append(count)
    assert seen == [1, 2, 3, 4]
    after = parameters(networks["plain"])
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_randomization_preserves_mean_and_standard_deviation() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 64, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
        network[0].weight.data.mul_(3).add_(2)
    networks = whole(load_network(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16))
    state = torch.get_rng_state()
    last = {
        stages: parameters(list(cascading_randomization(networks, 0, stages))[-1][2]["plain"]) for stages in (1, 2, 9)
    }
    assert torch.equal(torch.get_rng_state(), state)
    old, new = parameters(networks["plain"])["0.weight"], last[2]["0.weight"]
    assert float(new.mean()) == pytest.approx(float(old.mean()), rel=0.02)
    assert float(new.std()) == pytest.approx(float(old.std()), rel=0.05)
    assert abs(rank_correlation(new, old)) < 0.1
    assert all(torch.equal(last[2][name], last[9][name]) for name in last[2])
    (another,) = list(cascading_randomization(networks, 1, 2))[-1:]
    assert not torch.equal(parameters(another[2]["plain"])["0.weight"], new)


def test_draws_depend_on_the_name_only() -> None:
    layers = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    networks = whole(load_network(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16))
    few, many = (parameters(list(cascading_randomization(networks, 0, stages))[-1][2]["plain"]) for stages in (2, 5))
    assert all(torch.equal(few[name], many[name]) for name in few)
    kernels = [few[f"{i}.weight"] for i in range(4)]
    assert all(abs(rank_correlation(kernels[0], other)) < 0.5 for other in kernels[1:])


def test_copies_with_another_backward_remain_equal() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()
    classifier = load_network(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)
    for _, _, drawn in cascading_randomization(whole(classifier, "plain", "guided"), 0, 3):
        plain, guided = (parameters(drawn[name]) for name in ("plain", "guided"))
        assert plain.keys() == guided.keys()
        assert all(torch.equal(plain[name], guided[name]) for name in plain)
    assert GuidedBackprop.networks == ("guided",)


def test_a_network_without_fast_copy_is_rejected() -> None:
    is_original = FrozenNetwork(nn.Conv2d(3, 2, 1), [0.5] * 3, [0.5] * 3, is_original=True)
    with pytest.raises(LitVizError, match="can't be copied"):
        next(cascading_randomization({"plain": is_original}, 0, 1))


def test_a_map_independent_of_the_network_is_unchanged(smooth: Network) -> None:
    edges = photograph().diff(dim=-1)
    stages = stages_of(lambda networks: edges, whole(smooth), edges, stages=3)
    assert [(stage.layer, stage.layers) for stage in stages] == [("head", 1), ("features.3", 2), ("features.0", 4)]
    assert all(stage.spearman == pytest.approx(1) and stage.ssim == pytest.approx(1) for stage in stages)
    assert last_unchanged(stages) == stages[-1]


def test_a_gradient_changes_at_the_first_stage(smooth: Network) -> None:
    networks = whole(smooth)
    stages = stages_of(gradient, networks, gradient(networks), stages=4)
    assert len(stages) == 4
    assert last_unchanged(stages) is None
    assert all(stage.spearman < 0.9 for stage in stages)


def test_the_map_of_a_linear_network_is_its_random_weight() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    networks = whole(load_network(network, labels=NAMES, mean=[0.0] * 3, std=[1.0] * 3, size=16))
    (stage,) = stages_of(gradient, networks, gradient(networks), seed=3, stages=1)
    ((_, _, drawn),) = cascading_randomization(networks, 3, 1)
    old, new = (
        parameters(found["plain"])["1.weight"][TARGET].view(3, 16, 16).abs().amax(0) for found in (networks, drawn)
    )
    assert stage.layer == "1"
    assert stage.spearman == pytest.approx(stats.spearmanr(old.flatten(), new.flatten()).statistic)


def test_stages_after_the_first_change_are_ignored() -> None:
    stages = [RandomizationStage(str(i), i, value, 0.0) for i, value in enumerate((0.99, 0.95, 0.5, 0.99), 1)]
    assert last_unchanged(stages) == stages[1]
    assert last_unchanged(stages[2:]) is None
    assert last_unchanged([]) is None


# -- similarity


def test_map_similarity_compares_the_drawn_maps() -> None:
    """The negative part of a map that is drawn by its positive part is not compared."""
    map_ = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = torch.where(map_ < 0, 10 * map_.flip(1).abs().neg(), map_)
    assert map_similarity(changed, map_, "positive") == pytest.approx((1, 1))
    assert map_similarity(changed, map_)[0] < 0.9


def test_map_similarity_ignores_sign_and_scale() -> None:
    map_ = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert map_similarity(-1000 * map_, map_) == pytest.approx((1, 1))
    assert map_similarity(map_.abs().amax(0, keepdim=True), map_) == pytest.approx((1, 1))
    assert map_similarity(torch.zeros_like(map_), map_)[0] == 0
    noise = map_similarity(torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1)), map_)
    assert abs(noise[0]) < 0.2
    assert abs(noise[1]) < 0.3
    assert all(value != value for value in map_similarity(map_ * float("nan"), map_))


# -- Quantus, if installed (its OpenCV conflicts with the one of the localization extra)


@pytest.fixture
def quantus() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus")


def test_the_deletion_curve_equals_quantus(quantus: Any) -> None:
    network, x = smooth_network(channels=1), image(channels=1).float()
    map_ = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    metric = quantus.PixelFlipping(
        features_in_step=8, abs=False, normalise=False, perturb_baseline=0.0, disable_warnings=True
    )
    reference = metric(
        network, x[None].numpy(), np.array([TARGET]), a_batch=map_[None, None].numpy(), softmax=True, device="cpu"
    )[0]
    actual = replacement_curve(
        lambda images: network(images).softmax(1)[:, TARGET], x, torch.zeros_like(x), map_, steps=32
    )
    assert actual.scores[1:].numpy() == pytest.approx(np.array(reference), abs=1e-6)


def test_the_sensitivity_equals_quantus(quantus: Any) -> None:
    x = 0.1 + 0.8 * image()
    noise = iter(draws().uniform("perturbation", -0.05, 0.05, x.shape).double().numpy())
    metric = quantus.MaxSensitivity(
        nr_samples=8,
        normalise=False,
        perturb_func=lambda arr, **options: arr + next(noise).reshape(1, -1),
        disable_warnings=True,
    )
    reference = metric(
        smooth_network().double(),
        x[None].numpy(),
        np.array([TARGET]),
        a_batch=explained(x[None]).numpy(),
        explain_func=lambda model, inputs, targets, **options: explained(torch.as_tensor(inputs).double()).numpy(),
        device="cpu",
    )[0]
    assert max_sensitivity(explained, x, explained(x[None])[0], draws(), radius=0.05) == pytest.approx(
        reference, rel=1e-5
    )
