"""Objectives of attacks: higher is closer to success, whether a class is to be reached or to be left.

Untargeted rows (``targeted`` False) leave the class in ``targets``; targeted rows reach it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.objectives.base import Objective, Outputs
from lit_viz.utils.device import to_list


class AttackObjective(Objective):
    """What an attack maximizes.

    Attributes:
        classes: that a network must tell apart for it, in an untargeted and in a targeted attack.
    """

    classes: ClassVar[tuple[int, int]] = (1, 1)
    task_fields = frozenset({"target"})

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the scores ``(M,)``.

        Raises:
            LitVizError: a class that is asked for is not known, or the network has too few of them.
        """
        targeted = outputs.targeted
        if targeted is None:
            targeted = torch.ones_like(outputs.targets, dtype=torch.bool)
        for rows, mode in ((~targeted, False), (targeted, True)):
            missing = self.class_count_error(outputs.logits.shape[1], targeted=mode)
            if missing and any(to_list(rows)):
                raise LitVizError(f"{missing}: take CrossEntropy or Margin.")
        if any(target < 0 for target in to_list(outputs.targets)):
            raise LitVizError("an attack needs the class to reach or to leave: give a target or the true label.")
        return self.score(outputs, targeted)

    def class_count_error(self, count: int, *, targeted: bool) -> str | None:
        """Return half a sentence where a network of so many classes has too few for it, else None."""
        needed, kind = self.classes[targeted], "a targeted" if targeted else "an untargeted"
        if count >= needed:
            return None
        return f"{type(self).__name__} needs {needed} classes in {kind} attack and the network has {count}"

    @abstractmethod
    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        """Return the scores ``(M,)``; ``targeted`` ``(M,)`` bool."""


class CrossEntropy(AttackObjective):
    """``log p_t`` of the class t to reach; ``-log p_y`` of the class y to leave (Goodfellow et al. 2015,
    arXiv:1412.6572, section 4)."""

    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        """Return log-probabilities, at most 0 towards a class, at least 0 away from it."""
        return _signed(_picked(torch.log_softmax(outputs.logits, 1), outputs.targets), targeted)


class ClippedCrossEntropy(CrossEntropy):
    """The cross-entropy, away from a class at most ``limit``: what is fooled well enough counts no more, so that no
    image of a mini-batch outweighs the others (Shafahi et al. 2020, arXiv:1811.11304, beta = 9).

    Args:
        limit: above 0.
    """

    def __init__(self, limit: float = 9.0) -> None:
        if not limit > 0:
            raise LitVizError(f"a cross-entropy clipped at {limit} is none: give a positive number such as 9.")
        self.limit = limit

    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        """Return log-probabilities, at most 0 towards a class, and from 0 to the limit away from it."""
        return super().score(outputs, targeted).clamp(max=self.limit)


class TargetLogit(AttackObjective):
    """The logit ``z_t`` of the class t to reach; ``-z_y`` of the class y to leave."""

    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        """Return signed logits."""
        return _signed(_picked(outputs.logits, outputs.targets), targeted)


class Margin(AttackObjective):
    """``z_t - max_{i != t} z_i``, and ``max_{i != y} z_i - z_y``: above 0 where the attack succeeds, below 0 where it
    doesn't (Carlini and Wagner 2017, arXiv:1608.04644, f_6, with the opposite sign)."""

    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        """Return margins, in logits."""
        own = _picked(outputs.logits, outputs.targets)
        return _signed(own - _others(outputs.logits, outputs.targets), targeted)


class DLR(AttackObjective):
    """The difference of logits ratio (Croce and Hein 2020, arXiv:2003.01690, equations 6 and 7): it doesn't change when
    the logits are shifted or scaled, so a network can't hide its gradient by large logits.

    With the logits in descending order ``z_1 >= z_2 ...``, untargeted ``-(z_y - max_{i != y} z_i) / (z_1 - z_3)``,
    targeted ``-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2)``. Ties are kept finite by a denominator of at least 1e-12.
    """

    classes = (3, 4)

    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        """Return ratios, above 0 where the attack succeeds.

        Raises:
            LitVizError: a targeted attack of an image whose true class is not known.
        """
        logits, targets = outputs.logits, outputs.targets
        ordered = logits.topk(min(4, logits.shape[1])).values
        left = torch.zeros_like(logits[:, 0])
        if not all(to_list(targeted)):
            spread = (ordered[:, 0] - ordered[:, 2]).clamp(min=_TINY)
            left = (_others(logits, targets) - _picked(logits, targets)) / spread
        if not any(to_list(targeted)):
            return left
        labels = outputs.labels
        if labels is None or any(
            aimed and label < 0 for aimed, label in zip(to_list(targeted), to_list(labels), strict=True)
        ):
            raise LitVizError("DLR needs the true label in a targeted attack: give labels, or take CrossEntropy.")
        spread = (ordered[:, 0] - ordered[:, 2:4].mean(1)).clamp(min=_TINY)
        reached = (_picked(logits, targets) - _picked(logits, labels.clamp(min=0))) / spread
        return torch.where(targeted, reached, left)


_TINY = 1e-12


def _signed(scores: Tensor, targeted: Tensor) -> Tensor:
    return torch.where(targeted, scores, -scores)


def _picked(scores: Tensor, classes: Tensor) -> Tensor:
    return scores.gather(1, classes[:, None])[:, 0]


def _others(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the largest logit of another class ``(M,)``."""
    return logits.scatter(1, classes[:, None], -torch.inf).amax(1)
