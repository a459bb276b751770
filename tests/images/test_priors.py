from __future__ import annotations

import math

import pytest
import torch

from lit_viz.errors import LitVizError
from lit_viz.images import L2, Canvas, Clamp, Fourier, GaussianBlur, Pixels, SquaredL2, TotalVariation

CANVAS = Canvas(3, 6, 5, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ITERATION = torch.tensor([9, 10, 20])


def test_closed_forms() -> None:
    images = torch.zeros(2, 1, 3, 4)
    images[0, 0, 1, 1] = 3.0  # a pixel within: four neighbours
    images[1, 0, 0, 0], images[1, 0, 2, 3] = 3.0, -4.0  # corners: two each
    assert L2(2.0)(images).tolist() == [6.0, 10.0]
    assert SquaredL2(2.0)(images).tolist() == [18.0, 50.0]
    assert TotalVariation(2.0)(images).tolist() == [24.0, 28.0]


@pytest.mark.parametrize("prior", [L2(0.1), SquaredL2(0.1), TotalVariation(0.1)], ids=repr)
def test_gradient_agrees_with_finite_differences(prior) -> None:
    images = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(prior, images)


def test_l2_has_a_gradient_at_zero() -> None:
    images = torch.zeros(1, 1, 2, 2, requires_grad=True)
    L2()(images).sum().backward()
    assert torch.equal(images.grad, torch.zeros(1, 1, 2, 2))


def test_names_are_those_of_the_log() -> None:
    assert [prior().name for prior in (L2, SquaredL2, TotalVariation)] == ["l2", "squared_l2", "total_variation"]


@pytest.mark.parametrize(("space", "low", "high"), [("unit", 0.0, 1.0), ("normalized", -0.485 / 0.229, 0.515 / 0.229)])
def test_clamp_is_the_range_of_pictures(space: str, low: float, high: float) -> None:
    pixels = Pixels(space)
    x = torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1).expand(2, 3, 6, 5)
    clamped = Clamp()(x, torch.zeros(2), pixels, CANVAS)
    assert clamped[:, 0, 0, 0].tolist() == pytest.approx([low, high])
    decoded = pixels.decode(clamped, CANVAS)
    torch.testing.assert_close(decoded, torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand_as(x), rtol=0, atol=1e-6)
    inside = torch.rand(2, 3, 6, 5) * 0.9 + 0.05
    assert torch.equal(Clamp()(inside, torch.zeros(2), pixels, CANVAS), inside)


def test_blur_is_applied_to_the_due_rows() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    x = torch.randn(3, 3, 6, 5, dtype=torch.float64)
    blurred = GaussianBlur(0.5, every=10)(x, ITERATION, Pixels("normalized"), CANVAS)
    assert torch.equal(blurred[0], x[0])
    for row in (1, 2):
        expected = ndimage.gaussian_filter(x[row].numpy(), (0, 0.5, 0.5))
        torch.testing.assert_close(blurred[row], torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_nothing_due_is_nothing_done() -> None:
    x = torch.randn(3, 3, 6, 5)
    assert GaussianBlur(0.5, every=7)(x, ITERATION, Pixels(), CANVAS) is x


@pytest.mark.parametrize("projection", [GaussianBlur(), Clamp()], ids=repr)
def test_only_pixels_are_projected(projection) -> None:
    projection.check(Pixels("normalized"))
    with pytest.raises(LitVizError, match="requires the parameterization Pixels, got Fourier"):
        projection.check(Fourier())


@pytest.mark.parametrize(
    "build",
    [lambda: L2(-1.0), lambda: GaussianBlur(-0.1), lambda: GaussianBlur(0.5, 0), lambda: TotalVariation(math.nan)],
)
def test_invalid_arguments_are_rejected(build) -> None:
    with pytest.raises(LitVizError, match="must be non-negative"):
        build()
