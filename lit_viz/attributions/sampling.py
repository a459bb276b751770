"""Base class of maps that are a mean over random samples, with its standard error."""

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

#: Evaluations between two tests of the tolerance. Small samples can have a small variance by chance, and the number of
#: evaluations of a map must not depend on the batch.
EVERY = 8


class Sampling(Estimator):
    """Base class of maps that are the mean of independent samples, one per evaluation.

    Subclasses implement :meth:`samples`. The uncertainty is the standard error, relative to the map's maximum.

    Attributes:
        skipped: number of evaluations at the start that give no sample.
    """

    skipped: ClassVar[int] = 0

    @abstractmethod
    def samples(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> Tensor:
        """Compute one sample per evaluation, ``(M, ...)``, zero if skipped; arguments as for :meth:`accumulate`."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return zero means, and zero sums of squared deviations ``(N,)``, averaged over the pixels."""
        empty = torch.zeros_like(x[:, :1] if self.spatial else x)
        return {**super().init(x, tasks), "mean": empty, "squares": x.new_zeros(len(x))}

    def advance(self, state: State) -> Tensor:
        """Return the number of samples of the next step; with a tolerance, at most until it is tested."""
        advance = super().advance(state)
        return advance if self.tolerance is None else torch.minimum(advance, EVERY - state["iteration"] % EVERY)

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Compute samples and update the means."""
        samples = self.samples(x, state, slots, numbers, evaluate)
        state["mean"], residuals = welford_update(state["mean"], slots, numbers, samples, self.skipped)
        squares = torch.linalg.vector_norm(residuals.flatten(1), dim=1).square() / residuals[0].numel()
        state["squares"] = add_rows(state["squares"], slots, squares)
        return state

    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Return the mean."""
        return state["mean"]

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Return ``standard_error`` in units of the map, and ``error``, the same relative to the map's maximum.

        The standard error is ``sqrt(s^2 / n)`` with the unbiased variance s^2 of the samples, as root mean square over
        the pixels; infinite for fewer than two samples.
        """
        count = (state["iteration"] - self.skipped).to(x.dtype)
        variance = state["squares"] / (count * (count - 1))
        standard_error = torch.where(count >= 2, variance.sqrt(), torch.inf)
        return {"standard_error": standard_error, "error": relative(standard_error, state["mean"])}

    def converged(self, x: Tensor, state: State) -> Tensor:
        """Return which maps satisfy the tolerance, every ``EVERY`` evaluations."""
        return super().converged(x, state) & (state["iteration"] % EVERY == 0)


def welford_update(
    mean: Tensor, slots: Tensor, numbers: Tensor, rows: Tensor, skipped: int = 0
) -> tuple[Tensor, Tensor]:
    """Update means with rows, one after another; return the means and the recursive residuals ``(M, ...)``.

    The update of Welford 1962 (Technometrics 4:419): with ``d`` the difference of the k-th row and the mean of the
    previous ones, the mean changes by ``d / k``. The squared residuals ``d sqrt((k - 1) / k)`` sum to the sum of
    squared deviations from the mean.

    Args:
        mean: ``(N, ...)``.
        slots: ``(M,)``, slot of each row.
        numbers: ``(M,)``, number of each row in its slot from 0: ``k - 1``.
        rows: ``(M, ...)``.
        skipped: number of ignored rows at the start of each mean, whose residual is zero.
    """
    mean, residuals = mean.clone(), torch.empty_like(rows, dtype=mean.dtype, memory_format=torch.contiguous_format)
    for row, residual, n, number in zip(rows, residuals, to_list(slots), to_list(numbers), strict=True):
        k = number + 1 - skipped
        if k < 1:
            residual.zero_()
            continue
        residual.copy_(row).sub_(mean[n])
        mean[n].add_(residual, alpha=1 / k)
        residual.mul_(math.sqrt((k - 1) / k))
    return mean, residuals
