"""Ablation: decrease of the score when a region of the image is replaced."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_viz.attributions.base import Estimator, add_rows, gather_rows
from lit_viz.attributions.baselines import Baseline, BaselineLike
from lit_viz.attributions.segments import Features, regions_of
from lit_viz.attributions.terms import SCORES, record_scores
from lit_viz.networks import Network
from lit_viz.optim import Evaluate, State
from lit_viz.types import Task, seeds_of
from lit_viz.utils.device import rows_equal


class Ablation(Estimator):
    """Base class of ``score(x) - score(x with a replaced region)``, averaged at every pixel over its regions.

    Evaluation 0 is the image itself, then regions follow in order, forward only. Pixels without an evaluated region are
    zero. Subclasses implement :meth:`regions` and :meth:`masks`.

    Args:
        baseline: replacement of the region; see :class:`~lit_viz.attributions.baselines.Baseline`.
        sigma: of the blurred baseline, in pixels.
    """

    spatial = True
    baseline: Baseline
    reducer: ClassVar[str] = "positive"
    signed: ClassVar[bool] = True

    def __init__(self, baseline: BaselineLike = "mean", sigma: float = 10.0) -> None:
        self.baseline = Baseline(baseline, sigma)

    @property
    def fixed(self) -> bool:
        """True: pixels of omitted regions would appear irrelevant."""
        return True

    @property
    def recorded(self) -> str | None:
        return SCORES

    @abstractmethod
    def regions(self, x: Tensor) -> State:
        """Return the state that defines the regions of images ``x``, with their number ``count`` ``(N,)``."""

    @abstractmethod
    def masks(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor) -> Tensor:
        """Return the values of regions ``numbers`` ``(M,)``, from 0, bool ``(M, 1, H, W)`` or ``(M, C, H, W)``."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        state = super().init(x, tasks) | self.regions(x)
        state["baseline"] = self.baseline(x, seeds_of(tasks))
        state["score"] = x.new_zeros(len(x))
        state["losses"] = self.zero_map(x)
        state["covered"] = self.zero_map(x)
        return state

    def advance(self, state: State) -> Tensor:
        return torch.minimum(super().advance(state), 1 + state["count"] - state["iteration"])

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        replaced = (numbers > 0).view(-1, 1, 1, 1) & self.masks(x, state, slots, (numbers - 1).clamp_min(0))
        inputs = torch.where(replaced, gather_rows(state["baseline"], slots), gather_rows(x, slots))
        scores = evaluate(inputs, gradient=False, slots=slots).score.to(x.dtype)
        record_scores(state, slots, numbers, scores)
        first = rows_equal(numbers, 0)
        if len(first):
            state["score"] = state["score"].index_copy(0, slots[first], scores[first])
        losses = (state["score"][slots] - scores).view(-1, 1, 1, 1)
        state["losses"] = add_rows(state["losses"], slots, losses * replaced)
        state["covered"] = add_rows(state["covered"], slots, replaced)
        return state

    def attribution(self, x: Tensor, state: State) -> Tensor:
        return state["losses"] / state["covered"].clamp_min(1)

    def converged(self, x: Tensor, state: State) -> Tensor:
        return state["iteration"] > state["count"]


class FeatureAblation(Ablation):
    """Decrease of the score when a superpixel or a band is replaced.

    Args:
        segments: number of superpixels, or a mask file; see :class:`~lit_viz.attributions.segments.Segments`.
        baseline: replacement of the superpixel; see :class:`~lit_viz.attributions.baselines.Baseline`.
        sigma: of the blurred baseline, in pixels.
        features: what is replaced: ``segments``, or whole ``bands``, whose map has one value per band.
    """

    def __init__(
        self,
        segments: int | str = 50,
        baseline: BaselineLike = "mean",
        sigma: float = 10.0,
        features: Features = "segments",
    ) -> None:
        super().__init__(baseline, sigma)
        self.segments = regions_of(features, segments)
        self.spatial = not self.segments.are_bands
        self.evaluations = 1 + self.segments.most

    def bind(self, network: Network) -> None:
        super().bind(network)
        self.segments.bind(network.channels, network.size)
        self.evaluations = 1 + self.segments.most

    def record_fields(self) -> dict[str, Any]:
        return super().record_fields() | self.segments.record_fields()

    def regions(self, x: Tensor) -> State:
        segments = self.segments(x)
        return {"segments": segments, "count": 1 + segments.flatten(1).amax(1)}

    def masks(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor) -> Tensor:
        return state["segments"][slots] == numbers.view(-1, 1, 1, 1)
