from __future__ import annotations

import torch

from lit_viz.engine.slots import ITERATION, ITERATIONS, Earlier, Slots
from lit_viz.rng import Key
from lit_viz.types import Task


def filled(count: int = 3) -> Slots:
    slots = Slots()
    tasks = [Task(n, f"task {n}", seed=10 + n, target=n, label=5) for n in range(count)]
    state = {
        "momentum": torch.arange(float(count)),
        ITERATION: torch.arange(count),
        ITERATIONS: torch.full((count,), 9),
    }
    slots.append(tasks, torch.arange(2.0 * count).view(count, 2), state)
    return slots


def test_keep_selects_rows_of_images_state_tasks_and_counts() -> None:
    slots = filled()
    slots.count_evaluations([0, 2, 2], forwards=2, backwards=1)
    slots.keep([2, 0])
    assert slots.x.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert slots.state["momentum"].tolist() == [2.0, 0.0]
    assert [task.index for task in slots.tasks] == [2, 0]
    assert (slots.forwards, slots.backwards) == ([4, 2], [2, 1])


def test_append_extends_every_row_with_zero_counts() -> None:
    slots = filled(1)
    slots.count_evaluations([0], forwards=3)
    state = {"momentum": torch.tensor([7.0]), ITERATION: torch.tensor([0]), ITERATIONS: torch.tensor([4])}
    slots.append([Task(8, "late", seed=1)], torch.tensor([[8.0, 9.0]]), state)
    assert slots.x.tolist() == [[0.0, 1.0], [8.0, 9.0]]
    assert slots.iteration == [0, 0]
    assert slots.state[ITERATIONS].tolist() == [9, 4]
    assert slots.forwards == [3, 0]


def test_update_advances_each_iteration_separately() -> None:
    slots = filled()
    slots.update(slots.x + 1, slots.state, torch.tensor([1, 0, 5]))
    assert slots.iteration == [1, 1, 7]
    assert slots.x[0].tolist() == [1.0, 2.0]


def test_put_leaves_tensors_that_share_memory() -> None:
    slots = filled()
    shared = slots.state["momentum"]
    slots.put("momentum", [1], torch.tensor([9.0]))
    assert slots.state["momentum"].tolist() == [0.0, 9.0, 2.0]
    assert shared.tolist() == [0.0, 1.0, 2.0]


def test_draws_are_keyed_by_seed_iteration_and_view() -> None:
    slots = filled()
    assert slots.keys([2, 1], views=2) == [Key(12, 2, 0), Key(12, 2, 1), Key(11, 1, 0), Key(11, 1, 1)]
    assert slots.draws([2, 1], 2, torch.device("cpu")).last_iterations == [9, 9, 9, 9]


def test_goals_repeat_per_view_and_mark_missing_values() -> None:
    slots = filled(1)
    slots.tasks.append(Task(1, "untargeted", seed=0, label=3, channel=7))
    slots.earlier.append(Earlier())
    goals = {name: values.tolist() for name, values in slots.goals([0, 1], torch.device("cpu"), views=2).items()}
    assert goals == {
        "targets": [0, 0, 3, 3],
        "labels": [5, 5, 3, 3],
        "targeted": [True, True, False, False],
        "channels": [-1, -1, 7, 7],
        "against": [-1, -1, -1, -1],
    }
    slots.earlier[1] = Earlier(restarts=1)
    restarted = slots.goals([0, 1], torch.device("cpu"), views=2)["restarted"]
    assert restarted.tolist() == [False, False, True, True]


def test_a_restored_slot_has_the_resolved_task_and_its_counts() -> None:
    slots, restored = filled(), Slots()
    slots.count_evaluations([1], forwards=5, backwards=4)
    slots.seconds[1] = 2.5
    unresolved = Task(1, "task 1", seed=11)
    restored.restore(slots.dump()[1], unresolved, torch.device("cpu"))
    assert restored.tasks == [slots.tasks[1]]
    assert torch.equal(restored.x, slots.x[1:2])
    assert restored.state["momentum"].tolist() == [1.0]
    assert (restored.forwards, restored.backwards, restored.seconds) == ([5], [4], [2.5])
