"""The ensemble runs its members one after another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.attacks import APGD, FMN, Attack, Ensemble, Square, run_attack
from lit_viz.attacks.base import plain_evaluate
from lit_viz.attacks.norms import NORMS, NormName
from lit_viz.callbacks.saving import ExactCheckpoint
from lit_viz.evidence.attacks.diagnostics import successes
from lit_viz.methods import AdversarialExample
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.types import Task
from tests.support.attacks import Curved, Watched, margins, photographs
from tests.support.marks import slow
from tests.support.runs import Train

both = pytest.mark.parametrize("norm", ["linf", "l2"])
CURVED = Curved()
X = photographs(8)
LABELS = CURVED(X).argmax(1).tolist()
TARGETS = [(label + 1 + n % 4) % 5 for n, label in enumerate(LABELS)]
#: Radii of which every member has its share of the successes.
RADII: dict[NormName, list[float]] = {
    "linf": [0.02, 0.02, 0.015, 0.03, 0.03, 0.01, 0.04, 0.005],
    "l2": [0.2, 0.2, 0.1, 0.25, 0.15, 0.3, 0.05, 0.1],
}


def members(norm: NormName, eps: float, n: int, targeted: bool) -> list[tuple[str, Attack, int, int | None]]:
    """Return name, attack, iterations and target of each member."""
    likeliest = CURVED(X)[n].argsort(descending=True).tolist()
    rivals: list[int | None] = [TARGETS[n]] if targeted else [k for k in likeliest if k != LABELS[n]][:3]
    goal = TARGETS[n] if targeted else None
    return [
        ("apgd_ce", APGD(norm, eps), 10, goal),
        *(("apgd_dlr", APGD(norm, eps, "dlr"), 10, rival) for rival in rivals),
        ("fmn", FMN(norm), 10, goal),
        ("square", Square(norm, eps), 6, goal),
    ]


def alone(norm: NormName, eps: float, n: int, targeted: bool) -> tuple[list[tuple[str, Tensor]], int]:
    """Return the inputs of the members in order, up to the first success, by name, and the number of backwards."""
    calls, backwards = [], 0
    for name, attack, iterations, target in members(norm, eps, n, targeted):
        network = Watched(CURVED)
        targets = None if target is None else [target]
        run_attack(attack, network, X[n : n + 1], [LABELS[n]], targets, iterations=iterations, seeds=[10 + n])
        backwards += network.backwards
        for image in network.inputs:
            calls.append((name, image))
            margin = margins(CURVED(image), [LABELS[n]], [TARGETS[n]] if targeted else None)
            if margin > 0 and NORMS[norm].length(image - X[n : n + 1]) <= eps + 1e-6:
                return calls, backwards
    return calls, backwards


def ensemble(norm: NormName, rows: Sequence[int], targeted: bool, **options: Any) -> tuple[Tensor, Any]:
    iterations = 36 if targeted else 56
    return run_attack(
        Ensemble(norm, classes=3, queries=60),
        options.pop("network", CURVED),
        X[list(rows)],
        [LABELS[n] for n in rows],
        [TARGETS[n] for n in rows] if targeted else None,
        iterations=iterations,
        seeds=[10 + n for n in rows],
        options=[{"eps": RADII[norm][n]} for n in rows],
        **options,
    )


@both
@pytest.mark.parametrize("targeted", [False, slow(True)])
def test_evaluations_are_those_of_the_members_in_order(norm: NormName, targeted: bool) -> None:
    """Image by image, up to the first success; so it succeeds wherever a member does."""
    winners = set()
    for n in range(0, 8, 2):
        expected, backwards = alone(norm, RADII[norm][n], n, targeted)
        network = Watched(CURVED)
        out, state = ensemble(norm, [n], targeted, network=network)
        assert len(network.inputs) == len(expected)
        for image, (_, known) in zip(network.inputs, expected, strict=True):
            torch.testing.assert_close(image, known, rtol=0, atol=1e-12)
        about = Ensemble(norm, classes=3, queries=60).record_fields(state)
        is_adversarial = bool(state["fooled"])
        assert about["by"] == (expected[-1][0] if is_adversarial else None)
        assert about["tried"] == list(dict.fromkeys(name for name, _ in expected))
        assert about["eps"] == RADII[norm][n]
        if is_adversarial:
            assert torch.equal(out, network.inputs[-1])
        else:
            assert network.backwards == backwards
        winners.add(about["by"])
    assert {"apgd_ce", None} <= winners


@both
@pytest.mark.parametrize("targeted", [False, slow(True)])
def test_results_do_not_depend_on_the_members_of_other_slots(norm: NormName, targeted: bool) -> None:
    whole, state = ensemble(norm, range(8), targeted)
    assert len(set(state["by"].tolist())) > 1
    for rows in ([0], [2, 3, 4]):
        images, part = ensemble(norm, rows, targeted)
        torch.testing.assert_close(images, whole[rows], rtol=0, atol=1e-9)
        for key in ("iteration", "fooled", "by"):
            assert torch.equal(part[key], state[key][rows])


def test_a_step_of_images_at_different_members_equals_their_own_steps() -> None:
    attack = Ensemble(eps=0.001, classes=3, queries=60)

    def network(x: Tensor) -> Tensor:  # bit-equal in every batch
        return torch.cat([CURVED(row[None]) for row in x])

    def after(n: int, updates: int) -> tuple[Tensor, dict[str, Tensor]]:
        x, count = X[n : n + 1], torch.zeros(1, dtype=torch.long)
        state = {**attack.init(x, [Task(n, "", 10 + n, label=LABELS[n])]), "iteration": count, "iterations": count + 56}
        for k in range(updates):
            state["iteration"] = count + k
            x, state, done = attack.step(x, state, plain_evaluate(attack.objective, network, state))
            assert not done
        state["iteration"] = count + updates
        return x, state

    with torch.no_grad():
        started = [after(n, updates) for n, updates in enumerate([0, 9, 10, 25, 40, 43, 50, 55])]
        x = torch.cat([image for image, _ in started])
        state = {key: torch.cat([own[key] for _, own in started]) for key in started[0][1]}
        moved, there, done = attack.step(x, state, plain_evaluate(attack.objective, network, state))
        assert not done.any()
        for n, (image, own) in enumerate(started):
            expected, actual, _ = attack.step(image, own, plain_evaluate(attack.objective, network, own))
            torch.testing.assert_close(moved[n : n + 1], expected, rtol=0, atol=1e-12)
            for key, value in actual.items():
                torch.testing.assert_close(there[key][n : n + 1], value, rtol=1e-9, atol=1e-9)


class Rounded:
    """A network of rounded inputs: its gradient is zero everywhere."""

    def __call__(self, x: Tensor) -> Tensor:
        return CURVED((x * 40).round() / 40)


def test_square_succeeds_despite_masked_gradients() -> None:
    labels = Rounded()(X).argmax(1).tolist()
    _, by_slope = run_attack(APGD(eps=0.15), Rounded(), X, labels, iterations=20)
    attack = Ensemble(eps=0.15, classes=1, queries=1500)
    out, state = run_attack(attack, Rounded(), X, labels, iterations=90)
    assert int(state["fooled"].sum()) > int(by_slope["fooled"].sum())
    assert 3 in state["by"].tolist()
    assert torch.equal(state["fooled"], margins(Rounded()(out), labels) > 0)


@pytest.mark.parametrize(("count", "rivals"), [(2, 0), (3, 0), (4, 3), (5, 4), (30, 9)])
def test_number_of_classes_follows_from_the_network(count: int, rivals: int) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, count))
    classifier = load_network(network, labels=[str(k) for k in range(count)], mean=[0.5] * 3, std=[0.5] * 3, size=4)
    attack = Ensemble()
    attack.bind(classifier)
    assert sum(stage.member == "apgd_dlr" for stage in attack.stages) == rivals
    assert attack.iterations == 100 * (rivals + 2) + 5000
    assert bool(attack.notes) == (rivals == 0)
    x = photographs(2, 4, 4)
    fast = classifier.fast(dtype=torch.float64)
    _, state = run_attack(attack, lambda x: fast(x)[0], x, fast(x)[0].argmax(1).tolist(), iterations=30)
    assert state["iteration"].max() <= 30


def test_a_success_in_the_final_image_of_a_member_is_attributed_to_it() -> None:
    attack = Ensemble(eps=0.1, classes=3, queries=60)
    x, count = X[:1], torch.zeros(1, dtype=torch.long)
    state = {**attack.init(x, [Task(0, "", 0, label=LABELS[0])]), "iteration": count, "iterations": count + 56}
    wrong = torch.nn.functional.one_hot(torch.tensor([(LABELS[0] + 1) % 5]), 5).double()
    for k, by, tried in (
        (10, 0, ["apgd_ce"]),
        (11, 1, ["apgd_ce", "apgd_dlr"]),
        (56, 5, ["apgd_ce", "apgd_dlr", "fmn", "square"]),
    ):
        state["iteration"] = count + k
        seen = attack.track_best(x, state, plain_evaluate(attack.objective, lambda x: wrong, state)(x, gradient=False))
        assert seen["by"].tolist() == [by]
        assert attack.record_fields(seen)["tried"] == tried


def test_restarts_multiply_the_iterations() -> None:
    assert Ensemble(classes=2, queries=7, restarts=3).iterations == 3 * 100 * 3 + 100 + 7


def test_backwards_do_not_exceed_the_announced_number() -> None:
    """--count relies on it: nine of ten updates belong to Square, which computes no gradient."""
    attack = Ensemble(eps=1e-4, classes=3, queries=4500)
    network = Watched(CURVED)
    run_attack(attack, network, X[:1], LABELS[:1], iterations=50)
    assert attack.backwards_per_step == pytest.approx(0.1)
    assert network.forwards == 50 + 6  # and the last image of each member
    assert network.backwards <= 5


def test_a_targeted_image_without_a_label_omits_dlr() -> None:
    attack = Ensemble(eps=1e-4, classes=3, queries=50)
    network = Watched(CURVED)
    _, state = run_attack(attack, network, X[:1], target=TARGETS[:1], iterations=25)
    assert network.forwards == 25 + 3
    assert attack.record_fields(state)["tried"] == ["apgd_ce", "fmn", "square"]


def test_few_iterations_are_split_between_the_members() -> None:
    for iterations in range(1, 12):
        network = Watched(CURVED)
        _, state = run_attack(Ensemble(eps=1e-4, classes=3), network, X[:2], LABELS[:2], iterations=iterations)
        assert state["iteration"].tolist() == [iterations] * 2
        assert torch.isfinite(torch.stack(network.inputs[1:])).all()


def test_an_image_misclassified_at_the_start_has_no_member() -> None:
    attack = Ensemble(classes=3)
    _, state = run_attack(attack, CURVED, X[:1], [(LABELS[0] + 1) % 5])
    assert attack.record_fields(state) == {"norm": "linf", "eps": attack.eps, "by": None, "tried": [], "fewest": 0}
    assert state["fooled"].all()


# -- in a run


def noise(n: int = 5) -> Tensor:
    x = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    return (x * 255).round() / 255


def queue(network: Network, eps: Sequence[float]) -> list[Task]:
    labels = network.scores(noise()).argmax(1).tolist()
    return [Task(i, f"i{i}", 10 + i, label=labels[i], label_source="given", image=i, eps=eps[i]) for i in range(5)]


def module(network: Network, slots: int, iterations: int = 40) -> AdversarialExample:
    attack = Ensemble(eps=0.004, classes=2, queries=100)
    return AdversarialExample(
        network, attack=attack, images=noise(), slots=slots, iterations=iterations, log_at="every:1"
    )


def known(record: Any) -> dict[str, Any]:
    return {key: value for key, value in record.to_dict().items() if key != "seconds"}


def test_slots_give_equal_outcomes_and_every_image_is_logged(smooth: Network, train: Train) -> None:
    tasks = queue(smooth, [0.0005, 0.02, 0.001, 0.05, 0.002])
    runs = [train(module(smooth, slots), tasks, precision="64-true") for slots in (1, 3)]
    assert {result.record.by for result in runs[0].results.values()} > {None}
    for i in range(5):
        alone = runs[0].results[i]
        for run in runs:
            record = run.results[i].record
            assert torch.equal(run.results[i].image, alone.image)
            for key in ("by", "tried", "iterations", "forwards", "success_float", "success_file"):
                assert getattr(record, key) == getattr(alone.record, key)
            # APGD returns to a point with a stored gradient, or not, where two scores are equal but for rounding.
            assert abs(record.backwards - alone.record.backwards) <= 2
            seen = run.snapshots[i]
            assert any(o.metrics.get("gradient_norm", 0.0) > 0 for o in seen)
            assert [o.iteration for o in seen] == list(range(record.iterations + 1))
            for one, other in zip(seen, runs[0].snapshots[i], strict=True):
                assert {"margin", "probability"} <= one.metrics.keys()
                assert "objective" in one.metrics or one.iteration == record.iterations
                assert one.metrics["margin"] == pytest.approx(other.metrics["margin"], abs=1e-6)
        for o in runs[0].snapshots[i][:-1]:  # also where the next member starts from another image
            logits = smooth.scores(o.image[None])
            assert o.metrics["margin"] == pytest.approx(float(margins(logits, [tasks[i].label or 0])), abs=1e-4)
        if not alone.record.success_float:  # one more than its updates for each of five stages
            assert alone.record.forwards == 40 + 5


def test_resumes_in_the_middle_of_the_third_member(smooth: Network, train: Train, tmp_path: Path) -> None:
    class Dies(ExactCheckpoint):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 35:
                raise RuntimeError("killed")
            super().on_train_batch_end(trainer, *args)

    tasks = queue(smooth, [0.0005] * 5)
    undisturbed = train(module(smooth, 5), tasks)
    with pytest.raises(RuntimeError, match="killed"):
        train(module(smooth, 5), tasks, [Dies(tmp_path / "last.ckpt", every_steps=9)])
    entry = torch.load(tmp_path / "last.ckpt", weights_only=True)["lit_viz"]["slots"][0]
    about = module(smooth, 5).attack.record_fields({key: value[None] for key, value in entry["state"].items()})
    assert about["tried"] == ["apgd_ce", "apgd_dlr", "fmn"]
    rest = train(module(smooth, 5), tasks, ckpt_path=tmp_path / "last.ckpt")
    assert len(rest.results) == 5
    for index, result in rest.results.items():
        assert torch.equal(result.image, undisturbed.results[index].image)
        assert known(result.record) == known(undisturbed.results[index].record)


def test_ensemble_breakdown_in_evidence_and_figures(smooth: Network, tmp_path: Path) -> None:
    """Also a curve after each member, of several radii."""
    options: dict[str, Any] = {
        "attack": "ensemble",
        "queries": 100,
        "classes": 2,
        "iterations": 20,
        "wandb": "disabled",
    }
    run = lv.attack(smooth, noise(), eps=7 / 255, out=tmp_path / "one", **options)
    left = json.loads((tmp_path / "one" / "evidence.json").read_text())["survivors"]
    assert [one["member"] for one in left] == ["apgd_ce", "apgd_dlr", "fmn", "square"]
    assert (left[0]["tried"], left[-1]["left"]) == (5, sum(r["by"] is None for r in run.records))
    for before, after in pairwise(left):
        assert after["tried"] == before["left"]
        assert after["left"] == before["left"] - after["fooled"]
    message = [text.get_text() for text in run.figure().texts]
    place = message.index("ensemble member") + 4
    assert message[place : place + 4] == ["apgd_ce", "5", str(left[0]["fooled"]), str(left[0]["left"])]
    several = lv.attack(smooth, noise(), eps=[2 / 255, 12 / 255], **options)
    assert {"after apgd_ce", "after square"} <= {text.get_text() for text in several.figure().texts}


def test_an_image_outside_the_ball_is_no_missed_success(smooth: Network) -> None:
    """FMN leaves the ball temporarily."""
    run = lv.attack(smooth, noise(), attack="ensemble", queries=100, target=2, eps=1 / 255, iterations=20)
    failed = [o for o in run.outcomes if not o.record.success_float]
    assert any(margin > 0 for o in failed for _, margin in o.curve("margin"))
    assert not any(successes(o) for o in failed)
