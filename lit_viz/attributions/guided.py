"""Guided backpropagation and deconvolution: gradients through rectifiers that let only positive evidence back."""

from __future__ import annotations

from torch import Tensor

from lit_viz.attributions.base import add_rows, gather_rows
from lit_viz.attributions.gradient import Gradient
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.fast import Backprop
from lit_viz.optim import Evaluate, State


class GuidedBackprop(Gradient):
    """Guided backpropagation (Springenberg et al. 2015, arXiv:1412.6806, section 3.4).

    The backward of a rectifier passes where its input was in the linear range and the gradient that comes back is
    positive. Networks with other non-linearities are refused (see :meth:`~lit_viz.classifiers.Classifier.fast`).
    """

    networks: tuple[Backprop, ...] = ("guided",)

    def bind(self, classifier: Classifier) -> None:
        """Make the copy, so that a network that can't have one is refused before anything is begun."""
        for network in self.networks:
            classifier.fast(backprop=network)

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Evaluate the photograph itself, in the copy whose rectifiers have another backward."""
        (network,) = self.networks
        slope = evaluate(gather_rows(x, slots), slots=slots, network=network).gradient
        state["map"] = add_rows(state["map"], slots, slope)
        return state


class Deconvolution(GuidedBackprop):
    """The deconvolutional network of Zeiler & Fergus 2014 (arXiv:1311.2901, section 2.1), as a backward.

    The backward of a rectifier rectifies the gradient, whatever its input was; max pooling sends it to where the
    maximum was. Networks with other non-linearities are refused, as by :class:`GuidedBackprop`.
    """

    networks = ("deconvolution",)
