"""Successes that were lost when images were rounded, won back on the 8-bit lattice."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lit_viz.attacks.base import is_adversarial
from lit_viz.attacks.rounding.lattice import LEVELS, LatticeBall, filed, image_of, levels_of
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.isolation import dtype_of
from lit_viz.errors import LitVizError
from lit_viz.objectives import Margin, Outputs

CANDIDATES = 6  # images that the fast copy is asked about, in each climb
CLIMBS = 6  # slopes that are followed at most: most images need one, a few that were shaved to nothing need all
#: The first candidate moves by so much more than the slope says: the gradient turns on the way, and gains less.
_CAUTION = 1.7
#: Moves that a candidate is to save, as a part of those that are known to be enough, to be asked about.
_SAVED = 1 / 8
_GROWTH = 4  # times as many moves, at most, as a candidate that missed had
_TRIES = 2  # searches, where the original network denies what the fast copy has promised


class Goals:
    """What a classifier is to see in each of N images.

    Attributes:
        classifier: which is asked.
        index: ``(N,)`` of the class to reach, or to leave.
        targeted: ``(N,)`` bool, whether it is to be reached.
    """

    def __init__(self, classifier: Classifier, index: Tensor, targeted: Tensor) -> None:
        self.classifier, self.index, self.targeted = classifier, index.cpu(), targeted.cpu()

    def __getitem__(self, rows: Sequence[int]) -> Goals:
        return Goals(self.classifier, self.index[rows], self.targeted[rows])

    def logits(self, images: Tensor) -> Tensor:
        """Return the original network's logits ``(N, K)`` for images ``(N, C, H, W)`` in [0, 1], on the CPU.

        Kernels round by the shape of a batch. Where a margin is so small that this may decide (see :meth:`doubt`), the
        image is asked about again alone, and that answer counts: so an image in a batch, or read again from its file,
        meets with the same verdict.
        """
        logits = self.classifier.logits(images).cpu()
        if len(images) > 1:
            for n in (self.margin(logits).abs() < self.doubt(logits)).nonzero()[:, 0].tolist():
                logits[n] = self.classifier.logits(images[n : n + 1])[0]
        return logits

    def met(self, logits: Tensor) -> Tensor:
        """Return whether the class with the largest logit is what was asked for, ``(N,)`` bool."""
        return is_adversarial(logits, self.index, self.targeted)

    def margin(self, logits: Tensor) -> Tensor:
        """Return by how much the goals are met (above 0) or missed (below 0), in logits ``(N,)``."""
        where = logits.device
        return Margin()(Outputs(logits, self.index.to(where), targeted=self.targeted.to(where)))

    def doubt(self, logits: Tensor) -> Tensor:
        """Return how large a margin must be ``(N,)`` to be the same in every batch.

        The root of the rounding unit of the network's numbers (3.5e-4 of float32), times the largest logit, or 1 where
        it is smaller: some thousand times what batches of different shapes differ by.
        """
        unit = max(torch.finfo(dtype).eps for dtype in (dtype_of(self.classifier.original), torch.float32))
        return math.sqrt(unit) * logits.abs().amax(1).clamp(min=1)

    def expected(self, images: Tensor) -> Tensor:
        """Return the margins ``(N,)`` by the fast copy, on the CPU."""
        with torch.no_grad():
            return self.margin(self.classifier.fast()(images)[0]).cpu()

    def slope(self, images: Tensor) -> Tensor:
        """Return the margins' gradient by the level of each value, ``(N, C, H, W)`` float64 on the CPU; a backward.

        Zero where the network's own code runs without gradients, as where they are masked: Square fools both.
        """
        with torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            try:
                logits = self.classifier.fast()(leaf)[0]
            except LitVizError:  # no layer was asked for, so that is the only one
                return torch.zeros_like(leaf, dtype=torch.float64, device="cpu")
            (slope,) = torch.autograd.grad(self.margin(logits).sum(), leaf)
        return slope.cpu().double().nan_to_num(0.0, 0.0, 0.0) / LEVELS


class RoundingFailure(NamedTuple):
    """A success before rounding that is none after it.

    Attributes:
        image: ``(C, H, W)`` float32 in [0, 1], before it was rounded.
        levels: ``(C, H, W)``, what was made of it: they lie in the ball and miss the goal.
        margin: of the original network on them.
        doubt: margin above which an answer is the same in every batch.
        ball: where levels may go.
    """

    image: Tensor
    levels: Tensor
    margin: float
    doubt: float
    ball: LatticeBall


class Found(NamedTuple):
    """Levels ``(C, H, W)`` that meet the goal; the ``image`` ``(C, H, W)`` that a reader of their file gets, and the
    original network's ``logits`` ``(K,)`` on it."""

    levels: Tensor
    image: Tensor
    logits: Tensor


_Question = Literal["slope", "expected", "logits"]  # what Goals is asked for


class _Ask(NamedTuple):
    """What a search wants to know next."""

    question: _Question
    image: Tensor


class _Climb(NamedTuple):
    """What was found on a way up the margin.

    Attributes:
        levels: the candidate of the fewest moves that reaches the aim; where none does, that of the best margin.
        margin: on it, by the fast copy.
        met: whether it reaches the aim.
    """

    levels: Tensor
    margin: float
    met: bool


_Search = Generator[_Ask, Any, Found | None]


def repair(lost: Sequence[RoundingFailure], goals: Goals) -> list[Found | None]:
    """Return levels near the given ones that lie in their ball and whose file meets the goal; None if none were found.

    The values that rounding moved down the slope, as that is at the image as it was, are rounded the other way, the
    steepest first: where rounding took most of a small change, the slope after it tells little of the way back. Where
    that is not enough, any values move up the slope at the best candidate, by a level each and the steepest first,
    again and again. What is found on the fast copy counts if the original network says the same.

    An image costs at most CLIMBS backwards, with a forward each, and ``CLIMBS * CANDIDATES`` forwards of the fast copy,
    and one forward of the original network; twice that where the two disagree. Images are asked about together.

    Args:
        lost: M of them.
        goals: what is to be seen in each.
    """
    searches = [_search(one, goals[[m]]) for m, one in enumerate(lost)]
    found: list[Found | None] = [None] * len(lost)
    asks = {m: next(search) for m, search in enumerate(searches)}
    while asks:
        for m, answer in _answers(asks, goals).items():
            try:
                asks[m] = searches[m].send(answer)
            except StopIteration as end:
                found[m] = end.value
                del asks[m]
    return found


def _answers(asks: dict[int, _Ask], goals: Goals) -> dict[int, Tensor]:
    """Answer one kind of question; the original network is asked last, when all the others wait for it."""
    question = next(q for q in get_args(_Question) if any(ask.question == q for ask in asks.values()))
    rows = [m for m, ask in asks.items() if ask.question == question]
    answers = getattr(goals[rows], question)(torch.stack([asks[m].image for m in rows]))
    return dict(zip(rows, answers, strict=True))


def _search(lost: RoundingFailure, goal: Goals) -> _Search:
    aim = lost.doubt
    for _ in range(_TRIES):
        here = yield from _up(lost, aim)
        if not here.met:
            break
        image = filed(here.levels)
        logits = yield _Ask("logits", image)
        margin = float(goal.margin(logits[None]))
        if margin > 0:
            return Found(here.levels, image, logits)
        aim += here.margin - margin
    return None


def _up(lost: RoundingFailure, aim: float) -> Generator[_Ask, Any, _Climb]:
    start = _Climb(lost.levels, lost.margin, False)
    slope = yield _Ask("slope", lost.image)
    against = slope * (levels_of(lost.image) - lost.levels) > 0
    here = yield from _climb(start, slope, slope.abs() * against, lost.ball, aim)
    for _ in range(CLIMBS - 1):
        if here.met:
            break
        slope = yield _Ask("slope", image_of(here.levels))
        here = yield from _climb(here, slope, slope.abs(), lost.ball, aim)
    return here


def _climb(start: _Climb, slope: Tensor, worth: Tensor, ball: LatticeBall, aim: float) -> Generator[_Ask, Any, _Climb]:
    """Move the k values of the greatest positive worth by a level each, up the slope, and look for the smallest k."""
    order, gains = _moves(start.levels, slope, worth, ball)
    total = torch.cat([gains.new_zeros(1), gains.cumsum(0)])  # of k moves, as the slope has it
    best, tried = start, [(0, start.margin)]
    for _ in range(CANDIDATES):
        count = _next(tried, total, aim)
        if count is None:
            break
        levels = ball.shorten(_moved(start.levels, slope, order[:count]), slope)
        margin = float((yield _Ask("expected", image_of(levels))))
        here = _Climb(levels, margin, margin >= aim)
        tried.append((count, margin))
        if here.met or (not best.met and margin > best.margin):
            best = here
    return best


def _next(tried: Sequence[tuple[int, float]], total: Tensor, aim: float) -> int | None:
    """Return the next number of moves to try, None where it is not worth a try.

    Margins are taken to be linear in what the slope promises: between the largest number that missed and the smallest
    that was enough, or on from the last two that missed.
    """
    enough = min((k for k, margin in tried if margin >= aim), default=None)
    missed = sorted(point for point in tried if not point[1] >= aim)
    k, margin = missed[-1]
    other = (enough, dict(tried)[enough]) if enough is not None else missed[-2] if len(missed) > 1 else None
    if other is None:
        promised = _CAUTION * (aim - margin)
    else:
        rate = (other[1] - margin) / float(total[other[0]] - total[k])
        promised = float(total[k]) + ((aim - margin) / rate if rate > 0 else float(total[k]))
    count = min(int((total[1:] <= promised).sum()) + 1, len(total) - 1)
    if enough is None:
        count = min(count, _GROWTH * k or count)
        return count if count > k else None
    return count if k < count < enough * (1 - _SAVED) else None


def _moves(levels: Tensor, slope: Tensor, worth: Tensor, ball: LatticeBall) -> tuple[Tensor, Tensor]:
    """Return the values that can move up the slope by a level, by falling worth, and what each adds to the margin."""
    after = levels + slope.sign()
    free = ((after >= ball.low) & (after <= ball.high) & (worth > 0)).flatten().nonzero()[:, 0]
    order = free[worth.flatten()[free].argsort(descending=True, stable=True)]
    return order, slope.abs().flatten()[order]


def _moved(levels: Tensor, slope: Tensor, values: Tensor) -> Tensor:
    steps = torch.zeros_like(levels).flatten()
    steps[values] = slope.sign().flatten()[values]
    return levels + steps.view_as(levels)
