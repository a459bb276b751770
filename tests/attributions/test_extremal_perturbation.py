"""Extremal perturbations: operators against their definitions, and masks of known position."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from lit_viz.attributions.base import attribute
from lit_viz.attributions.extremal_perturbation import (
    ExtremalPerturbation,
    _window_sum,
    perturbed,
    pyramid,
    smoothed,
    upsampled,
)
from lit_viz.errors import LitVizError
from lit_viz.images.filters import gaussian_blur
from lit_viz.objectives import Logit
from lit_viz.optim import Evaluation
from lit_viz.types import Task
from tests.support.attributions import SMOOTH, TARGETS, Counted, photographs
from tests.support.marks import slow

SIDE, PLACE = 96, (slice(36, 84), slice(12, 60))  # a quarter of the image


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def stripes() -> Tensor:
    """Return an image ``(1, 1, H, W)`` of stripes, which a blur removes."""
    return (0.5 + 0.5 * torch.cos(torch.arange(SIDE, dtype=torch.float64) * math.tau / 16)).expand(1, 1, SIDE, SIDE)


class Region:
    """Logits of two classes: the contrast of the stripes in a region, 10 without blur, and that of the rest."""

    def __call__(self, x: Tensor) -> Tensor:
        inside = torch.zeros(SIDE, SIDE, dtype=x.dtype)
        inside[PLACE] = 1
        left = (2 * x[:, 0] - 1) * (2 * stripes()[0, 0] - 1)
        return torch.stack([10 * (left * w).sum((1, 2)) / (w * 0.5).sum() for w in (inside, 1 - inside)], 1)


@cache
def located(area: float) -> tuple[Tensor, Tensor]:
    method = ExtremalPerturbation(area, sigma=2, cell=4)
    method.objective = Logit()
    masks, uncertainty = attribute(method, Counted(Region()), stripes(), [0])
    return masks[0, 0], uncertainty["area_error"]


def test_the_mask_finds_the_only_region_that_counts() -> None:
    mask, _ = located(0.25)
    inside = torch.zeros_like(mask, dtype=torch.bool)
    inside[PLACE] = True
    found = mask > 0.5
    assert (found & inside).sum() / (found | inside).sum() > 0.8


@pytest.mark.parametrize("area", [slow(0.1), 0.25])
def test_the_area_is_reached_and_its_error_reported(area: float) -> None:
    mask, error = located(area)
    assert float(mask.mean()) == pytest.approx(area, rel=0.1)
    assert float(error) == pytest.approx(abs(float(mask.mean()) - area), abs=1e-12)
    assert 0 <= float(mask.min()) < 0.05
    assert 0.95 < float(mask.max()) <= 1


def smooth_maximum(mask: npt.NDArray[np.float64], sigma: float, temperature: float) -> npt.NDArray[np.float64]:
    """Return the definition, pixel by pixel."""
    (height, width), reach = mask.shape, math.ceil(4 * sigma)
    out = np.empty_like(mask)
    for u in np.ndindex(height, width):
        terms = []
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                kernel = math.exp(-(max(0.0, math.hypot(dy, dx) / sigma - 1) ** 2) / 4)
                v = min(max(u[0] + dy, 0), height - 1), min(max(u[1] + dx, 0), width - 1)
                terms.append(kernel * mask[v])
        powers = [math.exp(f / temperature) for f in terms]
        out[u] = sum(f * p for f, p in zip(terms, powers, strict=True)) / sum(powers)
    return out


@pytest.mark.parametrize(("sigma", "temperature"), [(1.2, 0.05), (0.6, 1.0)])
def test_the_smooth_maximum_against_its_definition(sigma: float, temperature: float) -> None:
    masks = drawn(2, 1, 7, 5)
    actual = smoothed(masks, sigma, temperature)
    for mask, out in zip(masks, actual, strict=True):
        np.testing.assert_allclose(out[0], smooth_maximum(mask[0].numpy(), sigma, temperature), rtol=1e-12)


def test_sums_of_shifted_maps_are_a_convolution() -> None:
    maps = drawn(2, 3, 4, 9, 8).requires_grad_()
    place = torch.tensor([[3, 1, 3], [2, 0, 2], [3, 1, 1]])
    weight = torch.nn.functional.one_hot(place).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.conv2d(maps.flatten(0, 1), weight).unflatten(0, (2, 3))
    actual, upstream = _window_sum(maps, place), drawn(2, 3, 1, 7, 6)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(total, maps, upstream)[0] for total in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)


def test_a_cold_maximum_is_the_maximum_and_a_hot_one_the_mean() -> None:
    mask = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    mask[0, 0, 7, 7] = 1
    cold, hot = smoothed(mask, 1.5, 0.01)[0, 0], smoothed(mask, 1.5, 1e6)[0, 0]
    assert float(cold[7, 7]) == pytest.approx(1)
    assert float(cold[7, 8]) == pytest.approx(1)
    assert float(cold[7, 10]) == pytest.approx(math.exp(-((3 / 1.5 - 1) ** 2) / 4))
    assert float(hot[7, 7]) == pytest.approx(1 / 13**2, rel=1e-5)


def test_no_cell_is_preferred_for_lying_at_the_border() -> None:
    mask = torch.full((1, 1, 32, 32), 0.5, dtype=torch.float64, requires_grad=True)
    level = smoothed(mask, 8 / 7)
    torch.testing.assert_close(level, level[:, :, :1, :1].expand_as(level), rtol=1e-12, atol=0)
    (gain,) = torch.autograd.grad(level.sum(), mask)
    assert 0.95 < float(gain.min()) <= float(gain.max()) < 1.1


def test_the_photograph_is_blurred_outside_the_mask() -> None:
    x = photographs()
    blurs = pyramid(x, 6.0, 4)
    for level in (0.0, 0.25, 0.5, 1.0):  # where the blur is one of the pyramid's
        mask = x.new_full((3, 1, *x.shape[2:]), level)
        expected = gaussian_blur(x, torch.full((3,), 6.0 * (1 - level)))
        torch.testing.assert_close(perturbed(blurs, mask), expected, rtol=0, atol=1e-12)
    between = perturbed(blurs, x.new_full((3, 1, *x.shape[2:]), 0.9))
    torch.testing.assert_close(between, 0.6 * x + 0.4 * blurs[:, 1], rtol=0, atol=1e-12)
    half = torch.zeros(3, 1, *x.shape[2:], dtype=x.dtype)
    half[..., :7] = 1
    assert torch.equal(perturbed(blurs, half)[..., :7], x[..., :7])
    assert torch.equal(perturbed(blurs, half)[..., 7:], blurs[:, -1, ..., 7:])


def state_at(method: ExtremalPerturbation, iteration: int, iterations: int = 10) -> dict[str, Tensor]:
    state = method.init(photographs(), [Task(i, "", i, target=int(t)) for i, t in enumerate(TARGETS)])
    state |= {"iteration": torch.full((3,), iteration), "iterations": torch.full((3,), iterations)}
    state["weights"] = 4 * drawn(*state["weights"].shape) - 2
    return state


def scored(inputs: Tensor) -> Tensor:
    return SMOOTH(inputs).log_softmax(1).gather(1, TARGETS[:, None])[:, 0]


def evaluated(inputs: Tensor, **_: object) -> Evaluation:
    leaf = inputs.detach().requires_grad_()
    return Evaluation(leaf, scored(leaf), SMOOTH(leaf))


def stepped(method: ExtremalPerturbation, state: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        _, after, done = method.step(photographs(), state, evaluated)  # type: ignore[arg-type]
    assert not done.any()
    return after


@pytest.mark.parametrize("iteration", [0, 3, 9])
def test_the_update_ascends_the_score_along_masks_of_equal_area_by_finite_differences(iteration: int) -> None:
    method = ExtremalPerturbation(0.3, sigma=2.0, cell=3, blur=3.0)
    state = state_at(method, iteration)
    after = stepped(method, state)

    def mask(weights: Tensor, offset: Tensor) -> Tensor:
        return smoothed((weights - offset).sigmoid(), 2 / 3)

    area = mask(state["weights"], after["offset"]).mean((1, 2, 3), keepdim=True)

    def goal(weights: Tensor) -> Tensor:
        low, high = after["offset"] - 1, after["offset"] + 1
        for _ in range(60):
            middle = (low + high) / 2
            larger = mask(weights, middle).mean((1, 2, 3), keepdim=True) > area
            low, high = torch.where(larger, middle, low), torch.where(larger, high, middle)
        return scored(perturbed(state["blurs"], upsampled(mask(weights, low), photographs()))).detach()

    assert torch.equal(after["weights"], state["weights"] + 0.3 * after["velocity"])
    root_mean_square = after["velocity"].square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(root_mean_square, torch.full_like(root_mean_square, 0.1))  # a tenth is new
    found, expected = [], []
    for seed in range(4):
        direction = torch.randn(
            state["weights"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        ahead, behind = (goal(state["weights"] + sign * 1e-5 * direction) for sign in (1, -1))
        expected.append((ahead - behind) / 2e-5)
        found.append((after["velocity"] * direction).flatten(1).sum(1))
    gradients, actual = torch.stack(expected), torch.stack(found)
    scale = (gradients * actual).sum(0) / actual.square().sum(0)
    assert (scale > 0).all()
    torch.testing.assert_close(actual * scale, gradients, rtol=1e-4, atol=1e-4 * float(gradients.abs().max()))


def test_the_area_shrinks_by_a_constant_factor_and_then_stays() -> None:
    method = ExtremalPerturbation(0.2, sigma=2.0, cell=3, blur=3.0)
    for iteration, area in enumerate([0.95 * (0.2 / 0.95) ** (k / 5) for k in range(5)] + [0.2] * 5):
        state = state_at(method, iteration)
        for _ in range(4):  # halving begins where the last offset was
            state["offset"] = stepped(method, state)["offset"]
        held = smoothed((state["weights"] - state["offset"]).sigmoid(), 2 / 3).mean((1, 2, 3))
        torch.testing.assert_close(held, torch.full_like(held, area), rtol=0.02, atol=0)
        shown = method.attribution(photographs(), state)
        if iteration:
            assert shown.mean((1, 2, 3)).tolist() == pytest.approx([area] * 3, abs=0.01)


def test_velocity_is_kept_and_a_flat_score_moves_nothing() -> None:
    method = ExtremalPerturbation()
    x, state = photographs(), state_at(method, 3)

    def flat(inputs: Tensor, **_: object) -> Evaluation:
        leaf = inputs.detach().requires_grad_()
        return Evaluation(leaf, 0 * leaf.flatten(1).sum(1), leaf.flatten(1))

    before = state["weights"].clone()
    state["velocity"] += 2.0
    _, moving, _ = method.step(x, state, flat)  # type: ignore[arg-type]
    torch.testing.assert_close(moving["velocity"], 0.9 * state["velocity"])
    assert torch.equal(state["weights"], before)  # what was given stays as it was
    _, resting, _ = method.step(x, {**state, "velocity": 0 * state["velocity"]}, flat)  # type: ignore[arg-type]
    assert torch.equal(resting["weights"], before)


def test_the_best_mask_that_has_the_area_is_kept() -> None:
    method = ExtremalPerturbation(0.3, sigma=2.0, cell=3, blur=3.0)
    early = stepped(method, state_at(method, 4))
    assert early["best"].isinf().all()
    state = state_at(method, 6)
    state["best"] = torch.tensor([-torch.inf, -1e3, 1e3], dtype=torch.float64)
    after = stepped(method, state)
    assert after["best"].tolist() == pytest.approx([*scored(network_inputs(after, state))[:2].tolist(), 1e3])
    assert torch.equal(after["best_weights"][:2], state["weights"][:2])
    assert torch.equal(after["best_weights"][2], state["best_weights"][2])
    alone = {**after, "weights": after["best_weights"], "best": torch.full_like(after["best"], -torch.inf)}
    shown, expected = (method.attribution(photographs(), one) for one in (after, alone))
    torch.testing.assert_close(shown, expected, rtol=0, atol=1e-6)


def network_inputs(after: dict[str, Tensor], state: dict[str, Tensor]) -> Tensor:
    """Return the images that the network evaluated in the step."""
    mask = smoothed((state["weights"] - after["offset"]).sigmoid(), 2 / 3)
    return perturbed(state["blurs"], upsampled(mask, photographs()))


def test_a_mask_does_not_depend_on_the_others() -> None:
    network = Counted(SMOOTH)

    def masks(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        method = ExtremalPerturbation(0.2, sigma=2.0, cell=3, blur=3.0)
        return attribute(method, network, photographs()[rows], TARGETS[rows], evaluations=30)

    together, error = masks(slice(None))
    assert network.rows == 3 * 30
    assert together.shape == (3, 1, *photographs().shape[2:])
    assert (together[0] - together[1]).abs().max() > 0.05
    for n in range(3):
        alone, own = masks(slice(n, n + 1))
        torch.testing.assert_close(alone[0], together[n], rtol=0, atol=1e-9)
        torch.testing.assert_close(own["area_error"][0], error["area_error"][n], rtol=0, atol=1e-9)


def test_the_map_is_zero_before_the_first_evaluation() -> None:
    masks, error = attribute(ExtremalPerturbation(), Counted(SMOOTH), photographs(), TARGETS, evaluations=0)
    assert masks.abs().max() == 0
    assert error["area_error"].isinf().all()


def test_invalid_mask_options_give_a_one_line_error() -> None:
    with pytest.raises(LitVizError, match="area of ExtremalPerturbation must be between 0 and 1, got 10"):
        ExtremalPerturbation(area=10)
    with pytest.raises(LitVizError, match="must be positive, got 0"):
        ExtremalPerturbation(sigma=0)
    with pytest.raises(LitVizError, match=r"must be positive, got 8\.0, 0,"):
        ExtremalPerturbation(cell=0)
    with pytest.raises(LitVizError, match="requires images"):
        attribute(ExtremalPerturbation(), Counted(SMOOTH), photographs().flatten(1), TARGETS)


def test_the_offset_follows_weights_that_have_run_away_in_two_steps() -> None:
    method = ExtremalPerturbation(0.3, sigma=2.0, cell=3, blur=3.0)
    state = state_at(method, 9)
    state["weights"] = 4 + state["weights"]
    state["offset"] = torch.zeros_like(state["offset"])
    for _ in range(2):
        offset = state["offset"] = stepped(method, state)["offset"]
    held = smoothed((state["weights"] - offset).sigmoid(), 2 / 3).mean((1, 2, 3))
    assert (offset > 4).all()
    torch.testing.assert_close(held, torch.full_like(held, 0.3), rtol=0.01, atol=0)


@pytest.mark.parametrize("steepness", [1e3, 60.0])
def test_a_mask_that_lets_no_gradient_through_moves_nothing_and_breaks_nothing(steepness: float) -> None:
    method = ExtremalPerturbation(0.3, sigma=2.0, cell=3, blur=3.0)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state_at(method, 9).items()}
    state["weights"] = steepness * state["weights"].sign()  # sigmoid' underflows, or its square does

    def evaluate(inputs: Tensor, **_: object) -> Evaluation:
        leaf = inputs.detach().requires_grad_()
        return Evaluation(leaf, scored(leaf.double()), SMOOTH(leaf.double()))

    with torch.no_grad():
        _, after, _ = method.step(photographs().float(), state, evaluate)  # type: ignore[arg-type]
    assert after["velocity"].isfinite().all()
    assert after["velocity"].square().mean((1, 2, 3)).sqrt().max() <= 0.1 + 1e-6


def test_a_gradient_that_is_no_number_is_not_taken_for_none() -> None:
    method = ExtremalPerturbation(0.3, sigma=2.0, cell=3, blur=3.0)

    def broken(inputs: Tensor, **_: object) -> Evaluation:
        leaf = inputs.detach().requires_grad_()
        first, second, third = scored(leaf)
        score = torch.stack([first, second + (second - second).sqrt(), third])  # the slope of a root at 0 is infinite
        return Evaluation(leaf, score, SMOOTH(leaf))

    with torch.no_grad():
        _, after, _ = method.step(photographs(), state_at(method, 9), broken)  # type: ignore[arg-type]
    assert after["best"].isfinite().all()  # the score is a number, so the engine sees nothing until the next step
    assert after["weights"].flatten(1).isnan().any(1).tolist() == [False, True, False]
