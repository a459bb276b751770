"""The data module of a run: its tasks, which the engine takes in place of batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

from lit_viz.engine.lightning import AdaptingDataModule
from lit_viz.errors import LitVizError
from lit_viz.images.sources import Pictures
from lit_viz.types import Task
from lit_viz.utils.parts import INSTANCE, Part, plain_arguments, public_path


class TaskQueue(Part, AdaptingDataModule):
    """The tasks of a run, in the order of their results.

    Args:
        tasks: the tasks. The method adds what depends on it, such as a task per saliency method.
        images: pictures ``(C, H, W)`` in place of files; the option ``image`` of a task is the index.
        notes: remarks about the tasks, which are printed once.
        evidence: whether the method verifies its results in the test stage, and held-out networks judge class images.

    Attributes:
        network_classes: classes of the network that the tasks were listed for; None if they are not known.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        images: Pictures = (),
        *,
        notes: Sequence[str] = (),
        evidence: bool = True,
    ) -> None:
        super().__init__()
        self.tasks: Sequence[Task] = tuple(tasks)
        self.images = images
        self.notes = list(notes)
        self.evidence = evidence
        self.network_classes: Sequence[str] | None = None
        self._is_stored = False

    def form_with(self, module: Any) -> dict[str, dict[str, Any]]:
        """Return network, module and tasks as a configuration holds them, with all arguments as plain values."""
        arguments = module.plain_arguments()
        of_tasks = self.arguments
        for values in (arguments, of_tasks):
            values.pop("network", None)
        return {
            "network": module.network.arguments,
            "module": {"class_path": _path_of(module), "init_args": arguments},
            "tasks": {"class_path": _path_of(self), "init_args": plain_arguments(of_tasks)},
        }

    def store(self, tasks: Sequence[Task]) -> TaskQueue:
        """Replace the tasks by those of a run folder, which have what depends on the method; return the queue."""
        self.tasks, self._is_stored = tasks, True
        return self

    #: Status of each task that a run folder has, by index; they are not computed again.
    finished: Mapping[int, str] = {}

    def setup(self, stage: str) -> None:
        """Broadcast the queue of rank 0, which alone has listed the photographs.

        Raises:
            LitVizError: the module is not a method, or of another network than the tasks.
        """
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        if not hasattr(module, "expand_tasks"):
            name = type(module).__name__
            raise LitVizError(f"{type(self).__name__} are for methods such as lit_viz.ClassVisualization, got {name}")
        shared = self.tasks, self.network_classes, self.finished
        self.tasks, self.network_classes, self.finished = self.trainer.strategy.broadcast(shared)
        _check_classes(self.network_classes, module.network.labels)
        self.attach(module)
        if stage == "fit":
            module.validate_tasks(self.tasks)
        if self.evidence:
            module.attach_evidence()

    def attach(self, module: Any) -> None:
        """Give a method the images, and expand the tasks by what depends on it."""
        if len(self.images):
            module.images = self.images
        if not self._is_stored:
            self.tasks = tuple(module.expand_tasks(self.tasks))

    def train_dataloader(self) -> repeat[int]:
        """Return endless batches without data: the engine fills the slots, and ends the run by ``trainer.should_stop``.

        A finite loader would cost an extra step, because Lightning prefetches one batch, and would restart at batch 0
        in a resumed run.
        """
        return repeat(0)

    def test_dataloader(self) -> list[int]:
        """Return a single batch; the evidence is computed from the results of the module."""
        return [0]


def _path_of(part: Any) -> str:
    return public_path(type(part)) or f"{type(part).__name__}{INSTANCE}"


def _check_classes(classes: Sequence[str] | None, expected: Sequence[str]) -> None:
    """Check that tasks are of the network of a module, with the expected classes.

    Raises:
        LitVizError: the classes differ.
    """
    if classes is None or list(classes) == list(expected):
        return
    difference = f"{len(classes)} classes instead of {len(expected)}"
    for index, (name, other) in enumerate(zip(classes, expected, strict=False)):
        if name != other:
            difference = f"its class {index} is {name!r} instead of {other!r}"
            break
    raise LitVizError(f"the tasks were listed for another network ({difference}): give that of the module")
