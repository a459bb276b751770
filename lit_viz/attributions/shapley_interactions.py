"""Shapley interactions of pairs of superpixels, beside the value of each superpixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_viz.attributions.base import add_rows
from lit_viz.attributions.baselines import BaselineLike
from lit_viz.attributions.coalitions import Design, design_of, pair_of
from lit_viz.attributions.kernel_shap import KernelShap, complete_pairs, has_all_coalitions
from lit_viz.attributions.segments import Features
from lit_viz.errors import require
from lit_viz.networks import Network
from lit_viz.optim import Evaluate, State
from lit_viz.types import Task
from lit_viz.utils.device import to_list

#: Largest number of superpixels: 435 pairs.
MOST = 30


class ShapleyInteractions(KernelShap):
    """Faithful Shapley interactions of order 2 (Faith-Shap, Tsai, Yeh and Ravikumar 2023, arXiv:2203.00870).

    The score of a coalition of visible superpixels is approximated by the score of the baseline, a value ``e_i`` of
    each visible superpixel and an interaction ``e_ij`` of each visible pair, by a regression with the weights of the
    Shapley kernel that is exact for the image and its baseline. The map has the values ``e_i``; the record has the
    pairs ``e_ij``: positive where two superpixels need each other, negative where one replaces the other.

    Coalitions are evaluated in pairs with their complements, which separate the two. The sum of both scores has the
    pairs alone: ``score(x) + score(baseline) - sum`` is the sum of ``e_ij`` over the pairs of which one is visible. In
    the difference pairs cancel: its regression gives the Shapley values of :class:`KernelShap`, which are ``e_i`` plus
    half of the pairs of i.

    Coalitions of 1, 2, 3 ... superpixels are evaluated in full as far as the evaluations permit, and others drawn.
    Those of 1 and 2 determine all pairs: n superpixels require ``n (n + 1) + 2`` evaluations, 932 for 30, or all
    ``2 ** n`` coalitions if these are fewer. The result is exact if all are evaluated. Forward only.

    The error is that of an ordinary least-squares fit, relative as for sampled maps. A tolerance does not end a map.

    Args:
        segments: number of superpixels, at most 30, or a mask file; see
            :class:`~lit_viz.attributions.segments.Segments`.
        baseline: of hidden superpixels; see :class:`~lit_viz.attributions.baselines.Baseline`.
        sigma: of the blurred baseline, in pixels.
        features: what has a value: superpixels (``segments``), or whole ``bands``, whose map has one value per band.
    """

    title = "Shapley interactions"
    evaluations = 2000
    every: ClassVar[int | None] = None
    reducer: ClassVar[str] = "sum"

    def __init__(
        self,
        segments: int | str = MOST,
        baseline: BaselineLike = "mean",
        sigma: float = 10.0,
        features: Features = "segments",
    ) -> None:
        super().__init__(segments, baseline, sigma, features)

    def bind(self, network: Network) -> None:
        super().bind(network)
        most = self.segments.most
        require(most <= MOST, f"segments must be at most {MOST} for interactions of pairs", most)

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        state = super().init(x, tasks)
        zeros = state["full"]
        state["pair_moment"] = zeros.new_zeros(len(x), math.comb(self.segments.most, 2))
        state["pair_squares"] = zeros.clone()
        return state

    @property
    def least_evaluations(self) -> int:
        return evaluations_needed(self.segments.most)

    # Coalitions

    def designs(self, state: State) -> list[Design]:
        designs = []
        for count, evaluations in zip(to_list(state["count"]), to_list(state["iterations"]), strict=True):
            designs.append(design_of(count, pair_of(evaluations)))
        return designs

    def converged(self, x: Tensor, state: State) -> Tensor:
        """Return which maps have all coalitions ``(N,)``. A tolerance has no effect: the coalitions and their weights
        depend on the number of evaluations."""
        return has_all_coalitions(state)

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        for count, evaluations in zip(to_list(state["count"]), to_list(state["iterations"]), strict=True):
            needed, name = evaluations_needed(count), "bands" if self.segments.are_bands else "superpixels"
            constraint = f"iterations must be at least {needed} for the interactions of {count} {name}"
            require(evaluations >= needed, constraint, evaluations, hint="or give fewer segments")
        return super().accumulate(x, state, slots, numbers, evaluate)

    # Regression

    def add_pairs(
        self, state: State, slots: Tensor, numbers: Tensor, visible: Tensor, first: Tensor, second: Tensor
    ) -> None:
        super().add_pairs(state, slots, numbers, visible, first, second)
        weights, divided = self.weights(state, slots, numbers), self._divided(state, slots, visible)
        observed = state["full"][slots] + state["empty"][slots] - first - second
        state["pair_moment"] = add_rows(state["pair_moment"], slots, (weights * observed)[:, None] * divided)
        state["pair_squares"] = add_rows(state["pair_squares"], slots, weights * observed.square())

    def estimate(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        values, variances, is_resolved = super().estimate(state)
        halves = self._halves(values)
        for n, pairs in enumerate(to_list(complete_pairs(state))):
            interactions, inverse = self._interactions(state, n)
            freedom = pairs - math.comb(int(state["count"][n]), 2)
            noise = (state["pair_squares"][n] - interactions @ state["pair_moment"][n]).clamp_min(0) / max(freedom, 1)
            values[n] -= interactions @ halves
            variances[n] += noise * ((inverse @ halves) * halves).sum(0)
            is_resolved[n] &= freedom > 0
        is_exact = has_all_coalitions(state)
        return values, variances.masked_fill(is_exact[:, None], 0), is_resolved | is_exact

    def _interactions(self, state: State, n: int) -> tuple[Tensor, Tensor]:
        """Return the interactions of the pairs ``(P,)`` of a slot, and the inverse of their normal equations; zeros as
        long as they are not determined."""
        moment = state["pair_moment"][n]
        if int(state["iteration"][n]) < evaluations_needed(int(state["count"][n])):
            return torch.zeros_like(moment), moment.new_zeros(len(moment), len(moment))
        pairs = torch.arange(int(complete_pairs(state)[n]), device=moment.device)
        numbers, slots = 2 * pairs + 3, torch.full_like(pairs, n)
        divided = self._divided(state, slots, self.coalitions(state, slots, numbers))
        gram = divided.T @ (self.weights(state, slots, numbers)[:, None] * divided)
        has_equations = gram.diagonal() > 0
        inverse = (gram + (~has_equations).diag()).inverse() * has_equations
        return inverse @ moment, inverse

    def _divided(self, state: State, slots: Tensor, visible: Tensor) -> Tensor:
        """Return the pairs of which one superpixel is visible, float64 ``(M, P)``."""
        first, second = self._pairs(visible.device)
        exists = second < state["count"][slots, None]
        return (exists & (visible[:, first] != visible[:, second])).double()

    def _pairs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the first and the second superpixels of the pairs ``(P,)``."""
        first, second = torch.triu_indices(self.segments.most, self.segments.most, 1, device=device)
        return first, second

    def _halves(self, values: Tensor) -> Tensor:
        """Return one half where a pair has a superpixel, ``(P, most)``."""
        first, second = self._pairs(values.device)
        is_first, is_second = (F.one_hot(places, self.segments.most) for places in (first, second))
        return (is_first + is_second).to(values) / 2

    def map_fields(self, state: State, n: int) -> dict[str, Any]:
        """Return ``interactions``, the superpixels i and j and the interaction of each pair, the strongest first, and
        ``places``, a pixel (x, y) in each superpixel."""
        count = int(state["count"][n])
        interactions, _ = self._interactions(state, n)
        first, second = self._pairs(interactions.device)
        pairs = []
        for i, j, value in zip(first.tolist(), second.tolist(), interactions.tolist(), strict=True):
            if j < count:
                pairs.append((i, j, value))
        pairs.sort(key=lambda pair: -abs(pair[2]))
        fields: dict[str, Any] = {"interactions": pairs}
        if not self.segments.are_bands:
            fields["places"] = [_center(state["segments"][n, 0] == k) for k in range(count)]
        return fields


def _center(region: Tensor) -> tuple[int, int]:
    """Return the pixel (x, y) of a region, bool ``(H, W)``, that is closest to its mean position."""
    pixels = region.nonzero()
    distances = (pixels - pixels.double().mean(0)).square().sum(1)
    row, column = pixels[distances.argmin()].tolist()
    return column, row


def evaluations_needed(count: int) -> int:
    """Return the number of evaluations that determine the interactions of ``count`` superpixels."""
    all_coalitions: int = 2**count
    return min(all_coalitions, count * (count + 1) + 2)
