"""DeepLIFT: contribution of the difference from a baseline, with multipliers in place of derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attributions.base import add_rows, completeness, gather_rows
from lit_viz.attributions.baselines import Baseline, BaselineLike
from lit_viz.attributions.gradient import Gradient
from lit_viz.networks.fast import Backprop
from lit_viz.optim import Evaluate, State
from lit_viz.types import Task, seeds_of


class DeepLift(Gradient):
    """``(x - b) * m``, with m the multiplier of the score by the rescale rule.
    Shrikumar et al. 2017, arXiv:1704.02685, section 3.5.2.

    Image and baseline are evaluated side by side. The derivative of every element-wise non-linearity is replaced by the
    ratio of the differences of its output and input, for each of its calls: module, function or reused module. Maxima
    (pooling, also adaptive and in 1 or 3 dimensions; ``amax``, ``max``, ``maximum``, and minima) distribute the
    difference of their output over the positions of both maxima. Logsumexp and power-average pooling are made of
    element-wise functions. Other non-linear operations (products of activations, softmax, layer norm) keep their
    derivative at the image; a note names them. The completeness error, in units of the score, is their effect: without
    them, the map sums to ``score(x) - score(b)``. Above 1 % of the difference it is a note of the evidence.

    Args:
        baseline: see :class:`~lit_viz.attributions.baselines.Baseline`.
        sigma: of the blurred baseline, in pixels.
    """

    title = "DeepLIFT"
    signed: ClassVar[bool] = True
    networks: tuple[Backprop, ...] = ("plain", "rescale")
    baseline: Baseline

    def __init__(self, baseline: BaselineLike = "black", sigma: float = 10.0) -> None:
        self.baseline = Baseline(baseline, sigma)

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        baseline = self.baseline(x, seeds_of(tasks))
        return super().init(x, tasks) | {"baseline": baseline, "difference": x.new_zeros(len(x))}

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        images, baselines = gather_rows(x, slots), gather_rows(state["baseline"], slots)
        rescaled = evaluate(torch.stack([images, baselines], 1), slots=slots, network="rescale")
        start = evaluate(baselines, gradient=False, slots=slots).score
        state["map"] = add_rows(state["map"], slots, (images - baselines) * rescaled.gradient[:, 0])
        state["difference"] = add_rows(state["difference"], slots, (rescaled.score - start).to(x.dtype))
        return state

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        return completeness(state["map"], state["difference"], state["iteration"])
