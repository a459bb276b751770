"""The measures are held against closed forms, plain loops in float64, Captum and Quantus."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from torch import Tensor

from lit_viz.attributions import Gradient, attribute
from lit_viz.evidence.saliency.faithfulness import is_pointing_hit, max_sensitivity, order, replacement_curve
from lit_viz.rng import Draws, Key
from tests.conftest import smooth_network

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


def test_the_areas_of_a_linear_network_are_known() -> None:
    weights, best = shuffled(), (2 * PIXELS + 1) / (6 * PIXELS)
    for map_, deletion in ((weights, best), (-weights, 1 - best)):
        assert replacement_curve(weighted(weights), ONES, ZEROS, map_, steps=PIXELS).area == pytest.approx(deletion)
        insertion = replacement_curve(weighted(weights), ZEROS, ONES, map_, steps=PIXELS)
        assert insertion.area == pytest.approx(1 - deletion)


@pytest.mark.parametrize("steps", [1, 4, 7, 30, 1000])
def test_where_all_pixels_count_alike_no_map_is_better_however_uneven_the_steps(steps: int) -> None:
    curve = replacement_curve(weighted(torch.ones(HEIGHT, WIDTH)), ONES, ZEROS, shuffled(), steps=steps)
    assert len(curve.scores) == min(steps, PIXELS) + 1
    assert torch.allclose(curve.scores, 1 - curve.shares, atol=1e-12)
    assert curve.area == pytest.approx(0.5)


@pytest.mark.parametrize("map_", [torch.zeros(2, 3), torch.full((2, 3), 7.0)])
def test_of_equal_pixels_the_first_in_reading_goes_first(map_: Tensor) -> None:
    seen: list[Tensor] = []

    def score(images: Tensor) -> Tensor:
        seen.extend(images[:, 0])
        return images.sum((1, 2, 3))

    replacement_curve(score, torch.ones(3, 2, 3), torch.zeros(3, 2, 3), map_, steps=6)
    assert [int(one.sum()) for one in seen] == [6, 5, 4, 3, 2, 1, 0]
    assert torch.equal(seen[4], torch.tensor([[0.0, 0, 0], [0, 1, 1]]))
    assert order(torch.tensor([[1.0, 2, 1], [2, 0, 2]])).tolist() == [1, 3, 5, 0, 2, 4]
    assert order(torch.arange(50_000) % 2).tolist()[:2] == [1, 3]


def test_no_more_images_are_evaluated_at_once_than_said() -> None:
    sizes: list[int] = []

    def score(images: Tensor) -> Tensor:
        sizes.append(len(images))
        assert not torch.is_grad_enabled()
        return images.sum((1, 2, 3))

    curves = [replacement_curve(score, ONES, ZEROS, shuffled(), steps=20, batch=batch) for batch in (8, 1, 64)]
    assert sizes == [8, 8, 5] + [1] * 21 + [21]
    assert all(torch.equal(curve.scores, curves[0].scores) for curve in curves)


def test_a_network_is_followed_as_by_a_plain_loop_in_float64() -> None:
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


def test_the_sensitivity_of_the_image_itself_is_the_longest_perturbation() -> None:
    x = 0.25 + 0.5 * image()
    noise = draws().uniform("perturbation", -0.1, 0.1, x.shape).double()
    expected = float(noise.flatten(1).norm(dim=1).max() / x.norm())
    found = [max_sensitivity(lambda x: x, x, x, draws(), radius=0.1, batch=batch) for batch in (1, 3, 8, 100)]
    assert found == pytest.approx([expected] * 4)
    assert noise.abs().max() > 0.099
    assert max_sensitivity(lambda x: x, x, x, draws(2), radius=0.1) <= expected


def test_a_map_that_never_changes_and_one_that_is_zero() -> None:
    x = image()
    assert max_sensitivity(lambda x: torch.ones(len(x), 4), x, torch.ones(4), draws()) == 0
    assert max_sensitivity(lambda x: torch.zeros(len(x), 4), x, torch.zeros(4), draws()) == 0
    assert max_sensitivity(lambda x: torch.ones(len(x), 4), x, torch.zeros(4), draws()) == float("inf")


def test_perturbed_photographs_stay_in_range_and_near() -> None:
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


def test_the_sensitivity_of_a_gradient_is_what_captum_finds_with_the_same_perturbations() -> None:
    x = image()
    noise = draws().uniform("perturbation", -0.05, 0.05, x.shape).double()
    theirs = sensitivity_max(
        lambda inputs: (explained(inputs[0] if isinstance(inputs, tuple) else inputs),),
        x[None],
        perturb_func=lambda inputs, radius: (x + noise).clamp(0, 1),
        n_perturb_samples=8,
    )
    assert max_sensitivity(explained, x, explained(x[None])[0], draws(), radius=0.05) == pytest.approx(float(theirs))


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
def test_a_map_points_at_a_box_if_its_maximum_is_near(place: tuple[int, int], hit: bool) -> None:
    map_ = torch.zeros(100, 90)
    map_[place] = 1
    box = (20.5, 15.5, 49.5, 39.5)  # left, top, right, bottom: centres of pixels lie at half numbers
    assert is_pointing_hit(map_, [box]) is hit
    assert is_pointing_hit(map_, [(80.0, 90.0, 85.0, 95.0), box]) is hit
    assert not is_pointing_hit(map_, [])


def test_of_several_maxima_the_first_points() -> None:
    assert is_pointing_hit(torch.ones(50, 50), [(0, 0, 3, 3)], tolerance=0)
    assert not is_pointing_hit(torch.ones(50, 50), [(1, 1, 50, 50)], tolerance=0)


# -- Quantus, where it is installed (it asks for an OpenCV that can't stand beside the one for boxes)


@pytest.fixture
def quantus() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus")


def test_quantus_flips_the_same_pixels(quantus: Any) -> None:
    network, x = smooth_network(channels=1), image(channels=1).float()
    map_ = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    metric = quantus.PixelFlipping(
        features_in_step=8, abs=False, normalise=False, perturb_baseline=0.0, disable_warnings=True
    )
    theirs = metric(
        network, x[None].numpy(), np.array([TARGET]), a_batch=map_[None, None].numpy(), softmax=True, device="cpu"
    )[0]
    ours = replacement_curve(
        lambda images: network(images).softmax(1)[:, TARGET], x, torch.zeros_like(x), map_, steps=32
    )
    assert ours.scores[1:].numpy() == pytest.approx(np.array(theirs), abs=1e-6)


def test_quantus_finds_the_same_sensitivity_with_the_same_perturbations(quantus: Any) -> None:
    x = 0.1 + 0.8 * image()
    noise = iter(draws().uniform("perturbation", -0.05, 0.05, x.shape).double().numpy())
    metric = quantus.MaxSensitivity(
        nr_samples=8,
        normalise=False,
        perturb_func=lambda arr, **options: arr + next(noise).reshape(1, -1),
        disable_warnings=True,
    )
    theirs = metric(
        smooth_network().double(),
        x[None].numpy(),
        np.array([TARGET]),
        a_batch=explained(x[None]).numpy(),
        explain_func=lambda model, inputs, targets, **options: explained(torch.as_tensor(inputs).double()).numpy(),
        device="cpu",
    )[0]
    assert max_sensitivity(explained, x, explained(x[None])[0], draws(), radius=0.05) == pytest.approx(theirs, rel=1e-5)
