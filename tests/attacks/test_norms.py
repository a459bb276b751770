"""The feasible set: projections are the nearest points, nothing is scaled up, starts are where they should be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_viz.attacks.norms import NORMS, NormName
from tests.support.attacks import photographs, saturated

EPS = torch.tensor([0.02, 0.3, 1.0, 4.0], dtype=torch.float64)
both = pytest.mark.parametrize("ball", ["linf", "l2"])
SOURCES = {"grey": photographs(4, 6, 5, 0.4, 0.6), "any": photographs(4, 6, 5), "black and white": saturated()}
anywhere = pytest.mark.parametrize("where", SOURCES)


def size(change: Tensor, ball: NormName) -> Tensor:
    flat = change.flatten(1)
    return flat.abs().amax(1) if ball == "linf" else flat.norm(dim=1)


def beyond(seed: int, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(4, 3, 6, 5, dtype=torch.float64, generator=generator)


@both
@anywhere
@pytest.mark.parametrize("scale", [1e-6, 0.03, 0.5, 100.0])
def test_a_projection_is_the_nearest_feasible_image(ball: NormName, where: str, scale: float) -> None:
    """p is nearest to x in a convex set if (x - p, y - p) <= 0 for every feasible y."""
    source = SOURCES[where]
    x = source + beyond(3, scale)
    p = NORMS[ball].project(x, source, EPS)
    assert ((p >= 0) & (p <= 1)).all()
    assert (size(p - source, ball) <= EPS + 1e-12).all()
    for seed in range(30):
        for reach in (0.01, 1.0, 10.0):
            y = NORMS[ball].project(source + beyond(seed, reach), source, EPS)
            product = ((x - p) * (y - p)).flatten(1).sum(1)
            assert (product <= 1e-9 * max(scale, 1)).all()


@both
@anywhere
def test_nothing_is_scaled_up(ball: NormName, where: str) -> None:
    source = SOURCES[where]
    for scale in (0.0, 1e-9, 1e-3):
        x = (source + beyond(1, scale)).clamp(0, 1)
        torch.testing.assert_close(NORMS[ball].project(x, source, EPS), x, rtol=0, atol=1e-15)


@both
def test_a_projected_image_stays(ball: NormName) -> None:
    source = SOURCES["any"]
    once = NORMS[ball].project(source + beyond(2, 1.0), source, EPS)
    torch.testing.assert_close(NORMS[ball].project(once, source, EPS), once, rtol=0, atol=1e-12)


def test_a_projection_does_not_depend_on_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    eps = torch.ones(2)
    for _ in range(100):
        x, source = torch.rand(2, 2, 3, 9, 9, generator=generator)
        once = NORMS["l2"].project(x, source, eps)
        with_one_on_the_sphere = [
            NORMS["l2"].project(torch.stack([once[0], other]), source, eps)[0] for other in (x[1], source[1])
        ]
        assert torch.equal(*with_one_on_the_sphere)
        with_a_distant_one = [
            NORMS["l2"].project(torch.stack([x[0], other]), source, eps)[0] for other in (x[1], source[1])
        ]
        assert torch.equal(*with_a_distant_one)


@both
def test_float32_keeps_to_the_radius(ball: NormName) -> None:
    source = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    x = source + torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    p = NORMS[ball].project(x, source, EPS)
    assert ((p >= 0) & (p <= 1)).all()
    assert (size((p - source).double(), ball) <= EPS + 1e-6).all()
    assert (size((p - source).double(), ball)[:3] >= EPS[:3].clamp(max=0.999) - 1e-5).all()


@both
def test_without_a_radius_the_photograph_stays(ball: NormName) -> None:
    source = SOURCES["any"]
    assert torch.equal(NORMS[ball].project(source + beyond(2, 1.0), source, EPS * 0), source)
    assert torch.equal(NORMS[ball].random_start(source, [0, 1, 2, 3], [0] * 4, EPS * 0), source)


@both
def test_the_steepest_way_has_norm_1_and_gains_the_dual_norm(ball: NormName) -> None:
    gradient = beyond(0, 1.0)
    way = NORMS[ball].steepest(gradient)
    dual = gradient.flatten(1).abs().sum(1) if ball == "linf" else gradient.flatten(1).norm(dim=1)
    torch.testing.assert_close(size(way, ball), torch.ones_like(dual))
    torch.testing.assert_close((way * gradient).flatten(1).sum(1), dual)


@both
def test_no_way_up_is_no_step_and_no_number_is_none(ball: NormName) -> None:
    gradient = beyond(0, 1.0)
    gradient[1] = 0
    gradient[2, 0, 0, 0] = torch.nan
    way = NORMS[ball].steepest(gradient)
    assert way[1].abs().max() == 0
    assert way[2].isnan().any()
    assert way[[0, 1, 3]].isfinite().all()


@both
@anywhere
def test_a_start_is_feasible_and_belongs_to_task_and_restart(ball: NormName, where: str) -> None:
    source = SOURCES[where]
    state = torch.random.get_rng_state()
    start = NORMS[ball].random_start(source, [7, 8, 9, 7], [0, 0, 0, 1], EPS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert ((start >= 0) & (start <= 1)).all()
    assert (size(start - source, ball) <= EPS + 1e-12).all()
    assert torch.equal(NORMS[ball].random_start(source[1:3], [8, 9], [0, 0], EPS[1:3]), start[1:3])
    same = NORMS[ball].random_start(source[:1].repeat(3, 1, 1, 1), [7, 8, 7], [0, 0, 1], EPS[:1].repeat(3))
    assert torch.equal(same[0], start[0])
    assert (same[0] != same[1]).any()
    assert (same[0] != same[2]).any()


def test_starts_fill_the_ball_evenly() -> None:
    """In the largest value uniform in each pixel; in length the share below r is (r / eps)^d, in one direction as
    likely as in the other."""
    source = torch.full((2000, 1, 1, 3), 0.5, dtype=torch.float64)
    eps = torch.full((2000,), 0.2, dtype=torch.float64)
    flat = (NORMS["linf"].random_start(source, range(2000), [0] * 2000, eps) - source).flatten() / 0.2
    assert abs(float(flat.mean())) < 0.03
    assert float(flat.square().mean()) == pytest.approx(1 / 3, abs=0.02)
    ball = (NORMS["l2"].random_start(source, range(2000), [0] * 2000, eps) - source).flatten(1) / 0.2
    assert ball.mean(0).abs().max() < 0.05
    for share in (0.5, 0.8):
        assert float((ball.norm(dim=1) < share).double().mean()) == pytest.approx(share**3, abs=0.04)
