"""Base class of the methods that start from photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError
from lit_viz.images.fitting import Box, Fit
from lit_viz.images.reading import read_photograph
from lit_viz.methods.targets import needs_logits, resolve
from lit_viz.optim import Evaluation, State, StepRule
from lit_viz.types import Task
from lit_viz.utils.device import to_cpu

#: State key of the logits of the photographs.
LOGITS = "logits"


class PhotographTraining(ImageTraining):
    """Train something for each photograph of a queue.

    Photographs are read when a slot is free. Labels and targets that depend on their logits are resolved then.

    Args:
        classifier, step_rule: see :class:`~lit_viz.engine.method.Method`.
        fit: how photographs are fitted to the input size of the classifier.
        images: ``(N, C, H, W)`` in [0, 1], in place of files; the task's option ``image`` is the index.
        limits: other arguments of :class:`~lit_viz.engine.method.Method`.
    """

    def __init__(
        self, classifier: Classifier, step_rule: StepRule, *, fit: Fit = "crop", images: Tensor | None, **limits: Any
    ) -> None:
        super().__init__(classifier, step_rule, **limits)
        self.advice = "check the network with this photograph"
        self.fit = fit
        self.images = images
        self._crops: dict[int, tuple[tuple[int, int], Box]] = {}  # original size and visible box, by task
        self._original_logits: dict[int, Tensor] = {}  # of the original network, by task

    def validate_tasks(self, tasks: Sequence[Task]) -> None:
        """Require the images of tasks that have no file."""
        if self.images is None and any(task.source is None and "image" in task.options for task in tasks):
            raise LitVizError(
                "the photographs of this run are arrays: resume it in Python, with the original call and resume=True."
            )

    def start(self, task: Task) -> Tensor:
        """Return the photograph ``(C, H, W)``; on the 8-bit lattice if it is read from a file.

        Raises:
            LitVizError: it can't be read, or its label or target is invalid.
        """
        if (error := task.options.get("error")) is not None:
            raise LitVizError(error)
        if task.source is None:
            assert self.images is not None
            return self.images[task.options["image"]]
        photograph = read_photograph(task.source, self.classifier.size, self.classifier.channels, self.fit)
        self._crops[task.index] = photograph.original_size, photograph.box
        return photograph.pixels

    def resolve_tasks(self, tasks: Sequence[Task], x: Tensor) -> list[Task | LitVizError]:
        """Return the tasks with label, target and the box of the photograph in the original image.

        The original network evaluates only photographs for which this is required.
        """
        rows = [m for m, task in enumerate(tasks) if self.needs_original(task)]
        logits = dict(zip(rows, self.classifier.logits(x[rows]), strict=True)) if rows else {}
        self._original_logits |= {tasks[m].index: row for m, row in logits.items()}
        resolved: list[Task | LitVizError] = []
        for m, task in enumerate(tasks):
            try:
                task = self.resolve_task(task, logits.get(m))
            except LitVizError as error:
                resolved.append(error)
                continue
            if task.index in self._crops:
                size, box = self._crops.pop(task.index)
                options = {**task.options, "original_size": list(size), "original_box": list(box)}
                task = replace(task, options=options)
            resolved.append(task)
        return resolved

    def needs_original(self, task: Task) -> bool:
        """Return whether the original network must evaluate the photograph before training."""
        return self.is_half or needs_logits(task)

    def resolve_task(self, task: Task, logits: Tensor | None) -> Task:
        """Return the task with label and target, as far as they can be resolved.

        Raises:
            LitVizError: label or target is invalid.
        """
        return resolve(task, logits, self.classifier.labels)

    def on_slots_filled(self, rows: Sequence[int]) -> None:
        """Store the logits of the original network, and count its forwards."""
        for n in rows:
            logits = self._original_logits.pop(self.slots.tasks[n].index, None)
            if logits is not None:
                self.set_photograph_logits(n, logits)
                self.slots.count_evaluations([n], forwards=1)

    def init_state(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the initial state, with NaN as the logits of the photographs.

        Raises:
            LitVizError: the step rule has a state of the same name.
        """
        state = super().init_state(x, tasks)
        if LOGITS in state:
            raise LitVizError(f"{type(self.step_rule).__name__} must not use the reserved state key {LOGITS!r}")
        return {**state, LOGITS: torch.full((len(x), self.classifier.num_classes), torch.nan, device=x.device)}

    def photograph_logits(self, n: int) -> Tensor | None:
        """Return the logits ``(K,)`` of the photograph in a slot, or None if it was not evaluated."""
        logits = to_cpu(self.slots.state[LOGITS])[n]
        return None if bool(logits[0].isnan()) else logits

    def set_photograph_logits(self, n: int, logits: Tensor) -> None:
        """Store the logits ``(K,)`` of the photograph in a slot."""
        # In place, because the rule may return the state it received; no rule writes this tensor.
        self.slots.state[LOGITS][n] = logits.to(self.slots.state[LOGITS])

    def store_photograph_logits(self, x: Tensor, rows: Sequence[int], evaluation: Evaluation) -> None:
        """Store the logits of those evaluated images that are unmodified photographs without logits."""
        iteration = self.slots.iteration
        for m, n in enumerate(rows):
            new = iteration[n] == 0 and self.photograph_logits(n) is None
            if new and torch.equal(x[m], self.slots.x[n]):
                self.set_photograph_logits(n, evaluation.logits[m])

    def crop_fields(self, n: int) -> dict[str, Any]:
        """Return the record fields that locate a photograph in the original image; empty for an array."""
        options = self.slots.tasks[n].options
        return {key: options[key] for key in ("original_size", "original_box") if key in options}
