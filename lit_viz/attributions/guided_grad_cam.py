"""Guided Grad-CAM: the pixels of guided backpropagation, at the places of Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_viz.attributions.base import add_rows, gather_rows
from lit_viz.attributions.grad_cam import GradCAM, Reshape
from lit_viz.classifiers import Classifier
from lit_viz.optim import Evaluate, State
from lit_viz.types import Task


class GuidedGradCAM(GradCAM):
    """Guided backpropagation times Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, section 3.2).

    The photograph is evaluated twice in its one iteration: in the plain copy of the network, down to the layer, and in
    the guided one.

    Args:
        layer, reshape: as for :class:`GradCAM`.
    """

    spatial = False
    networks = ("plain", "guided")

    def __init__(self, layer: str | None = None, reshape: Reshape | None = None) -> None:
        super().__init__(layer, reshape=reshape)

    def bind(self, classifier: Classifier) -> None:
        """Choose the layer; a network that can't be copied with another backward is refused."""
        super().bind(classifier)
        classifier.fast(backprop="guided")

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return an empty map a slot."""
        return {**super().init(x, tasks), "map": torch.zeros_like(x)}

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Evaluate the photograph itself in both copies."""
        cam = self._class_activation(gather_rows(x, slots), slots, evaluate)
        slope = evaluate(gather_rows(x, slots), slots=slots, network="guided").gradient
        state["map"] = add_rows(state["map"], slots, slope * cam)
        return state
