"""The batch of slots: the images being trained, with the state of their rule and the count of their evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.optim.rule import OF_ENGINE
from lit_viz.rng import Draws, Key
from lit_viz.types import Task
from lit_viz.utils.device import to_device, to_list

#: Kept by the engine beside the rule's own state.
ITERATION, ITERATIONS, UNTIL = OF_ENGINE
#: What may become known of a task only when its image is read.
_COMPLETED = ("label", "label_source", "target", "target_name", "options")


class Slots(nn.Module):
    """N images in training. Row n of everything belongs to ``tasks[n]``.

    The images are a parameter, as the weights of any module are; its first dimension changes as slots are filled and
    emptied, so neither it nor the rule's state goes through ``state_dict``: a checkpoint keeps them by task.

    Attributes:
        image: ``(N, ...)`` what is trained: pixels, Fourier coefficients, a perturbation, a mask.
        state: the rule's state, a tensor with leading slot dimension a key.
        tasks: whose rows they are.
        forwards, backwards: evaluations paid so far, a number a slot.
        seconds: time spent in the slot, a number a slot.
    """

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.empty(0), requires_grad=False)
        self.state: dict[str, Tensor] = {}
        self.tasks: list[Task] = []
        self.forwards: list[int] = []
        self.backwards: list[int] = []
        self.seconds: list[float] = []

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def x(self) -> Tensor:
        """The images as a plain tensor ``(N, ...)``."""
        return self.image.detach()

    @property
    def iteration(self) -> list[int]:
        """Updates that each image has had."""
        return [int(number) for number in to_list(self.state[ITERATION])] if self.tasks else []

    def keys(self, rows: Sequence[int], views: int = 1) -> list[Key]:
        """Return who draws: view by view, slot by slot, each at its image's own iteration."""
        iteration = self.iteration
        return [Key(self.tasks[n].seed, iteration[n], view) for n in rows for view in range(views)]

    def draws(self, rows: Sequence[int], views: int, device: torch.device) -> Draws:
        """Return the draws of the same rows and views, which know how far their images are."""
        last_iterations = to_list(self.state[ITERATIONS])
        return Draws(
            self.keys(rows, views), device, last_iterations=[last_iterations[n] for n in rows for _ in range(views)]
        )

    def goals(self, rows: Sequence[int], device: torch.device, views: int = 1) -> dict[str, Tensor]:
        """Return what the tasks of these slots ask for, ``views`` rows a slot, as :class:`~lit_viz.objectives.Outputs`
        has it.

        ``targets`` the class to reach, or to leave where ``targeted`` is False; ``labels`` the true one, -1 if unknown;
        ``channels`` the task's option ``channel``, -1 if it has none.
        """
        tasks = [self.tasks[n] for n in rows for _ in range(views)]
        labels = [-1 if task.label is None else task.label for task in tasks]
        targets = [-1 if task.goal is None else task.goal for task in tasks]
        return {
            "targets": to_device(targets, device),
            "labels": to_device(labels, device),
            "targeted": to_device([task.target is not None for task in tasks], device),
            "channels": to_device([task.options.get("channel", -1) for task in tasks], device),
        }

    def append(self, tasks: Sequence[Task], x: Tensor, state: dict[str, Tensor]) -> None:
        """Add images behind the present ones, with nothing paid yet."""
        if self.tasks:
            x = torch.cat([self.x, x.to(self.x)])
            state = {key: torch.cat([self.state[key], value.to(self.state[key])]) for key, value in state.items()}
        self._set(x, state)
        self.tasks += tasks
        for counts in (self.forwards, self.backwards):
            counts += [0] * len(tasks)
        self.seconds += [0.0] * len(tasks)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; the batch shrinks."""
        index = to_device(rows, self.x.device, torch.long)
        self._set(self.x[index], {key: value[index] for key, value in self.state.items()})
        self.tasks = [self.tasks[n] for n in rows]
        self.forwards = [self.forwards[n] for n in rows]
        self.backwards = [self.backwards[n] for n in rows]
        self.seconds = [self.seconds[n] for n in rows]

    def update(self, x: Tensor, state: dict[str, Tensor], advance: Tensor) -> None:
        """Take over the outcome of an update, which counts for so many iterations ``(N,)``."""
        self._set(x, {**state, ITERATION: state[ITERATION] + advance})

    def state_of(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return these rows of the state."""
        index = to_device(list(rows), self.x.device, torch.long)
        return {key: value[index] for key, value in self.state.items()}

    def put(self, key: str, rows: Sequence[int], values: Tensor) -> None:
        """Replace rows of the state, in a tensor of its own: those that a rule returns may share their memory."""
        index = to_device(rows, self.state[key].device, torch.long)
        self.state[key] = self.state[key].index_put((index,), values.to(self.state[key]))

    def count_evaluations(self, rows: Sequence[int], *, forwards: int = 0, backwards: int = 0) -> None:
        """Count so many forwards and backwards for each of these slots, as often as it is named."""
        for n in rows:
            self.forwards[n] += forwards
            self.backwards[n] += backwards

    def _set(self, x: Tensor, state: dict[str, Tensor]) -> None:
        self.image.data = x
        self.state = state

    def dump(self) -> list[dict[str, Any]]:
        """Return one plain entry a slot, in slot order: what a checkpoint keeps."""
        return [
            {
                "task": self.tasks[n].index,
                "completed": {name: getattr(self.tasks[n], name) for name in _COMPLETED},
                "image": self.x[n].cpu().clone(),
                "state": {key: value[n].cpu().clone() for key, value in self.state.items()},
                "forwards": self.forwards[n],
                "backwards": self.backwards[n],
                "seconds": self.seconds[n],
            }
            for n in range(len(self))
        ]

    def restore(self, entry: Mapping[str, Any], task: Task, device: torch.device) -> None:
        """Add the image of a task behind the present ones, as :meth:`dump` has kept it."""
        state = {key: value[None].to(device) for key, value in entry["state"].items()}
        self.append([replace(task, **entry["completed"])], entry["image"][None].to(device), state)
        for name in ("forwards", "backwards", "seconds"):
            getattr(self, name)[-1] = entry[name]
