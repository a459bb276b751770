"""Repair of rounding failures: adversarial examples that are no longer a success after rounding to 8 bits."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lit_viz.attacks.base import is_adversarial
from lit_viz.attacks.rounding.lattice import LEVELS, LatticeBall, decoded_png, image_of, levels_of
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.isolation import dtype_of
from lit_viz.errors import LitVizError
from lit_viz.objectives import Margin, Outputs

CANDIDATES = 6  # evaluations of the fast copy in each climb
CLIMBS = 6  # gradients at most: most images need one, a few that were shortened to nothing need all
#: Factor of the linear prediction for the first candidate: the true gain is smaller, since the gradient rotates.
_MARGIN_FACTOR = 1.7
#: Minimal reduction of the number of moves, relative to the sufficient number, that justifies an evaluation.
_REDUCTION = 1 / 8
_GROWTH = 4  # maximal growth of the number of moves after a failure
_SEARCHES = 2  # searches, where the original network rejects the result of the fast copy


class Verifier:
    """Predictions of a classifier, tested against the goals of N images.

    Attributes:
        classifier: the classifier.
        goals: ``(N,)`` class to reach, or to leave.
        targeted: ``(N,)`` bool, whether it is the class to reach.
    """

    def __init__(self, classifier: Classifier, goals: Tensor, targeted: Tensor) -> None:
        self.classifier, self.goals, self.targeted = classifier, goals.cpu(), targeted.cpu()

    def __getitem__(self, rows: Sequence[int]) -> Verifier:
        return Verifier(self.classifier, self.goals[rows], self.targeted[rows])

    def logits(self, images: Tensor) -> Tensor:
        """Return the original network's logits ``(N, K)`` for images ``(N, C, H, W)`` in [0, 1], on the CPU.

        Rounding depends on the batch size. An image whose margin is within :meth:`tolerance` is evaluated again alone,
        so that its verdict is the same in any batch.
        """
        logits = self.classifier.logits(images).cpu()
        if len(images) > 1:
            for n in (self.margin(logits).abs() < self.tolerance(logits)).nonzero()[:, 0].tolist():
                logits[n] = self.classifier.logits(images[n : n + 1])[0]
        return logits

    def success(self, logits: Tensor) -> Tensor:
        """Return which predictions meet their goals ``(N,)`` bool."""
        return is_adversarial(logits, self.goals, self.targeted)

    def margin(self, logits: Tensor) -> Tensor:
        """Return the margins in logits ``(N,)``, positive for a success."""
        device = logits.device
        return Margin()(Outputs(logits, self.goals.to(device), targeted=self.targeted.to(device)))

    def tolerance(self, logits: Tensor) -> Tensor:
        """Return the margins ``(N,)`` above which a verdict is the same in any batch.

        The root of the machine epsilon of the network's numbers (3.5e-4 for float32), times the largest logit or 1:
        about a thousand times the differences between batch sizes.
        """
        eps = max(torch.finfo(dtype).eps for dtype in (dtype_of(self.classifier.original), torch.float32))
        return math.sqrt(eps) * logits.abs().amax(1).clamp(min=1)

    def fast_margin(self, images: Tensor) -> Tensor:
        """Return the margins ``(N,)`` of the fast copy, on the CPU."""
        with torch.no_grad():
            return self.margin(self.classifier.fast()(images)[0]).cpu()

    def margin_gradient(self, images: Tensor) -> Tensor:
        """Return the gradient of the margins by levels, ``(N, C, H, W)`` float64 on the CPU, by one backward.

        Zero for a non-differentiable network, which Square can attack.
        """
        with torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            try:
                logits = self.classifier.fast()(leaf)[0]
            except LitVizError:  # non-differentiable
                return torch.zeros_like(leaf, dtype=torch.float64, device="cpu")
            (gradient,) = torch.autograd.grad(self.margin(logits).sum(), leaf)
        return gradient.cpu().double().nan_to_num(0.0, 0.0, 0.0) / LEVELS


class RoundingFailure(NamedTuple):
    """A success before rounding that is a failure after it.

    Attributes:
        image: ``(C, H, W)`` float32 in [0, 1], before rounding.
        levels: ``(C, H, W)``, rounded, inside the ball.
        margin: of the original network for the levels.
        tolerance: margin above which a verdict is the same in any batch.
        ball: feasible levels.
    """

    image: Tensor
    levels: Tensor
    margin: float
    tolerance: float
    ball: LatticeBall


class Repaired(NamedTuple):
    """Levels ``(C, H, W)`` of a success, the ``image`` decoded from their file, and its ``logits`` ``(K,)``."""

    levels: Tensor
    image: Tensor
    logits: Tensor


_Method = Literal["margin_gradient", "fast_margin", "logits"]


class _Request(NamedTuple):
    """An evaluation that a search waits for: a method of :class:`Verifier`, and its image."""

    method: _Method
    image: Tensor


class _Candidate(NamedTuple):
    """Levels and their margin by the fast copy; ``success`` if it reaches the required margin."""

    levels: Tensor
    margin: float
    success: bool


_Search = Generator[_Request, Any, Repaired | None]


def repair(failures: Sequence[RoundingFailure], verifier: Verifier) -> list[Repaired | None]:
    """Return levels inside the balls whose files are a success; None where the search fails.

    First, values that were rounded against the gradient at the unrounded image are rounded the other way, in order of
    descending gradient. If this is not enough, any values move along the gradient at the best candidate by one level,
    in the same order, repeatedly. A success of the fast copy is confirmed by the original network.

    An image costs at most CLIMBS backwards, each with a forward, ``CLIMBS * CANDIDATES`` forwards of the fast copy, and
    a forward of the original network; twice that if the networks disagree. The searches are evaluated in batches.

    Args:
        failures: M failures.
        verifier: with the goals of the M images.
    """
    searches = [_search(failure, verifier[[m]]) for m, failure in enumerate(failures)]
    results: list[Repaired | None] = [None] * len(failures)
    requests = {m: next(search) for m, search in enumerate(searches)}
    while requests:
        # One method at a time; the original network comes after all others, so that its batch is large.
        method = next(name for name in get_args(_Method) if any(r.method == name for r in requests.values()))
        rows = [m for m, request in requests.items() if request.method == method]
        values = getattr(verifier[rows], method)(torch.stack([requests[m].image for m in rows]))
        for m, value in zip(rows, values, strict=True):
            try:
                requests[m] = searches[m].send(value)
            except StopIteration as stop:
                results[m] = stop.value
                del requests[m]
    return results


def _search(failure: RoundingFailure, verifier: Verifier) -> _Search:
    """Search for one image, and confirm the result by the original network."""
    required = failure.tolerance
    for _ in range(_SEARCHES):
        candidate = yield from _ascend(failure, required)
        if not candidate.success:
            break
        image = decoded_png(candidate.levels)
        logits = yield _Request("logits", image)
        margin = float(verifier.margin(logits[None]))
        if margin > 0:
            return Repaired(candidate.levels, image, logits)
        required += candidate.margin - margin
    return None


def _ascend(failure: RoundingFailure, required: float) -> Generator[_Request, Any, _Candidate]:
    """Climb along several gradients; return the first candidate with the required margin, or the best one."""
    candidate = _Candidate(failure.levels, failure.margin, False)
    gradient = yield _Request("margin_gradient", failure.image)
    lowered = gradient * (levels_of(failure.image) - failure.levels) > 0  # by rounding
    candidate = yield from _climb(candidate, gradient, gradient.abs() * lowered, failure.ball, required)
    for _ in range(CLIMBS - 1):
        if candidate.success:
            break
        gradient = yield _Request("margin_gradient", image_of(candidate.levels))
        candidate = yield from _climb(candidate, gradient, gradient.abs(), failure.ball, required)
    return candidate


def _climb(
    start: _Candidate, gradient: Tensor, priority: Tensor, ball: LatticeBall, required: float
) -> Generator[_Request, Any, _Candidate]:
    """Move the k values of highest positive priority by a level along the gradient, and search for the smallest k."""
    direction = gradient.sign()
    after = start.levels + direction
    feasible = ((after >= ball.low) & (after <= ball.high) & (priority > 0)).flatten().nonzero()[:, 0]
    order = feasible[priority.flatten()[feasible].argsort(descending=True, stable=True)]
    gains = gradient.abs().flatten()[order]
    predicted = torch.cat([gains.new_zeros(1), gains.cumsum(0)])  # gain of k moves by the linear model
    best, tried = start, [(0, start.margin)]
    for _ in range(CANDIDATES):
        count = _next_count(tried, predicted, required)
        if count is None:
            break
        moves = torch.zeros_like(direction).flatten()
        moves[order[:count]] = direction.flatten()[order[:count]]
        levels = ball.shorten(start.levels + moves.view_as(direction), gradient)
        margin = float((yield _Request("fast_margin", image_of(levels))))
        candidate = _Candidate(levels, margin, margin >= required)
        tried.append((count, margin))
        if candidate.success or (not best.success and margin > best.margin):
            best = candidate
    return best


def _next_count(tried: Sequence[tuple[int, float]], predicted: Tensor, required: float) -> int | None:
    """Return the next number of moves to evaluate, or None to stop.

    The margin is modelled as linear in the predicted gain: interpolated between the largest failing number and the
    smallest sufficient one, or extrapolated from the two largest failing ones.

    Args:
        tried: numbers of moves with their margins.
        predicted: gain of k moves by the gradient, at index k.
        required: margin to reach.
    """
    sufficient = min((k for k, margin in tried if margin >= required), default=None)
    failing = sorted(point for point in tried if not point[1] >= required)
    k, margin = failing[-1]
    other = failing[-2] if len(failing) > 1 else None
    if sufficient is not None:
        other = (sufficient, dict(tried)[sufficient])
    if other is None:
        gain = _MARGIN_FACTOR * (required - margin)
    else:
        rate = (other[1] - margin) / float(predicted[other[0]] - predicted[k])
        gain = float(predicted[k]) + ((required - margin) / rate if rate > 0 else float(predicted[k]))
    count = min(int((predicted[1:] <= gain).sum()) + 1, len(predicted) - 1)
    if sufficient is None:
        count = min(count, _GROWTH * k or count)
        return count if count > k else None
    return count if k < count < sufficient * (1 - _REDUCTION) else None
