"""Probe of the accuracy under attack."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from lit_viz.attacks import ATTACKS, Attack, BudgetAttack, without_radius
from lit_viz.callbacks.probes.base import enlarged
from lit_viz.callbacks.probes.images import ImageProbe, ProbeImages
from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, find_class
from lit_viz.evidence.attacks.robustness import clean_accuracy, robust_accuracy
from lit_viz.figures.sheet import tile
from lit_viz.loggers.base import CaptionedImage
from lit_viz.methods import AdversarialExample
from lit_viz.runs.results import remembered
from lit_viz.types import Result

_PICTURES = 8  # adversarial examples in the logs


class RobustnessProbe(ImageProbe):
    """Accuracy of a network in training under attack.

    Logged are ``probe/accuracy``, ``probe/robust_accuracy``, which counts 8-bit files, and the first adversarial
    examples beneath their images. Without labels, ``robust_accuracy`` is the share of unchanged predictions. Images
    that the time limit stops count as robust: the value is then an upper bound. By default all images are attacked at
    once; with fewer ``slots``, images that have not started are not counted.

    Args:
        images, every_n_epochs: see :class:`ImageProbe`.
        attack: name or instance of an attack with a radius, see :data:`~lit_viz.attacks.ATTACKS`.
        eps: radius in units of [0, 1]; by default that of the attack.
        options: other arguments of :class:`ImageProbe` and :class:`Probe`.

    Raises:
        LitVizError: the attack has no radius, or an instance is given together with ``eps``.

    Example:
        >>> import lit_viz as lv, torch
        >>> batch = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
        >>> probe = lv.callbacks.RobustnessProbe(batch, attack="pgd", eps=2 / 255, every_n_epochs=2)
    """

    name = "robustness"

    def __init__(
        self,
        images: ProbeImages,
        every_n_epochs: int = 5,
        *,
        attack: str | Attack = "pgd",
        eps: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(images, every_n_epochs, **{"slots": options.get("limit", 64), **options})
        if isinstance(attack, Attack) and eps is not None:
            raise LitVizError("eps must be an argument of the attack's instance")
        kind = type(attack) if isinstance(attack, Attack) else find_class(attack, ATTACKS, "attack")
        if not issubclass(kind, BudgetAttack):
            raise LitVizError(without_radius(kind))
        radius: dict[str, Any] = {} if eps is None else {"eps": eps}
        self.attack = attack if isinstance(attack, Attack) else kind(**radius)

    def method(self, classifier: Classifier) -> ImageTraining:
        """Return the attack."""
        return AdversarialExample(classifier, copy.copy(self.attack), **self.run_options)

    def images(self, results: Sequence[Result]) -> Mapping[str, CaptionedImage]:
        """Return the first adversarial examples beneath their images."""
        shown = [r for r in results if getattr(r.record, "success_file", False)][:_PICTURES]
        pictures = [*(result.source for result in shown), *(result.image for result in shown)]
        names = ", ".join(str(getattr(result.record, "predicted_name", "")) for result in shown)
        image = [enlarged(picture) for picture in pictures if picture is not None]
        return {"adversarial": (tile(image, columns=len(shown)), f"predicted: {names}")} if shown else {}

    def metrics(self, results: Sequence[Result]) -> Mapping[str, float]:
        """Return the accuracy before and under attack."""
        outcomes = remembered({result.task.index: result for result in results}, {})
        return {"accuracy": clean_accuracy(outcomes).share, "robust_accuracy": robust_accuracy(outcomes)[-1].share}
