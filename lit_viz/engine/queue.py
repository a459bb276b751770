"""The queue of tasks, and the refill of free slots from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.engine.method import Method
from lit_viz.engine.slots import ITERATION, ITERATIONS, UNTIL
from lit_viz.errors import LitVizError
from lit_viz.types import Record, Result, Task
from lit_viz.utils.device import to_device


class Queue:
    """The tasks of a rank that wait for a slot: those restored from a checkpoint first, then the new ones.

    Args:
        tasks: tasks of the rank, in order.
        finished: indices of finished tasks.
        restored: checkpoint entries of unfinished tasks (:meth:`~lit_viz.engine.slots.Slots.dump`).
    """

    def __init__(
        self, tasks: Sequence[Task] = (), finished: Collection[int] = (), restored: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        by_index = {task.index: task for task in tasks}
        self._restored = {entry["task"]: dict(entry) for entry in restored}
        new = [index for index in by_index if index not in finished and index not in self._restored]
        self._waiting = [by_index[index] for index in reversed([*self._restored, *new])]  # the next task is last

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Checkpoint entries of restored tasks that are still waiting."""
        return list(self._restored.values())

    @property
    def updates(self) -> int:
        """Updates of restored tasks that are still waiting."""
        return sum(int(entry["state"][ITERATION]) for entry in self._restored.values())

    def fill(self, method: Method) -> list[Result]:
        """Fill the free slots of a method; return the results of tasks that failed to start."""
        failed: list[Result] = []
        tasks: list[Task] = []
        images: list[Tensor] = []
        while self._waiting and len(method.slots) + len(tasks) < method.capacity:
            task = self._waiting[-1]
            batch = method.slots.tasks or tasks
            entry = self._restored.get(task.index)
            if batch and not method.can_batch(task, batch[0], int(entry["state"][ITERATION]) if entry else 0):
                break
            self._waiting.pop()
            if entry is not None:
                del self._restored[task.index]
                method.slots.restore(entry, task, method.device)
                method.on_slots_filled([len(method.slots) - 1])
                continue
            try:
                images.append(method.start(task))
            except LitVizError as error:
                failed.append(_failed(task, error))
            else:
                tasks.append(task)
        return failed + (_start(method, tasks, images) if tasks else [])


def _start(method: Method, tasks: list[Task], images: list[Tensor]) -> list[Result]:
    """Append slots for new tasks; return the results of tasks that can't be resolved."""
    x = to_device(torch.stack(images), method.device, method.image_dtype)
    resolved = method.resolve_tasks(tasks, x)
    failed = [_failed(t, error) for t, error in zip(tasks, resolved, strict=True) if isinstance(error, LitVizError)]
    rows = [row for row, task in enumerate(resolved) if isinstance(task, Task)]
    tasks = [task for task in resolved if isinstance(task, Task)]
    if tasks:
        x = x[rows]
        iterations = to_device([method.last_iteration(task) for task in tasks], method.device)
        engine_state = {ITERATION: torch.zeros_like(iterations), ITERATIONS: iterations, UNTIL: iterations}
        method.slots.append(tasks, x, {**method.init_state(x, tasks), **engine_state})
        method.on_slots_filled(range(len(method.slots) - len(tasks), len(method.slots)))
    return failed


def _failed(task: Task, error: LitVizError) -> Result:
    return Result(task, Record.of(task, status="failed", error=str(error), iterations=0))
