"""The methods and their data modules for a Trainer, with the evidence of the command line in the test stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import nn

from lit_viz.classifiers import Classifier, as_classifier
from lit_viz.engine import lightning
from lit_viz.engine.module import ImageTraining
from lit_viz.evidence.judges import held_out_judge
from lit_viz.launch.commands.queue import photograph_tasks
from lit_viz.launch.inputs import ImageLike, image_inputs, photograph_options, to_classes
from lit_viz.methods import AdversarialExample, ClassVisualization, SaliencyMap, UniversalPerturbation
from lit_viz.methods.photographs import class_tasks
from lit_viz.presentations import CAPTUM_SECONDS, EvidenceSettings, presentation_of
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.results import memory_outcomes
from lit_viz.types import Result

__all__ = [
    "AdversarialExample",
    "ClassTasks",
    "ClassVisualization",
    "PhotographTasks",
    "SaliencyMap",
    "TaskQueue",
    "UniversalPerturbation",
]


class TaskQueue(lightning.TaskQueue):
    """The tasks of a run, in the order of their results, with the evidence of the command line in the test stage.

    Args:
        tasks: the tasks. The method adds what depends on it, such as a task per saliency method.
        images: pictures ``(C, H, W)`` in place of files; the option ``image`` of a task is the index.
    """

    def setup(self, stage: str) -> None:
        """Add judges and evidence to the method."""
        super().setup(stage)
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        if isinstance(module, ClassVisualization) and module.judges is None:
            module.judges = held_out_judge(module.classifier)
        module.verify = partial(_verify, module)


class ClassTasks(TaskQueue):
    """A task per class, for :class:`~lit_viz.methods.ClassVisualization`.

    Args:
        classifier: classifier with the classes, a module or a name.
        classes: class names or indices, one or several.
        against: classes that they are contrasted with, one for all or one per class.
        seed: seed of the first task; task i uses ``seed + i``.

    Raises:
        LitVizError: a class does not exist.
    """

    def __init__(
        self,
        classifier: Classifier | nn.Module | str,
        classes: Sequence[str | int] | str | int,
        *,
        against: Sequence[str | int] | str | int | None = None,
        seed: int = 0,
    ) -> None:
        targets, contrasts = to_classes(classes), None if against is None else to_classes(against)
        super().__init__(class_tasks(as_classifier(classifier), targets, contrasts, seed))


class PhotographTasks(TaskQueue):
    """A task per photograph, for saliency maps, adversarial examples and universal perturbations.

    A saliency map explains the label unless a target is given; an attack without a target is untargeted.

    Args:
        classifier: classifier with the classes, a module or a name.
        photographs: files and folders, Pillow images, or arrays and tensors of one or several images.
        targets: target classes, one for all photographs or one per photograph.
        labels: true classes, one per photograph, or their source: ``predicted``, ``folders`` or a CSV file.
        against: classes that the targets of saliency maps are contrasted with, one for all photographs or one per
            photograph, or ``runner-up``.
        seed: seed of the first task; task i uses ``seed + i``.

    Raises:
        LitVizError: a class does not exist, or no photograph can be read.
    """

    def __init__(
        self,
        classifier: Classifier | nn.Module | str,
        photographs: ImageLike | Iterable[ImageLike],
        targets: Sequence[str | int] | str | int | None = None,
        labels: Sequence[str | int] | str = "predicted",
        *,
        against: Sequence[str | int] | str | int | None = None,
        seed: int = 0,
    ) -> None:
        classifier = as_classifier(classifier)
        images, files = image_inputs(photographs)
        given = photograph_options(files, targets, labels, against)
        tasks, self.notes = photograph_tasks(
            given["photographs"],
            classifier,
            target=given["target"],
            against=given.get("against"),
            labels=given["labels"] or "predicted",
            seed=seed,
            default="none",
        )
        super().__init__(tasks, images)


def _verify(module: ImageTraining, results: Sequence[Result]) -> Mapping[str, float]:
    """Verify the results as the end of a run does, and return the numbers that loggers of runs have."""
    presentation = presentation_of(type(module))
    options: Any = SimpleNamespace(
        check="captum",
        boxes=None,
        localize=False,
        model=SimpleNamespace(tolerance=None),
        trainer=SimpleNamespace(precision=module.trainer.precision),
    )
    outcomes: Any = memory_outcomes({result.task.index: result for result in results}, {})
    presentation.verify(module, outcomes, None, EvidenceSettings(options, CAPTUM_SECONDS, notify=lambda _: None))
    return presentation.scalars([outcome.record for outcome in outcomes], Evidence())
