"""What the methods that start from photographs share: reading them, and asking the network what they show."""

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

LOGITS = "logits"


class PhotographTraining(ImageTraining):
    """Trains something for each photograph of a queue.

    Labels and targets that depend on what the network says of a photograph are completed when it is read: a folder of
    thousands starts at once.

    Args:
        classifier, step_rule: see :class:`~lit_viz.engine.method.Method`.
        fit: how photographs are brought to the classifier's size.
        images: ``(N, C, H, W)`` in [0, 1], handed over instead of files; a task's option ``image`` says which is its.
        limits: the other arguments of :class:`~lit_viz.engine.method.Method`.
    """

    def __init__(
        self, classifier: Classifier, step_rule: StepRule, *, fit: Fit = "crop", images: Tensor | None, **limits: Any
    ) -> None:
        super().__init__(classifier, step_rule, **limits)
        self.advice = "the network gives no finite score for it"
        self.fit = fit
        self.images = images
        self._boxes: dict[int, tuple[tuple[int, int], Box]] = {}  # by task: size of the original, and its part
        self._asked: dict[int, Tensor] = {}  # by task: logits (K,) of the photograph

    def validate_tasks(self, tasks: Sequence[Task]) -> None:
        """Refuse a queue of photographs that were handed over, without them."""
        if self.images is None and any(task.source is None and "image" in task.options for task in tasks):
            raise LitVizError(
                "the photographs of this run were handed over as arrays: go on in Python, with the call that began it "
                "and resume=True."
            )

    def start(self, task: Task) -> Tensor:
        """Return the photograph ``(C, H, W)``, on the 8-bit lattice where it comes from a file.

        Raises:
            LitVizError: it can't be read, or its label or target is not to be had.
        """
        if (error := task.options.get("error")) is not None:
            raise LitVizError(error)
        if task.source is None:
            assert self.images is not None
            return self.images[task.options["image"]]
        photograph = read_photograph(task.source, self.classifier.size, self.classifier.channels, self.fit)
        self._boxes[task.index] = photograph.original_size, photograph.box
        return photograph.pixels

    def resolve_tasks(self, tasks: Sequence[Task], x: Tensor) -> list[Task | LitVizError]:
        """Return the tasks with label and target, and where the photograph lies in the original.

        The original network is asked, of those photographs only whose label or target depends on it.
        """
        asking = [m for m, task in enumerate(tasks) if self.asks(task)]
        logits = dict(zip(asking, self.classifier.logits(x[asking]), strict=True)) if asking else {}
        self._asked |= {tasks[m].index: row for m, row in logits.items()}
        return [self._completed(task, logits.get(m)) for m, task in enumerate(tasks)]

    def asks(self, task: Task) -> bool:
        """Return whether the original network has to be asked of the photograph before anything is trained for it."""
        return self.in_half or needs_logits(task)

    def resolved(self, task: Task, logits: Tensor | None) -> Task:
        """Return the task with label and target, as far as they can be told.

        Raises:
            LitVizError: it asks for what is not to be had.
        """
        return resolve(task, logits, self.classifier.labels)

    def _completed(self, task: Task, logits: Tensor | None) -> Task | LitVizError:
        try:
            task = self.resolved(task, logits)
        except LitVizError as error:
            return error
        if task.index not in self._boxes:
            return task
        size, box = self._boxes.pop(task.index)
        return replace(task, options={**task.options, "original_size": list(size), "original_box": list(box)})

    def on_slots_filled(self, rows: Sequence[int]) -> None:
        """Keep what the network said of the photographs already, and count the forwards that were paid for it."""
        asked = {n: self._asked.pop(self.slots.tasks[n].index, None) for n in rows}
        known = {n: logits for n, logits in asked.items() if logits is not None}
        for n, logits in known.items():
            self.keep(n, logits)
        self.slots.count_evaluations(list(known), forwards=1)

    def initial(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the logits of the photographs, NaN until the network was asked about them.

        Raises:
            LitVizError: the rule has a state of that name.
        """
        state = super().initial(x, tasks)
        if LOGITS in state:
            raise LitVizError(
                f"{type(self.step_rule).__name__} keeps a state that is called {LOGITS!r}, as what the network says of "
                "the photographs is: give it another name."
            )
        return {**state, LOGITS: torch.full((len(x), self.classifier.num_classes), torch.nan, device=x.device)}

    def remember(self, x: Tensor, rows: Sequence[int], evaluation: Evaluation) -> None:
        """Keep what the network says of photographs, where the rows ``x`` that were evaluated are still just these."""
        iteration = self.slots.iteration
        for m, n in enumerate(rows):
            if iteration[n] == 0 and self.said(n) is None and torch.equal(x[m], self.slots.x[n]):
                self.keep(n, evaluation.logits[m])

    def keep(self, n: int, logits: Tensor) -> None:
        """Keep what the network says ``(K,)`` of the photograph in a slot."""
        # In place, for a rule may hold the state meanwhile and return it; no rule knows this tensor.
        self.slots.state[LOGITS][n] = logits.to(self.slots.state[LOGITS])

    def place(self, n: int) -> dict[str, Any]:
        """Return where the photograph in a slot lies in the original, as records say it; nothing of an array."""
        options = self.slots.tasks[n].options
        return {key: options[key] for key in ("original_size", "original_box") if key in options}

    def said(self, n: int) -> Tensor | None:
        """Return the logits ``(K,)`` of the photograph in a slot, or None where the network was not asked about it."""
        logits = to_cpu(self.slots.state[LOGITS])[n]
        return None if bool(logits[0].isnan()) else logits
