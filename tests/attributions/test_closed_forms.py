"""Maps with a closed form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_viz.attributions.base import Attribution, attribute, relative_error
from lit_viz.attributions.baselines import Baseline
from lit_viz.attributions.gradient_shap import GradientShap
from lit_viz.attributions.integrated_gradients import IntegratedGradients
from lit_viz.attributions.occlusion import Occlusion
from lit_viz.attributions.rise import RISE, masks
from lit_viz.attributions.smoothgrad import SmoothGrad, SmoothGradSquared, VarGrad
from lit_viz.objectives import Logit
from lit_viz.optim import Evaluation
from lit_viz.rng import Key
from lit_viz.types import Task
from tests.support.attributions import SMOOTH, TARGETS, Counted, distance, photographs
from tests.support.marks import slow

SIZE = 6
GENERATOR = torch.Generator().manual_seed(2)
WEIGHT = torch.randn(4, SIZE, dtype=torch.float64, generator=GENERATOR)
MATRIX = torch.randn(SIZE, SIZE, dtype=torch.float64, generator=GENERATOR)
MATRIX = MATRIX + MATRIX.T
INPUTS = torch.rand(3, SIZE, dtype=torch.float64, generator=GENERATOR)

linear = Counted(lambda x: x @ WEIGHT.T)
#: x' A x / 2, whose gradient is A x; of A (x + sigma z) with standard normal z, mean and variance are known.
quadratic = Counted(lambda x: ((x @ MATRIX) * x).sum(1, keepdim=True) / 2)
SIGMA = 0.15
VARIANCE = SIGMA**2 * MATRIX.square().sum(1)


def test_variance_of_a_constant_gradient_is_zero() -> None:
    map_, uncertainty = attribute(VarGrad(), linear, INPUTS, [0, 1, 2])
    assert map_.abs().max() < 1e-28
    assert uncertainty["standard_error"].max() < 1e-28


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (SmoothGrad(SIGMA), INPUTS[0] @ MATRIX),
        (SmoothGradSquared(SIGMA), (INPUTS[0] @ MATRIX).square() + VARIANCE),
        (VarGrad(SIGMA), VARIANCE),
        (GradientShap("black"), INPUTS[0] * (INPUTS[0] @ MATRIX) / 2),
        (GradientShap([0.2, 0.4]), sum((INPUTS[0] - b) * ((INPUTS[0] + b) @ MATRIX) / 4 for b in (0.2, 0.4))),
    ],
)
@pytest.mark.parametrize("evaluations", [3, slow(12)])
def test_maps_are_unbiased_and_their_standard_error_is_true(
    method: Attribution, expected: Tensor, evaluations: int
) -> None:
    """Over 1000 seeds, the mean is the closed form, and the mean square of the standard errors is the variance."""
    count = 1000
    method.batch = count
    map_, uncertainty = attribute(method, quadratic, INPUTS[:1].expand(count, -1), [0] * count, evaluations=evaluations)
    spread = map_.var(0)
    assert ((map_.mean(0) - expected).abs() < 4 * (spread / count).sqrt()).all()
    assert float(uncertainty["standard_error"].square().mean() / spread.mean()) == pytest.approx(1, abs=0.1)


#: sum of a x^2 / 2, whose gradient a (x + sigma z) has as many independent values as that of a large network.
FACTORS = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) + 0.5
POINT = torch.rand(1, 20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
separable = Counted(lambda x: (FACTORS * x.square()).sum(1, keepdim=True) / 2)


@pytest.mark.parametrize(
    ("method", "limit"),
    [
        (SmoothGrad, lambda sigma: FACTORS * POINT),
        (SmoothGradSquared, lambda sigma: FACTORS.square() * (POINT.square() + sigma**2)),
        (VarGrad, lambda sigma: FACTORS.square() * sigma**2),
    ],
)
@pytest.mark.parametrize("sigma", [0.15, slow(4.0)])
def test_reported_error_is_the_error_to_the_limit(
    method: type[SmoothGrad], limit: Callable[[float], Tensor], sigma: float
) -> None:
    expected = limit(sigma)
    for evaluations in (2, 4, 16, 64, 256):
        one = method(sigma)
        one.batch = 64
        map_, uncertainty = attribute(one, separable, POINT.expand(3, -1), [0] * 3, evaluations=evaluations)
        measured = (map_ - expected).norm(dim=1) / expected.norm()
        for reported, error in zip(uncertainty["error"].tolist(), measured.tolist(), strict=True):
            if math.isfinite(reported):
                assert reported / 1.2 < error < 1.2 * reported
            else:
                assert error > 3.5 or evaluations - one.skipped < one.fewest


def test_standard_error_of_a_variance_under_a_skewed_gradient() -> None:
    """The gradient is exp(x), log-normal under noise: nothing here is Gaussian."""
    count, method = 1000, VarGrad(0.3)
    method.batch = count
    network = Counted(lambda x: x.exp().sum(1, keepdim=True))
    x = INPUTS[:1].expand(count, -1)
    map_, uncertainty = attribute(method, network, x, [0] * count, evaluations=30)
    variance = (0.3**2 + 2 * INPUTS[0]).exp() * math.expm1(0.3**2)
    assert ((map_.mean(0) - variance).abs() < 4 * (map_.var(0) / count).sqrt()).all()
    assert float(uncertainty["standard_error"].square().mean() / map_.var(0).mean()) == pytest.approx(1, abs=0.15)


def test_variance_in_float32_is_right_where_the_mean_is_large() -> None:
    """mean(g^2) - mean(g)^2 would be nothing but rounding here, and negative for half of the pixels."""
    x = INPUTS.float()
    network = Counted(lambda x: (1000 * x + x.square() / 2).sum(1, keepdim=True))
    map_, _ = attribute(VarGrad(0.15), network, x, [0, 0, 0], evaluations=400)
    reference, _ = attribute(VarGrad(0.15), network, x.double(), [0, 0, 0], evaluations=400)
    assert map_.min() >= 0
    assert distance(map_, reference) < 1e-3


def test_integrated_gradients_of_a_quadratic_form_take_one_node() -> None:
    start = 0.3
    map_, uncertainty = attribute(IntegratedGradients(start), quadratic, INPUTS, [0, 0, 0], evaluations=1)
    torch.testing.assert_close(map_, (INPUTS - start) * ((INPUTS + start) @ MATRIX) / 2)
    assert uncertainty["completeness"].max() < 1e-12


def test_completeness_is_the_missing_sum() -> None:
    """x^4 takes two nodes; one node, in the middle, gives 4 (x / 2)^3 x = x^4 / 2."""
    network = Counted(lambda x: x.pow(4).sum(1, keepdim=True))
    _, uncertainty = attribute(IntegratedGradients(), network, INPUTS, [0, 0, 0], evaluations=1)
    torch.testing.assert_close(uncertainty["completeness"], INPUTS.pow(4).sum(1) / 2)
    torch.testing.assert_close(uncertainty["error"], torch.full((3,), 0.5, dtype=torch.float64))
    _, uncertainty = attribute(IntegratedGradients(), network, INPUTS, [0, 0, 0], evaluations=2)
    assert uncertainty["completeness"].max() < 1e-12


def test_rules_that_agree_on_an_incomplete_map_are_not_enough() -> None:
    """A step has no gradient that quadrature could find: all rules give zero, and all of the difference is missing."""
    method, network = IntegratedGradients(), Counted(lambda x: (0 * x + (x > 0.1)).sum(1, keepdim=True))
    method.tolerance = 0.1
    map_, uncertainty = attribute(method, network, INPUTS, [0, 0, 0], evaluations=60)
    assert (map_ == 0).all()
    assert (uncertainty["error"] >= 1).all()
    assert network.rows == 3 * 62


def test_a_photograph_that_is_its_baseline_has_an_exact_map_of_zero() -> None:
    x = torch.full((3, 3, 12, 12), 0.4, dtype=torch.float64)
    method = IntegratedGradients("mean")
    method.tolerance = 1e-3
    map_, uncertainty = attribute(method, Counted(SMOOTH), x, TARGETS)
    assert map_.abs().max() < 1e-12
    assert uncertainty["completeness"].max() < 1e-12
    black, uncertainty = attribute(IntegratedGradients(), Counted(SMOOTH), 0 * x, TARGETS)
    assert black.abs().max() == 0
    assert (uncertainty["error"] == 0).all()
    hidden, _ = attribute(Occlusion(4), Counted(SMOOTH), x, TARGETS)
    assert hidden.abs().max() < 1e-12


def test_slots_with_different_numbers_of_evaluations() -> None:
    x, iterations, method = photographs()[:2], torch.tensor([5, 9]), IntegratedGradients()
    tasks = [Task(i, "", i, target=3) for i in range(2)]
    state = {**method.init(x, tasks), "iteration": 0 * iterations, "iterations": iterations, "until": iterations}

    def evaluate(
        x: Tensor, *, gradient: bool = True, slots: Tensor | None = None, network: str = "plain"
    ) -> Evaluation:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = SMOOTH(leaf)
        return Evaluation(leaf, logits[:, 3], logits)

    for _ in range(4):
        advance = method.advance(state)
        _, state, done = method.step(x, state, evaluate)
        state["iteration"] = state["iteration"] + advance.masked_fill(done, 0)
    assert state["iteration"].tolist() == [5, 9]
    for n, count in enumerate((5, 9)):
        alone, _ = attribute(method, Counted(SMOOTH), x[n : n + 1], [3], evaluations=count)
        assert distance(method.attribution(x, state)[n], alone[0]) < 1e-12


def test_a_map_in_the_making_resembles_the_whole() -> None:
    whole, _ = attribute(IntegratedGradients(), Counted(SMOOTH), photographs(), TARGETS, evaluations=64)

    class Cut(IntegratedGradients):
        def converged(self, x: Tensor, state: dict[str, Tensor]) -> Tensor:
            return state["iteration"] >= 8

    part, uncertainty = attribute(Cut(), Counted(SMOOTH), photographs(), TARGETS, evaluations=64)
    assert 0 < distance(part, whole) < 0.1
    assert (uncertainty["error"] < 0.1).all()


def test_baselines() -> None:
    x = photographs()
    seeds = [5, 6, 7]
    assert (Baseline("black")(x, seeds) == 0).all()
    assert (Baseline(0.5)(x, seeds) == 0.5).all()
    torch.testing.assert_close(Baseline("mean")(x, seeds)[1, 2, 3, 4], x[1, 2].mean())
    random = Baseline("random")(x, seeds)
    assert torch.equal(random[1:], Baseline("random")(x[1:], seeds[1:]))
    assert not torch.equal(random[0], random[1])
    assert 0 <= random.min() < 0.05 < 0.95 < random.max() <= 1
    blurred = Baseline("blurred", 2.0)(x, seeds)
    torch.testing.assert_close(blurred.mean((2, 3)), x.mean((2, 3)), rtol=0.05, atol=0)
    assert (blurred.var((2, 3)) < 0.1 * x.var((2, 3))).all()


GRID, HEIGHT, WIDTH, P = 3, 10, 8, 0.4


def interpolation(length: int, cell: int, shift: int) -> np.ndarray:
    """Return ``(length, GRID)``: how a side of a mask mixes its cells, bilinearly between their centres."""
    centres = (shift + np.arange(length) + 0.5) * GRID / ((GRID + 1) * cell) - 0.5
    return np.clip(1 - np.abs(np.clip(centres, 0, GRID - 1)[:, None] - np.arange(GRID)), 0, None)


Shifts = Sequence[tuple[int, int]]
CELL = (math.ceil(HEIGHT / GRID), math.ceil(WIDTH / GRID))
SHIFTS = tuple(itertools.product(*map(range, CELL)))


def moments(shifts: Shifts = SHIFTS) -> Tensor:
    """Return E[M_q M_r] of all pairs of pixels: the mean over the shifts, of p^2 + p (1 - p) sum of w_q w_r."""
    total = np.zeros(())
    for top, left in shifts:
        weights = np.kron(interpolation(HEIGHT, CELL[0], top), interpolation(WIDTH, CELL[1], left))
        total = total + P**2 + P * (1 - P) * weights @ weights.T
    return torch.from_numpy(total / len(shifts))


def test_masks_of_rise_have_the_moments_of_the_paper() -> None:
    count = 4000
    drawn = masks([Key(0, k) for k in range(count)], torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.float64), GRID, P)
    assert drawn.shape == (count, 1, HEIGHT, WIDTH)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    flat = drawn.flatten(1)
    assert float((flat.mean(0) - P).abs().max()) < 5 * 0.5 / count**0.5
    second = moments()
    assert float((flat.T @ flat / count - second).abs().max()) < 5 * 0.5 / count**0.5
    assert float((second - P**2).abs().max()) > 0.15


def test_masks_of_rise_are_shifted_independently_in_both_directions() -> None:
    """Measured along the direction in which the moments would move if both shifts were one draw."""
    count = 12000
    drawn = masks([Key(1, k) for k in range(count)], torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.float64), GRID, P)
    flat = drawn.flatten(1)
    steps = range(math.lcm(*CELL))
    together = moments([tuple(side * step // len(steps) for side in CELL) for step in steps]) - moments()
    along = ((flat @ together) * flat).sum(1)
    error = float(along.std()) / count**0.5
    assert float(along.mean() - (together * moments()).sum()) == pytest.approx(0, abs=3 * error)
    assert float(together.square().sum()) > 6 * error


def test_rise_of_a_linear_network() -> None:
    """score(x M) = a (x M) is linear in the mask, so E[score M_q] / p is known from the masks' second moments."""
    count = 300
    x = photographs(HEIGHT, WIDTH)[:1, :1]
    region = torch.zeros(HEIGHT, WIDTH, dtype=torch.float64)
    region[2:5, 4:7] = 1 / 9
    method = RISE(GRID, P)
    method.objective, method.batch = Logit(), count
    network = Counted(lambda x: (x * region).sum((2, 3)))
    map_, uncertainty = attribute(method, network, x.expand(count, -1, -1, -1), [0] * count, evaluations=20)
    expected = moments() @ (x[0, 0] * region).flatten() / P
    spread = map_.flatten(1).var(0)
    assert ((map_.flatten(1).mean(0) - expected).abs() < 4.5 * (spread / count).sqrt()).all()
    pattern, limit = (a - a.mean(-1, keepdim=True) for a in (map_.flatten(1), expected))
    assert float(uncertainty["standard_error"].square().mean() / pattern.var(0).mean()) == pytest.approx(1, abs=0.1)
    error = float((pattern - limit).square().sum(1).mean().sqrt() / limit.norm())
    reported = relative_error(uncertainty["standard_error"].square(), pattern.square().mean(1), 4.0)
    assert float(reported.median()) == pytest.approx(error, rel=0.25)
    assert uncertainty["error"].isinf().all()  # of few masks
    row, column = divmod(int(expected.argmax()), WIDTH)
    assert region[row, column] > 0


def test_rise_explains_the_probability() -> None:
    map_, _ = attribute(RISE(4), Counted(SMOOTH), photographs(), TARGETS, evaluations=50)
    x = photographs()
    for n, target in enumerate(TARGETS.tolist()):
        seen = masks([Key(n, k) for k in range(50)], x, 4, 0.5)
        scores = torch.softmax(SMOOTH(x[n] * seen), 1)[:, target].detach()
        expected = (scores.view(-1, 1, 1, 1) * seen).sum(0) / (50 * 0.5)
        torch.testing.assert_close(map_[n], expected)
