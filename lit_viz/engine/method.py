"""What a method defines: how an image starts, what it scores, how it is shown, and what its record says."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lit_viz.classifiers import Classifier, FrozenNetwork
from lit_viz.classifiers.fast import CompileMode
from lit_viz.engine.distributed import RankGroup
from lit_viz.engine.log_schedule import LogSchedule
from lit_viz.engine.slots import Slots
from lit_viz.engine.snapshots import Look
from lit_viz.errors import LitVizError
from lit_viz.optim import Evaluation, State, StepRule
from lit_viz.types import Record, Task

#: By Lightning's name of the precision.
_HALF = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def half_precision(config: Any) -> str | None:
    """Return the half precision, by Lightning's name, that a run's options ask for; None where they ask for none."""
    asked = str(config.trainer.precision)
    name = asked if asked in _HALF else f"{asked}-mixed"
    return name if name in _HALF else None


class Method(pl.LightningModule):
    """A method as its author writes it; how it is trained is :class:`~lit_viz.engine.module.ImageTraining`'s.

    Args:
        classifier: the frozen network; it is no submodule, so it is neither trained, moved nor saved.
        step_rule: how an image moves.
        iterations: updates an image.
        slots: images trained at once.
        log_at: iterations at which an image is looked at and kept (see :class:`LogSchedule`).
        curve_at: iterations at which its scalars are.
        views: classifier inputs an image and evaluation.

    Attributes:
        slots: the images in training.
        notes: sentences worth saying once before the run.
        advice: what to do where an image breaks (its score is no finite number), as the end of a sentence.
        ranks: those of the run, once they are connected.
        compile_mode: how ``torch.compile`` compiles the network; None: not at all.
    """

    def __init__(
        self,
        classifier: Classifier,
        step_rule: StepRule,
        *,
        iterations: int,
        slots: int,
        log_at: str,
        curve_at: str,
        views: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("iterations", iterations), ("slots", slots), ("views", views)):
            if value < 1:
                raise LitVizError(f"--{name} {value} makes no run: give a whole number from 1 up.")
        self.classifier = classifier
        self.step_rule = step_rule
        self.iterations = iterations
        self.capacity = slots
        self.views = views
        self.log_at = LogSchedule.parse(log_at)
        self.curve_at = LogSchedule.parse(curve_at)
        self.slots = Slots()
        self.notes: list[str] = []
        self.advice = "try a lower learning rate"
        self.ranks = RankGroup()
        self.compile_mode: CompileMode | None = None

    @property
    def number(self) -> torch.dtype:
        """The dtype of the images: float64 under ``--trainer.precision 64-true``, float32 under any other."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def network_dtype(self) -> torch.dtype:
        """The dtype of the network in training: half precision under ``--trainer.precision 16-mixed`` or
        ``bf16-mixed``, that of the images under any other. Outcomes are told by the original, in its own."""
        return _HALF.get("" if self._trainer is None else str(self._trainer.precision), self.number)

    @property
    def in_half(self) -> bool:
        """Whether the network in training is in half precision, so that what it says is not what the original says."""
        return self.network_dtype != self.number

    def frozen(self, keep: Collection[str], device: torch.device, **how: Any) -> FrozenNetwork:
        """Return the copy of the classifier that is asked in training; see
        :meth:`~lit_viz.classifiers.Classifier.fast`."""
        return self.classifier.fast(keep, device, self.network_dtype, compiled=self.compile_mode, **how)

    @property
    def backwards_per_step(self) -> float:
        """How many backwards a step makes on the mean, at most."""
        return 1

    @property
    def default_network(self) -> str:
        """The name of the copy that is asked where no other is named."""
        return "plain"

    def last(self, task: Task) -> int:
        """Return the number of the task's last image: its option ``iterations`` where it has one (a sweep)."""
        return int(task.options.get("iterations", self.iterations))

    def validate_tasks(self, tasks: Sequence[Task]) -> None:
        """Be told the queue before anything is trained.

        Raises:
            LitVizError: what it needs, and no file holds, is not here.
        """

    @abstractmethod
    def prepare(self, device: torch.device) -> None:
        """Make the frozen network and what else is needed on the device, once."""

    @abstractmethod
    def start(self, task: Task) -> Tensor:
        """Return the task's first image as it is trained, ``(...)`` without a slot dimension."""

    @abstractmethod
    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        """Evaluate ``x``, row m of which belongs to slot ``rows[m]``, with the draws of its iteration."""

    def can_batch(self, task: Task, beside: Task, iteration: int) -> bool:
        """Return whether a task that goes on at this iteration may be trained in one batch with one that is in a slot:
        what the rule's state consists of is the same for all."""
        return True

    def resolve_tasks(self, tasks: Sequence[Task], x: Tensor) -> list[Task | LitVizError]:
        """Return the tasks with what is only known once their images ``(N, ...)`` are there (a predicted label).

        An error in the place of a task fails that task.
        """
        return list(tasks)

    def initial(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the state of slots that start at ``x`` ``(N, ...)``: the rule's, and what the method keeps besides."""
        return self.step_rule.init(x, tasks)

    def on_slots_filled(self, rows: Sequence[int]) -> None:
        """Be told that these slots were filled."""

    def final_metrics(self, x: Tensor, rows: Sequence[int]) -> list[dict[str, float]]:
        """Return what else is known of the final images of these slots: the terms of their score."""
        return self.score(x, rows, gradient=False).metrics_by_row()

    def project(self, x: Tensor) -> Tensor:
        """Return the moved images ``(N, ...)`` back where they belong, in place or not; as they are by default."""
        return x

    @abstractmethod
    def snapshots(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Look]:
        """Show the images ``x`` ``(len(rows), ...)`` of these slots, and what the network sees in them.

        Where they are ``final``, :meth:`final_metrics` was called before, and what is shown is the outcome.
        """

    @abstractmethod
    def record(self, n: int, look: Look, common: Record) -> Record:
        """Return the record of slot n.

        Args:
            n: the slot, whose task has ended.
            look: the final image.
            common: the record with its common fields and metrics, to be extended.
        """
