from __future__ import annotations

from dataclasses import replace
from typing import Any

from lit_viz.engine.slots import ITERATION, Earlier
from lit_viz.engine.step import Queue
from lit_viz.rng import restart_seed


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
    method, queue = stub.Method(slots=3), Queue([first, replace(second, layer=1), third])
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


def restart(method: Any, queue: Queue, n: int) -> None:
    """Empty slot n; its task starts again."""
    (snapshot,) = method.snapshots(method.slots.x[n : n + 1], [n], final=True)
    queue.restart(method, n, snapshot)
    method.slots.keep([m for m in range(len(method.slots)) if m != n])


def test_a_task_starts_again_behind_the_new_ones(stub: Any) -> None:
    method, queue = stub.Method(slots=2), Queue(stub.tasks(3))
    queue.fill(method)
    method.slots.count_evaluations([0], forwards=5, backwards=4)
    method.slots.put(ITERATION, [0], method.slots.state[ITERATION][:1] + 4)
    restart(method, queue, 0)
    assert (len(queue), queue.updates) == (2, 0)
    queue.fill(method)
    assert indices(method) == [1, 2]
    method.slots.keep([])
    queue.fill(method)
    assert indices(method) == [0]
    assert (method.slots.iteration, method.slots.updates(0)) == ([0], 4)
    assert (method.slots.forwards, method.slots.backwards) == ([5], [4])
    (earlier,) = method.slots.earlier
    assert (earlier.restarts, earlier.updates, earlier.best.metrics) == (1, 4, {"value": 0.0})
    (key,) = method.slots.keys([0])
    assert key.seed == restart_seed(10, 1) != 10


def test_a_full_batch_of_restarts_precedes_new_tasks(stub: Any) -> None:
    method, queue = stub.Method(slots=2), Queue(stub.tasks(4))
    queue.fill(method)
    restart(method, queue, 0)
    restart(method, queue, 0)
    queue.fill(method)
    assert sorted(indices(method)) == [0, 2]


def test_a_resumed_queue_has_the_order_of_the_restarts(stub: Any) -> None:
    """Task 1 waits to start again, and task 0 has done so."""
    method, queue = stub.Method(slots=2), Queue(stub.tasks(5))
    queue.fill(method)
    restart(method, queue, 0)
    queue.fill(method)  # tasks 1 and 2
    restart(method, queue, 0)
    queue.fill(method)  # task 0, as a full batch of restarts waits
    assert indices(method) == [2, 0]
    method.slots.put(ITERATION, [0, 1], method.slots.state[ITERATION] + 1)
    resumed, restored = stub.Method(slots=2), Queue(stub.tasks(5), restored=[*method.slots.dump(), *queue.entries])
    restored.fill(resumed)
    order = []
    for one, its_queue in ((method, queue), (resumed, restored)):
        while len(one.slots):
            order.append(indices(one))
            one.slots.keep([])
            its_queue.fill(one)
    assert order == [[2, 0], [3, 4], [1]] * 2


def test_earlier_images_are_restored_from_plain_values(stub: Any) -> None:
    method, queue = stub.Method(slots=1), Queue(stub.tasks(1))
    queue.fill(method)
    restart(method, queue, 0)
    (entry,) = queue.entries
    assert entry["earlier"].keys() == {"restarts", "updates", "best"}
    earlier = Earlier.restore(entry["earlier"], stub.tasks(1)[0])
    assert earlier.dump() == entry["earlier"]
    assert earlier.best is not None
    assert earlier.best.array is None
