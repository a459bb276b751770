from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lit_viz.errors import LitVizError
from lit_viz.images import (
    Blur,
    ColorShift,
    Compose,
    DiverseInput,
    ExponentialColorShift,
    Flip,
    Jitter,
    Noise,
    RandomCrop,
    Roll,
    Rotate,
    Saturation,
    Scale,
    Shear,
)
from lit_viz.images.filters import resample
from lit_viz.rng import Draws, Key
from tests.support.marks import slow

GEOMETRIC = [RandomCrop(0.4, 1.2), Scale(), Rotate(15), Shear(), Flip(), Jitter(2)]
KEEPING = [
    Roll(3),
    DiverseInput(1.0, 0.4),
    ColorShift(),
    ExponentialColorShift(),
    Saturation(),
    Noise(0.1),
    Blur(0.3, 1.6, every=1),
]
EVERYTHING = [*GEOMETRIC, *KEEPING]


def _keys(images: int, views: int = 1, iteration: int = 0) -> list[Key]:
    return [Key(seed, iteration, view) for seed in range(images) for view in range(views)]


def _images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("transform", EVERYTHING, ids=repr)
def test_a_view_depends_on_its_key_only(transform) -> None:
    images, keys = _images(4, 3, 12, 11), _keys(4, 3)
    together = Compose([transform])(images, Draws(keys), (10, 9))
    for n, b in [(0, 0), (2, 1), (3, 2)]:
        alone = Compose([transform])(images[n : n + 1], Draws([keys[3 * n + b]]), (10, 9))
        torch.testing.assert_close(alone[0], together[3 * n + b], rtol=0, atol=1e-6)
    assert not torch.equal(together[1], together[2]) or isinstance(transform, Flip)


@pytest.mark.parametrize("transform", EVERYTHING, ids=repr)
def test_iterations_and_seeds_differ(transform) -> None:
    images = _images(1, 3, 12, 12).expand(8, -1, -1, -1)
    first = transform(images, Draws(_keys(8)))
    assert not torch.equal(first, transform(images, Draws(_keys(8, iteration=1))))
    assert not torch.equal(first[:4], first[4:])


@pytest.mark.parametrize("transforms", [*[[t] for t in EVERYTHING], slow(EVERYTHING)], ids=repr)
def test_gradient_agrees_with_finite_differences(transforms) -> None:
    images = _images(2, 3, 7, 6, dtype=torch.float64).requires_grad_()
    compose, draws = Compose(transforms), Draws(_keys(2, 2))
    assert torch.autograd.gradcheck(lambda x: compose(x, draws, (5, 6)), images)


@pytest.mark.parametrize(
    "transforms",
    [
        [],
        [Roll(0)],
        [DiverseInput(0)],
        [DiverseInput(1, 1)],
        [Noise(0)],
        [ColorShift(0, 0)],
        [Blur(0, 0)],
        [Blur(every=2)],
    ],
    ids=repr,
)
def test_transforms_without_effect_are_bit_equal(transforms) -> None:
    images = _images(3, 3, 9, 8)
    draws = Draws(_keys(3, iteration=1))
    assert torch.equal(Compose(transforms)(images, draws), images)
    views = Compose(transforms)(images, Draws(_keys(3, 2, iteration=1)), (9, 8))
    assert torch.equal(views, images.repeat_interleave(2, 0))


@pytest.mark.parametrize(
    "transform", [RandomCrop(1, 1), Scale(1, 1), Rotate(0), Shear(0), Flip(0), Jitter(0)], ids=repr
)
def test_geometric_identity(transform) -> None:
    images = _images(2, 3, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(transform(images, Draws(_keys(2))), images, rtol=0, atol=1e-12)


def test_roll_is_exact_and_wraps() -> None:
    images = _images(40, 3, 7, 5)
    rolled = Roll(2)(images, Draws(_keys(40)))
    shifts = set()
    for image, moved in zip(images, rolled, strict=True):
        found = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if torch.equal(image.roll((i, j), (-2, -1)), moved)]
        shifts |= set(found)
        assert found
    assert len(shifts) > 15


def test_diverse_input_is_the_whole_image_smaller_on_black() -> None:
    ones = torch.ones(600, 1, 20, 10, dtype=torch.float64)
    views = DiverseInput(0.7, 0.5)(ones, Draws(_keys(600)))
    inside = views[:, 0] > 0.5
    torch.testing.assert_close(views[:, 0], inside.double(), rtol=0, atol=1e-12)  # a rectangle of ones on zeros
    heights, widths = inside.any(2).sum(1), inside.any(1).sum(1)
    assert torch.equal(inside.sum((1, 2)), heights * widths)
    changed = heights < 20
    assert abs(int(changed.sum()) - 0.7 * 600 * 9.5 / 10) < 5 * math.sqrt(600 * 0.7 * 0.3)  # a side above 0.975 is 20
    assert set(heights.tolist()) == set(range(10, 21))
    assert ((heights / 2 - widths).abs() <= 1).all()
    for edge in (0, -1):  # each is reached
        assert inside[changed][:, :, edge].any()
        assert inside[changed][:, edge].any()
    tops = inside[heights == 15].any(2).int().argmax(1)
    assert set(tops.tolist()) == set(range(6))
    image = torch.arange(10, dtype=torch.float64).expand(1, 1, 10, 10)
    (view,) = DiverseInput(1.0, 0.5)(image, Draws([Key(2, 0)]))
    row = view[0][view[0].sum(1) > 0][0]
    kept = row[row > 0]
    assert (kept.diff() > 0).all()
    assert kept.mean() == pytest.approx(4.5, abs=0.3)  # the whole image, no part of it


def test_flip_mirrors_with_its_probability() -> None:
    images = _images(1, 1, 3, 4, dtype=torch.float64).expand(400, -1, -1, -1)
    views = Flip(0.25)(images, Draws(_keys(400)))
    flipped = (views - images.flip(-1)).abs().amax((1, 2, 3)) < 1e-12
    kept = (views - images).abs().amax((1, 2, 3)) < 1e-12
    assert (flipped ^ kept).all()
    assert abs(int(flipped.sum()) - 100) < 5 * math.sqrt(400 * 0.25 * 0.75)


def test_reading_places_against_an_independent_interpolation() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    image = _images(1, 1, 15, 12, dtype=torch.float64)
    size, angle = (9, 10), math.radians(20)
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * [[0.8], [1.1]]
    shift = np.array([1.3, -0.7])  # x, y, in pixels of the view
    full = torch.eye(3, dtype=torch.float64)
    full[:2, :2], full[:2, 2] = torch.from_numpy(matrix), torch.from_numpy(shift)
    rows, columns = np.mgrid[: size[0], : size[1]]
    view = np.stack([columns - (size[1] - 1) / 2, rows - (size[0] - 1) / 2], -1) @ matrix.T + shift
    # A view pixel is 12 / 10 by 15 / 9 pixels of the image.
    x, y = view[..., 0] * 12 / 10 + 5.5, view[..., 1] * 15 / 9 + 7
    # scipy's "reflect" mirrors about the edge of the image as well.
    expected = ndimage.map_coordinates(image[0, 0].numpy(), [y, x], order=1, mode="reflect")
    found = resample(image, full[None], size)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_fusion_is_the_order_of_the_list() -> None:
    # A smooth image, so that two resamplings in a row differ little from one.
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    image = torch.stack([rows / 64, columns / 64, (rows + columns) / 128])[None].double()
    draws = Draws(_keys(1))
    fused = Compose([Rotate(30), Jitter(9)])(image, draws)
    rotated = Rotate(30)(image, draws.scoped("0.Rotate"))
    in_turn = Jitter(9)(rotated, draws.scoped("1.Jitter"))
    middle = (..., slice(20, 44), slice(20, 44))
    torch.testing.assert_close(fused[middle], in_turn[middle], rtol=0, atol=1e-6)
    swapped = Compose([Jitter(9), Rotate(30)])(image, draws)
    assert (swapped[middle] - fused[middle]).abs().max() > 1e-2


def test_two_of_a_kind_draw_differently() -> None:
    image = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    noise = Compose([Noise(1.0), Noise(1.0)])(image, Draws(_keys(1)))
    assert abs(float(noise.std()) - math.sqrt(2)) < 0.1  # 2 if both were the same


def test_a_crop_stays_on_the_canvas_and_reaches_its_edges() -> None:
    columns = torch.arange(100.0, dtype=torch.float64).expand(1, 1, 100, 100)
    views = Compose([RandomCrop(0.5, 0.5)])(columns, Draws([Key(seed, 0) for seed in range(500)]), (50, 50))
    left, right = views[:, 0, 0, 0], views[:, 0, 0, -1]
    torch.testing.assert_close(right - left, torch.full_like(left, 49.0), rtol=0, atol=1e-9)
    assert 0 <= left.min() < 1
    assert 98 < right.max() <= 99


@pytest.mark.parametrize(("count", "views"), [(1, 4), (1, 3), (2, 1), (3, 2)])
def test_any_number_of_images_and_views(count: int, views: int) -> None:
    images = _images(count, 3, 10, 10).requires_grad_()
    out = Compose([RandomCrop(), Rotate()])(images, Draws(_keys(count, views)), (6, 7))
    assert out.shape == (count * views, 3, 6, 7)
    for m, key in enumerate(_keys(count, views)):
        alone = Compose([RandomCrop(), Rotate()])(images[m // views][None], Draws([key]), (6, 7))
        torch.testing.assert_close(out[m], alone[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("views", [1, 3, 4])
def test_images_and_gradients_are_bit_equal_in_every_batch(views: int) -> None:
    many, keys = _images(8, 3, 20, 22), _keys(8, views)
    transform = Compose([RandomCrop(), Rotate(), Flip(), ColorShift(), Noise(0.1), Blur(0.3, 1.6, every=1)])

    def views_and_gradients(images: torch.Tensor, keys: list[Key]) -> tuple[torch.Tensor, torch.Tensor]:
        images = images.clone().requires_grad_()
        views = transform(images, Draws(keys), (16, 15))
        return views.detach(), torch.autograd.grad(views.square().sum(), images)[0]

    all_views, gradients = views_and_gradients(many, keys)
    for first, last in [(0, 1), (1, 3), (1, 4), (0, 8)]:
        rows = slice(first * views, last * views)
        own_views, own_gradients = views_and_gradients(many[first:last], keys[rows])
        assert torch.equal(own_views, all_views[rows])
        assert torch.equal(own_gradients, gradients[first:last])


def test_another_size_resamples_the_whole_canvas() -> None:
    images = _images(2, 3, 12, 16)
    expected = torch.nn.functional.interpolate(images, (10, 11), mode="bilinear", align_corners=False)
    torch.testing.assert_close(Compose()(images, Draws(_keys(2)), (10, 11)), expected, rtol=0, atol=1e-5)


def test_every_pixel_of_a_large_canvas_has_a_gradient() -> None:
    """No pixel is skipped; a skipped one has no gradient, and the image becomes a grid of dots."""
    images = _images(1, 1, 64, 96).requires_grad_()
    Compose()(images, Draws(_keys(2)), (8, 16)).sum().backward()
    assert images.grad is not None
    assert float(images.grad.min()) > 0
    smaller = Compose()(images.detach(), Draws(_keys(1)), (8, 16))
    expected = torch.nn.functional.adaptive_avg_pool2d(images.detach(), (8, 16))
    assert (smaller - expected).abs().max() < 0.12  # of noise whose standard deviation is 0.29


def test_an_exponential_color_shift_is_a_mean_and_a_std_a_channel() -> None:
    images = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]).repeat(40, 1, 1, 1).double()
    keys = [Key(seed, 0) for seed in range(40) for _ in range(2)]
    low, high = ExponentialColorShift(1.0, 1.0)(images, Draws(keys)).view(40, 2, 3, 4).unbind(1)
    std = 1 / (high - low)
    assert float(std.log().abs().max()) <= 1
    assert float(std.log().max()) > 0.9
    assert float((low * std).abs().max()) <= 1
    assert float((low * std).min()) < -0.9
    assert not torch.allclose(std[:, 0], std[:, 1])


def test_color_shift_is_one_line_a_channel() -> None:
    images = _images(50, 3, 6, 6, dtype=torch.float64)
    shifted = ColorShift(0.3, 0.15)(images, Draws(_keys(50)))
    low, high = images.flatten(2).min(2), images.flatten(2).max(2)
    slope = shifted.flatten(2).gather(2, high.indices[..., None]) - shifted.flatten(2).gather(2, low.indices[..., None])
    slope = slope[..., 0] / (high.values - low.values)
    offset = shifted.flatten(2)[..., 0] - slope * images.flatten(2)[..., 0]
    residual = shifted - slope[..., None, None] * images - offset[..., None, None]
    assert residual.abs().max() < 1e-12
    assert 0.7 <= slope.min() < 0.75
    assert 1.25 < slope.max() <= 1.3
    assert -0.15 <= offset.min() < -0.12
    assert 0.12 < offset.max() <= 0.15


def test_saturation_keeps_the_mean_of_the_channels() -> None:
    images = _images(40, 3, 4, 5, dtype=torch.float64)
    calmer = Saturation(0.2, 0.9)(images, Draws(_keys(40)))
    torch.testing.assert_close(calmer.mean(1), images.mean(1))
    factor = (calmer - calmer.mean(1, keepdim=True)) / (images - images.mean(1, keepdim=True))
    assert (factor.amax((1, 2, 3)) - factor.amin((1, 2, 3))).max() < 1e-6
    assert 0.2 <= factor.min() < 0.3
    assert 0.8 < factor.max() <= 0.9


def test_blur_agrees_with_scipy_and_takes_its_turn() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    images = _images(4, 3, 9, 14, dtype=torch.float64)
    keys = [Key(seed, iteration) for seed, iteration in enumerate([0, 1, 2, 3])]
    draws = Draws(keys)
    blurred = Blur(0.3, 1.6, every=2)(images, draws)
    sigma = draws.uniform("sigma", 0.3, 1.6).tolist()
    for n in (1, 3):
        assert torch.equal(blurred[n], images[n])
    for n in (0, 2):
        expected = ndimage.gaussian_filter(images[n].numpy(), (0, sigma[n], sigma[n]), truncate=3.0)
        np.testing.assert_allclose(blurred[n].numpy(), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: RandomCrop(0.0, 1.0), "RandomCrop: 0 < low"),
        (lambda: RandomCrop(1.0, 0.5), "got 1.0 and 0.5"),
        (lambda: RandomCrop(shrink=0.0), "RandomCrop: shrink"),
        (lambda: Scale(-1, 1), "Scale: 0 < low"),
        (lambda: Rotate(-1), "Rotate: degrees"),
        (lambda: Rotate(math.inf), "Rotate: degrees"),
        (lambda: RandomCrop(0.4, math.inf), "RandomCrop: 0 < low"),
        (lambda: Shear(1.0), "Shear: amount"),
        (lambda: Flip(1.5), "Flip: probability"),
        (lambda: Jitter(-1), "Jitter: pixels"),
        (lambda: Roll(-1), "Roll: pixels"),
        (lambda: DiverseInput(1.5), "DiverseInput: probability must be"),
        (lambda: DiverseInput(low=0), "DiverseInput: low must be in"),
        (lambda: ColorShift(1.0), "scale must be in"),
        (lambda: ExponentialColorShift(-1.0), "must be non-negative"),
        (lambda: Noise(math.nan), "Noise: sd"),
        (lambda: Saturation(1.0, 0.5), "Saturation: 0 <= low"),
        (lambda: Blur(2, 1), "Blur: 0 <= low"),
        (lambda: Blur(every=0), "Blur: every must be at least 1"),
    ],
)
def test_invalid_arguments_are_rejected(build, sentence: str) -> None:
    with pytest.raises(LitVizError, match=sentence):
        build()


def _side(view: torch.Tensor) -> float:
    """Return what part of a ramp from 0 to 1 a view spans."""
    return float(view[0, 0, -1] - view[0, 0, 0]) * 64 / 63


def test_a_crop_shrinks_linearly_over_the_iterations_of_its_image() -> None:
    ramp = ((torch.arange(64.0) + 0.5) / 64).double().expand(1, 1, 64, 64)
    crop = RandomCrop(0.5, 0.5, shrink=0.1)
    for iteration, last in [(0, 40), (10, 40), (20, 40), (40, 40), (5, 10)]:
        view = Compose([crop])(ramp, Draws([Key(3, iteration)], last_iterations=[last]), (64, 64))[0]
        assert _side(view) == pytest.approx(0.5 * (1 - 0.9 * iteration / last), abs=1e-6)


def test_a_crop_that_does_not_shrink_needs_no_last_iteration() -> None:
    images, draws = _images(2, 3, 8, 8), Draws(_keys(2, iteration=3), last_iterations=[9, 9])
    assert torch.equal(RandomCrop()(images, draws), RandomCrop()(images, Draws(_keys(2, iteration=3))))
    with pytest.raises(RuntimeError, match="requires last_iterations"):
        RandomCrop(shrink=0.5)(images, Draws(_keys(2)))


def test_a_transform_without_a_purpose_draws_by_its_class_name() -> None:
    """A subclass does not inherit the purpose: its draws are its own."""

    class Sideways(Jitter):
        pass

    class Renamed(Jitter):
        purpose = "Jitter"

    image, draws = _images(1, 3, 12, 12), Draws(_keys(1, 4))
    assert (Jitter.purpose, Sideways.purpose, Renamed.purpose) == ("Jitter", "Sideways", "Jitter")
    frozen, own, renamed = (Compose([kind(5)])(image, draws) for kind in (Jitter, Sideways, Renamed))
    assert torch.equal(renamed, frozen)
    assert not torch.equal(own, frozen)
