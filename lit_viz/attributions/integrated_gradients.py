"""The gradient along the way from a baseline to the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lit_viz.attributions.base import Estimator, add_rows, gather_rows, relative
from lit_viz.attributions.baselines import Baseline, Kind
from lit_viz.optim import Evaluate, State
from lit_viz.optim.rule import per_slot
from lit_viz.types import Task
from lit_viz.utils.device import to_device, to_list

#: Nodes and weights.
Rule = tuple[tuple[float, float], ...]

_FIRST = 8  # nodes of the first rule, where there is a tolerance
_GOLDEN = (5**0.5 - 1) / 2


class IntegratedGradients(Estimator):
    """``(x - b) * integral over a from 0 to 1 of the gradient at b + a (x - b)`` (Sundararajan et al. 2017,
    arXiv:1703.01365, section 3), by Gauss-Legendre quadrature.

    The map sums to ``score(x) - score(b)``. By how much it misses is its completeness error, in units of the score; two
    evaluations more, forward only, are made for it.

    Without a tolerance all evaluations are the nodes of one rule, visited by the golden ratio instead of in their
    order. Before the last, the map is that of the weighted mean over the nodes so far: no quadrature, but an estimate
    from all along the way.

    With a tolerance, rules of 8, 16, 32 ... nodes follow each other, and the map is that of the last whole one; the
    last takes all evaluations that are left. It is exact enough when the largest change since the rule before and the
    completeness error are.

    Args:
        baseline: see :class:`~lit_viz.attributions.baselines.Baseline`.
        sigma: of the blurred baseline, in pixels.
    """

    evaluations = 50

    def __init__(self, baseline: Kind | float = "black", sigma: float = 10.0) -> None:
        self.baseline = Baseline(baseline, sigma)

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the baselines and empty maps."""
        one = x.new_zeros(len(x))
        return {
            **super().init(x, tasks),
            "baseline": self.baseline(x, [task.seed for task in tasks]),
            "difference": one,
            "sum": torch.zeros_like(x),
            "weight": one.clone(),
            "rules": torch.zeros_like(one, dtype=torch.long),
            "map": torch.zeros_like(x),
            "change": torch.full_like(one, torch.inf),
        }

    def advance(self, state: State) -> Tensor:
        """Return how many nodes the next step takes: never past the end of a rule."""
        places = map(self._place, to_list(state["iterations"]), to_list(state["iteration"]))
        left = to_device([len(rule) - k for rule, k in places], state["iteration"].device)
        return torch.minimum(super().advance(state), left)

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Evaluate at nodes, and close the rules that end with them."""
        mine = list(zip(to_list(slots), to_list(numbers), strict=True))
        new = to_device([n for n, k in mine if k == 0], x.device, torch.long)
        if len(new):
            score, of_baseline = (
                evaluate(gather_rows(images, new), gradient=False, slots=new).score.to(x.dtype)
                for images in (x, state["baseline"])
            )
            state["difference"] = state["difference"].index_copy(0, new, score - of_baseline)
        last = to_list(state["iterations"])
        places = [self._place(last[n], k) for n, k in mine]
        columns = zip(*(rule[k] for rule, k in places), strict=True)
        nodes, weights = (to_device(column, x.device, x.dtype) for column in columns)
        start, end = (gather_rows(images, slots) for images in (state["baseline"], x))
        gradient = evaluate(start.lerp(end, per_slot(nodes, x)), slots=slots).gradient
        state["sum"] = add_rows(state["sum"], slots, per_slot(weights, x) * gradient)
        state["weight"] = add_rows(state["weight"], slots, weights)
        done = [n for (n, _), (rule, k) in zip(mine, places, strict=True) if k + 1 == len(rule)]
        ended = to_device(done, x.device, torch.long)
        return _closed(x, state, ended) if len(ended) else state

    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Return the map of the last whole rule, or of the nodes so far as long as there is none."""
        return torch.where(per_slot(state["rules"], x) > 0, state["map"], _so_far(x, state))

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Return the completeness error ``|sum(map) - (score(x) - score(b))|`` in units of the score; and, relative to
        that difference, ``error``, with a tolerance not below the largest change from rule to rule over the map's
        largest value."""
        missed = (self.attribution(x, state).flatten(1).sum(1) - state["difference"]).abs()
        completeness = torch.where(state["iteration"] > 0, missed, torch.inf)
        error = relative(completeness, state["difference"])
        return {
            "completeness": completeness,
            "error": error if self.tolerance is None else torch.maximum(error, state["change"]),
        }

    def nodes(self, evaluations: int) -> int:
        """Return the number of nodes of the rule that gave the map after so many evaluations."""
        return evaluations if self.tolerance is None else growing(evaluations)[-1]

    def _place(self, iterations: int, number: int) -> tuple[Rule, int]:
        """Return in which rule an evaluation is, and where in it."""
        *whole, last = [iterations] if self.tolerance is None else growing(iterations)
        for size in whole:
            if number < size:
                return gauss_legendre(size), number
            number -= size
        return gauss_legendre(last), number


def growing(total: int) -> list[int]:
    """Return the sizes of successive rules, 8, 16, 32 ... that take ``total`` evaluations together.

    The last takes what is left, and is larger than the one before it.
    """
    sizes, size = [], _FIRST
    while total > 2 * size:
        sizes.append(size)
        total -= size
        size *= 2
    return [*sizes, total]


@lru_cache(maxsize=64)
def gauss_legendre(count: int) -> Rule:
    """Return nodes and weights of the Gauss-Legendre rule on [0, 1], in an order that spreads the first ones widely.

    Node k is the one whose rank is that of the k-th multiple of the golden ratio, modulo 1.
    """
    nodes, weights = np.polynomial.legendre.leggauss(count)
    order = np.argsort(np.argsort(np.arange(count) * _GOLDEN % 1))
    return tuple(zip(((1 + nodes[order]) / 2).tolist(), (weights[order] / 2).tolist(), strict=True))


def _so_far(x: Tensor, state: State) -> Tensor:
    """Return the maps of the weighted mean of the rule in progress; zero before its first node."""
    weight = torch.where(state["weight"] > 0, state["weight"], 1.0)
    return (x - state["baseline"]) * state["sum"] / per_slot(weight, x)


def _closed(x: Tensor, state: State, slots: Tensor) -> State:
    """Return the state with the rules of these slots ended: their sums become maps."""
    ended = torch.zeros(len(x), dtype=torch.bool, device=x.device).index_fill(0, slots, True)
    every = per_slot(ended, x) > 0
    current = torch.where(every, _so_far(x, state), state["map"])
    change = relative((current - state["map"]).flatten(1).abs().amax(1), current)
    again = ended & (state["rules"] > 0)
    return {
        **state,
        "sum": state["sum"].masked_fill(every, 0.0),
        "weight": state["weight"].masked_fill(ended, 0.0),
        "rules": state["rules"] + ended,
        "map": current,
        "change": torch.where(again, change, state["change"]),
    }
