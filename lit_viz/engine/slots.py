"""The batch of slots: images in training, their step-rule state and evaluation counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.engine.snapshots import Snapshot
from lit_viz.optim.rule import ENGINE_KEYS
from lit_viz.rng import Draws, Key, restart_seed
from lit_viz.types import Task
from lit_viz.utils.device import index_or_none, to_device, to_list

#: Keys of the state that belong to the engine.
ITERATION, ITERATIONS, UNTIL = ENGINE_KEYS
#: Entry of a checkpoint for a task that has started again.
EARLIER = "earlier"
#: Fields of a task that may be resolved when its image is read.
_RESOLVED = {part.name for part in fields(Task)} - {"index", "name", "seed", "source"}
_COUNTS = ("forwards", "backwards", "seconds")
#: Values of a final snapshot that are kept over a restart, in the order of its fields.
_OF_BEST = ("iteration", "metrics", "image", "top5")


@dataclass(frozen=True)
class Earlier:
    """The earlier images of a task that has started again.

    Attributes:
        restarts: number of these images.
        updates: their updates in total.
        best: final snapshot of the best of them; None before the first restart.
    """

    restarts: int = 0
    updates: int = 0
    best: Snapshot | None = None

    def dump(self) -> dict[str, Any]:
        """Return the earlier images as plain values and tensors, for a checkpoint."""
        best = None
        if self.best is not None:
            best = {name: getattr(self.best, name) for name in _OF_BEST}
        return {"restarts": self.restarts, "updates": self.updates, "best": best}

    @classmethod
    def restore(cls, values: Mapping[str, Any], task: Task) -> Earlier:
        """Return the earlier images of :meth:`dump`."""
        best = None
        if values["best"] is not None:
            best = Snapshot(task, *(values["best"][name] for name in _OF_BEST))
        return cls(values["restarts"], values["updates"], best)


class Slots(nn.Module):
    """N images in training; row n of every tensor and list belongs to ``tasks[n]``.

    The images are a parameter; its first dimension changes as slots are filled and emptied. Neither images nor state
    are part of ``state_dict``: checkpoints store them by task (:meth:`dump`).

    Attributes:
        image: ``(N, ...)`` parameter: pixels, Fourier coefficients, a perturbation or a mask.
        state: state of the step rule, tensors with a leading slot dimension.
        tasks: task of each slot.
        forwards, backwards: evaluations per slot.
        seconds: time in the slot, per slot.
        earlier: earlier images of tasks that have started again, per slot; they are included in the counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.empty(0))
        self.state: dict[str, Tensor] = {}
        self.tasks: list[Task] = []
        self.forwards: list[int] = []
        self.backwards: list[int] = []
        self.seconds: list[float] = []
        self.earlier: list[Earlier] = []

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def x(self) -> Tensor:
        """The images ``(N, ...)``, detached."""
        return self.image.detach()

    @property
    def iteration(self) -> list[int]:
        """Updates of each image."""
        if not self.tasks:
            return []
        return [int(k) for k in to_list(self.state[ITERATION])]

    def updates(self, n: int) -> int:
        """Return the updates of the task of slot n, including its earlier images: the iteration that is logged."""
        return self.earlier[n].updates + int(to_list(self.state[ITERATION])[n])

    def keys(self, rows: Sequence[int], views: int = 1) -> list[Key]:
        """Return the keys of the draws, ordered by slot and view, at the iteration of each image."""
        iteration = self.iteration
        keys = []
        for n in rows:
            seed = restart_seed(self.tasks[n].seed, self.earlier[n].restarts)
            for view in range(views):
                keys.append(Key(seed, iteration[n], view))
        return keys

    def draws(self, rows: Sequence[int], views: int, device: torch.device) -> Draws:
        """Return the draws of these slots and views."""
        last = to_list(self.state[ITERATIONS])
        last_iterations: list[int] = []
        for n in rows:
            last_iterations += [last[n]] * views
        return Draws(self.keys(rows, views), device, last_iterations=last_iterations)

    def goals(self, rows: Sequence[int], device: torch.device, views: int = 1) -> dict[str, Tensor]:
        """Return the goals of these slots, ``(len(rows) * views,)`` each, as :class:`~lit_viz.objectives.Outputs` takes
        them: the class to reach, or to leave if ``targeted`` is False; the true class, the channel and the class that
        the target is contrasted with, -1 if there is none; the thresholds of scores that are numbers; and whether the
        image has started again.
        """
        targets: list[int] = []
        labels: list[int] = []
        targeted: list[bool] = []
        channels: list[int] = []
        against: list[int] = []
        thresholds: list[float] = []
        restarted: list[bool] = []
        for n in rows:
            task = self.tasks[n]
            targets += [index_or_none(task.goal)] * views
            labels += [index_or_none(task.label)] * views
            targeted += [task.target is not None] * views
            channels += [index_or_none(task.channel)] * views
            against += [index_or_none(task.against if isinstance(task.against, int) else None)] * views
            thresholds += [task.threshold or 0.0] * views
            restarted += [self.earlier[n].restarts > 0] * views
        goals = {
            "targets": to_device(targets, device),
            "labels": to_device(labels, device),
            "targeted": to_device(targeted, device),
            "channels": to_device(channels, device),
            "against": to_device(against, device),
        }
        if any(thresholds):  # of scores that are numbers
            goals["thresholds"] = to_device(thresholds, device)
        if any(restarted):
            goals["restarted"] = to_device(restarted, device)
        return goals

    def clear(self, x: Tensor) -> None:
        """Remove all slots; ``x`` is allocated until the first are appended."""
        self.keep([])
        self._set(x, {})

    def append(self, tasks: Sequence[Task], x: Tensor, state: dict[str, Tensor]) -> None:
        """Append slots with zero counts."""
        if self.tasks:
            x = torch.cat([self.x, x.to(self.x)])
            state = {key: torch.cat([self.state[key], value.to(self.state[key])]) for key, value in state.items()}
        self._set(x, state)
        self.tasks += tasks
        for name in _COUNTS:
            getattr(self, name).extend([0] * len(tasks))
        self.earlier += [Earlier()] * len(tasks)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        self._set(select_rows(self.x, rows), self.state_of(rows))
        for name in ("tasks", "earlier", *_COUNTS):
            values = getattr(self, name)
            setattr(self, name, [values[n] for n in rows])

    def update(self, x: Tensor, state: dict[str, Tensor], advance: Tensor) -> None:
        """Set the outcome of an update that counts for ``advance`` ``(N,)`` iterations."""
        self._set(x, state | {ITERATION: state[ITERATION] + advance})

    def state_of(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return these rows of the state."""
        return {key: select_rows(value, rows) for key, value in self.state.items()}

    def put(self, key: str, rows: Sequence[int], values: Tensor) -> None:
        """Replace rows of the state out of place, because tensors of a rule may share memory."""
        index = to_device(rows, self.state[key].device, torch.long)
        self.state[key] = self.state[key].index_put((index,), values.to(self.state[key]))

    def count_evaluations(self, rows: Sequence[int], *, forwards: int = 0, backwards: int = 0) -> None:
        """Add evaluations to the counts of these slots; repeated slots count repeatedly."""
        for n in rows:
            self.forwards[n] += forwards
            self.backwards[n] += backwards

    @property
    def counts(self) -> tuple[list[int], list[int]]:
        """Copies of the evaluation counts, to discard the evaluations of a step that is repeated."""
        return list(self.forwards), list(self.backwards)

    @counts.setter
    def counts(self, counts: tuple[list[int], list[int]]) -> None:
        self.forwards, self.backwards = list(counts[0]), list(counts[1])

    def dump(self) -> list[dict[str, Any]]:
        """Return the checkpoint entry of each slot."""
        return [self.entry(n) for n in range(len(self))]

    def tasks_of(self, rows: Sequence[int]) -> list[Task]:
        """Return the tasks of some slots."""
        return [self.tasks[n] for n in rows]

    def entry(self, n: int) -> dict[str, Any]:
        """Return the checkpoint entry of slot n."""
        task = self.tasks[n]
        entry: dict[str, Any] = {
            "task": task.index,
            "completed": {name: getattr(task, name) for name in _RESOLVED},
            "image": self.x[n].cpu().clone(),
            "state": {key: value[n].cpu().clone() for key, value in self.state.items()},
        }
        for name in _COUNTS:
            entry[name] = getattr(self, name)[n]
        if self.earlier[n].restarts:
            entry[EARLIER] = self.earlier[n].dump()
        return entry

    @staticmethod
    def is_entry(entry: Any) -> bool:
        """Return whether a value has the types of a checkpoint entry."""
        if not isinstance(entry, dict) or not {"task", "completed", "image", "state", *_COUNTS} <= entry.keys():
            return False
        if not isinstance(entry.get(EARLIER, {}), dict):
            return False
        completed, state = entry["completed"], entry["state"]
        has_state = isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())
        is_completed = isinstance(completed, dict) and completed.keys() <= _RESOLVED
        has_iteration = has_state and ITERATION in state and state[ITERATION].numel() == 1
        return isinstance(entry["task"], int) and isinstance(entry["image"], Tensor) and is_completed and has_iteration

    def restore(self, entry: Mapping[str, Any], task: Task, device: torch.device) -> None:
        """Append the slot of a checkpoint entry."""
        state = {key: value[None].to(device) for key, value in entry["state"].items()}
        task = task.amend(**entry["completed"])
        self.append([task], entry["image"][None].to(device), state)
        if EARLIER in entry:
            self.earlier[-1] = Earlier.restore(entry[EARLIER], task)
        for name in _COUNTS:
            getattr(self, name)[-1] = entry[name]

    def _set(self, x: Tensor, state: dict[str, Tensor]) -> None:
        self.image.data = x
        self.state = state


def select_rows(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Return these rows of a tensor; the tensor itself, without a copy, for all of them in order."""
    if list(rows) == list(range(len(values))):
        return values
    return values[to_device(rows, values.device, torch.long)]
