"""Rounding and repair against closed forms of a linear network, exhaustive search, and scikit-image."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from lit_viz.attacks import DDN, run_attack
from lit_viz.attacks.norms import L2, LINF
from lit_viz.attacks.rounding import (
    CANDIDATES,
    JPEG_QUALITIES,
    LatticeBall,
    Saved,
    Verifier,
    distances,
    save_and_verify,
)
from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks.files import RecordedFile, evaluate_files
from lit_viz.images.formats import PICTURE
from lit_viz.images.reading import decode, encode_jpeg, encode_png, read_png
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.runs.records import AdversarialRecord
from tests.support.networks import smooth_network

#: Margin in logits that a repair aims at, for a network whose logits are below 1.
DOUBT = torch.finfo(torch.float32).eps ** 0.5


def linear(weight: Tensor, bias: float = 0.0, dtype: torch.dtype = torch.float64) -> Network:
    """Return a network with the logits (0, w . x + b), so that class 1 has the margin w . x + b."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(weight.numel(), 2))
    network[1].weight.data = torch.stack([torch.zeros(weight.numel()), weight.flatten().float()])
    network[1].bias.data = torch.tensor([0.0, bias])
    channels, *size = weight.shape
    return load_network(network.to(dtype), labels=["no", "yes"], mean=[0.0] * channels, std=[1.0] * channels, size=size)


def verify(net: Network, images: Tensor, sources: Tensor, eps: float | None = None, **options) -> list[Saved]:
    """Verify images with class 1 as the target, which are successes before rounding; options override both."""
    n = len(images)
    rows = {
        "goals": torch.ones(n, dtype=torch.long),
        "targeted": torch.ones(n, dtype=torch.bool),
        "float_success": torch.ones(n, dtype=torch.bool),
        "norm": None if eps is None else LINF,
        **options,
    }
    return save_and_verify(
        net, images, sources, eps=None if eps is None else torch.full((n,), eps, dtype=torch.float64), **rows
    )


def lattice_images(n: int, *shape: int, seed: int = 0, low: int = 0, high: int = 255) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, (n, *shape), generator=generator).float() / 255


def evaluated(
    paths: Sequence[Path], net: Network, goals: Sequence[int], targeted: Sequence[bool], batch: int = 16
) -> list[tuple[bool, Tensor]]:
    """Evaluate files that are recorded with these goals."""
    files = []
    for path, goal, is_targeted in zip(paths, goals, targeted, strict=True):
        classes = {"target": goal} if is_targeted else {"label": goal}
        record = AdversarialRecord(index=0, name="image", attack="pgd", **classes)
        files.append(
            RecordedFile(
                str(path), partial(read_png, path), record, lambda: None, lambda _: pytest.fail("no photograph")
            )
        )
    return [(values.file.success, values.file.logits) for values in evaluate_files(files, net, batch)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# -- the files


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_gives_back_every_level_bit_by_bit(channels):
    image = (torch.arange(256).float() / 255).view(1, 16, 16).repeat(channels, 1, 1)
    image[1:] = image[1:].flip(2)
    assert torch.equal(decode(encode_png(image)), image)
    assert Image.open(io.BytesIO(encode_png(image))).mode == ("L" if channels == 1 else "RGB")
    assert torch.equal(PICTURE.image(PICTURE.levels(image)), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_is_lossy_and_the_more_so_the_lower_its_quality(channels):
    image = lattice_images(1, channels, 24, 20)[0]
    errors = [float((decode(encode_jpeg(image, quality)) - image).square().mean()) for quality in (95, 75)]
    assert 0 < errors[0] < errors[1]


def test_a_palette_that_another_program_made_of_a_png_is_read_as_colours(tmp_path):
    image = lattice_images(1, 3, 4, 4)[0]
    Image.open(io.BytesIO(encode_png(image))).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    assert torch.equal(read_png(tmp_path / "p.png"), image)


# -- rounding


def test_rounding_to_the_nearest_level_equals_the_saved_file():
    source = lattice_images(2, 3, 5, 4)
    image = (source + 0.03 * random(*source.shape) - 0.015).clamp(0, 1)
    net = linear(random(3, 5, 4, seed=1) - 0.5)
    for saved, given in zip(
        verify(net, image, source, float_success=torch.zeros(2, dtype=torch.bool)), image, strict=True
    ):
        assert torch.equal(saved.image, (given * 255).round() / 255)
        assert torch.equal(saved.logits, net.scores(saved.image[None])[0])
        assert saved.success == bool(saved.logits.argmax() == 1)
        assert saved.image.dtype == torch.float32


@pytest.mark.parametrize("eps", [0.0, 1.5 / 255, 2 / 255, 0.05])
@pytest.mark.parametrize("off_lattice", [False, True])
def test_a_rounded_image_stays_in_the_linf_ball_around_the_source_as_given(eps, off_lattice):
    source = random(6, 3, 5, 4) if off_lattice else lattice_images(6, 3, 5, 4)
    image = (source + eps * (2 * random(*source.shape, seed=1) - 1).sign()).clamp(0, 1)
    for n, saved in enumerate(verify(linear(torch.ones(3, 5, 4)), image, source, eps)):
        inside = bool(((saved.image.double() - source[n].double()).abs() <= eps + 1e-6).all())
        reachable = torch.ceil((source[n] - eps).double() * 255 - 1e-4) <= torch.floor(
            (source[n] + eps).double() * 255 + 1e-4
        )
        assert inside == bool(reachable.all())
        assert inside or not saved.success


def test_eps_tolerates_rounding_errors():
    source = torch.zeros(1, 1, 2, 2)
    for level in (1, 2, 4, 8, 16, 33, 37, 57):
        for eps in (level / 255, level * (1 / 255)):
            (saved,) = verify(linear(torch.ones(1, 2, 2)), source + eps, source, eps)
            assert saved.distances["linf"] == level / 255


def l2_cases(count: int, values: int) -> list[tuple[LatticeBall, float, Tensor, Tensor]]:
    """Return balls, their radii in levels, images on their surface, and gradients."""
    found = []
    for seed in range(count):
        source = lattice_images(1, 1, 1, values, seed=seed, low=50, high=200)[0]
        change, gradient = (2 * random(2, 1, 1, values, seed=seed) - 1).double()
        eps = (0.2 + 4 * float(random(1, seed=seed))) * math.sqrt(values) / 255
        image = source.double() + change * eps / change.norm()
        found.append((LatticeBall(source, L2, eps), eps * 255, image, gradient))
    return found


def test_rounding_in_an_l2_ball_is_feasible_and_steps_back_as_little_as_can_be():
    outside = 0
    for ball, radius, image, gradient in l2_cases(1000, 8):
        rounded = ball.nearest(image)
        levels = ball.shorten(rounded, gradient)
        assert float((levels - ball.source).norm()) <= radius * (1 + 1e-6)
        steps = (rounded - ball.source).sign()
        back = (rounded - levels) * steps
        assert set(back.unique().tolist()) <= {0.0, 1.0}
        outside += not ball.contains(rounded)
        loss = (gradient * steps).flatten()
        # Exhaustively: which single steps back bring it into the ball at the least cost?
        choices = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)), dtype=torch.float64)
        lengths = (rounded.flatten() - choices * steps.flatten() - ball.source.flatten()).square().sum(1)
        fits = lengths <= radius**2 * (1 + 1e-6)
        best = float((choices @ loss.clamp(min=0))[fits].min())
        assert float(back.flatten() @ loss.clamp(min=0)) <= best + float(loss.clamp(min=0).max()) + 1e-12
        if bool((back > 0).any()):  # none of the steps was too much but perhaps the last
            last = (
                (loss / (2 * (rounded - ball.source).abs().flatten() - 1)).where(back.flatten() > 0, -math.inf).argmax()
            )
            assert not ball.contains(
                (levels.flatten().index_add(0, last[None], steps.flatten()[last][None])).view_as(levels)
            )
    assert outside > 200


def test_an_l2_ball_without_a_lattice_point_makes_no_success():
    source = torch.full((1, 1, 2, 2), 100.5 / 255)
    (saved,) = verify(linear(torch.ones(1, 2, 2)), source + 0.001, source, 0.002, norm=L2)
    assert saved.logits.argmax() == 1
    assert not saved.success
    (saved,) = verify(linear(torch.ones(1, 2, 2), -406 / 255), source + 0.001, source, 0.002, norm=L2)
    assert (saved.success, saved.repaired) == (False, 0)


# -- repair


def killed(values: int, seed: int) -> tuple[Network, Tensor, Tensor]:
    """Return a linear network, a photograph, and a success that is lost by rounding."""
    source = lattice_images(1, 1, 4, values // 4, seed=seed, low=40, high=215)
    weight = (2 * random(1, 4, values // 4, seed=seed + 1) - 1).double()
    rounded_off = 0.1 + 0.35 * random(1, 4, values // 4, seed=seed + 2)
    change = weight.sign() * (rounded_off + 2 * (random(1, 4, values // 4, seed=seed + 3) < 0.2)) / 255
    image = source.double() + change
    margin = float((weight * image[0]).sum())
    return linear(weight.float(), -margin + 0.01 / 255), image, source


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_success_lost_by_rounding_is_repaired_by_the_fewest_levels(seed, dtype):
    net, image, source = killed(64, seed)
    (lost,) = verify(net, image.to(dtype), source, float_success=torch.tensor([False]))
    (saved,) = verify(net, image.to(dtype), source)
    assert not lost.success
    assert saved.success
    weight = net.original[1].weight[1].abs().sort(descending=True).values / 255
    fewest = int((weight.cumsum(0) <= DOUBT - float(lost.logits[1] - lost.logits[0])).sum()) + 1
    assert saved.repaired == fewest > 1
    assert float(((saved.image - lost.image).abs() * 255).round().max()) == 1


@pytest.mark.parametrize("seed", range(20))
def test_a_repair_stays_in_the_linf_ball(seed):
    net, image, source = killed(64, seed)
    (lost,) = verify(net, image, source, 1.5 / 255, float_success=torch.tensor([False]))
    (saved,) = verify(net, image, source, 1.5 / 255)
    assert saved.distances["linf"] <= 1 / 255 + 1e-12
    weight = net.original[1].weight[1].double()
    free = (lost.image == source[0]).flatten()
    gains = weight.abs()[free].sort(descending=True).values / 255
    deficit = DOUBT - float(lost.logits[1] - lost.logits[0])
    assert saved.success == bool(gains.sum() > deficit)
    assert saved.repaired == (int((gains.cumsum(0) <= deficit).sum()) + 1 if saved.success else 0)


def test_where_no_lattice_point_in_the_ball_succeeds_it_is_a_failure():
    source = torch.full((1, 1, 4, 4), 100 / 255)
    net = linear(torch.ones(1, 4, 4), -16 * (100 / 255 + 1.2 / 255))
    image = source + 1.4 / 255
    assert net.scores(image).argmax() == 1
    (saved,) = verify(net, image, source, 1.4 / 255)
    assert not saved.success
    assert saved.repaired == 0
    assert saved.distances["linf"] == 1 / 255
    (free,) = verify(net, image, source)  # without a ball one more level does
    assert free.success
    assert free.repaired == 4


@pytest.mark.slow
def test_an_l2_repair_is_a_success_only_where_exhaustive_search_has_one():
    steps = torch.tensor(list(itertools.product(range(-3, 4), repeat=4)), dtype=torch.float64)
    won = possible = 0
    for seed in range(60):
        source = lattice_images(1, 1, 2, 2, seed=seed, low=40, high=215)
        weight = 2 * random(1, 2, 2, seed=seed + 1) - 1
        eps = (1.0 + 1.9 * float(random(1, seed=seed))) / 255
        image = source + eps * weight / weight.norm()
        net = linear(
            weight, -float((weight * image[0]).double().sum()) + (0.05 + 0.4 * float(random(1, seed=seed + 2))) / 255
        )
        (saved,) = verify(net, image, source, eps, norm=L2)
        inside = steps[steps.norm(dim=1) <= eps * 255 + 1e-9]
        best = net.scores(source.double() + inside.view(-1, 1, 2, 2) / 255).argmax(1).max()
        assert saved.distances["l2"] <= eps + 1e-9
        assert saved.success <= bool(best)
        won, possible = won + saved.success, possible + int(best)
    assert won >= 0.7 * possible > 15  # greedy: the best of few values is hard to find


def test_saturated_values_are_not_moved():
    source = torch.tensor([1.0, 1.0, 0.0, 128 / 255]).view(1, 1, 2, 2)
    net = linear(torch.tensor([5.0, 4.0, -3.0, 1.0]).view(1, 2, 2), -(9 + 130.5 / 255))
    (saved,) = verify(net, source + torch.tensor([0.0, 0.0, 0.0, 2.49 / 255]).view(1, 1, 2, 2), source)
    assert saved.success
    assert saved.repaired == 1
    assert torch.equal((saved.image * 255).round().flatten(), torch.tensor([255.0, 255.0, 0.0, 131.0]))


def test_a_nan_network_or_image_is_a_failure():
    source = lattice_images(1, 1, 2, 2)
    net = linear(torch.ones(1, 2, 2))
    net.original[1].weight.data[:] = torch.nan
    assert not verify(net, source, source)[0].success
    (saved,) = verify(linear(torch.ones(1, 2, 2), -3), source * torch.nan, source)
    assert torch.equal(saved.image, torch.zeros(1, 2, 2))
    assert not saved.success


class Curved(nn.Module):
    """The logits (0, f(t)), where t is the sum of the levels above a grey of 100."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f
        self.levels = nn.Conv2d(1, 1, 1)
        self.levels.weight.data[:], self.levels.bias.data[:] = 255, -100

    def forward(self, x: Tensor) -> Tensor:
        margin = self.f(self.levels(x).flatten(1).sum(1))
        return torch.stack([torch.zeros_like(margin), margin], 1)


def curved(f: Callable[[Tensor], Tensor], size: int, change: float) -> Saved:
    """Verify an image of size * size pixels of level 100, each raised by its change in levels."""
    net = load_network(Curved(f), labels=["no", "yes"], mean=[0.0], std=[1.0], size=size)
    source = torch.full((1, 1, size, size), 100 / 255)
    image = (source.double() * 255 + change) / 255
    assert net.scores(image).argmax() == 1
    (lost,) = verify(net, image, source, float_success=torch.tensor([False]))
    assert not lost.success
    return verify(net, image, source)[0]


def test_roundings_are_undone_without_a_gradient():
    saved = curved(lambda t: t.relu() ** 2 - 5.5, 3, 0.4)  # flat at the photograph
    assert saved.success
    assert saved.repaired == 3


def test_the_number_of_moves_is_doubled_and_bisected_if_the_gradient_overestimates():
    def f(t: Tensor) -> Tensor:
        return t - (t - 1).relu() / 2 - 0.4 * (t - 3.5).relu() + 0.9 * (t - 12.5).relu() - 2.62

    saved = curved(f, 6, 0.4)
    assert saved.success
    assert saved.repaired == 8


def test_a_second_level_is_tried_if_one_does_not_suffice():
    saved = curved(lambda t: t - 1.5 + 5 * (0.3 - (t - 0.4).abs()).relu(), 1, 0.4)
    assert saved.success
    assert saved.repaired == 2


class Capped(nn.Module):
    """The logits (2, 2 + w . min(levels above a grey of 100, 0.8) + b)."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x: Tensor) -> Tensor:
        margin = (x * 255 - 100).clamp(max=0.8).flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(margin), margin], 1) + 2


def test_successful_roundings_are_unchanged():
    weight = torch.tensor([2.0] * 2 + [1.0] * 10)
    change = torch.tensor([0.55] * 2 + [0.4] * 10).view(1, 3, 1, 4)
    net = load_network(Capped(weight, -6.0), labels=["no", "yes"], mean=[0.0] * 3, std=[1.0] * 3, size=(1, 4))
    (saved,) = verify(net, (100 + change) / 255, torch.full_like(change, 100 / 255))
    assert saved.success
    assert saved.repaired == 4
    assert torch.equal((saved.image * 255 - 100).round().flatten()[:2], torch.ones(2))


def test_each_jpeg_of_a_batch_has_its_own_goal():
    source = lattice_images(3, 1, 4, 4)
    found = verify(linear(torch.full((1, 4, 4), 0.1), 1.0), source, source, goals=torch.tensor([0, 1, 1]))
    assert [one.jpeg for one in found] == [{95: met, 75: met} for met in (False, True, True)]


def test_a_jpeg_is_classified_on_its_own():
    source = lattice_images(12, 1, 8, 8)
    weight = 2 * random(1, 8, 8) - 1
    image = (source + 6 / 255 * weight.sign()).clamp(0, 1)
    found = []
    for n in range(12):
        part = 0.4 + 0.05 * n
        net = linear(weight, -float((weight * ((1 - part) * source[n] + part * image[n])).double().sum()))
        (saved,) = verify(net, image[n : n + 1], source[n : n + 1])
        for quality in (95, 75):
            buffer = io.BytesIO()
            Image.fromarray((saved.image[0] * 255).round().byte().numpy()).save(buffer, "JPEG", quality=quality)
            pixels = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).float() / 255
            assert saved.jpeg[quality] == bool(net.scores(pixels[None, None]).argmax() == 1)
        found.append((saved.success, saved.jpeg[95], saved.jpeg[75]))
    assert {(True, True, True), (True, True, False)} <= set(found)


def test_a_float_failure_is_not_repaired_but_its_file_may_succeed():
    net, image, source = killed(64, 0)
    no = torch.tensor([False])
    assert verify(net, image, source, float_success=no)[0].repaired == 0
    up = source + 0.6 / 255
    net = linear(torch.ones(1, 4, 16), -float(source.sum()) - 64 * 0.8 / 255)
    assert net.scores(up).argmax() == 0
    assert verify(net, up, source, float_success=no)[0].success


@pytest.mark.parametrize(
    ("goal", "targeted", "success"), [(0, True, True), (1, True, False), (0, False, False), (1, False, True)]
)
def test_a_tie_is_decided_as_by_argmax(goal, targeted, success):
    source = lattice_images(1, 1, 2, 2)
    (saved,) = verify(
        linear(torch.zeros(1, 2, 2)), source, source, goals=torch.tensor([goal]), targeted=torch.tensor([targeted])
    )
    assert saved.success == success
    assert saved.jpeg == {95: success, 75: success}


# -- networks


@pytest.mark.parametrize(("gap", "decides"), [(1e-4, "original"), (1e-2, "fast")])
def test_the_original_network_decides_on_a_jpeg_near_the_boundary(gap, decides, monkeypatch):
    """A constant image is a JPEG without loss, so that the margin of each JPEG is the gap."""
    net = linear(torch.zeros(1, 8, 8), gap)
    image = torch.full((1, 1, 8, 8), 100 / 255)
    right = int(net.scores(image).argmax())
    monkeypatch.setattr(net.fast(), "output", _Reversed(net.fast().output))
    no_repair = torch.zeros(1, dtype=torch.bool)
    (saved,) = verify(net, image, image, goals=torch.tensor([1 - right]), float_success=no_repair)
    assert saved.jpeg == dict.fromkeys(JPEG_QUALITIES, decides == "fast")


class _Reversed:
    """Output of a fast copy that is wrong."""

    def __init__(self, output: Any) -> None:
        self._output = output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)

    def scores(self, *args: Any) -> Tensor:
        return self._output.scores(*args).flip(1)

    final = scores


def counted(network: nn.Module, calls: list[str], name: str) -> None:
    network.register_forward_hook(lambda *_: calls.append(name))


@pytest.mark.parametrize("norm", [None, L2])
def test_a_hopeless_repair_costs_few_evaluations(norm):
    """No candidate of the fast copy succeeds, so the original network evaluates the PNG only."""
    source = lattice_images(1, 3, 16, 16, low=100, high=150)
    network = nn.Sequential(smooth_network(), nn.Linear(5, 2))
    network[1].weight.data[:] = network[1].weight.data[0]
    network[1].bias.data = torch.tensor([1000.0, 0.0])
    net = load_network(network, labels=["a", "b"], mean=[0.5] * 3, std=[0.25] * 3, size=16)
    calls: list[str] = []
    counted(net.fast(), calls, "fast")
    counted(net.original, calls, "original")
    (saved,) = verify(net, source + 0.001 * random(*source.shape), source, None if norm is None else 0.05, norm=norm)
    assert not saved.success
    assert calls.count("original") == 1
    assert calls.count("fast") <= len(JPEG_QUALITIES) + 3 * (1 + CANDIDATES) + (norm is L2) <= 24


@pytest.fixture(scope="module")
def lost() -> tuple[Network, Tensor, Tensor, Tensor, Tensor]:
    """Minimal float perturbations of eight images on a curved network, most of which are lost by rounding."""
    net = load_network(smooth_network(), labels=list("abcde"), mean=[0.5] * 3, std=[0.25] * 3, size=16)
    source = lattice_images(8, 3, 16, 16)
    labels = net.scores(source).argmax(1)
    image, state = run_attack(DDN(quantize=False), lambda x: net.fast()(x)[0], source, labels.tolist())
    return net, image, source, labels, state["fooled"]


def verified(lost, rows: slice) -> list[Saved]:
    net, image, source, labels, fooled = lost
    leave = torch.zeros(8, dtype=torch.bool)
    return save_and_verify(net, image[rows], source[rows], labels[rows], leave[rows], fooled[rows])


def test_minimal_perturbations_survive_the_file(lost):
    net, image, _, labels, fooled = lost
    rounded = net.scores((image * 255).round() / 255).argmax(1) != labels
    assert bool(fooled.all())
    assert int(rounded.sum()) < 8
    saved = verified(lost, slice(None))
    assert all(one.success for one in saved)
    assert [one.repaired > 0 for one in saved] == (~rounded).tolist()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_outcome_of_an_image_is_the_same_in_every_batch(lost, size):
    whole = verified(lost, slice(None))
    parts = [one for first in range(0, 8, size) for one in verified(lost, slice(first, first + size))]
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.logits, other.logits)
        assert (one.success, one.repaired, one.jpeg, str(one.distances)) == (
            other.success,
            other.repaired,
            other.jpeg,
            str(other.distances),
        )


@pytest.mark.parametrize("size", [1, 2, 3])
def test_evidence_of_a_file_is_the_same_in_every_batch(lost, size, tmp_path):
    net, image, _, labels, _ = lost
    paths = [tmp_path / f"{n}.png" for n in range(8)]
    for path, values in zip(paths, image, strict=True):
        path.write_bytes(encode_png(values))
    whole = evaluated(paths, net, labels.tolist(), [False] * 8, batch=8)
    parts = evaluated(paths, net, labels.tolist(), [False] * 8, batch=size)
    for (success, logits), (other_success, other_logits) in zip(whole, parts, strict=True):
        assert success == other_success
        assert torch.equal(logits, other_logits)


def test_rounding_runs_in_inference_mode_and_preserves_the_images(lost):
    before = lost[1].clone()
    with torch.inference_mode():
        inside = [one.success for one in verified(lost, slice(None))]
    assert all(inside)
    assert torch.equal(lost[1], before)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_file_on_disk_has_the_same_prediction(tmp_path, channels):
    net = load_network(
        smooth_network(channels), labels=list("abcde"), mean=[0.5] * channels, std=[0.25] * channels, size=16
    )
    source = lattice_images(2, channels, 16, 16)
    labels = net.scores(source).argmax(1)
    saved = save_and_verify(
        net, source, source, labels, torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    )
    for one, label in zip(saved, labels.tolist(), strict=True):
        path = tmp_path / "image.png"
        path.write_bytes(encode_png(one.image))
        assert not one.success
        for targeted in (False, True):
            ((success, logits),) = evaluated([path], net, [label], [targeted])
            assert success == targeted
            assert torch.allclose(logits, one.logits, rtol=1e-5, atol=1e-5)


class Rounding(nn.Module):
    """The logits (0, w . x + b); in batches of several images the second is reduced by an error."""

    def __init__(self, weight: Tensor, bias: float, error: float) -> None:
        super().__init__()
        self.weight, self.bias, self.error = nn.Parameter(weight.flatten().double()), bias, error
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        margin = x.flatten(1).double() @ self.weight + self.bias - self.error * (len(x) > 1)
        return torch.stack([torch.zeros_like(margin), margin], 1)


@pytest.mark.parametrize("margin", [1e-4, -1e-4, 0.01, -0.01])
def test_an_image_is_classified_alone(tmp_path, margin):
    weight, source = 2 * random(3, 4, 4, seed=1) - 1, lattice_images(3, 3, 4, 4)
    source[1:] = source[:1]
    error = math.copysign(2e-4, margin)  # enough to turn the verdict of a small one
    network = Rounding(weight, margin - float((weight.double() * source[0]).sum()), error)
    net = load_network(network, labels=["no", "yes"], mean=[0.0] * 3, std=[1.0] * 3, size=4)
    network.sizes.clear()
    found = verify(net, source, source, float_success=torch.zeros(3, dtype=torch.bool))
    assert network.sizes[:3] == [1, 1, 1]
    (tmp_path / "image.png").write_bytes(encode_png(found[0].image))
    files = [tmp_path / "image.png"] * 3
    ((success, logits),) = evaluated(files[:1], net, [1], [True])
    assert [met for met, _ in evaluated(files, net, [1, 1, 0], [True, False, True])] == [
        success,
        not success,
        not success,
    ]
    assert [one.success for one in found] == [success] * 3 == [margin > 0] * 3
    assert all(torch.equal(one.logits, logits) for one in found)


def test_a_success_of_the_fast_copy_only_is_repaired_or_dropped():
    """A fast copy whose margins are too large; verified copies have none."""
    net, image, source = killed(64, 3)
    weight, bias = (parameter.data[1] for parameter in net.original[1].parameters())
    for sign, promised, success in ((1, 0.0, True), (1, 0.005, True), (1, 1.0, True), (-1, 10.0, False)):
        liar = linear(sign * weight.view(1, 4, 16), float(bias) + promised).fast()
        net.fast = lambda liar=liar: liar
        (saved,) = verify(net, image, source)
        assert saved.success == success == bool(net.scores(saved.image[None]).argmax() == 1)


def test_unclassifiable_files_give_a_one_line_error(tmp_path, smooth):
    path = tmp_path / "image.png"
    with pytest.raises(LitVizError, match="no photograph"):
        evaluated([path], smooth, [0], [True])
    whole = encode_png(lattice_images(1, 3, 16, 16)[0])
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LitVizError, match=r"image\.png"):
        evaluated([path], smooth, [0], [True])
    for channels, size in ((1, 16), (3, 15)):
        path.write_bytes(encode_png(lattice_images(1, channels, size, size)[0]))
        with pytest.raises(LitVizError, match=r"image\.png must have the shape \(3, 16, 16\)"):
            evaluated([path], smooth, [0], [True])


def test_files_are_classified_with_the_results_of_single_files(tmp_path, smooth):
    """Bit for bit: a batch of one is rounded otherwise than larger ones."""
    images = lattice_images(37, 3, 16, 16)
    paths = [tmp_path / f"{n}.png" for n in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(encode_png(image))
    goals, targeted = [n % 5 for n in range(len(images))], [n % 3 == 0 for n in range(len(images))]
    sizes = []
    hook = smooth.original.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    together = evaluated(paths, smooth, goals, targeted)
    hook.remove()
    assert set(sizes) == {1}
    for n, (met, logits) in enumerate(together):
        ((met_alone, logits_alone),) = evaluated(paths[n : n + 1], smooth, goals[n : n + 1], targeted[n : n + 1])
        assert met == met_alone == ((int(smooth.scores(images[n : n + 1]).argmax()) == goals[n]) == targeted[n])
        assert torch.equal(logits, logits_alone)
    assert {met for met, _ in together} == {True, False}
    assert evaluated([], smooth, [], []) == []


@pytest.mark.gpu
def test_images_and_a_network_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    net, image, source = killed(64, 3)
    (here,) = verify(net, image, source)
    net.original.cuda()
    (there,) = verify(net, image.cuda(), source.cuda(), goals=torch.ones(1).long().cuda())
    assert torch.equal(here.image, there.image)
    assert (there.success, there.repaired) == (True, here.repaired)
    assert there.image.device.type == "cpu"


# -- distances


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(11, 11), (24, 17)])
@pytest.mark.parametrize("change", [1, 8, 60])
def test_distances_are_those_of_numpy_and_scikit_image(channels, size, change):
    source = lattice_images(1, channels, *size)[0]
    image = (source + change / 255 * (2 * random(channels, *size, seed=1) - 1).round()).clamp(0, 1)
    found = distances(source, image)
    actual, its = (x.double().permute(1, 2, 0).numpy() for x in (image, source))
    assert found["l2"] == pytest.approx(np.linalg.norm((actual - its).ravel()), abs=1e-5)
    assert found["linf"] == pytest.approx(np.abs(actual - its).max(), abs=1e-6)
    assert found["l0"] == pytest.approx((np.abs(actual - its) > 1e-3).mean())
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(its, actual, data_range=1.0), abs=1e-3)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    assert found["ssim"] == pytest.approx(structural_similarity(its, actual, channel_axis=2, **options), abs=1e-5)


def test_equal_and_tiny_images():
    image = lattice_images(1, 3, 12, 12)[0]
    assert distances(image, image) == {"l2": 0, "linf": 0, "l0": 0, "ssim": pytest.approx(1), "psnr": math.inf}
    assert math.isnan(distances(image[:, :5], image[:, :5])["ssim"])


def test_repair_of_a_network_without_gradient() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                logits: Tensor = self.last(x.flatten(1))
            return logits

    net = load_network(Silent().eval(), labels=["no", "yes"], mean=[0.0] * 3, std=[1.0] * 3, size=2)
    images = torch.rand(2, 3, 2, 2)
    gradient = Verifier(net, torch.tensor([0, 1]), torch.tensor([True, True])).margin_gradient(images)
    assert torch.equal(gradient, torch.zeros(2, 3, 2, 2, dtype=torch.float64))
