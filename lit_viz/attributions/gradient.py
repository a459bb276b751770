"""Saliency methods of one evaluation: gradient, input x gradient, guided backpropagation and deconvolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_viz.attributions.base import Estimator, add_rows, gather_rows
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.fast import Backprop
from lit_viz.optim import Evaluate, State
from lit_viz.types import Task


class Gradient(Estimator):
    """``d score / d x`` (Simonyan et al. 2014, arXiv:1312.6034, section 3; their map is its maximum absolute value over
    the channels). Exact after one evaluation."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return zero maps."""
        return {**super().init(x, tasks), "map": torch.zeros_like(x)}

    def advance(self, state: State) -> Tensor:
        """Return one evaluation per slot."""
        return torch.ones_like(state["iteration"])

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Evaluate the gradient at the image."""
        state["map"] = add_rows(state["map"], slots, evaluate(gather_rows(x, slots), slots=slots).gradient)
        return state

    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Return the gradient."""
        return state["map"]

    def converged(self, x: Tensor, state: State) -> Tensor:
        """Return which maps have been evaluated."""
        return state["iteration"] > 0


class InputXGradient(Gradient):
    """``x * d score / d x`` (Shrikumar et al. 2016, arXiv:1605.01713): contribution of each value to a linear score.

    The input in [0, 1] is multiplied, not the normalized one: black contributes nothing.
    """

    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Return the product."""
        return x * state["map"]


class GuidedBackprop(Gradient):
    """Guided backpropagation (Springenberg et al. 2015, arXiv:1412.6806, section 3.4).

    The backward of a rectifier passes gradients that are positive, where its input was in the linear range. Networks
    with other nonlinearities are rejected (see :meth:`~lit_viz.classifiers.Classifier.fast`).
    """

    networks: tuple[Backprop, ...] = ("guided",)

    def bind(self, classifier: Classifier) -> None:
        """Create the network copy, so that unsupported networks are rejected before the run."""
        for network in self.networks:
            classifier.fast(backprop=network)

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Evaluate the gradient at the image in the copy with modified rectifiers."""
        (network,) = self.networks
        gradient = evaluate(gather_rows(x, slots), slots=slots, network=network).gradient
        state["map"] = add_rows(state["map"], slots, gradient)
        return state


class Deconvolution(GuidedBackprop):
    """Deconvolutional network (Zeiler and Fergus 2014, arXiv:1311.2901, section 2.1), computed as a backward.

    The backward of a rectifier rectifies the gradient, independent of its input; max pooling passes it to the position
    of the maximum. Networks with other nonlinearities are rejected, as by :class:`GuidedBackprop`.
    """

    networks = ("deconvolution",)
