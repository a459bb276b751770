"""Data modules for a Trainer: classes and photographs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from lit_viz.classifiers import Classifier, as_classifier
from lit_viz.engine.lightning import TaskQueue
from lit_viz.evidence.judges import held_out_judge
from lit_viz.launch.commands.queue import photograph_tasks
from lit_viz.launch.inputs import ImageLike, image_inputs, photograph_options, to_classes
from lit_viz.methods import ClassVisualization, SaliencyMap
from lit_viz.methods.targets import class_tasks
from lit_viz.presentations import CAPTUM_SECONDS
from lit_viz.runs.results import remembered
from lit_viz.types import Result


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

    def setup(self, stage: str) -> None:
        """Add the held-out networks that judge finished images."""
        super().setup(stage)
        assert self.trainer is not None
        module = self.trainer.lightning_module
        if isinstance(module, ClassVisualization) and module.judges is None:
            module.judges = held_out_judge(module.classifier)


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

    def setup(self, stage: str) -> None:
        """Add the comparison of saliency maps with Captum."""
        super().setup(stage)
        assert self.trainer is not None
        module = self.trainer.lightning_module
        if isinstance(module, SaliencyMap):
            module.cross_check = _agreement_with_captum


def _agreement_with_captum(module: SaliencyMap, results: Sequence[Result]) -> Mapping[str, float]:
    """Return the number of maps that were compared with Captum, and the share of them that agree."""
    from lit_viz.evidence.saliency.cross_check import cross_check  # imports Captum

    outcomes: Any = remembered({result.task.index: result for result in results}, {})
    agreements = cross_check(outcomes, module.methods, module.classifier, seconds=CAPTUM_SECONDS).agreements
    passed = [agreement.passed for agreement, _ in agreements.values()]
    return {"captum_checked": float(len(passed)), **({"captum_agree": sum(passed) / len(passed)} if passed else {})}
