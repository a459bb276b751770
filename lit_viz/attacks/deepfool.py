"""DeepFool: repeated steps to the nearest linearized decision boundary."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack
from lit_viz.attacks.norms import NormName, norm_of
from lit_viz.errors import require
from lit_viz.objectives import Margin
from lit_viz.optim import Evaluation, State
from lit_viz.optim.rule import chosen, per_slot
from lit_viz.utils.device import to_list

_MINIMAL_STEP = 1e-4  # length, so that an image on the boundary moves


class DeepFool(Attack):
    """DeepFool (Moosavi-Dezfooli et al. 2016, arXiv:1511.04599, algorithm 2; section 3.3 for other norms).

    With ``f_k = z_k - z_y`` and its gradient ``w_k``, the nearest boundary is ``l = argmin |f_k| / ||w_k||_*`` over the
    likeliest classes, with the dual norm, and the step to it has the length ``|f_l| / ||w_l||_*`` along the steepest
    direction. A targeted attack steps to the boundary between the target and the likeliest other class.

    Images are ``source + (1 + overshoot) * (sum of all steps)``, as the authors' code evaluates them. ``w_k`` omits
    black or white pixels with a step out of [0, 1].

    An update costs a backward for each compared class; a targeted attack, one.

    Args:
        norm: norm of the steps.
        overshoot: fraction of the perturbation that is added to cross the boundary.
        classes: number of likeliest classes that are compared, the class to leave included.
    """

    iterations: int = 50

    def __init__(self, norm: NormName = "l2", overshoot: float = 0.02, classes: int = 10) -> None:
        require(0 <= overshoot < math.inf, "DeepFool: overshoot must be 0 or more", overshoot)
        require(classes >= 2, "DeepFool: classes must be at least 2", classes)
        self.norm = norm_of(norm)
        self.overshoot = overshoot
        self.classes, self.backwards_per_step = classes, classes - 1
        self.objective = Margin()

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Step to the nearest boundary and beyond by the overshoot.

        The overshoots of the steps add up to that of their sum, since each step starts at the previous image.
        """
        distance, gradient = self._nearest(x, state, evaluation, rows)
        length = (1 + self.overshoot) * torch.where(distance.isfinite(), distance.clamp(min=_MINIMAL_STEP), 0)
        return (x + per_slot(length, x) * self.norm.steepest(gradient)).clamp(0, 1), state

    def _nearest(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances ``(N,)`` and the normal directions ``(N, C, H, W)`` of the nearest boundaries."""
        logits, goal, targeted = evaluation.logits, state["goal"], state["targeted"]
        others = logits.scatter(1, goal[:, None], -torch.inf)
        rivals = others.topk(min(self.classes, logits.shape[1]) - 1).indices
        if not any(to_list(rows & ~targeted)):
            rivals = rivals[:, :1]
        distance = torch.full_like(evaluation.score, torch.inf)
        nearest = torch.zeros_like(x)
        # Gradients are channels-last; a pixel at the bound of [0, 1] cannot move along them.
        pixels = x.contiguous(memory_format=torch.channels_last)
        lowest, highest = torch.where(pixels <= 0, 0, -torch.inf), torch.where(pixels >= 1, 0, torch.inf)
        for k, rival in enumerate(rivals.unbind(1)):
            reached, replaced = torch.where(targeted, goal, rival), torch.where(targeted, rival, goal)
            compared = rows
            if k > 0:
                compared = rows & ~targeted
            gap = partial(_gap, reached=reached, replaced=replaced)
            gradient = evaluation.backward(gap, rows=compared, keep=k + 1 < rivals.shape[1]).clamp_(lowest, highest)
            there = self.norm.distance_to_boundary(gap(logits), gradient)
            nearer = compared & (there < distance)
            distance, nearest = torch.where(nearer, there, distance), chosen(nearer, gradient, nearest)
        return distance, nearest


def _gap(logits: Tensor, reached: Tensor, replaced: Tensor) -> Tensor:
    """Return ``z_reached - z_replaced`` of logits ``(M * views, K)`` for classes ``(M,)``."""
    views = len(logits) // len(reached)
    reached, replaced = reached.repeat_interleave(views), replaced.repeat_interleave(views)
    return (logits.gather(1, reached[:, None]) - logits.gather(1, replaced[:, None]))[:, 0]
