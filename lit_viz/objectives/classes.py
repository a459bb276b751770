"""Objectives on the scores of classes: of one class, and of attacks.

A higher attack objective is closer to success, in targeted rows, which reach the class in ``targets``, and in
untargeted rows, which leave it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import compress
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.errors import LitVizError, require
from lit_viz.networks import Network
from lit_viz.networks.decisions import EXCLUSIVE
from lit_viz.objectives.base import Objective, Outputs
from lit_viz.utils.device import to_list

_EPS = 1e-12  # smallest denominator of DLR


class ClassScore(Objective):
    """Base class of scores of one class, or of the contrast ``f(c) - gamma f(d)`` of the class c with another class d.

    The class d is the one that a task is contrasted with, if it has one (for Grad-CAM, Finer-CAM: Zhang et al. 2025,
    arXiv:2501.11309).

    Args:
        target: class index; default: the target of each task.
        gamma: weight of the class that a target is contrasted with, at least 0.
    """

    def __init__(self, target: int | None = None, gamma: float = 1.0) -> None:
        self.target, self.gamma = target, self.checked_gamma(gamma)
        self.task_fields = frozenset({"target", "against"} if target is None else ())
        self.rule = EXCLUSIVE

    def checked_gamma(self, gamma: float) -> float:
        """Return a weight; raise :class:`LitVizError` if it is negative."""
        require(0 <= gamma < math.inf, f"gamma of {type(self).__name__} must be at least 0", gamma, hint="1 is usual")
        return gamma

    def bind(self, network: Network) -> None:
        self.rule = network.rule
        classes = f"a class of {network.name}, from 0 to {network.num_classes - 1}"
        valid = self.target is None or 0 <= self.target < network.num_classes
        require(valid, f"target of {type(self).__name__} must be {classes}", self.target)

    def _pick(self, scores: Tensor, outputs: Outputs) -> Tensor:
        picked = _select(scores, outputs.targets) if self.target is None else scores[:, self.target]
        against = outputs.against
        if against is None or all(index < 0 for index in to_list(against)):
            return picked
        return picked - self.gamma * torch.where(against >= 0, _select(scores, against.clamp(min=0)), 0)


class Logit(ClassScore):
    """Logit of the class: S_c of Simonyan et al. 2014 (arXiv:1312.6034, section 2).

    Raising it does not lower the other classes. Of an image that has started again, because the network preferred
    another class, it is the log-probability, which lowers them too.
    """

    def __call__(self, outputs: Outputs) -> Tensor:
        logits = outputs.logits
        if outputs.restarted is not None:
            logits = torch.where(outputs.restarted[:, None], logits.log_softmax(1), logits)
        return self._pick(logits, outputs)


class LogProbability(ClassScore):
    """Log of the probability of the class: the negative cross-entropy, which also lowers the other classes.

    Of a multi-label network, the probability is the sigmoid of the logit, which lowers no other label.
    """

    def __call__(self, outputs: Outputs) -> Tensor:
        return self._pick(self.rule.log_probabilities(outputs.logits), outputs)


class Probability(ClassScore):
    """Probability of the class: softmax, or of a multi-label network the sigmoid."""

    def __call__(self, outputs: Outputs) -> Tensor:
        return self._pick(self.rule.probabilities(outputs.logits), outputs)


class AttackObjective(Objective):
    """Base class of attack objectives; subclasses implement :meth:`score`.

    Attributes:
        classes: minimum number of classes of the network in an untargeted and in a targeted attack.
    """

    classes: ClassVar[tuple[int, int]] = (1, 1)
    task_fields = frozenset({"target"})

    def __call__(self, outputs: Outputs) -> Tensor:
        targeted = outputs.targeted
        if targeted is None:
            targeted = torch.ones_like(outputs.targets, dtype=torch.bool)
        for mode in set(to_list(targeted)):
            self.check_classes(outputs.logits.shape[1], targeted=mode, hint="use CrossEntropy or Margin")
        if min(to_list(outputs.targets), default=0) < 0:
            raise LitVizError("an attack requires a target or the true label, got neither")
        return self.score(outputs, targeted)

    def check_classes(self, count: int, *, targeted: bool, hint: str) -> None:
        """Raise :class:`LitVizError` if a network with ``count`` classes has too few for the objective."""
        minimum, mode = self.classes[targeted], "targeted" if targeted else "untargeted"
        constraint = f"{type(self).__name__} requires {minimum} classes in {mode} attacks"
        require(count >= minimum, constraint, f"a network with {count}", hint=hint)

    @abstractmethod
    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        """Compute the scores ``(M,)``; ``targeted`` is ``(M,)`` bool."""


class CrossEntropy(AttackObjective):
    """``log p_t`` of the class t to reach, ``-log p_y`` of the class y to leave.
    Goodfellow et al. 2015, arXiv:1412.6572, section 4."""

    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        return _signed(_select(torch.log_softmax(outputs.logits, 1), outputs.targets), targeted)


class ClippedCrossEntropy(CrossEntropy):
    """Cross-entropy clipped at ``limit`` in untargeted rows, so that no image dominates a mini-batch (Shafahi et al.
    2020, arXiv:1811.11304, beta = 9).

    Args:
        limit: positive.
    """

    def __init__(self, limit: float = 9.0) -> None:
        require(limit > 0, "limit of ClippedCrossEntropy must be positive", limit)
        self.limit = limit

    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        return super().score(outputs, targeted).clamp(max=self.limit)


class TargetLogit(AttackObjective):
    """Logit ``z_t`` of the class t to reach, ``-z_y`` of the class y to leave."""

    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        return _signed(_select(outputs.logits, outputs.targets), targeted)


class Margin(AttackObjective):
    """``z_t - max_{i != t} z_i`` in targeted rows, ``max_{i != y} z_i - z_y`` in untargeted rows.
    Positive where the attack succeeds. Carlini and Wagner 2017, arXiv:1608.04644, f_6 with opposite sign."""

    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        own = _select(outputs.logits, outputs.targets)
        return _signed(own - _largest_other(outputs.logits, outputs.targets), targeted)


class DLR(AttackObjective):
    """Difference of logits ratio (Croce and Hein 2020, arXiv:2003.01690, equations 6 and 7).

    It is invariant to shifting and scaling the logits, so large logits can't cause vanishing gradients. With the logits
    in descending order ``z_1 >= z_2 ...``, untargeted ``-(z_y - max_{i != y} z_i) / (z_1 - z_3)``, targeted
    ``-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2)``. The denominator is at least 1e-12.
    """

    classes = (3, 4)

    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        """Compute ratios, positive where the attack succeeds; targeted rows require the true class."""
        logits, targets = outputs.logits, outputs.targets
        descending = logits.topk(min(4, logits.shape[1])).values
        untargeted_score = torch.zeros_like(logits[:, 0])
        is_targeted = to_list(targeted)
        if not all(is_targeted):
            spread = (descending[:, 0] - descending[:, 2]).clamp(min=_EPS)
            untargeted_score = (_largest_other(logits, targets) - _select(logits, targets)) / spread
        if not any(is_targeted):
            return untargeted_score
        labels = outputs.labels
        if labels is None or min(compress(to_list(labels), is_targeted), default=0) < 0:
            raise LitVizError("DLR requires the true label in targeted attacks, got none: use CrossEntropy")
        spread = (descending[:, 0] - descending[:, 2:4].mean(1)).clamp(min=_EPS)
        targeted_score = (_select(logits, targets) - _select(logits, labels.clamp(min=0))) / spread
        return torch.where(targeted, targeted_score, untargeted_score)


def _signed(scores: Tensor, targeted: Tensor) -> Tensor:
    return torch.where(targeted, scores, -scores)


def _select(scores: Tensor, classes: Tensor) -> Tensor:
    return scores.gather(1, classes[:, None])[:, 0]


def _largest_other(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the largest logit of the other classes, ``(M,)``."""
    return logits.scatter(1, classes[:, None], -torch.inf).amax(1)
