from __future__ import annotations

from dataclasses import replace
from typing import Any

from lit_viz.engine.slots import ITERATION
from lit_viz.engine.step import Queue


def indices(method: Any) -> list[int]:
    return [task.index for task in method.slots.tasks]


def test_slots_are_filled_in_order_and_refilled(stub: Any) -> None:
    method, queue = stub.Method(slots=2), Queue(stub.tasks(3))
    assert queue.fill(method) == []
    assert indices(method) == method.filled == [0, 1]
    assert method.slots.x.tolist() == [[0.0], [1.0]]
    assert len(queue) == 1
    method.slots.keep([1])
    queue.fill(method)
    assert indices(method) == [1, 2]
    assert method.filled == [0, 1, 2]
    assert len(queue) == 0


def test_finished_tasks_are_not_started(stub: Any) -> None:
    method = stub.Method(slots=3)
    Queue(stub.tasks(3), finished={1}).fill(method)
    assert indices(method) == [0, 2]


def test_a_failed_task_leaves_its_slot_to_the_next(stub: Any) -> None:
    method = stub.Method(slots=2, fails=[0])
    (failed,) = Queue(stub.tasks(3)).fill(method)
    assert (failed.record.status, failed.record.error, failed.record.iterations) == ("failed", "task 0 fails", 0)
    assert indices(method) == [1, 2]


def test_a_task_that_does_not_fit_the_batch_waits(stub: Any) -> None:
    first, second, third = stub.tasks(3)
    method, queue = stub.Method(slots=3), Queue([first, replace(second, options={"layer": 1}), third])
    queue.fill(method)
    assert indices(method) == [0]
    method.slots.keep([])
    queue.fill(method)
    assert indices(method) == [1]


def test_restored_tasks_come_first_with_their_state(stub: Any) -> None:
    method = stub.Method(slots=3)
    Queue(stub.tasks(3)).fill(method)
    method.slots.put(ITERATION, [2], method.slots.state[ITERATION][2:] + 3)
    entries = method.slots.dump()[2:]

    resumed, queue = stub.Method(slots=2), Queue(stub.tasks(3), finished={0}, restored=entries)
    assert queue.updates == 3
    assert queue.entries == entries
    queue.fill(resumed)
    assert indices(resumed) == [2, 1]
    assert resumed.slots.iteration == [3, 0]
    assert (queue.updates, queue.entries, len(queue)) == (0, [], 0)
