from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.attacks import PGD, Universal
from lit_viz.callbacks.saving import ExactCheckpoint
from lit_viz.errors import LitVizError
from lit_viz.evidence.universal_perturbation import saturated_since
from lit_viz.methods import AdversarialExample, UniversalPerturbation
from lit_viz.methods.universal_perturbation import add_to_views
from lit_viz.networks import Network
from lit_viz.objectives import ClippedCrossEntropy, CrossEntropy, Outputs
from lit_viz.outputs import load_network
from lit_viz.rng import Draws, Key
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.records import UniversalRecord
from lit_viz.types import Task
from tests.support.runs import Train

EPS = 8 / 255


def images(n: int = 6, low: float = 0.0, high: float = 1.0) -> Tensor:
    noise = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    return ((low + (high - low) * noise) * 255).round() / 255


def task_of(places: Sequence[int], index: int = 0, out: Sequence[int] = (), target: int | None = None) -> Task:
    photographs = [
        Task(i, f"i{i}", i, label_source="predicted", target=target,
             image=i, held_out=True if i in out else None)
        for i in places
    ]  # fmt: skip
    return Task(index, "universal", 5 + index, photographs=[photograph.to_dict() for photograph in photographs])


def module(network: Network, **options: Any) -> UniversalPerturbation:
    attack = options.pop("attack", None) or Universal(eps=EPS)
    return UniversalPerturbation(
        network, attack=attack, **{"views": 4, "images": images(), "iterations": 12, **options}
    )


def linear(seed: int = 0) -> tuple[Network, Tensor]:
    """A linear network of two classes that predicts class 0 everywhere, and the weight that leads out of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(3 * 16 * 16, 2)
    layer.bias.data = torch.tensor([3.0, 0.0])
    network = load_network(
        nn.Sequential(nn.Flatten(), layer), labels=["a", "b"], mean=[0.5] * 3, std=[0.25] * 3, size=16
    )
    return network, (layer.weight[1] - layer.weight[0]).detach().view(3, 16, 16)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("target", [None, 1])
def test_a_linear_network_has_a_known_optimum(train: Train, norm: Any, target: int | None) -> None:
    """eps times the sign of the weight, or along it; for every photograph the same."""
    network, weight = linear()
    grey = images(low=0.35, high=0.65)
    eps = 0.05 if norm == "linf" else 0.5
    made = module(network, attack=Universal(norm, eps), images=grey, iterations=30)
    delta = train(made, [task_of(range(6), target=target)]).results[0].array
    expected = eps * (weight.sign() if norm == "linf" else weight / weight.norm())
    torch.testing.assert_close(delta, expected, rtol=0, atol=1e-6)


def test_a_round_shows_every_photograph_once_and_those_held_out_never(smooth: Network) -> None:
    made = module(smooth)
    photographs = made.photographs(task_of(range(6), out=[1, 4]))
    assert photographs.trained_on == [0, 2, 3, 5]
    rounds = [photographs.batch(5, k, 4) for k in range(20)]
    assert all(sorted(these) == [0, 2, 3, 5] for these in rounds)
    assert len({tuple(these) for these in rounds}) > 8
    assert [p for k in range(13) for p in photographs.batch(5, k, 6)] == [p for these in rounds for p in these][:78]
    assert rounds != [photographs.batch(6, k, 4) for k in range(20)]


def test_slots_change_neither_draws_nor_outcomes(smooth: Network, train: Train) -> None:
    tasks = [task_of(range(6)), task_of([1, 2, 3], 1), task_of([5, 0, 4, 2], 2, out=[5])]
    runs = [train(module(smooth, slots=slots), tasks, precision="64-true") for slots in (1, 2, 3)]
    for i in range(3):
        for run in runs[1:]:
            torch.testing.assert_close(run.results[i].array, runs[0].results[i].array, rtol=0, atol=1e-6)
            for key in ("fooling_rate", "fooling_rate_float", "forwards", "backwards"):
                assert getattr(run.results[i].record, key) == getattr(runs[0].results[i].record, key)
            for one, other in zip(run.snapshots[i], runs[0].snapshots[i], strict=True):
                assert one.metrics["fooling_rate"] == pytest.approx(other.metrics["fooling_rate"])


def test_the_score_is_the_mean_over_the_mini_batch(smooth: Network, train: Train) -> None:
    """And so is the gradient: one step of it, from nothing, by hand."""
    made = module(smooth, attack=Universal("l2", 1.0, alpha=0.1), iterations=1)
    memory = train(made, [task_of(range(6))])
    places = made.photographs(task_of(range(6))).batch(5, 0, 4)
    network = smooth.fast()
    delta = torch.zeros(3, 16, 16, requires_grad=True)
    x = images()[places]
    labels = smooth.scores(images()).argmax(1)[places]
    loss = nn.functional.cross_entropy(network(x + delta)[0], labels)
    (gradient,) = torch.autograd.grad(loss, delta)
    torch.testing.assert_close(memory.results[0].array, 0.1 * gradient / gradient.norm(), rtol=1e-3, atol=1e-6)
    seen = memory.snapshots[0][0].metrics
    assert seen["objective"] == pytest.approx(loss.item(), rel=1e-4)
    assert seen["fooling_rate"] == 0


@pytest.mark.parametrize("target", [None, 2])
def test_records_of_the_photographs_describe_their_files(smooth: Network, train: Train, target: int | None) -> None:
    result = train(module(smooth, iterations=40), [task_of(range(6), out=[3], target=target)]).results[0]
    delta, record = result.array, result.record
    assert delta.abs().max() <= EPS + 1e-6
    before = smooth.scores(images()).argmax(1)
    counted = [n for n in range(6) if target is None or int(before[n]) != target]
    fooled = {}
    for perturbed_image in result.perturbed_images:
        n = perturbed_image.record.index
        expected = ((images()[n] + delta).clamp(0, 1) * 255).round() / 255
        assert perturbed_image.image.dtype == perturbed_image.source.dtype == torch.uint8  # a quarter of the memory
        image, source = perturbed_image.image / 255, perturbed_image.source / 255
        assert (image - expected).abs().max() <= 1 / 255 + 1e-6
        assert (image - images()[n]).abs().max() <= EPS + 1e-6
        assert torch.equal(source, images()[n])
        seen = int(smooth.scores(image[None]).argmax())
        fooled[n] = seen == target if target is not None else seen != int(before[n])
        assert perturbed_image.record.success_file == fooled[n]
        assert perturbed_image.record.status == ("done" if n in counted else "skipped")
        assert perturbed_image.record.predicted_name == smooth.labels[seen]
    actual = [fooled[n] for n in counted if n != 3]
    assert record.fooling_rate == pytest.approx(sum(actual) / len(actual))
    assert record.held_out_fooling_rate == float(fooled[3])
    assert (record.photographs, record.trained_on, record.held_out) == (6, len(actual), 1)
    assert record.fooling_rate > 0
    assert (record.forwards, record.backwards) == (6 + 40 * 4 + 6, 40 * 4)


def test_a_broken_photograph_is_one_less(smooth: Network, train: Train) -> None:
    task = task_of(range(4))
    photographs = [*task.photographs]
    photographs[1] = {**photographs[1], "error": "it is no picture"}
    broken = Task(0, "universal", 5, photographs=photographs)
    result = train(module(smooth), [broken]).results[0]
    assert result.record.trained_on == 3
    assert [b.record.status for b in result.perturbed_images] == ["done", "failed", "done", "done"]
    nothing = Task(0, "universal", 5, photographs=photographs[1:2])
    result = train(module(smooth), [nothing]).results[0]
    assert result.record.status == "failed"
    assert isinstance(result.record, UniversalRecord)
    assert (result.record.photographs, result.record.trained_on, result.record.magnified) == (1, 0, None)
    assert "got none (it is no picture)" in result.record.error


def test_a_resumed_run_is_bit_equal(smooth: Network, train: Train, tmp_path: Path) -> None:
    class Dies(ExactCheckpoint):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 8:
                raise RuntimeError("killed")
            super().on_train_batch_end(trainer, *args)

    tasks = [task_of(range(6))]
    undisturbed = train(module(smooth), tasks).results[0]
    with pytest.raises(RuntimeError, match="killed"):
        train(module(smooth), tasks, [Dies(tmp_path / "last.ckpt", every_steps=3)])
    rest = train(module(smooth), tasks, ckpt_path=tmp_path / "last.ckpt").results[0]
    assert torch.equal(rest.array, undisturbed.array)
    same = {key: value for key, value in rest.record.to_dict().items() if key != "seconds"}
    assert same == {key: value for key, value in undisturbed.record.to_dict().items() if key != "seconds"}


def test_evaluating_in_parts_equals_one_batch() -> None:
    """The evaluations of several processes: some views of every perturbation."""
    keys = [Key(seed, 0, view) for seed in (3, 4) for view in range(4)]
    photographs, delta, draws = torch.rand(8, 3, 5, 5), 0.1 * torch.rand(2, 3, 5, 5), Draws(keys)
    whole = add_to_views(delta, draws, photographs, keys)
    torch.testing.assert_close(whole, (photographs + delta.repeat_interleave(4, 0)).clamp(0, 1))
    assert torch.equal(add_to_views(delta, draws.rows([1, 3, 5, 7]), photographs, keys), whole[[1, 3, 5, 7]])


def test_logging_some_perturbations_does_not_change_their_metrics() -> None:
    """Where each has one view, a process is given some of them alone."""
    keys = [Key(seed, 0) for seed in (3, 4, 5)]
    photographs, delta, draws = torch.rand(3, 3, 5, 5), 0.1 * torch.rand(3, 3, 5, 5), Draws(keys)
    whole = add_to_views(delta, draws, photographs, keys)
    assert torch.equal(add_to_views(delta[[0, 2]], draws.rows([0, 2]), photographs, keys), whole[[0, 2]])


def test_photographs_beyond_the_limit_contribute_no_gradient() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0], [0.0, 50.0, 1.0], [50.0, 0.0, 1.0]], requires_grad=True)
    outputs = Outputs(logits, torch.zeros(3).long(), targeted=torch.tensor([False, False, True]))
    score = ClippedCrossEntropy(9.0)(outputs)
    torch.testing.assert_close(score, CrossEntropy()(outputs).clamp(max=9.0))
    (gradient,) = torch.autograd.grad(score.sum(), logits)
    assert gradient[0].any()
    assert not gradient[1].any()


@pytest.mark.parametrize(
    ("values", "since"),
    [
        ([1, 9, 8, 9, 9, 9, 9, 9, 9, 9, 9], 3),
        ([9, 9, 9], 0),
        ([1, 2, 3, 4, 5, 6, 7, 8, 8.9, 8.99, 9], None),  # of chance the last mini-batch
        ([9, 9, 9, 8], None),
        ([], None),
    ],
)
def test_since_when_nothing_was_learned(values: list[float], since: int | None) -> None:
    assert saturated_since(list(enumerate(values)), 9.0) == since


def test_a_vanished_gradient_is_reported(smooth: Network, tmp_path: Path) -> None:
    how: dict[str, Any] = {"attack": "universal", "eps": 0.5, "attack.clip": 0.01}
    lv.attack(smooth, images(), **how, iterations=30, out=tmp_path / "run", wandb="disabled")
    lines = json.loads((tmp_path / "run" / "evidence.json").read_text())["universal"]["universal"]
    assert len(lines) == 2
    assert "the cross-entropy of every photograph is at the attack's clip 0.01" in lines[1]


def test_radii_have_distinct_names(smooth: Network, tmp_path: Path) -> None:
    """The evidence has the rates of each radius."""
    run = tmp_path / "run"
    lv.attack(
        smooth, images(), attack="universal", eps=[0.001, 0.5], norm="linf", iterations=8, wandb="disabled", out=run
    )
    rates = json.loads((run / "evidence.json").read_text())["universal"]
    assert len({tuple(message) for message in rates.values()}) == len(rates) == 2


def test_photographs_of_finished_tasks_are_released(smooth: Network, train: Train) -> None:
    method = module(smooth, iterations=2)
    train(method, [task_of(range(6)), task_of(range(6), 1)])
    assert not method._photographs


def test_a_run_keeps_every_photograph(smooth: Network, tmp_path: Path, reseal: Any) -> None:
    run = lv.attack(
        smooth, images(), attack="universal", eps=EPS, norm="linf", iterations=8, held_out=0.34, wandb="disabled",
        out=tmp_path / "run",
    )  # fmt: skip
    record = run.records[0]
    assert len(run.records) == 1
    assert (record["trained_on"], record["held_out"]) == (4, 2)
    perturbed_images = run[0].perturbed_images()
    assert [b.record.index for b in perturbed_images] == list(range(6))
    assert all(Path(b.image).is_file() and Path(b.source).is_file() for b in perturbed_images)
    assert (tmp_path / "run" / "figure.png").stat().st_size > 0
    evidence = json.loads((tmp_path / "run" / "evidence.json").read_text())
    assert evidence["files"] == {"read": 6, "wrong": []}
    assert lv.check(tmp_path / "run", smooth)
    Path(perturbed_images[0].image).write_bytes(Path(perturbed_images[0].source).read_bytes())
    with pytest.raises(LitVizError, match="photographs/0000_universal/0000"):
        lv.check(tmp_path / "run", smooth)
    reseal(tmp_path / "run")
    assert not lv.check(tmp_path / "run", smooth)  # seen otherwise, or no longer as far from its photograph
    folder = FolderStorage.open(tmp_path / "run")
    folder.load({})
    folder.restore({}, 0, ())
    assert not any((tmp_path / "run" / "photographs").iterdir())
    lv.attack(
        smooth, images(2), attack="universal", iterations=1, wandb="disabled", out=tmp_path / "run", overwrite=True
    )


def test_a_task_a_target_and_radius(smooth: Network) -> None:
    run = lv.attack(smooth, images(3), target="banana", attack="universal", eps=[0.02, 0.1], iterations=2)
    assert [(r["name"], r["eps"], r["target"]) for r in run.records] == [
        ("universal banana", 0.02, 1),
        ("universal banana", 0.1, 1),
    ]
    for record, array in zip(run.records, run.arrays, strict=True):
        assert array.abs().max() <= record["eps"] + 1e-6
    run.figure()


@pytest.mark.parametrize(("views", "shown"), [({}, 8), ({"views": 1}, 1), ({"views": 2}, 2)])
def test_number_of_photographs_per_iteration(views: dict[str, int], shown: int, smooth: Network) -> None:
    """A given number of 1 is not replaced by the default."""
    run = lv.attack(smooth, images(3), attack="universal", iterations=5, **views)
    assert run.records[0]["backwards"] == 5 * shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attack": "pgd", "held_out": 0.5}, "held_out is not an argument of AdversarialExample"),
        ({"attack": "universal", "held_out": 1.0}, "held_out must be at least 0 and less than 1, got 1.0"),
        ({"attack": "universal", "target": "random"}, "must be one class for all photographs, got random"),
        ({"attack": "universal", "alpha": 0.0}, "alpha must be positive, got 0.0"),
        ({"attack": "universal", "attack.clip": 0.0}, "limit of ClippedCrossEntropy must be positive"),
    ],
)
def test_invalid_arguments_are_rejected(smooth: Network, options: dict[str, Any], words: str) -> None:
    with pytest.raises(LitVizError, match=words):
        lv.attack(smooth, images(2), **options)


def test_it_is_no_attack_of_one_photograph(smooth: Network) -> None:
    with pytest.raises(LitVizError, match="UniversalPerturbation"):
        AdversarialExample(smooth, attack=Universal())
    AdversarialExample(smooth, attack=PGD())


@pytest.mark.slow
def test_real_weights_are_fooled(lite0: Network) -> None:
    photographs = [f"packaged:{name}" for name in ("chelsea", "coffee", "rocket")]
    run = lv.attack(lite0, photographs, attack="universal", eps=10 / 255, norm="linf", iterations=40, views=3)
    assert run.records[0]["fooling_rate"] > 0.5


def test_files_outside_their_ball_match_their_records(smooth: Network, tmp_path: Path) -> None:
    """Off the lattice a small ball holds no 8-bit image: an image that fools is no success, nor in its record."""
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    labels = smooth.scores(x).argmax(1).tolist()
    labels[1] = (labels[1] + 1) % 5
    lv.attack(
        smooth, x, label=labels, attack="universal", eps=0.3 / 255, norm="linf", iterations=2, wandb="disabled",
        out=tmp_path / "run",
    )  # fmt: skip
    assert lv.check(tmp_path / "run", smooth)


class Renamed(Universal):
    """A universal attack of a user, under another name."""


def test_a_subclass_under_another_name_is_a_universal_attack(smooth: Network) -> None:
    run = lv.attack(smooth, images(), attack=Renamed, eps=EPS, norm="linf", iterations=4, held_out=0.34)
    (record,) = run.records
    assert (record["attack"], record["held_out"]) == ("Renamed", 2)
    assert any("fools" in text.get_text() for text in run.figure().texts)
