"""Square: no gradients, the proposals of the paper, and the optimum of linear networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_viz.attacks import Square, run_attack
from lit_viz.attacks.norms import NormName
from lit_viz.attacks.square import _tile, _transfer
from tests.support.attacks import Curved, Linear, Watched, margins, photographs
from tests.support.marks import slow

both = pytest.mark.parametrize("norm", ["linf", "l2"])
targeted = pytest.mark.parametrize("targeted", [False, True])
CURVED = Curved()
X = photographs(4)
LABELS = CURVED(X).argmax(1).tolist()
TARGETS = [(label + 2) % 5 for label in LABELS]
EPS: dict[NormName, float] = {"linf": 0.05, "l2": 0.6}


def grey(count: int = 2, height: int = 6, width: int = 5) -> Tensor:
    """One channel, far from black and white."""
    return photographs(count, height, width, 0.3, 0.7)[:, :1]


@both
@targeted
def test_only_forwards_are_computed(norm: NormName, targeted: bool) -> None:
    """Without an autograd graph; k updates cost k + 1 forwards."""

    class Strict(Watched):
        def __call__(self, x: Tensor) -> Tensor:
            assert not x.requires_grad
            assert not torch.is_grad_enabled()
            return super().__call__(x)

    for attack in (Square(norm, EPS[norm]), Square(norm, EPS[norm], early_stop=False)):
        network = Strict(CURVED)
        _, state = run_attack(attack, network, X, LABELS, TARGETS if targeted else None, iterations=30)
        assert network.forwards == int((state["iteration"] + 1).sum())
        assert network.backwards == network.passes == 0


@targeted
def test_the_optimum_in_the_largest_value_is_reached(targeted: bool) -> None:
    """The sign of every weight."""
    linear, x = Linear(shape=(1, 6, 5)), grey()
    linear.bias[0] += 1e3
    out, _ = run_attack(Square("linf", 0.05, early_stop=False), linear, x, [0, 0], [1, 1] if targeted else None,
                        iterations=400)  # fmt: skip
    weight = linear.between(1, 0).view_as(x[:1])
    torch.testing.assert_close(out - x, (0.05 * weight.sign()).expand_as(x), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_most_of_the_optimum_in_euclidean_length_is_reached() -> None:
    """On a linear network with a smooth weight, as those that tiles are made for."""
    linear, x = Linear(shape=(1, 12, 12)), grey(2, 12, 12)
    way = torch.linspace(-2, 2, 12, dtype=torch.float64)
    linear.weight[1] = linear.weight[0] + torch.outer(torch.cos(way), torch.sin(2 * way)).flatten()
    linear.bias[0] += 1e3
    out, _ = run_attack(Square("l2", 0.5, early_stop=False), linear, x, [0, 0], iterations=500)
    gain = margins(linear(out), [0, 0]) - margins(linear(x), [0, 0])
    assert (gain / (0.5 * linear.between(1, 0).norm()) > 0.65).all()


@pytest.mark.parametrize("norm", ["linf", slow("l2")])
def test_a_boundary_inside_the_ball_is_crossed(norm: NormName) -> None:
    linear, x = Linear(shape=(1, 6, 5)), grey(3)
    labels = linear(x).argmax(1).tolist()
    weight = linear.between(1, 0)
    distance = margins(linear(x), labels).abs() / (weight.abs().sum() if norm == "linf" else weight.norm())
    for share, fooled in ((0.999, False), (1.02 if norm == "linf" else 2.0, True)):
        options = [{"eps": float(d) * share} for d in distance]
        out, state = run_attack(Square(norm), linear, x, labels, iterations=600, options=options)
        assert state["fooled"].tolist() == [fooled] * 3
        assert torch.equal(margins(linear(out), labels) > 0, state["fooled"])
        assert bool((state["iteration"] < 600).all()) == fooled


@both
def test_proposals_lie_on_the_boundary_of_the_ball(norm: NormName) -> None:
    network = Watched(CURVED)
    x = photographs(2, low=0.45, high=0.55)
    run_attack(Square(norm, 0.3, early_stop=False), network, x, CURVED(x).argmax(1).tolist(), iterations=40)
    for images in network.inputs[1:]:
        change = (images - x).flatten(1)
        length = change.norm(dim=1) if norm == "l2" else change.abs().amin(1)
        torch.testing.assert_close(length, torch.full_like(length, 0.3), rtol=1e-9, atol=0)


@both
@targeted
def test_proposals_are_made_from_the_best_so_far(norm: NormName, targeted: bool) -> None:
    """Squares of the size that is due differ from it; the start counts as such whatever it scores."""
    height = width = 12
    network = Watched(Curved(shape=(3, height, width)))
    x = photographs(1, height, width)
    label = network.forward(x).argmax(1).tolist()
    target = [(label[0] + 2) % 5] if targeted else None
    run_attack(Square(norm, EPS[norm], p=0.2, early_stop=False), network, x, label, target, iterations=80)
    best, top = network.inputs[1], -math.inf
    refused = 0
    for k, images in enumerate(network.inputs[1:], 1):
        changed = (images != best).any(1)[0]
        if norm == "linf" and k > 1:
            rows, columns = changed.nonzero().unbind(1)
            halvings = sum(
                10_000 * (k - 1) / 80 > passed for passed in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
            )
            side = max(1, round(math.sqrt(0.2 * height * width / 2**halvings)))
            assert changed.any()  # no query is wasted
            assert rows.max() - rows.min() < side
            assert columns.max() - columns.min() < side
        logits = network.forward(images)[0]
        if targeted:
            assert target
            score = float(torch.log_softmax(logits, 0)[target[0]])
        else:
            score = float(margins(logits[None], label))
        if score > top:
            best, top = images, score
        else:
            refused += 1
    assert 10 < refused < 75


def test_the_start_is_kept_though_the_photograph_scores_higher() -> None:
    """And stripes are +-eps, one sign a column and channel."""
    x = photographs(1, 12, 12, 0.3, 0.7)
    network = Watched(lambda images: torch.stack([torch.zeros(1), -1 - (images - x).abs().flatten(1).sum(1)], 1))
    run_attack(Square("linf", 0.1, p=0.01), network, x, [0], iterations=2)
    stripes = network.inputs[1] - x
    torch.testing.assert_close(stripes.amin(2), stripes.amax(2))
    torch.testing.assert_close(stripes.abs(), torch.full_like(x, 0.1))
    assert 6 < int((stripes[0, :, 0] > 0).sum()) < 30
    assert (network.inputs[2] != network.inputs[1]).sum() <= 3  # not the photograph with a pixel changed


def test_euclidean_proposals_trade_one_square_for_another() -> None:
    """Algorithm 3: outside of two squares only the common factor changes; every channel keeps what it had in both, and
    there is nothing left in the second."""
    x = photographs(1, 20, 20, 0.45, 0.55)
    score = iter(range(1000))
    network = Watched(lambda x: torch.tensor([[0.0, next(score) - 1e6]] * len(x), dtype=torch.float64))  # all are kept
    run_attack(Square("l2", 0.5, p=0.3), network, x, [0], iterations=60)
    apart = 0
    for before, after in zip(network.inputs[1:], network.inputs[2:], strict=False):
        was, now = (before - x)[0], (after - x)[0]
        ratio = (now / was).where(was != 0, torch.nan)
        same = (ratio - ratio.nanmedian()).abs() < 1e-6
        new = (~same & ~((was == 0) & (now == 0))).any(0)
        taken = (new & (now == 0).all(0)).nonzero()
        if len(taken) == 0:
            continue
        apart += 1
        unscaled = now / ratio.nanmedian()
        torch.testing.assert_close(unscaled[:, new].square().sum(1), was[:, new].square().sum(1), rtol=1e-5, atol=1e-9)
    assert apart > 20


def test_a_moved_square_receives_the_unused_norm() -> None:
    """What black and white have cut off is not lost: each channel's share of it is added to the squared length."""
    x = photographs(1, 9, 9)
    change, tile = (0.1 * (x - 0.5)[0], _tile(3).expand(3, 3, 3))
    here, there = ((slice(None), slice(a, a + 3), slice(a, a + 3)) for a in (1, 5))
    before = change.clone()
    _transfer(change, here, there, tile, torch.tensor(0.25, dtype=torch.float64))
    was = before[here].square().sum((1, 2)) + before[there].square().sum((1, 2))
    torch.testing.assert_close(change[here].square().sum((1, 2)), was + 0.25)
    way = tile + before[here] / before[here].flatten(1).norm(dim=1).view(3, 1, 1)
    torch.testing.assert_close(
        change[here].flatten(1) / change[here].flatten(1).norm(dim=1, keepdim=True),
        way.flatten(1) / way.flatten(1).norm(dim=1, keepdim=True),
    )
    assert not change[there].any()
    before[here] = before[there] = change[here] = 0
    assert torch.equal(change, before)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 10, 11])
def test_tiles_equal_the_paper(side: int) -> None:
    """Two humps of opposite sign, ``sum over k of 1 / (n + 1 - k)^2``, k = 0 .. n - d, n half of the longer side."""
    expected = torch.zeros(side, side, dtype=torch.float64)
    for first, height, sign in ((0, side // 2, 1.0), (side // 2, side - side // 2, -1.0)):
        n = max(height, side) // 2
        for r in range(height):
            for s in range(side):
                d = max(abs(r - height // 2), abs(s - side // 2))
                expected[first + r, s] = sum(1 / (n + 1 - k) ** 2 for k in range(n - d + 1))
        if height:
            half = expected[first : first + height]
            half *= sign / half.norm()
    torch.testing.assert_close(_tile(side), expected / expected.norm(), rtol=1e-12, atol=0)


@both
def test_squares_become_smaller_as_in_the_paper(norm: NormName) -> None:
    """For 10000 queries the part is halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000."""
    attack, x = Square(norm), torch.zeros(11, 1, 224, 224)
    p = {"linf": 0.05, "l2": 0.1}[norm]
    k = torch.tensor([0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001])
    side = attack._side({"iteration": k, "iterations": torch.full_like(k, 10_000)}, x)
    parts = [p, p, p / 2, p / 4, p / 8, p / 16, p / 32, p / 64, p / 128, p / 256, p / 512]
    assert side.tolist() == [round(224 * math.sqrt(part)) for part in parts]
    k = torch.tensor([0, 1, 2, 6, 21, 51, 101, 201, 401, 601, 801])
    assert torch.equal(attack._side({"iteration": k, "iterations": torch.full_like(k, 1000)}, x), side)


@both
def test_draws_depend_on_the_seed_only(norm: NormName) -> None:
    def proposals(seed: int, rows: int = 1) -> list[Tensor]:
        network = Watched(CURVED)
        seeds = [seed, *range(100, 99 + rows)]
        run_attack(Square(norm, early_stop=False), network, X[:rows], LABELS[:rows], iterations=12, seeds=seeds)
        return [images[:1] for images in network.inputs[1:]]

    for alone, again, batched, other in zip(proposals(3), proposals(3), proposals(3, 4), proposals(4), strict=True):
        assert torch.equal(alone, again)
        torch.testing.assert_close(alone, batched, rtol=0, atol=1e-12)
        assert not torch.equal(alone, other)


@both
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 9), (13, 5)])
def test_images_of_any_shape(norm: NormName, shape: tuple[int, int]) -> None:
    linear = Linear(shape=(3, *shape))
    x = photographs(2, *shape)
    out, _ = run_attack(Square(norm, 0.2, early_stop=False), linear, x, linear(x).argmax(1).tolist(), iterations=30)
    assert out.isfinite().all()
    assert not torch.equal(out, x)
