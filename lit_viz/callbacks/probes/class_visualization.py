"""Probe of class images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_viz.callbacks.probes.base import Probe, enlarged, result_caption
from lit_viz.classifiers import Classifier
from lit_viz.engine.lightning import TaskQueue
from lit_viz.engine.module import ImageTraining
from lit_viz.images import Fourier, Jitter, Noise, Rotate, Scale
from lit_viz.images.priors import L2
from lit_viz.loggers.base import CaptionedImage
from lit_viz.methods import ClassVisualization
from lit_viz.methods.targets import class_tasks
from lit_viz.optim import Adam
from lit_viz.types import Result, slug

_SMALL = 96  # pixels; the recipe for photographs crops and blurs smaller inputs too much


class ClassVisualizationProbe(Probe):
    """Class images of a network in training, with the same seed in every epoch.

    Logged are the images ``probe/class/<label>`` and ``probe/probability/<label>``, the probability of the class.

    Args:
        classes: class names or indices.
        every_n_epochs: number of epochs between two probes.
        iterations: updates per image.
        seed: seed of the first image; image i uses ``seed + i``.
        recipe: other arguments of :class:`~lit_viz.methods.ClassVisualization`. Default: its default, or for inputs
            below 96 pixels that of ``configs/visualize/small.yaml``.
        options: other arguments of :class:`Probe`.

    Example:
        >>> import lit_viz as lv
        >>> probe = lv.callbacks.ClassVisualizationProbe(["cat", "dog"], labels=["cat", "dog"], mean=0.5, std=0.25)
    """

    name = "class"

    def __init__(
        self,
        classes: Sequence[str | int] | str | int,
        every_n_epochs: int = 5,
        *,
        iterations: int = 150,
        seed: int = 0,
        recipe: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(every_n_epochs, iterations=iterations, **options)
        self.classes: Sequence[str | int] = [classes] if isinstance(classes, (str, int)) else list(classes)
        self.seed, self.recipe = seed, recipe

    def method(self, classifier: Classifier) -> ImageTraining:
        """Return the method with its recipe, without held-out networks, which would take longer than the probe."""
        recipe = self.recipe
        if recipe is None:
            recipe = small_recipe() if max(classifier.size) < _SMALL else {}
        return ClassVisualization(classifier, **recipe, **self.run_options)

    def tasks(self, classifier: Classifier) -> TaskQueue:
        """Return a task per class."""
        return TaskQueue(class_tasks(classifier, self.classes, None, self.seed))

    def images(self, results: Sequence[Result]) -> Mapping[str, CaptionedImage]:
        """Return the class images."""
        return {
            f"class/{slug(r.record.title)}": (enlarged(r.image), result_caption(r))
            for r in results
            if r.image is not None
        }

    def metrics(self, results: Sequence[Result]) -> Mapping[str, float]:
        """Return the probabilities of the classes."""
        probabilities = {slug(result.record.title): result.record.probability for result in results}
        return {f"probability/{name}": p for name, p in probabilities.items() if p is not None}


def small_recipe() -> dict[str, Any]:
    """Return the arguments of ``ClassVisualization`` in ``configs/visualize/small.yaml``, with a tenth of the prior.

    At its full weight, the images of a network with a normalization, or of one that is hardly trained, are gray.
    """
    return {
        "parameterization": Fourier(decay=1.0, sd=0.01),
        "step_rule": Adam(lr=0.05),
        "transforms": [Jitter(pixels=1), Rotate(degrees=10.0), Scale(low=0.9, high=1.1), Noise(sd=0.1)],
        "priors": [L2(weight=0.1)],
        "views": 4,
    }
