"""What the commands that start from photographs share: their options, their queue, and the making of their module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError
from lit_viz.launch.commands.base import Command
from lit_viz.launch.commands.queue import photograph_tasks
from lit_viz.types import Task


class PhotographCommand(Command):
    """A command that makes something of photographs.

    Attributes:
        target: what is asked for where no ``--target`` is given.
    """

    positional: ClassVar[str] = "photographs"
    own: ClassVar[frozenset[str]] = frozenset(
        {"classifier", "iterations", "slots", "log_at", "curve_at", "fit", "images"}
    )
    iterations: ClassVar[int | None] = None
    slots: ClassVar[int] = 16  # of one input each: the batch that processors like best
    log_at: ClassVar[str] = "geometric"
    target: ClassVar[Literal["label", "none"]]

    def __init__(self, images: Tensor | None = None) -> None:
        """Take images that are handed over instead of files, ``(N, C, H, W)`` in [0, 1]: ``array:3`` is the fourth."""
        self.images = images

    def settle(self, config: Namespace) -> None:
        """Make a list of a single photograph."""
        if isinstance(config.photographs, str):
            config.photographs = [config.photographs]

    def check(self, config: Namespace) -> None:
        """Refuse a run without photographs."""
        if not config.photographs:
            raise LitVizError(f"no photograph was named: try {self.example}")

    def queue(
        self, config: Namespace, classifier: Classifier, variants: Sequence[Mapping[str, Any]] = ({},)
    ) -> tuple[list[Task], list[str]]:
        """Return one task a photograph and target, for one variant after another, and notes worth saying.

        Args:
            config: of the run.
            classifier: whose classes labels and targets are.
            variants: options of the tasks, by which a run repeats its queue.
        """
        tasks, notes = photograph_tasks(
            config.photographs,
            classifier,
            target=config.target,
            labels=config.labels,
            seed=config.seed,
            default=self.target,
        )
        return [
            replace(task, index=task.index + i * len(tasks), options={**task.options, **variant})
            for i, variant in enumerate(variants)
            for task in tasks
        ], notes

    def build(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> ImageTraining:
        """Return the module."""
        return self.made(self.module, config, parts, classifier)

    def made(
        self, make: Callable[..., ImageTraining], config: Namespace, parts: Mapping[str, Any], classifier: Classifier
    ) -> ImageTraining:
        """Return a module of this class."""
        return make(
            classifier,
            **parts,
            fit=config.fit,
            images=self.images,
            iterations=config.iterations,
            slots=config.slots,
            log_at=config.log_at,
            curve_at=config.curve_at,
        )


def add_photograph_arguments(parser: LightningArgumentParser) -> None:
    """Add which photographs, their labels and targets, and how they are fitted."""
    add = parser.add_argument
    # A list of anything: jsonargparse copies one whose items it checks once for each item. What reads it checks them.
    add(
        "--photographs",
        type=list | str,
        default=[],
        help="files, folders, packaged:NAME, or a CSV file that lists them",
    )
    add(
        "--target",
        type=list[str | int] | str | int | None,
        default=None,
        help="class names or indices, label, predicted, random, least-likely, or a CSV file (file,target)",
    )
    add("--labels", type=str, default="predicted", help="true labels: predicted, folders, or a CSV file (file,label)")
    add("--fit", type=Literal["crop", "squash", "pad"], default="crop", help="how a photograph is fitted")
