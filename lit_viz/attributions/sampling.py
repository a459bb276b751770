"""Maps that are a mean over random samples, with the standard error that their own spread gives."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attributions.base import Estimator, add_rows, relative
from lit_viz.optim import Evaluate, State
from lit_viz.types import Task
from lit_viz.utils.device import to_list

#: A tolerance is looked at after every so many evaluations: a small sample may be narrow by chance, and where a map
#: stops must not depend on how many evaluations are made at once.
EVERY = 8


class Sampling(Estimator):
    """A map that is the mean of independent samples, one an evaluation.

    Attributes:
        lost: evaluations at the start that give no sample.
    """

    skipped: ClassVar[int] = 0

    @abstractmethod
    def samples(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> Tensor:
        """Return a sample an evaluation ``(M, ...)``, zero where none is given; arguments as of :meth:`accumulate`."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return an empty mean a slot, and a sum of squared deviations ``(N,)``: their mean over the pixels."""
        empty = torch.zeros_like(x[:, :1] if self.spatial else x)
        return {**super().init(x, tasks), "mean": empty, "squares": x.new_zeros(len(x))}

    def advance(self, state: State) -> Tensor:
        """Return how many samples the next step takes: with a tolerance, never past where it is looked at."""
        advance = super().advance(state)
        return advance if self.tolerance is None else torch.minimum(advance, EVERY - state["iteration"] % EVERY)

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Sample, and move the means."""
        samples = self.samples(x, state, slots, numbers, evaluate)
        state["mean"], residuals = welford_update(state["mean"], slots, numbers, samples, self.skipped)
        squares = torch.linalg.vector_norm(residuals.flatten(1), dim=1).square() / residuals[0].numel()
        state["squares"] = add_rows(state["squares"], slots, squares)
        return state

    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Return the mean."""
        return state["mean"]

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Return the mean's standard error: ``sqrt(s^2 / n)`` with the samples' unbiased variance s^2, root mean square
        over the pixels, in units of the map; infinite below two samples."""
        count = (state["iteration"] - self.skipped).to(x.dtype)
        variance = state["squares"] / (count * (count - 1))
        standard_error = torch.where(count >= 2, variance.sqrt(), torch.inf)
        return {"standard_error": standard_error, "error": relative(standard_error, state["mean"])}

    def converged(self, x: Tensor, state: State) -> Tensor:
        """Return which maps are exact enough, where it is time to look."""
        return super().converged(x, state) & (state["iteration"] % EVERY == 0)


def welford_update(mean: Tensor, slots: Tensor, numbers: Tensor, rows: Tensor, lost: int = 0) -> tuple[Tensor, Tensor]:
    """Return the means with the rows taken in one after another, and the recursive residuals ``(M, ...)``.

    The update of Welford 1962 (Technometrics 4:419): with ``d`` the distance of the k-th row to the mean of those
    before, the mean moves by ``d / k``. The squares of the residuals ``d sqrt((k - 1) / k)`` add up to the sum of
    squared deviations from the mean.

    Args:
        mean: ``(N, ...)``.
        slots: ``(M,)``, whose each row is.
        numbers: ``(M,)``, of each row from 0: ``k - 1``.
        rows: ``(M, ...)``.
        lost: rows at the start of each mean that are passed over, and whose residual is zero.
    """
    mean, residuals = mean.clone(), torch.empty_like(rows, dtype=mean.dtype, memory_format=torch.contiguous_format)
    for row, residual, n, number in zip(rows, residuals, to_list(slots), to_list(numbers), strict=True):
        k = number + 1 - lost
        if k < 1:
            residual.zero_()
            continue
        residual.copy_(row).sub_(mean[n])
        mean[n].add_(residual, alpha=1 / k)
        residual.mul_(math.sqrt((k - 1) / k))
    return mean, residuals
