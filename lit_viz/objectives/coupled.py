"""Objectives that couple the inputs of a task: diversity of a group, and batch-norm statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_viz.classifiers import Classifier
from lit_viz.classifiers.layers import statistics_of
from lit_viz.classifiers.layouts import layouts
from lit_viz.errors import LitVizError
from lit_viz.objectives.base import Objective, Outputs
from lit_viz.objectives.layers import LayerObjective
from lit_viz.utils.device import to_list


class Diversity(LayerObjective):
    """Negative mean cosine similarity of the Gram matrices of the activations, over all pairs of images of a group
    (Olah, Mordvintsev and Schubert 2017, "Feature Visualization", section Diversity).

    With the activation ``a`` ``(C, P)`` at P positions, ``a a^T`` contains the correlations of the channels: the style
    of the image. Views with equal index are compared. Use it as a term: ``Channel(layer) + Diversity(layer)``.

    Args:
        layer, axis: see :class:`~lit_viz.objectives.layers.LayerObjective`.
    """

    couples = True

    def __call__(self, outputs: Outputs) -> Tensor:
        """Compute for each input the negative mean similarity to the other images of its group, ``(M,)`` in [-1, 1].

        Raises:
            LitVizError: if a task has one image only.
        """
        members: list[int] = [] if outputs.members is None else to_list(outputs.members)
        if not any(members):
            raise LitVizError("Diversity requires a group of images, got one image per task: give --model.group 2")
        group, views = max(members) + 1, members.index(1)
        activation = self.maps(outputs).flatten(2)
        gram = torch.nn.functional.normalize((activation @ activation.transpose(1, 2)).flatten(1), dim=1)
        gram = gram.view(-1, group, views, gram.shape[1])
        similarity = torch.einsum("tgvi,thvi->tghv", gram, gram)
        others = similarity.sum(2) - similarity.diagonal(dim1=1, dim2=2).movedim(-1, 1)
        return (others / (1 - group)).flatten()


class BatchNormStatistics(Objective):
    """Negative distance of a task's inputs to the running statistics of the network's batch norms (DeepInversion, Yin
    et al. 2020, arXiv:1912.08795, R_feature):

        - sum_l w_l (||mean_l - running_mean_l||_2 + ||variance_l - running_var_l||_2)

    Mean and variance of the input of batch norm l are per channel, over all positions and inputs of the task. The scale
    depends on the network (EfficientNet-Lite0: 6000 for eight photographs together, 10000 for one photograph, 20000 for
    noise), so use it with a small weight: ``Logit() + 0.001 * BatchNormStatistics()``.

    The statistics of few views differ from those of many images whatever the views show; use many (``--model.views``).
    These batch norms are not folded, and an evaluation takes 1.5 times as long.

    Args:
        first: weight of the first batch norm; the others have weight 1.
    """

    couples = True

    def __init__(self, first: float = 10.0) -> None:
        if not first >= 0:
            raise LitVizError(f"first of BatchNormStatistics must be non-negative, got {first}")
        self.first = first
        self._running: dict[str, Tensor] = {}

    def bind(self, classifier: Classifier) -> None:
        """Read the running statistics ``(2, C)`` of the batch norms, in the order of the forward.

        Raises:
            LitVizError: if the network has no batch norm with running statistics.
        """
        self._running = {}
        for name in layouts(classifier):
            module = classifier.original.get_submodule(name)
            if not isinstance(module, nn.BatchNorm2d) or module.running_mean is None or module.running_var is None:
                continue
            running = torch.stack([module.running_mean, module.running_var]).detach().clone()
            self._running[statistics_of(name)] = running
        if not self._running:
            raise LitVizError(
                "BatchNormStatistics requires batch norms with running statistics, and "
                f"{classifier.name} has none: use another classifier, such as efficientnet_lite0"
            )
        self.layers = tuple(self._running)

    def __call__(self, outputs: Outputs) -> Tensor:
        """Compute the negative distance of each input's task, ``(M,)``, at most 0."""
        distances = torch.stack([self._distances(outputs, name) for name in self.layers])
        weights = torch.ones_like(distances[:, :1])
        weights[0] = self.first
        return -(weights * distances).sum(0).repeat_interleave(outputs.inputs)

    def _distances(self, outputs: Outputs, name: str) -> Tensor:
        """Compute ``||mean - running_mean|| + ||variance - running_var||`` of each task, ``(M / inputs,)``."""
        statistics = outputs.activations[name]
        means, variances = statistics.view(-1, outputs.inputs, *statistics.shape[1:]).unbind(2)
        mean, between = means.mean(1), means.var(1, correction=0)
        current = torch.stack([mean, variances.mean(1) + between], dim=1)
        distances: Tensor = torch.linalg.vector_norm(current - self._running[name].to(current), dim=2).sum(1)
        return distances
