"""A success that was lost when the image was rounded, won back on the 8-bit lattice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_viz.attacks.base import succeeded
from lit_viz.classifiers import Classifier
from lit_viz.evidence.lattice import LEVELS, LatticeBall, image_of, levels_of
from lit_viz.objectives import Margin, Outputs

CANDIDATES = 6  # images that the original network is asked about, in each of three climbs


@dataclass(frozen=True)
class Goal:
    """What a classifier is to see in an image.

    The network is asked about one image at a time, so that an image alone, in a batch, or read again from its file
    meets with the same answer to the last bit.

    Attributes:
        classifier: which is asked.
        index: of the class to reach, or to leave.
        towards: whether it is to be reached.
    """

    classifier: Classifier
    index: int
    towards: bool

    def logits(self, image: Tensor) -> Tensor:
        """Return the original network's logits ``(K,)`` for an image ``(C, H, W)`` in [0, 1]."""
        return self.classifier.logits(image[None])[0]

    def met(self, logits: Tensor) -> bool:
        """Return whether the class with the largest logit is what was asked for."""
        index, towards = self._tensors(logits)
        return bool(succeeded(logits[None], {"goal": index, "towards": towards}))

    def margin(self, logits: Tensor) -> Tensor:
        """Return by how much the goal is met (above 0) or missed (below 0), in logits."""
        index, towards = self._tensors(logits)
        return Margin()(Outputs(logits[None], index, towards=towards))[0]

    def slope(self, image: Tensor) -> Tensor:
        """Return the margin's gradient by the level of each value, ``(C, H, W)`` float64 on the CPU; a backward."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = image.detach().clone().requires_grad_()
            logits, _ = self.classifier.fast()(leaf[None])
            (slope,) = torch.autograd.grad(self.margin(logits[0]), leaf)
        return slope.cpu().double().nan_to_num(0.0, 0.0, 0.0) / LEVELS

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tensor([self.index], device=like.device), torch.tensor([self.towards], device=like.device)


class Climb(NamedTuple):
    """What was found on a way up the margin.

    Attributes:
        levels: the candidate of the fewest moves that meets the goal; where none does, that of the best margin.
        margin: of the original network on it.
        met: whether it meets the goal.
    """

    levels: Tensor
    margin: float
    met: bool


def repair(image: Tensor, levels: Tensor, margin: float, ball: LatticeBall, goal: Goal) -> Tensor | None:
    """Return levels near the given ones that lie in the ball and meet the goal; None if none were found.

    Two ways are tried, and the one that moves the levels less is taken. The values whose rounding cost the most, by the
    slope at the image as it was, are rounded the other way: where rounding took most of a small change, the slope
    after it tells little of the way back. And the values with the steepest slope after rounding move by a level each:
    for a linear network no such way has fewer moves. Where neither helps, the second is gone on with from the best
    candidate. Costs at most 3 backwards, with a forward each, and ``3 * CANDIDATES`` forwards of the original network.

    Args:
        image: ``(C, H, W)`` in [0, 1], the success before it was rounded.
        levels: ``(C, H, W)``, what was made of it: they lie in the ball and miss the goal.
        margin: of the original network on the levels.
        ball: where levels may go.
        goal: what is to be seen.
    """
    start = Climb(levels, margin, False)
    slope = goal.slope(image)
    other_way = _climb(start, slope, slope * (levels_of(image) - levels), ball, goal)
    steepest = _climb_steepest(start, ball, goal)
    found = [climb.levels for climb in (other_way, steepest) if climb.met]
    if not found:
        again = _climb_steepest(max(other_way, steepest, key=lambda climb: climb.margin), ball, goal)
        found = [again.levels] if again.met else []
    return min(found, key=lambda these: float((these - levels).abs().sum()), default=None)


def _climb_steepest(start: Climb, ball: LatticeBall, goal: Goal) -> Climb:
    slope = goal.slope(image_of(start.levels))
    return _climb(start, slope, slope.abs(), ball, goal)


def _climb(start: Climb, slope: Tensor, worth: Tensor, ball: LatticeBall, goal: Goal) -> Climb:
    """Move the k values of the greatest positive worth by a level each, up the slope.

    The first k is what the slope says is needed; it is doubled until the goal is met, then bisected for the fewest.
    """
    order, gains = _moves(start.levels, slope, worth, ball)
    best, missed, enough = start, 0, 0  # and the largest k known to miss, the smallest known to do
    count = min(int((gains.cumsum(0) <= -start.margin).sum()) + 1, len(order))
    for _ in range(CANDIDATES):
        if count <= missed:
            break
        levels = ball.shorten(_moved(start.levels, slope, order[:count]), slope)
        logits = goal.logits(image_of(levels))
        here = Climb(levels, float(goal.margin(logits)), goal.met(logits))
        if here.met or (not best.met and here.margin > best.margin):
            best = here
        missed, enough = (missed, count) if here.met else (count, enough)
        count = (missed + enough) // 2 if enough else min(2 * count, len(order))
    return best


def _moves(levels: Tensor, slope: Tensor, worth: Tensor, ball: LatticeBall) -> tuple[Tensor, Tensor]:
    """Return the values that can move up the slope by a level, by falling worth, and what each adds to the margin."""
    after = levels + slope.sign()
    free = (after >= ball.low) & (after <= ball.high) & (worth > 0)
    order = torch.where(free, worth, -torch.inf).flatten().argsort(descending=True, stable=True)[: int(free.sum())]
    return order, slope.abs().flatten()[order]


def _moved(levels: Tensor, slope: Tensor, values: Tensor) -> Tensor:
    steps = torch.zeros_like(levels).flatten()
    steps[values] = slope.sign().flatten()[values]
    return levels + steps.view_as(levels)
