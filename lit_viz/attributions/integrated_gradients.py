"""Integrated gradients along the straight path from a baseline to the image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lit_viz.attributions.base import (
    Estimator,
    GradientRule,
    add_rows,
    completeness,
    gather_rows,
    networks_of,
    relative,
)
from lit_viz.attributions.baselines import Baseline, BaselineLike
from lit_viz.attributions.terms import PROJECTIONS, record_images
from lit_viz.optim import Evaluate, State
from lit_viz.optim.rule import per_slot
from lit_viz.types import Task, seeds_of
from lit_viz.utils.device import to_device, to_list

#: Quadrature rule: pairs of node and weight.
Rule = tuple[tuple[float, float], ...]

_FIRST = 8  # nodes of the first rule with a tolerance
_GOLDEN = (5**0.5 - 1) / 2


class IntegratedGradients(Estimator):
    """``(x - b) * integral over a from 0 to 1 of the gradient at b + a (x - b)``, by Gauss-Legendre quadrature.
    Sundararajan et al. 2017, arXiv:1703.01365, section 3.

    The exact map sums to ``score(x) - score(b)``. The difference is the completeness error, in units of the score; two
    additional forwards are evaluated for it.

    Without a tolerance, all evaluations are the nodes of one rule, in golden-ratio order. Intermediate maps use the
    weighted mean over the evaluated nodes, an estimate along the whole path.

    With a tolerance, rules of 8, 16, 32 ... nodes follow each other, and the map is that of the last complete rule; the
    last rule takes the remaining evaluations. A map has converged when both its largest change since the previous rule,
    relative to its maximum, and its relative completeness error are within the tolerance.

    Args:
        baseline: see :class:`~lit_viz.attributions.baselines.Baseline`.
        sigma: of the blurred baseline, in pixels.
        backprop: ``libra`` detaches attention weights, deviations of norms and gates of activations in the backward
            (:class:`~lit_viz.attributions.gradient.LibraGradient`). The gap to the difference of the scores then
            remains.
    """

    evaluations = 50
    signed: ClassVar[bool] = True
    baseline: Baseline

    def __init__(self, baseline: BaselineLike = "black", sigma: float = 10.0, backprop: GradientRule = "plain") -> None:
        self.baseline = Baseline(baseline, sigma)
        self.networks = networks_of(backprop)

    @property
    def recorded(self) -> str | None:
        if self.tolerance is None:
            return PROJECTIONS
        return None  # the map is that of the last of several rules

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        zero = x.new_zeros(len(x))
        return super().init(x, tasks) | {
            "baseline": self.baseline(x, seeds_of(tasks)),
            "difference": zero,
            "sum": torch.zeros_like(x),
            "weight": zero.clone(),
            "rules": torch.zeros_like(zero, dtype=torch.long),
            "map": torch.zeros_like(x),
            "change": torch.full_like(zero, torch.inf),
        }

    def advance(self, state: State) -> Tensor:
        remaining = []
        for last, number in zip(to_list(state["iterations"]), to_list(state["iteration"]), strict=True):
            rule, k = self._locate(last, number)
            remaining.append(len(rule) - k)
        return torch.minimum(super().advance(state), to_device(remaining, state["iteration"].device))

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        last = to_list(state["iterations"])
        positions: list[float] = []
        weights: list[float] = []
        started: list[int] = []
        completed: list[int] = []
        for n, number in zip(to_list(slots), to_list(numbers), strict=True):
            rule, k = self._locate(last[n], number)
            position, weight = rule[k]
            positions.append(position)
            weights.append(weight)
            if number == 0:
                started.append(n)
            if k + 1 == len(rule):
                completed.append(n)
        (network,) = self.networks
        if started:
            new = to_device(started, x.device, torch.long)
            score = evaluate(gather_rows(x, new), gradient=False, slots=new, network=network).score.to(x.dtype)
            baseline = gather_rows(state["baseline"], new)
            baseline_score = evaluate(baseline, gradient=False, slots=new, network=network).score.to(x.dtype)
            state["difference"] = state["difference"].index_copy(0, new, score - baseline_score)
        nodes = to_device(positions, x.device, x.dtype)
        node_weights = to_device(weights, x.device, x.dtype)
        start, end = gather_rows(state["baseline"], slots), gather_rows(x, slots)
        gradient = evaluate(start.lerp(end, per_slot(nodes, x)), slots=slots, network=network).gradient
        record_images(state, slots, numbers, (end - start) * gradient)
        state["sum"] = add_rows(state["sum"], slots, per_slot(node_weights, x) * gradient)
        state["weight"] = add_rows(state["weight"], slots, node_weights)
        if completed:
            state = _complete_rules(x, state, to_device(completed, x.device, torch.long))
        return state

    def attribution(self, x: Tensor, state: State) -> Tensor:
        return torch.where(per_slot(state["rules"], x) > 0, state["map"], _partial_map(x, state))

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        return completeness(self.attribution(x, state), state["difference"], state["iteration"])

    def converged(self, x: Tensor, state: State) -> Tensor:
        return super().converged(x, state) & (state["change"] <= (self.tolerance or 0.0))

    def nodes(self, evaluations: int) -> int:
        """Return the number of nodes of the rule of the map after a number of evaluations."""
        return self._rules(evaluations)[-1]

    def _rules(self, evaluations: int) -> list[int]:
        if self.tolerance is None:
            return [evaluations]
        return growing(evaluations)

    def _locate(self, iterations: int, number: int) -> tuple[Rule, int]:
        """Return the rule of an evaluation and its index in the rule."""
        *complete, last = self._rules(iterations)
        for size in complete:
            if number < size:
                return gauss_legendre(size), number
            number -= size
        return gauss_legendre(last), number


def growing(total: int) -> list[int]:
    """Return the sizes of successive rules, 8, 16, 32 ..., with the sum ``total``.

    The last rule takes the remaining evaluations and is larger than the one before it.
    """
    sizes, size = [], _FIRST
    while total > 2 * size:
        sizes.append(size)
        total -= size
        size *= 2
    return [*sizes, total]


@lru_cache(maxsize=64)
def gauss_legendre(count: int) -> Rule:
    """Return the Gauss-Legendre rule on [0, 1], in an order that spreads the first nodes over the interval.

    The rank of node k is that of the k-th multiple of the golden ratio modulo 1.
    """
    nodes, weights = np.polynomial.legendre.leggauss(count)
    order = np.argsort(np.argsort(np.arange(count) * _GOLDEN % 1))
    return tuple(zip(((1 + nodes[order]) / 2).tolist(), (weights[order] / 2).tolist(), strict=True))


def _partial_map(x: Tensor, state: State) -> Tensor:
    """Compute the maps of the weighted mean over the evaluated nodes of the current rule; zero before its first."""
    weight = torch.where(state["weight"] > 0, state["weight"], 1.0)
    return (x - state["baseline"]) * state["sum"] / per_slot(weight, x)


def _complete_rules(x: Tensor, state: State, slots: Tensor) -> State:
    """Convert the sums of these slots to maps, and reset them for the next rule."""
    completed = torch.zeros(len(x), dtype=torch.bool, device=x.device).index_fill(0, slots, True)
    mask = per_slot(completed, x) > 0
    current = torch.where(mask, _partial_map(x, state), state["map"])
    change = relative((current - state["map"]).flatten(1).abs().amax(1), current)
    return state | {
        "sum": state["sum"].masked_fill(mask, 0.0),
        "weight": state["weight"].masked_fill(completed, 0.0),
        "rules": state["rules"] + completed,
        "map": current,
        "change": torch.where(completed & (state["rules"] > 0), change, state["change"]),
    }
