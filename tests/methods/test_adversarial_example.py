from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_viz.attacks import ATTACKS, DDN, PGD, Attack, NormalizedAscentAttack, run_attack
from lit_viz.callbacks.saving import ExactCheckpoint
from lit_viz.errors import LitVizError
from lit_viz.images import Noise
from lit_viz.methods import AdversarialExample
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.runs.records import AdversarialRecord
from lit_viz.types import Task
from tests.support.marks import slow
from tests.support.networks import Residual, trained
from tests.support.runs import Train

FAST = ("normalized_ascent", "fgsm", "pgd", "apgd", "ddn", "ensemble")


def images(n: int = 5) -> Tensor:
    noise = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    return (noise * 255).round() / 255


def queue(network: Network, n: int = 5, target: int | None = None, **options: Any) -> list[Task]:
    labels = network.scores(images(n)).argmax(1).tolist()
    return [
        Task(i, f"i{i}", 10 + i, label=labels[i], label_source="given",
             target=None if target is None else (labels[i] + target) % 5, image=i, **options)
        for i in range(n)
    ]  # fmt: skip


def module(network: Network, attack: Attack, **options: Any) -> AdversarialExample:
    return AdversarialExample(network, attack=attack, **{"images": images(), "slots": 2, **options})


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("target", [None, slow(1)])
def test_a_run_equals_the_bare_loop(smooth: Network, train: Train, name: str, target: int | None) -> None:
    """Five images in two slots, of different age, against one loop over all; then rounded to 8 bits."""
    tasks = queue(smooth, target=target)
    memory = train(module(smooth, ATTACKS[name](), iterations=12), tasks, precision="64-true")
    attack = ATTACKS[name]()
    attack.bind(smooth)
    network = smooth.fast(dtype=torch.float64)
    outcomes, state = run_attack(
        attack,
        lambda x: network(x)[0],
        images().double(),
        [t.label or 0 for t in tasks],
        None if target is None else [t.target or 0 for t in tasks],
        iterations=12,
        seeds=[t.seed for t in tasks],
    )
    for i in range(5):
        result = memory.results[i]
        assert result.record.iterations == int(state["iteration"][i])
        assert result.record.success_float == bool(state["fooled"][i])
        if result.record.repaired == 0:
            assert (result.image - outcomes[i]).abs().max() <= 0.5 / 255 + 1e-6


def test_k_updates_cost_k_evaluations_and_one_forward(smooth: Network, train: Train) -> None:
    rows: dict[str, int] = {"forward": 0, "backward": 0}

    class Counts(AdversarialExample):
        def score(self, x: Tensor, rows_: Sequence[int], **how: Any) -> Any:
            rows["forward"] += len(x)
            evaluation = super().score(x, rows_, **how)
            backward = evaluation.backward

            def counted(*args: Any, **kwargs: Any) -> Tensor:
                calls = kwargs.get("rows")
                rows["backward"] += len(x) if calls is None else int(calls.sum())
                return backward(*args, **kwargs)

            evaluation.backward = counted
            return evaluation

    made = Counts(smooth, attack=NormalizedAscentAttack(lr=0.05), images=images(), slots=3)
    memory = train(made, queue(smooth, target=1))
    records = [result.record for result in memory.results.values()]
    assert all(record.success_float for record in records)
    assert len({record.iterations for record in records}) > 1
    for record in records:
        assert (record.forwards, record.backwards) == (record.iterations + 1, record.iterations)
    assert rows["forward"] == sum(record.forwards for record in records)
    assert rows["backward"] == sum(record.backwards for record in records)


def test_the_record_describes_the_file(smooth: Network, train: Train) -> None:
    memory = train(module(smooth, PGD(eps=0.1), iterations=20), queue(smooth, target=1))
    for i, result in memory.results.items():
        record, image = result.record, result.image
        assert torch.equal((image * 255).round() / 255, image)
        logits = smooth.scores(image[None])[0]
        goal = result.task.target
        assert record.success_file == (int(logits.argmax()) == goal)
        assert record.probability == pytest.approx(float(logits.softmax(0)[goal]), abs=1e-6)
        others = logits.clone()
        others[goal] = -torch.inf
        assert record.margin == pytest.approx(float(logits[goal] - others.max()), abs=1e-5)
        change = image - images()[i]
        assert record.linf == pytest.approx(float(change.abs().max()), abs=1e-6)
        assert record.l2 == pytest.approx(float(change.norm()), abs=1e-5)
        assert record.linf <= 0.1 + 1e-6
        assert torch.equal(result.source, images()[i])
        assert record.predicted_before == result.task.label


def test_frames_follow_the_image_and_the_flip_has_one_row(smooth: Network, train: Train) -> None:
    made = module(smooth, NormalizedAscentAttack(lr=0.05), log_at="every:1")
    memory = train(made, queue(smooth, target=1))
    for index, seen in memory.snapshots.items():
        last = memory.results[index].record.iterations
        assert [o.iteration for o in seen] == list(range(last + 1))
        assert torch.equal(seen[0].image, images()[index])
        assert torch.equal(seen[0].extra_images["difference"], torch.full((3, 16, 16), 0.5))
        assert all(o.metrics["margin"] <= 0 for o in seen[:-1])
        assert {"probability", "margin", "l2", "linf", "objective"} <= seen[-1].metrics.keys()
        assert [o.metrics["l2"] for o in seen[:-1]] == sorted(o.metrics["l2"] for o in seen[:-1])


def test_a_misclassified_photograph_is_no_success(smooth: Network, train: Train) -> None:
    predicted = smooth.scores(images(2)).argmax(1).tolist()
    tasks = [
        Task(0, "wrong", 0, label=(predicted[0] + 1) % 5, label_source="given", image=0),
        Task(1, "there", 1, label=(predicted[1] + 1) % 5, target=predicted[1], image=1),
        Task(2, "unlabelled", 1, target=predicted[1], image=1),
    ]
    memory = train(module(smooth, PGD(eps=0.1)), tasks)
    for result in memory.results.values():
        assert result.record.status == "skipped"
        assert "before the attack" in result.record.error
        assert not result.record.success_float
        assert not result.record.success_file
        assert (result.record.iterations, result.record.forwards, result.record.backwards) == (0, 1, 0)


def test_only_the_task_whose_target_is_its_label_fails(smooth: Network, train: Train) -> None:
    tasks = queue(smooth, target=1)
    tasks[1] = Task(1, "same", 1, label=2, target=2, target_name="cherry", image=1)
    tasks[2] = Task(2, "nothing", 2, image=2)
    memory = train(module(smooth, PGD(eps=0.1)), tasks)
    statuses = [memory.results[i].record.status for i in range(5)]
    assert statuses == ["done", "failed", "failed", "done", "done"]
    assert {(type(result.record), result.record.attack) for result in memory.results.values()} == {
        (AdversarialRecord, "pgd")
    }
    assert "the target must differ from the label cherry" in memory.results[1].record.error
    assert "neither a label nor a target" in memory.results[2].record.error


def test_expectation_over_transforms_takes_views(smooth: Network, train: Train) -> None:
    made = module(smooth, PGD(eps=0.2, random_start=False), transforms=[Noise(0.05)], views=3, iterations=20)
    memory = train(made, queue(smooth, 2, target=1))
    for result in memory.results.values():
        assert result.record.backwards == 3 * result.record.iterations


def test_too_few_classes_for_a_loss_give_a_one_line_error(train: Train) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    two = load_network(network, labels=["a", "b"], mean=[0.5] * 3, std=[0.5] * 3, size=16)
    task = Task(0, "x", 0, label=int(two.scores(images(1)).argmax()), image=0)
    with pytest.raises(LitVizError, match="DLR requires 3 classes"):
        train(module(two, ATTACKS["apgd"](loss="dlr")), [task])


@pytest.mark.parametrize(
    "attack",
    [
        slow(lambda: PGD(eps=0.02, early_stop=False)),
        slow(lambda: DDN()),
        lambda: ATTACKS["apgd"](),
    ],
)
def test_a_resumed_run_is_bit_equal(smooth: Network, train: Train, tmp_path: Path, attack: Any) -> None:
    class Dies(ExactCheckpoint):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 8:
                raise RuntimeError("killed")
            super().on_train_batch_end(trainer, *args)

    tasks = queue(smooth, target=1)
    undisturbed = train(module(smooth, attack(), iterations=6), tasks)
    with pytest.raises(RuntimeError, match="killed"):
        train(module(smooth, attack(), iterations=6), tasks, [Dies(tmp_path / "last.ckpt", every_steps=3)])
    rest = train(module(smooth, attack(), iterations=6), tasks, ckpt_path=tmp_path / "last.ckpt")
    assert 4 in rest.results
    for index, result in rest.results.items():
        assert torch.equal(result.image, undisturbed.results[index].image)
        same = {key: value for key, value in result.record.to_dict().items() if key != "seconds"}
        assert same == {k: v for k, v in undisturbed.results[index].record.to_dict().items() if k != "seconds"}


def test_a_part_of_the_residual_gradient_moves_the_image(train: Train) -> None:
    """As a bare loop does on the copy that is damped; and otherwise than the whole gradient."""
    net = load_network(trained(Residual()), labels=list("abcd"), mean=[0.5] * 3, std=[0.25] * 3, size=16)
    tasks = queue(net, 2)
    images_of, outcomes = {}, {}
    for part in (0.3, 1.0):
        attack = PGD(norm="l2", eps=2.0, random_start=False, early_stop=False)
        memory = train(module(net, attack, iterations=4, residual_gradient=part), tasks)
        images_of[part] = torch.stack([memory.results[i].image for i in range(2)])
        network = net.fast(residual_gradient=part)
        outcomes[part], _ = run_attack(
            attack, lambda x, f=network: f(x)[0], images(2), [t.label or 0 for t in tasks], iterations=4
        )
    for part, other in ((0.3, 1.0), (1.0, 0.3)):  # as files, which lie on the lattice
        assert (images_of[part] - outcomes[part]).norm() < 0.2 * (images_of[part] - outcomes[other]).norm()


@pytest.mark.parametrize("part", [0.0, 1.5])
def test_unsupported_transforms_are_rejected(smooth: Network, part: float) -> None:
    with pytest.raises(LitVizError, match=f"residual_gradient must be above 0 and at most 1, got {part}"):
        module(smooth, PGD(), residual_gradient=part)
