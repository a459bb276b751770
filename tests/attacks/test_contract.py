"""Properties of every attack: cost, independence of the batch, feasible images, and returned successes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_viz.attacks import (
    APGD,
    ATTACKS,
    DDN,
    FGSM,
    FMN,
    PGD,
    Attack,
    CarliniWagner,
    DeepFool,
    Ensemble,
    NormalizedAscentAttack,
    Square,
    run_attack,
)
from lit_viz.attacks.apgd import checkpoints
from lit_viz.attacks.base import plain_evaluate
from lit_viz.attacks.norms import L2
from lit_viz.errors import LitVizError
from lit_viz.methods import AdversarialExample
from lit_viz.networks import Network
from lit_viz.optim import State
from lit_viz.types import Task
from lit_viz.utils.parts import short_name
from tests.support.attacks import Curved, Linear, Watched, margins, photographs

MADE: dict[str, Callable[[], Attack]] = {
    "normalized ascent": lambda: NormalizedAscentAttack(lr=0.05),
    "fgsm": lambda: FGSM(eps=0.05),
    "fgsm, l2": lambda: FGSM("l2", 0.6),
    "pgd": lambda: PGD(eps=0.05),
    "pgd, l2": lambda: PGD("l2", 0.6),
    "pgd, momentum": lambda: PGD(eps=0.05, momentum=0.75, nesterov=True, random_start=False),
    "pgd, restarts": lambda: PGD(eps=0.05, restarts=3),
    "pgd, on": lambda: PGD(eps=0.05, early_stop=False),
    "apgd": lambda: APGD(eps=0.05),
    "apgd, l2": lambda: APGD("l2", 0.6, "dlr", random_start=False),
    "apgd, restarts": lambda: APGD(eps=0.05, restarts=2),
    "apgd, on": lambda: APGD(eps=0.05, early_stop=False),
    "ddn": lambda: DDN(init_norm=0.3),
    "ddn, float": lambda: DDN(init_norm=0.3, quantize=False),
    "deepfool": DeepFool,
    "deepfool, linf": lambda: DeepFool("linf"),
    "fmn": FMN,
    "fmn, linf": lambda: FMN("linf"),
    "carlini and wagner": lambda: CarliniWagner(steps=3, lr=0.1),
    "square": lambda: Square(eps=0.1),
    "square, l2": lambda: Square("l2", 2.0),
    "square, on": lambda: Square(eps=0.1, early_stop=False),
}
every = pytest.mark.parametrize("name", MADE)
both_modes = pytest.mark.parametrize("targeted", [False, True])
#: Attacks of one backward an update, but for starts and returns.
one_backward = pytest.mark.parametrize("name", [*MADE][:14])
with_gradient = pytest.mark.parametrize("name", [name for name in MADE if not name.startswith("square")])
#: Without early stop a black-box attack evaluates a photograph that is a success again.
stopping = pytest.mark.parametrize("name", [name for name in MADE if name != "square, on"])
CURVED = Curved()
X = photographs(8)
LABELS = CURVED(X).argmax(1).tolist()
TARGETS = [(label + 1 + n % 4) % 5 for n, label in enumerate(LABELS)]
ITERATIONS = 20


class Attacked(NamedTuple):
    images: Tensor
    state: State
    network: Watched


@cache
def attacked(name: str, rows: Sequence[int] = tuple(range(8)), targeted: bool = False) -> Attacked:
    """Attack these rows of X; the tests share the results."""
    network = Watched(CURVED)
    images, state = run_attack(
        MADE[name](),
        network,
        X[list(rows)],
        label=[LABELS[n] for n in rows],
        target=[TARGETS[n] for n in rows] if targeted else None,
        seeds=[10 + n for n in rows],
        iterations=ITERATIONS,
    )
    return Attacked(images, state, network)


@every
@both_modes
def test_results_do_not_depend_on_the_batch(name: str, targeted: bool) -> None:
    whole = attacked(name, targeted=targeted)
    for rows in ((0,), (1, 2), (4, 5, 6)):
        part = attacked(name, rows, targeted)
        torch.testing.assert_close(part.images, whole.images[list(rows)], rtol=0, atol=1e-9)
        for key in ("iteration", "fooled"):
            assert torch.equal(part.state[key], whole.state[key][list(rows)])


@every
@both_modes
def test_returned_image_is_the_success_that_was_found(name: str, targeted: bool) -> None:
    images, state, _ = attacked(name, targeted=targeted)
    margin = margins(CURVED(images), LABELS, TARGETS if targeted else None)
    assert torch.equal(state["fooled"], margin > 0)
    assert state["fooled"].any()


@one_backward
@both_modes
def test_cost(name: str, targeted: bool) -> None:
    """k updates cost k + 1 forwards and k backwards; none for a random start or a return to a known gradient."""
    attack = MADE[name]()
    for n in range(4):
        _, state, network = attacked(name, (n,), targeted)
        k = int(state["iteration"][0])
        free = 0
        if getattr(attack, "random_start", False):
            length = ITERATIONS // attack.restart_schedule.maximum
            free = min(attack.restart_schedule.maximum, -(-k // length))
        assert network.forwards == k + 1
        assert network.backwards == network.passes
        if name.startswith("apgd"):  # which may return at every checkpoint
            returns = attack.restart_schedule.maximum * len(checkpoints(ITERATIONS // attack.restart_schedule.maximum))
            assert k - free - returns <= network.backwards <= k - free
        else:
            assert network.backwards == k - free
        assert k <= ITERATIONS


@every
def test_finished_images_are_not_evaluated(name: str) -> None:
    _, state, network = attacked(name, (0, 1, 2, 3), targeted=True)
    assert network.forwards == int((state["iteration"] + 1).sum())
    assert network.backwards == sum(attacked(name, (n,), True).network.backwards for n in range(4))


@stopping
@both_modes
def test_a_success_at_the_start_costs_one_forward(name: str, targeted: bool) -> None:
    network = Watched(CURVED)
    others = [(label + 1) % 5 for label in LABELS]
    out, state = run_attack(MADE[name](), network, X, others, LABELS if targeted else None, iterations=6)
    assert torch.equal(out, X)
    assert state["fooled"].all()
    assert state["iteration"].tolist() == [0] * 8
    assert (network.forwards, network.passes) == (8, 0)


@every
def test_images_are_feasible_in_every_iteration(name: str) -> None:
    attack, network = MADE[name](), Watched(CURVED)
    attack.early_stop = False
    black_white = X.round()
    for x in (X, black_white, (X * 255).round() / 255):
        network.inputs.clear()
        labels = CURVED(x).argmax(1).tolist()
        out, _ = run_attack(attack, network, x, labels, iterations=12)
        for image in (*network.inputs, out):
            assert image.min() >= 0
            assert image.max() <= 1
            if len(image) < 8 or not hasattr(attack, "eps"):
                continue
            change = (image - x).flatten(1)
            length = change.norm(dim=1) if attack.norm is L2 else change.abs().amax(1)
            assert (length <= attack.eps + 1e-6).all()


@every
def test_images_are_feasible_in_float32(name: str) -> None:
    network = Watched(lambda x: CURVED(x.double()).float())
    out, state = run_attack(MADE[name](), network, X.float(), LABELS, iterations=8)
    assert out.dtype == torch.float32
    assert all(image.min() >= 0 and image.max() <= 1 for image in (*network.inputs, out))
    assert torch.equal(CURVED(out.double()).argmax(1) != torch.tensor(LABELS), state["fooled"])


@with_gradient
@pytest.mark.parametrize("logits", [[3.0, 2, 1, 0], [0.0] * 4])
def test_images_do_not_move_without_a_gradient(name: str, logits: list[float]) -> None:
    """Neither with one likely class, nor with equal logits, at the boundary."""
    network = Watched(lambda x: x.flatten(1)[:, :4] * 0 + torch.tensor(logits, dtype=torch.float64))
    out, state = run_attack(MADE[name](), network, X, [0] * 8, iterations=9)
    assert not state["fooled"].any()
    assert out.isfinite().all()
    if not getattr(MADE[name](), "random_start", False):
        expected = X if name != "ddn" else (X * 255).round() / 255
        assert all((images - expected[: len(images)]).abs().max() < 1e-12 for images in network.inputs[1:])


@every
def test_nan_is_no_success(name: str) -> None:
    _, state = run_attack(MADE[name](), lambda x: x.flatten(1)[:, :5] * torch.nan, X, [1] * 8, iterations=3)
    assert not state["fooled"].any()


@every
def test_results_do_not_depend_on_the_iterations_of_other_slots(name: str) -> None:
    """Images enter the batch one after the other."""
    attack = MADE[name]()
    expected = attacked(name).images
    tasks = [Task(n, str(n), 10 + n, label=label) for n, label in enumerate(LABELS)]

    def entering(rows: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        count = torch.zeros(len(rows), dtype=torch.long)
        own = attack.init(X[list(rows)], [tasks[n] for n in rows])
        last = torch.full_like(count, ITERATIONS)
        return X[list(rows)], {**own, "iteration": count, "iterations": last, "until": last}

    (x, state), present = entering([0, 1]), [0, 1]
    waiting = list(range(2, 8))
    out: dict[int, Tensor] = {}
    for step in range(500):
        if waiting and step % 4 == 3:
            new = waiting.pop(0)
            image, own = entering([new])
            x, present = torch.cat([x, image]), [*present, new]
            state = {key: torch.cat([state[key], own[key]]) for key in state}
        if not present:
            if not waiting:
                break
            continue
        evaluate = plain_evaluate(attack.objective, CURVED, state)
        over = state["iteration"] >= state["iterations"]
        with torch.no_grad():
            x, state, done = attack.step(x, state, evaluate)
        state["iteration"] = state["iteration"] + (~done).long()
        ended = done | over
        for m in ended.nonzero()[:, 0].tolist():
            out[present[m]] = attack.result(x[m : m + 1], {key: value[m : m + 1] for key, value in state.items()})[0]
        x, state = x[~ended], {key: value[~ended] for key, value in state.items()}
        present = [n for n, is_ended in zip(present, ended.tolist(), strict=True) if not is_ended]
    assert sorted(out) == list(range(8))
    torch.testing.assert_close(torch.stack([out[n] for n in range(8)]), expected, rtol=0, atol=1e-9)


@every
def test_global_random_state_is_preserved(name: str) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()  # noqa: NPY002
    attacked.__wrapped__(name, (0,))  # not cached
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), before[2])


@every
def test_step_changes_no_input_in_place(name: str) -> None:
    x = X.clone()
    attack = MADE[name]()
    tasks = [Task(n, str(n), n, label=label) for n, label in enumerate(LABELS)]
    count = torch.zeros(8, dtype=torch.long)
    state = {**attack.init(x, tasks), "iteration": count, "iterations": count + 9, "until": count + 9}
    for k in range(5):
        state["iteration"] = count + k
        kept = x.clone(), {key: value.clone() for key, value in state.items()}
        with torch.no_grad():
            moved, after, done = attack.step(x, state, plain_evaluate(attack.objective, CURVED, state))
        assert torch.equal(x, kept[0])
        assert torch.equal(moved[done], x[done])
        assert all(torch.equal(state[key], value) for key, value in kept[1].items())
        assert {key: value.dtype for key, value in after.items()} == {key: value.dtype for key, value in state.items()}
        assert all(len(value) == 8 for value in after.values())
        x, state = moved, after


@pytest.mark.parametrize("name", ["pgd, on", "apgd, on"])
@both_modes
def test_without_early_stop_the_best_image_is_returned(name: str, targeted: bool) -> None:
    out, state, network = attacked(name, targeted=targeted)
    for n in range(8):
        labels, targets = [LABELS[n]] * ITERATIONS, [TARGETS[n]] * ITERATIONS if targeted else None
        logits = CURVED(torch.stack([images[n] for images in network.inputs[1:]]))
        scores = torch.log_softmax(logits, 1)[:, targets[n] if targets else LABELS[n]] * (1 if targeted else -1)
        success = margins(logits, labels, targets) > 0
        best = scores[success] if bool(success.any()) else scores
        assert float(-state["size"][n]) == pytest.approx(float(best.max()), abs=1e-12)
        assert torch.equal(out[n], torch.stack([images[n] for images in network.inputs])[1:][scores == best.max()][0])


def test_a_success_is_better_than_a_failure_of_higher_score() -> None:
    """The cross-entropy may be higher where the label is still predicted. The photograph itself does not count."""
    attack = PGD(early_stop=False)
    state = {**attack.init(X[:1], [Task(0, "image", 0, label=0)]), "iteration": torch.zeros(1, dtype=torch.long)}
    rows = [[0.0, -1, -1], [1.0, 0, -9], [1.0, 1.1, -9], [1.0, 0.9, 0.9], [1.0, 1.2, -9]]
    for k, (logits, best, fooled) in enumerate(zip(rows, [0, 1, 2, 2, 4], [0, 0, 1, 1, 1], strict=True)):
        x = torch.full_like(X[:1], 0.1 * k)
        state["iteration"] = torch.tensor([k])
        evaluate = plain_evaluate(attack.objective, lambda x, row=logits: torch.tensor([row]).double(), state)
        state = attack.track_best(x, state, evaluate(x, gradient=False))
        assert state["fooled"].tolist() == [bool(fooled)]
        if k:
            torch.testing.assert_close(attack.result(x, state), torch.full_like(x, 0.1 * best))


@pytest.mark.parametrize("attack", [PGD(), PGD("l2"), APGD(), APGD("l2"), FGSM()])
def test_radius_of_a_task(attack: Attack) -> None:
    linear, x = Linear(), photographs(3, low=0.4, high=0.6)
    attack.early_stop = False
    radii = [0.01, 0.02, 0.05]
    labels = linear(x).argmax(1).tolist()
    out, _ = run_attack(attack, linear, x, labels, iterations=60, options=[{"eps": radius} for radius in radii])
    change = (out - x).flatten(1)
    length = change.norm(dim=1) if attack.norm is L2 else change.abs().amax(1)
    torch.testing.assert_close(length, torch.tensor(radii, dtype=torch.float64), rtol=1e-6, atol=0)


def test_learning_rate_of_a_task() -> None:
    rates = [{"lr": 0.1}, {"lr": 0.4}]
    network = Watched(CURVED)
    run_attack(NormalizedAscentAttack(clamp=False), network, X[:2], LABELS[:2], iterations=1, options=rates)
    torch.testing.assert_close((network.inputs[1] - X[:2]).flatten(1).norm(dim=1), torch.tensor([0.1, 0.4]).double())


def test_ddn_starts_with_its_initial_norm() -> None:
    network, grey = Watched(CURVED), photographs(2, low=0.4, high=0.6)
    run_attack(DDN(0.3, quantize=False), network, grey, CURVED(grey).argmax(1).tolist(), iterations=1)
    change = (network.inputs[1] - grey).flatten(1).norm(dim=1)
    torch.testing.assert_close(change, torch.full((2,), 1.05 * 0.3).double(), rtol=1e-6, atol=0)


def test_names() -> None:
    for name, kind in ATTACKS.items():
        assert short_name(type(kind())) == name

    class Own(PGD):
        pass

    assert short_name(type(Own())) == "Own"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PGD("l1"), "norm must be linf or l2, got 'l1'"),
        (lambda: PGD(eps=-0.1), "eps of PGD must be 0 or more and finite, got -0.1"),
        (lambda: APGD(eps=float("nan")), "eps of APGD .* got nan"),
        (lambda: FGSM(eps=float("inf")), "eps of FGSM .* got inf"),
        (lambda: PGD(alpha=0.0), "alpha must be positive, got 0.0"),
        (lambda: PGD(momentum=-1.0), "momentum must be 0 to 2, got -1.0"),
        (lambda: PGD(nesterov=True), "momentum must be positive for nesterov, got 0.0"),
        (lambda: PGD(restarts=0), "restarts must be at least 1, got 0"),
        (lambda: PGD(restarts=2, random_start=False), "restarts must be 1 without random_start, got 2"),
        (lambda: APGD(loss="cw"), "loss must be ce or dlr, got 'cw'"),
        (lambda: DDN(init_norm=0.0), "DDN: init_norm must be positive, got 0.0"),
        (lambda: DDN(gamma=1.0), "DDN: gamma must be between 0 and 1, got 1.0"),
        (lambda: DDN(alpha=0.0), "lr must be positive and finite, got 0.0"),
        (lambda: NormalizedAscentAttack(lr=0.0), "lr must be positive and finite, got 0.0"),
        (lambda: NormalizedAscentAttack(space="fourier"), "space must be pixels or normalized, got 'fourier'"),
        (
            lambda: run_attack(NormalizedAscentAttack(space="normalized"), CURVED, X, LABELS),
            "space 'normalized' needs a network",
        ),
        (lambda: DeepFool("l1"), "norm must be linf or l2, got 'l1'"),
        (lambda: DeepFool(overshoot=-0.1), "DeepFool: overshoot must be 0 or more, got -0.1"),
        (lambda: DeepFool(classes=1), "DeepFool: classes must be at least 2, got 1"),
        (lambda: FMN("l0"), "got 'l0'"),
        (lambda: FMN(gamma=1.0), "FMN: gamma must be between 0 and 1, got 1.0"),
        (lambda: FMN(alpha=0.0), "lr must be positive and finite, got 0.0"),
        (lambda: CarliniWagner(c=0.0), "CarliniWagner: c must be positive, got 0.0"),
        (lambda: CarliniWagner(steps=0), "CarliniWagner: steps must be at least 1, got 0"),
        (lambda: CarliniWagner(lr=-1.0), "lr must be positive and finite, got -1.0"),
        (lambda: Square(p=0.0), "p must be above 0 and at most 1, got 0.0"),
        (lambda: Square(p=1.5), "at most 1, got 1.5"),
        (lambda: Square(eps=-1.0), "eps of Square .* got -1:"),
        (lambda: Square("l1"), "norm must be"),
        (lambda: Ensemble(classes=0), "classes must be at least 1, got 0"),
        (lambda: Ensemble(queries=0), "queries must be at least 1, got 0"),
        (lambda: Ensemble(restarts=0), "restarts must be at least 1, got 0"),
        (lambda: Ensemble("l1"), "norm must be"),
        (lambda: run_attack(PGD(), CURVED, X), "image 0 needs a true label or a target"),
        (lambda: run_attack(PGD(), CURVED, X[:1], [0], options=[{"eps": -1}]), "eps of image 0 .* got -1:"),
        (lambda: run_attack(APGD(loss="dlr"), Linear(), X, [0] * 8), "DLR requires 3 classes"),
    ],
)
def test_invalid_arguments_are_rejected(make: Callable[[], object], words: str) -> None:
    with pytest.raises(LitVizError, match=words):
        make()


@pytest.mark.parametrize("attack", [PGD(restarts=50), APGD(restarts=50), CarliniWagner(steps=50)])
def test_too_few_iterations_for_the_restarts_are_noted(attack: Attack, smooth: Network) -> None:
    (note,) = AdversarialExample(smooth, attack=attack, iterations=10).notes
    assert note.startswith("10 iterations allow 5 of 50 ")
    assert attack.restart_schedule.count(10) == 5
    assert AdversarialExample(smooth, attack=attack, iterations=100).notes == []
