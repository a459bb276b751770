"""KernelSHAP: Shapley values of superpixels by a regression on random coalitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_viz.attributions.base import EVERY, MAX_COARSE_ERROR, Estimator, add_rows, gather_rows, keys, relative_error
from lit_viz.attributions.baselines import Baseline, BaselineLike
from lit_viz.attributions.coalitions import Design, design_of, drawn_only, pair_of
from lit_viz.attributions.segments import Features, regions_of
from lit_viz.attributions.terms import SCORES, record_scores
from lit_viz.networks import Network
from lit_viz.optim import Evaluate, State
from lit_viz.rng import Draws
from lit_viz.types import Task, seeds_of
from lit_viz.utils.device import rows_equal, to_device, to_list

_REFERENCES = 2  # evaluations of the image and of its baseline, before the coalitions


class KernelShap(Estimator):
    """Shapley values of superpixels (Lundberg and Lee 2017, arXiv:1705.07874, theorem 2).

    A coalition is the image with some superpixels visible and the others replaced by the baseline. The values phi
    minimize the squared error of ``score(baseline) + sum of phi over the visible superpixels``, subject to the sum of
    all values being ``score(x) - score(baseline)``. The number k of visible superpixels, of K, has the probability of
    the Shapley kernel, proportional to ``1 / (k (K - k))``. Each coalition is followed by its complement (Covert and
    Lee 2021, arXiv:2012.01536), so that the regression is that of the difference of both scores on
    ``2 z - 1``, with z the visible superpixels. Its normal equations are accumulated: memory does not depend on the
    number of coalitions. Forward only.

    If there are at most as many coalitions, ``2 ** K``, as evaluations, each is evaluated once, and the values are
    exact; a tolerance then has no effect. Otherwise the error is that of an ordinary least-squares fit, relative as for
    sampled maps; infinite below two pairs more than superpixels.

    Args:
        segments: number of superpixels, or a mask file; see :class:`~lit_viz.attributions.segments.Segments`.
        baseline: of hidden superpixels; see :class:`~lit_viz.attributions.baselines.Baseline`.
        sigma: of the blurred baseline, in pixels.
        features: what has a value: superpixels (``segments``), or whole ``bands``, whose map has one value per band.
    """

    title = "KernelSHAP"
    baseline: Baseline
    evaluations = 1000
    every: ClassVar[int | None] = EVERY
    spatial = True
    reducer: ClassVar[str] = "positive"
    signed: ClassVar[bool] = True

    def __init__(
        self,
        segments: int | str = 50,
        baseline: BaselineLike = "mean",
        sigma: float = 10.0,
        features: Features = "segments",
    ) -> None:
        self.segments, self.baseline = regions_of(features, segments), Baseline(baseline, sigma)
        self.spatial = not self.segments.are_bands

    @property
    def recorded(self) -> str | None:
        return SCORES

    @property
    def least_evaluations(self) -> int:
        """Number of evaluations of a regression of full rank."""
        return 4 * self.segments.most

    def bind(self, network: Network) -> None:
        super().bind(network)
        self.segments.bind(network.channels, network.size)

    def record_fields(self) -> dict[str, Any]:
        return super().record_fields() | self.segments.record_fields()

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        segments, zeros = self.segments(x), x.new_zeros(len(x), dtype=torch.float64)
        most = self.segments.most
        return super().init(x, tasks) | {
            "baseline": self.baseline(x, seeds_of(tasks)),
            "segments": segments,
            "count": 1 + segments.flatten(1).amax(1),
            "full": zeros,
            "empty": zeros.clone(),
            "last": zeros.clone(),
            "gram": zeros.new_zeros(len(x), most, most),
            "moment": zeros.new_zeros(len(x), most),
            "squares": zeros.clone(),
        }

    def advance(self, state: State) -> Tensor:
        return torch.minimum(super().advance(state), _all_coalitions(state) - state["iteration"])

    def converged(self, x: Tensor, state: State) -> Tensor:
        is_enumerated = state["iterations"] >= _all_coalitions(state)
        return torch.where(is_enumerated, has_all_coalitions(state), super().converged(x, state))

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        visible = self.coalitions(state, slots, numbers)
        segments = state["segments"][slots]
        is_visible = visible.gather(1, segments.flatten(1)).view_as(segments)
        inputs = torch.where(is_visible, gather_rows(x, slots), gather_rows(state["baseline"], slots))
        scores = evaluate(inputs, gradient=False, slots=slots).score.double()
        record_scores(state, slots, numbers, scores)
        for name, number in (("full", 0), ("empty", 1)):
            rows = rows_equal(numbers, number)
            state[name] = state[name].index_copy(0, slots[rows], scores[rows])
        # Rows are ascending per slot: the other score of a pair is that of the row before, or of the step before.
        places, last, previous = to_list(slots), state["last"].clone(), scores.clone()
        for m, n in enumerate(places):
            previous[m], last[n] = last[n], scores[m]
        state["last"] = last
        complete = to_device(_second_of_pairs(to_list(numbers)), x.device, torch.long)
        slots, numbers, visible = slots[complete], numbers[complete], visible[complete]
        self.add_pairs(state, slots, numbers, visible, previous[complete], scores[complete])
        return state

    def add_pairs(
        self, state: State, slots: Tensor, numbers: Tensor, visible: Tensor, first: Tensor, second: Tensor
    ) -> None:
        """Add complete pairs of coalitions to the normal equations.

        Args:
            state: of the slots, a copy of which entries are replaced.
            slots: ``(M,)``, slot of each pair.
            numbers: ``(M,)``, evaluation of the second coalition.
            visible: superpixels of the second coalition, bool ``(M, most)``.
            first, second: scores of the coalitions ``(M,)``.
        """
        weights = self.weights(state, slots, numbers)
        exists = torch.arange(visible.shape[1], device=visible.device) < state["count"][slots, None]
        signs = torch.where(visible, -1.0, 1.0).double() * exists
        weighted, differences = signs * weights[:, None], first - second
        state["gram"] = add_rows(state["gram"], slots, weighted[:, :, None] * signs[:, None])
        state["moment"] = add_rows(state["moment"], slots, weighted * differences[:, None])
        state["squares"] = add_rows(state["squares"], slots, weights * differences.square())

    def weights(self, state: State, slots: Tensor, numbers: Tensor) -> Tensor:
        """Return the weights of pairs in the regression ``(M,)``; arguments as for :meth:`add_pairs`."""
        designs = self.designs(state)
        weights: list[float] = []
        for n, number in zip(to_list(slots), to_list(numbers), strict=True):
            weights.append(designs[n].weight(pair_of(number)))
        return to_device(weights, numbers.device, torch.float64)

    def designs(self, state: State) -> list[Design]:
        """Return the coalitions of each slot: all where the evaluations suffice, otherwise drawn ones."""
        designs = []
        for count, evaluations in zip(to_list(state["count"]), to_list(state["iterations"]), strict=True):
            all_of_them: int = 2**count
            is_enumerated = evaluations >= all_of_them
            designs.append(design_of(count, pair_of(all_of_them)) if is_enumerated else drawn_only(count))
        return designs

    def coalitions(self, state: State, slots: Tensor, numbers: Tensor) -> Tensor:
        """Return the visible superpixels of evaluations, bool ``(M, most)``: all, none, then pairs of coalitions."""
        designs = self.designs(state)
        smallest_drawn = to_device([design.smallest_drawn for design in designs], slots.device)
        counts = state["count"][slots]
        draws = Draws(keys(state, slots, numbers // 2), numbers.device).scoped("kernel_shap")
        places = torch.arange(self.segments.most, device=numbers.device, dtype=torch.float64)
        exists = places < counts[:, None]
        smallest = smallest_drawn[slots, None]
        inner = exists & (places >= smallest) & (places <= counts[:, None] - smallest)
        weights = torch.where(inner, 1 / (places * (counts[:, None] - places)).clamp_min(1), 0).cumsum(1)
        drawn = draws.uniform("size").double()[:, None] * weights[:, -1:]
        sizes = (weights <= drawn).sum(1, keepdim=True)
        order = torch.where(exists, draws.uniform("order", shape=(len(places),)), torch.inf)
        chosen = order.argsort(1).argsort(1) < sizes
        chosen = torch.where((numbers % 2 == 1)[:, None], ~chosen, chosen)
        for row, (n, number) in enumerate(zip(to_list(slots), to_list(numbers), strict=True)):
            pair = pair_of(number)
            if 0 <= pair < len(designs[n].coalitions):
                listed = to_device(designs[n].coalitions[pair], chosen.device)
                chosen[row, : len(listed)] = ~listed if number % 2 else listed
        return torch.where((numbers < _REFERENCES)[:, None], (numbers == 0)[:, None], chosen)

    def attribution(self, x: Tensor, state: State) -> Tensor:
        values = self.estimate(state)[0]
        segments = state["segments"]
        started = (state["iteration"] >= _REFERENCES).view(-1, 1, 1, 1)
        maps = values.gather(1, segments.flatten(1)).view_as(segments).to(x.dtype)
        return torch.where(started, maps, 0)

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Return ``standard_error`` in units of the map, as root mean square over the pixels, and ``error``."""
        values, variances, is_resolved = self.estimate(state)
        areas = torch.zeros_like(values).scatter_add(
            1, state["segments"].flatten(1), torch.ones_like(state["segments"].flatten(1), dtype=values.dtype)
        )
        areas = areas / areas.sum(1, keepdim=True)
        variance = torch.where(is_resolved, (areas * variances).sum(1), torch.inf)
        squares = (areas * values.square()).sum(1)
        error = relative_error(variance, squares, MAX_COARSE_ERROR)
        return {"standard_error": variance.sqrt().to(x.dtype), "error": error.to(x.dtype)}

    def estimate(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return the values of the superpixels and their variances ``(N, most)``, and whether there are enough
        coalitions for the variances ``(N,)``."""
        count = state["count"][:, None].double()
        exists = (torch.arange(self.segments.most, device=count.device) < count).double()
        mean = exists * ((state["full"] - state["empty"])[:, None] / count)
        centering = torch.diag_embed(exists) - exists[:, :, None] * exists[:, None] / count[:, :, None]
        inverse = torch.linalg.pinv(centering @ state["gram"] @ centering, hermitian=True)
        rest = state["moment"] - (state["gram"] @ mean[:, :, None])[:, :, 0]
        values = mean + (inverse @ rest[:, :, None])[:, :, 0]

        freedom = complete_pairs(state) - (state["count"] - 1)
        fitted = (state["gram"] @ values[:, :, None])[:, :, 0]
        explained = 2 * (values * state["moment"]).sum(1) - (values * fitted).sum(1)
        noise = (state["squares"] - explained).clamp_min(0) / freedom.clamp_min(1)
        variances = noise[:, None] * inverse.diagonal(dim1=1, dim2=2)
        is_exact = has_all_coalitions(state)
        return values, variances.masked_fill(is_exact[:, None], 0), (freedom >= _REFERENCES) | is_exact


def _all_coalitions(state: State) -> Tensor:
    """Return the number of coalitions of each image ``(N,)``, at most 2 ** 62."""
    all_of_them: Tensor = 2 ** state["count"].clamp(max=62)
    return all_of_them


def has_all_coalitions(state: State) -> Tensor:
    """Return which maps have all coalitions, bool ``(N,)``."""
    return state["iteration"] >= _all_coalitions(state)


def complete_pairs(state: State) -> Tensor:
    """Return the number of evaluated pairs of coalitions ``(N,)``."""
    return (state["iteration"] // 2 - 1).clamp_min(0)


def _second_of_pairs(numbers: Sequence[int]) -> list[int]:
    """Return the rows of evaluations that complete a pair of coalitions."""
    return [row for row, number in enumerate(numbers) if number % 2 == 1 and number > _REFERENCES]
