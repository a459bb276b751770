"""Saliency methods of one evaluation: gradient and its rules, input x gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from lit_viz.attributions.base import Estimator, GradientRule, add_rows, gather_rows, networks_of
from lit_viz.attributions.baselines import Baseline, BaselineLike
from lit_viz.networks.fast import Backprop
from lit_viz.optim import Evaluate, State, StepRule
from lit_viz.types import Task, seeds_of


class Gradient(Estimator):
    """``d score / d x``, exact after one evaluation.
    Simonyan et al. 2014, arXiv:1312.6034, section 3; their map is its maximum absolute value over the channels.

    Subclasses with another map of one evaluation override :meth:`evaluate_map`.
    """

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return super().init(x, tasks) | {"map": self.zero_map(x)}

    advance = StepRule.advance  # one evaluation per slot

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        state["map"] = add_rows(state["map"], slots, self.evaluate_map(gather_rows(x, slots), slots, evaluate))
        return state

    def evaluate_map(self, x: Tensor, slots: Tensor, evaluate: Evaluate) -> Tensor:
        """Evaluate the gradient in the last network copy at images ``x`` ``(M, ...)`` of the slots ``(M,)``."""
        return evaluate(x, slots=slots, network=self.networks[-1]).gradient

    def attribution(self, x: Tensor, state: State) -> Tensor:
        return state["map"]

    def converged(self, x: Tensor, state: State) -> Tensor:
        return state["iteration"] > 0


class InputXGradient(Gradient):
    """``(x - b) * d score / d x`` (Shrikumar et al. 2016, arXiv:1605.01713): contributions to a linear score.

    The input in [0, 1] is multiplied, not the normalized one: with the black baseline b, black contributes nothing.

    Args:
        baseline: see :class:`~lit_viz.attributions.baselines.Baseline`; best the average of photographs.
        sigma: of the blurred baseline, in pixels.
        backprop: ``libra`` detaches attention weights, deviations of norms and gates of activations in the backward
            (:class:`~lit_viz.attributions.gradient.LibraGradient`).
    """

    title = "input × gradient"
    signed: ClassVar[bool] = True
    baseline: Baseline

    def __init__(self, baseline: BaselineLike = "black", sigma: float = 10.0, backprop: GradientRule = "plain") -> None:
        self.baseline = Baseline(baseline, sigma)
        self.networks = networks_of(backprop)

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return super().init(x, tasks) | {"baseline": self.baseline(x, seeds_of(tasks))}

    def attribution(self, x: Tensor, state: State) -> Tensor:
        return (x - state["baseline"]) * state["map"]


class LibraGradient(Gradient):
    """Gradient of a transformer with constant attention weights, deviations of norms and gates of activations.
    Mehri et al. 2025, "LibraGrad", arXiv:2411.16760.

    The forward is unchanged; the backward passes through the values of attention, the centered input of norms, and x of
    ``x * gate(x)`` (GELU, QuickGELU, SiLU, Hardswish, Mish). Input, biases, class token and position embedding, each
    times its gradient, then sum to the score. Piecewise-linear functions (ReLU, maxima) keep their derivative, so that
    the map of a network of these alone is its gradient. Networks with other nonlinearities, such as gates that are not
    computed by a function of torch, are rejected with the name of the layer. Of a network that says a text about an
    image, the rule applies inside of the vision tower; the gradient by the tower's output is the plain one.
    """

    title = "Libra gradient"
    networks: tuple[Backprop, ...] = ("libra",)


class GuidedBackprop(Gradient):
    """Guided backpropagation (Springenberg et al. 2015, arXiv:1412.6806, section 3.4).

    The backward of a rectifier passes gradients that are positive, where its input was in the linear range. Networks
    with other nonlinearities are rejected (see :meth:`~lit_viz.networks.Network.fast`).
    """

    networks: tuple[Backprop, ...] = ("guided",)


class Deconvolution(GuidedBackprop):
    """Deconvolutional network (Zeiler and Fergus 2014, arXiv:1311.2901, section 2.1), computed as a backward.

    The backward of a rectifier rectifies the gradient, independent of its input; max pooling passes it to the position
    of the maximum. Networks with other nonlinearities are rejected, as by :class:`GuidedBackprop`.
    """

    networks = ("deconvolution",)
