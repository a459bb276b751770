"""Steps of attacks against the algorithms of the papers, written out for one image."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from lit_viz.attacks import APGD, DDN, PGD, BudgetAttack, NormalizedAscentAttack, run_attack
from lit_viz.attacks.apgd import checkpoints
from lit_viz.attacks.norms import NORMS, NormName
from lit_viz.networks import Network
from lit_viz.objectives import Margin
from lit_viz.types import Task
from tests.support.attacks import Curved, Watched, margins, photographs
from tests.support.marks import slow
from tests.support.networks import smooth_network

CURVED = Curved()
X = photographs(6)
LABELS = CURVED(X).argmax(1).tolist()
TARGETS = [(label + 2) % 5 for label in LABELS]
EPS = {"linf": 0.05, "l2": 0.6}
both = pytest.mark.parametrize("norm", ["linf", "l2"])
targeted = pytest.mark.parametrize("targeted", [False, True])

#: Function from an image to its score and gradient.
Score = Callable[[Tensor], tuple[float, Tensor]]


def score_of(n: int, targeted: bool, loss: str = "ce") -> Score:
    def score_at(x: Tensor) -> tuple[float, Tensor]:
        leaf = x.clone().requires_grad_()
        z = CURVED(leaf[None])[0]
        y, t = LABELS[n], TARGETS[n]
        if loss == "ce":
            score = torch.log_softmax(z, 0)[t] if targeted else -torch.log_softmax(z, 0)[y]
        else:
            down = z.sort(descending=True).values
            other = torch.stack([z[k] for k in range(5) if k != y]).max()
            score = (
                (z[t] - z[y]) / (down[0] - (down[2] + down[3]) / 2)
                if targeted
                else (other - z[y]) / (down[0] - down[2])
            )
        (gradient,) = torch.autograd.grad(score, leaf)
        return score.item(), gradient

    return score_at


def path(attack: BudgetAttack, n: int, targeted: bool, iterations: int) -> list[Tensor]:
    """The images x_0 ... x_k of a run."""
    network = Watched(CURVED)
    run_attack(
        attack,
        network,
        X[n : n + 1],
        LABELS[n : n + 1],
        TARGETS[n : n + 1] if targeted else None,
        iterations=iterations,
    )
    return [images[0] for images in network.inputs]


def onto(norm: NormName, n: int) -> Callable[[Tensor], Tensor]:
    eps = torch.tensor([EPS[norm]], dtype=torch.float64)
    return lambda x: NORMS[norm].project(x[None], X[n : n + 1], eps)[0]


def along(norm: NormName, gradient: Tensor) -> Tensor:
    """Where an untargeted ratio is at its limit, the gradient is zero."""
    return gradient.sign() if norm == "linf" else gradient / gradient.norm().clamp(min=1e-300)


def test_checkpoints_are_those_of_the_paper() -> None:
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]
    assert list(checkpoints(20)) == [4, 7, 9, *range(10, 21)]  # 0.03 of 20 is no step: periods get shorter by one
    assert list(checkpoints(10)) == [2, *range(3, 11)]
    assert list(checkpoints(1)) == [1]
    for total in range(1, 300):
        assert max(checkpoints(total)) <= total


def apgd_by_hand(
    score_at: Score,
    x: Tensor,
    eps: float,
    norm: NormName,
    onto: Callable[[Tensor], Tensor],
    steps: int,
    when: list[int],
) -> list[Tensor]:
    """Algorithm 1 of Croce and Hein 2020, for a number of steps and these checkpoints."""
    points, left, arrived = [x], [], []  # images; by step the score at its beginning and at its end
    eta, kept_eta = 2 * eps, 2 * eps
    f, g = score_at(x)
    f_best, x_best, g_best, f_checked = f, x, g, f
    old = x
    for k in range(steps):
        a = 0.75 if k else 1.0
        z = onto(x + eta * along(norm, g))
        new = onto(x + a * (z - x) + (1 - a) * (x - old))
        left.append(f)
        old, x = x, new
        points.append(x)
        f, g = score_at(x)
        arrived.append(f)
        if f > f_best:
            f_best, x_best, g_best = f, x, g
        if k + 1 in when:
            since = [0, *when][when.index(k + 1)]
            rises = sum(b > a for a, b in zip(left[since:], arrived[since:], strict=True))
            few = rises <= 0.75 * (k + 1 - since)
            stuck = eta == kept_eta and f_best == f_checked
            kept_eta, f_checked = eta, f_best
            if few or stuck:
                eta /= 2
                x, f, g = x_best, f_best, g_best
    return points


@both
@targeted
@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize(
    ("steps", "when"),
    [slow(100, [22, 41, 57, 70, 80, 87, 93, 99]), (20, [4, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19])],
)
def test_apgd_follows_the_paper(norm: NormName, targeted: bool, loss: str, steps: int, when: list[int]) -> None:
    for n in range(1 if steps == 100 else 2):
        attack = APGD(norm, EPS[norm], loss, random_start=False, early_stop=False)
        expected = apgd_by_hand(score_of(n, targeted, loss), X[n], EPS[norm], norm, onto(norm, n), steps, when)
        for a, b in zip(path(attack, n, targeted, steps), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("rises", "halved", "improved", "expected"),
    [
        (9, False, True, True),  # 9 of 13 steps are at most 75 %
        (9, True, True, True),
        (10, False, True, False),
        (10, False, False, True),  # no better than at the last checkpoint, with the same step
        (10, True, False, False),  # that step was new: it is given another period
    ],
)
def test_apgd_halves_the_step(rises: int, halved: bool, improved: bool, expected: bool) -> None:
    attack, number = APGD(random_start=False), torch.ones(1, dtype=torch.float64)
    state = attack.init(X[:1], [Task(0, "image", 0, label=0)])
    known = {"top": 2 * number, "checked": 2 * number - int(improved), "score": number, "eta": number}
    counts = {"iteration": torch.tensor([70]), "iterations": torch.tensor([100])}
    state |= {**known, **counts, "rises": torch.tensor([rises]), "halved": torch.tensor([halved])}
    no = torch.tensor([False])
    state, halve = attack._adapt(state, 0.5 * number, no, no)
    assert (halve.item(), state["halved"].item(), state["rises"].item()) == (expected, expected, 0)
    assert state["eta"].item() == (0.5 if expected else 1.0)
    assert (state["checked"].item(), state["score"].item()) == (2.0, 2.0 if expected else 0.5)
    state, _ = attack._adapt({**state, "iteration": torch.tensor([0])}, 0.5 * number, ~no, ~no)  # a new start
    assert [state[key].item() for key in ("top", "checked", "score", "eta")] == [0.5, 0.5, 0.5, 2 * attack.eps]
    assert (state["rises"].item(), state["halved"].item()) == (0, False)


@both
def test_a_return_costs_no_backward(norm: NormName) -> None:
    """The gradient at the best point is reused."""
    network = Watched(CURVED)
    run_attack(APGD(norm, EPS[norm], early_stop=False, random_start=False), network, X[:1], LABELS[:1])
    assert network.forwards == 101
    assert 92 <= network.backwards < 100


def pgd_by_hand(
    score_at: Score, x: Tensor, alpha: float, norm: NormName, onto: Callable[[Tensor], Tensor], mu: float, look: bool
):
    """With torch's own momentum, on gradients of mean size 1, which maximizes a linear function of its parameter."""
    parameter = torch.nn.Parameter(torch.zeros_like(x))
    momentum = torch.optim.SGD([parameter], lr=1.0, momentum=mu, nesterov=look, maximize=True)
    points = [x]
    for _ in range(8):
        _, g = score_at(x)
        parameter.grad, parameter.data = g / g.abs().sum(), torch.zeros_like(x)
        momentum.step()
        x = onto(x + alpha * along(norm, parameter.detach()))
        points.append(x)
    return points


@both
@targeted
@pytest.mark.parametrize(("mu", "look"), [(0.0, False), (0.9, False), (0.75, True)])
def test_pgd_follows_the_momentum_of_torch(norm: NormName, targeted: bool, mu: float, look: bool) -> None:
    alpha = EPS[norm] / 3
    for n in range(3):
        attack = PGD(norm, EPS[norm], alpha, mu, look, random_start=False, early_stop=False)
        expected = pgd_by_hand(score_of(n, targeted), X[n], alpha, norm, onto(norm, n), mu, look)
        for actual, reference in zip(path(attack, n, targeted, 8), expected, strict=True):
            torch.testing.assert_close(actual, reference, rtol=0, atol=1e-9)


@both
@targeted
def test_the_step_is_two_and_a_half_radii_over_the_number_of_steps(norm: NormName, targeted: bool) -> None:
    for random_start, steps in ((False, 20), (True, 19)):
        points = path(PGD(norm, EPS[norm], random_start=random_start, early_stop=False), 0, targeted, 20)
        alpha = 2.5 * EPS[norm] / steps
        for k in range(1, 20):
            _, g = score_of(0, targeted)(points[k])
            expected = onto(norm, 0)(points[k] + alpha * along(norm, g))
            torch.testing.assert_close(points[k + 1], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [PGD, APGD, partial(PGD, momentum=0.9)])
@both
def test_restarts_are_independent(
    make: Callable[..., BudgetAttack], norm: NormName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three restarts of 9, 9 and 11 updates; from the same start they take the same steps."""
    attack = make(norm, EPS[norm], restarts=3, early_stop=False)
    points = path(attack, 0, True, 29)
    starts = [points[k] for k in (1, 10, 19)]
    for restart, start in enumerate(starts):
        eps = torch.tensor([EPS[norm]], dtype=torch.float64)
        assert torch.equal(start, NORMS[norm].random_start(X[:1], [0], [restart], eps)[0])
    original = NORMS[norm].random_start
    monkeypatch.setattr(
        attack.norm, "random_start", lambda x, seeds, restarts, eps: original(x, seeds, [0] * len(x), eps)
    )
    points = path(attack, 0, True, 29)
    for a, b in zip(points[1:10], points[10:19], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    single = path(make(norm, EPS[norm], early_stop=False), 0, True, 11)
    for a, b in zip(points[19:], single[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("restarts", "iterations"), [(1, 1), (5, 7), (4, 8), (3, 2), (9, 1), (2, 5)])
def test_restarts_share_the_iterations(restarts: int, iterations: int) -> None:
    attack = PGD(restarts=restarts)
    k = torch.arange(iterations)
    part, since, total = attack.locate({"iteration": k, "iterations": torch.full_like(k, iterations)})
    assert (since == -1).sum() == max(1, min(restarts, iterations // 2))
    assert torch.equal(part, (since == -1).long().cumsum(0) - 1)
    assert (since < total).all()
    for one in part.unique():
        actual = since[part == one]
        assert actual.tolist() == list(range(-1, len(actual) - 1))
        assert (total[part == one] == max(1, len(actual) - 1)).all()


@both
@pytest.mark.parametrize("targeted", [False, slow(True)])
def test_apgd_reaches_the_margin_of_pgd_at_the_same_cost(norm: NormName, targeted: bool) -> None:
    """On average; it is better than PGD with a bad step size."""
    targets = TARGETS if targeted else None

    def reached(attack: BudgetAttack) -> Tensor:
        attack.objective = Margin()
        out, _ = run_attack(attack, CURVED, X, LABELS, targets, iterations=60)
        return margins(CURVED(out), LABELS, targets)

    actual = reached(APGD(norm, EPS[norm], early_stop=False))
    for alpha, better in ((None, -1e-3), (EPS[norm] / 200, 0.01), (2 * EPS[norm], 0.01)):
        reference = reached(PGD(norm, EPS[norm], alpha, early_stop=False))
        assert (actual - reference).mean() > better


def test_ddn_follows_the_paper() -> None:
    """Algorithm 1 of Rony et al. 2019, without rounding; the step's cosine as in the authors' code."""
    for n in range(3):
        network = Watched(CURVED)
        run_attack(DDN(0.5, quantize=False), network, X[n : n + 1], LABELS[n : n + 1], iterations=30)
        score_at, delta, eps = score_of(n, False), torch.zeros_like(X[n]), 0.5
        for k in range(31):
            x = X[n] + delta
            torch.testing.assert_close(network.inputs[k][0], x, rtol=0, atol=1e-9)
            alpha = 0.01 + 0.99 * (1 + math.cos(math.pi * k / 30)) / 2
            _, g = score_at(x)
            delta = delta + alpha * g / g.norm()
            eps = eps * (0.95 if int(CURVED(x[None]).argmax()) != LABELS[n] else 1.05)
            delta = (X[n] + eps * delta / delta.norm()).clamp(0, 1) - X[n]


def test_ddn_accumulates_changes_below_half_a_level() -> None:
    """If the state were rounded, changes below half a level would vanish."""
    ddn = DDN(init_norm=0.02, alpha=1e-3, gamma=1e-3)
    x = (photographs(1, 40, 40) * 255).round() / 255
    network = Watched(Curved(shape=(3, 40, 40)))
    label = network(x).argmax(1).tolist()
    _, state = run_attack(ddn, network, x, label, iterations=50)
    assert float(state["change"].flatten(1).norm(dim=1)) == pytest.approx(0.02 * 1.001**50, rel=1e-3)


def test_steps_in_normalized_space(smooth: Network) -> None:
    """The published loop: x is normalized, g the gradient there, and nothing is clamped."""
    network = smooth_network().double()
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (smooth.mean, smooth.std))
    std = std * torch.tensor([1.0, 0.5, 2.0]).view(-1, 1, 1)
    bound = Network("c", network, labels=smooth.labels, mean=smooth.mean, std=std.flatten().tolist(), size=(16, 16))
    x = photographs(3, 16, 16)
    targets = [(label + 2) % 5 for label in network((x - mean) / std).argmax(1).tolist()]
    attack = NormalizedAscentAttack(0.5, "normalized", clamp=False)
    attack.bind(bound)
    out, state = run_attack(attack, lambda x: network((x - mean) / std), x, None, targets)
    assert state["fooled"].all()
    for n, target in enumerate(targets):
        z = (x[n : n + 1] - mean) / std
        steps = 0
        while int(network(z).argmax()) != target and steps < 100:
            leaf = z.clone().requires_grad_()
            (g,) = torch.autograd.grad(network(leaf)[0, target], leaf)
            z = z + 0.5 * g / g.norm()
            steps += 1
        assert int(state["iteration"][n]) == steps
        torch.testing.assert_close(out[n : n + 1], z * std + mean, rtol=0, atol=1e-9)
    assert (out < 0).any()


def test_normalized_ascent_clamps_the_image_by_default() -> None:
    dark = torch.full_like(X, 0.01)
    label = CURVED(dark).argmax(1).tolist()
    for clamp in (True, False):
        out, _ = run_attack(NormalizedAscentAttack(0.3, clamp=clamp), CURVED, dark, label)
        assert bool((out >= 0).all()) == clamp


@both
def test_the_steepest_step_raises_the_score_most(norm: NormName) -> None:
    """Among steps of the same small norm, also random ones."""
    score_at = score_of(0, True)
    score, g = score_at(X[0])
    best = score_at(X[0] + 1e-6 * NORMS[norm].steepest(g[None])[0])[0] - score
    for seed in range(50):
        way = torch.randn(X[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        way = way.sign() if norm == "linf" else way / way.norm()
        assert score_at(X[0] + 1e-6 * way)[0] - score < best
