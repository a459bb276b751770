"""Objectives on the score of one class."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.objectives.base import Objective, Outputs


class _ClassScore(Objective):
    """Base class of scores of one class.

    Args:
        target: class index; default: the target of each task.
    """

    def __init__(self, target: int | None = None) -> None:
        self.target = target
        self.task_fields = frozenset({"target"} if target is None else ())

    def bind(self, classifier: Classifier) -> None:
        """Validate ``target``."""
        if self.target is not None and not 0 <= self.target < classifier.num_classes:
            raise LitVizError(
                f"target of {type(self).__name__} must be a class of {classifier.name}, from 0 to "
                f"{classifier.num_classes - 1}, got {self.target}"
            )

    def _select(self, scores: Tensor, targets: Tensor) -> Tensor:
        if self.target is not None:
            return scores[:, self.target]
        return scores.gather(1, targets[:, None])[:, 0]


class Logit(_ClassScore):
    """Logit of the class: S_c of Simonyan et al. 2014 (arXiv:1312.6034, section 2).

    Raising it does not lower the other classes.
    """

    def __call__(self, outputs: Outputs) -> Tensor:
        """Compute the logits ``(M,)``."""
        return self._select(outputs.logits, outputs.targets)


class LogProbability(_ClassScore):
    """Log of the softmax probability of the class: the negative cross-entropy, which also lowers the other classes."""

    def __call__(self, outputs: Outputs) -> Tensor:
        """Compute the log-probabilities ``(M,)``, at most 0."""
        return self._select(torch.log_softmax(outputs.logits, dim=1), outputs.targets)


class Probability(_ClassScore):
    """Softmax probability of the class."""

    def __call__(self, outputs: Outputs) -> Tensor:
        """Compute the probabilities ``(M,)``, in [0, 1]."""
        return self._select(torch.softmax(outputs.logits, dim=1), outputs.targets)
