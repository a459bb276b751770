"""Objectives on the class scores."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.objectives.base import Objective, Outputs


class _ClassScore(Objective):
    """A score of one class.

    Args:
        target: class index; the task's own target unless given.
    """

    def __init__(self, target: int | None = None) -> None:
        self.target = target
        self.task_fields = frozenset({"target"} if target is None else ())

    def bind(self, classifier: Classifier) -> None:
        """Refuse a class that the classifier doesn't have."""
        if self.target is not None and not 0 <= self.target < classifier.num_classes:
            raise LitVizError(f"there is no class {self.target}: {classifier.name} has {classifier.num_classes}.")

    def _pick(self, scores: Tensor, targets: Tensor) -> Tensor:
        if self.target is not None:
            return scores[:, self.target]
        return scores.gather(1, targets[:, None])[:, 0]


class Logit(_ClassScore):
    """The class's logit, the S_c of Simonyan 2014 (arXiv:1312.6034, section 2).

    It raises the class without asking that the others fall.
    """

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the logits ``(M,)``."""
        return self._pick(outputs.logits, outputs.targets)


class LogProbability(_ClassScore):
    """The log of the class's softmax probability: minus the cross-entropy, so the other classes are lowered too."""

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the log-probabilities ``(M,)``, at most 0."""
        return self._pick(torch.log_softmax(outputs.logits, dim=1), outputs.targets)


class Probability(_ClassScore):
    """The class's softmax probability."""

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the probabilities ``(M,)``, in [0, 1]."""
        return self._pick(torch.softmax(outputs.logits, dim=1), outputs.targets)
