"""The tasks that wait for a slot, and how free slots are filled with them."""

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
    """What a process has still to train: first what a checkpoint has kept half-way, then what is new.

    Args:
        tasks: of the process, in order.
        finished: indices of those that are.
        begun: of those that were in slots when a checkpoint was saved, what it has kept
            (:meth:`~lit_viz.engine.slots.Slots.dump`).
    """

    def __init__(
        self, tasks: Sequence[Task] = (), finished: Collection[int] = (), begun: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        mine = {task.index: task for task in tasks}
        self._begun = {entry["task"]: dict(entry) for entry in begun}  # by task
        fresh = [index for index in mine if index not in finished and index not in self._begun]
        self._waiting = [mine[index] for index in reversed([*self._begun, *fresh])]  # the next one last

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def kept(self) -> list[dict[str, Any]]:
        """What a checkpoint has kept of those that are still waiting."""
        return list(self._begun.values())

    def _iteration_of(self, task: Task) -> int:
        return int(self._begun[task.index]["state"][ITERATION]) if task.index in self._begun else 0

    @property
    def updates(self) -> int:
        """Updates that those have had."""
        return sum(int(entry["state"][ITERATION]) for entry in self._begun.values())

    def fill(self, method: Method) -> list[Result]:
        """Fill the free slots; return the tasks that could not start."""
        failed: list[Result] = []
        tasks: list[Task] = []
        images: list[Tensor] = []
        while self._waiting and len(method.slots) + len(tasks) < method.capacity:
            beside = (method.slots.tasks or tasks)[:1]
            if beside and not method.can_batch(self._waiting[-1], beside[0], self._iteration_of(self._waiting[-1])):
                break
            task = self._waiting.pop()
            if task.index in self._begun:  # these come first
                method.slots.restore(self._begun.pop(task.index), task, method.device)
                method.on_slots_filled([len(method.slots) - 1])
                continue
            try:
                images.append(method.start(task))
            except LitVizError as error:
                failed.append(_failed(task, error))
            else:
                tasks.append(task)
        if tasks:
            x = to_device(torch.stack(images), method.device, method.number)
            completed = method.resolve_tasks(tasks, x)
            whole = {m: task for m, task in enumerate(completed) if isinstance(task, Task)}
            failed += [_failed(t, e) for t, e in zip(tasks, completed, strict=True) if isinstance(e, LitVizError)]
            _fill(method, list(whole.values()), x[list(whole)])
        return failed


def _fill(method: Method, tasks: list[Task], x: Tensor) -> None:
    if not tasks:
        return
    iterations = to_device([method.last(task) for task in tasks], method.device)
    counts = {ITERATION: torch.zeros_like(iterations), ITERATIONS: iterations, UNTIL: iterations}
    method.slots.append(tasks, x, {**method.initial(x, tasks), **counts})
    method.on_slots_filled(range(len(method.slots) - len(tasks), len(method.slots)))


def _failed(task: Task, error: LitVizError) -> Result:
    return Result(task, Record.of(task, status="failed", error=str(error), iterations=0))
