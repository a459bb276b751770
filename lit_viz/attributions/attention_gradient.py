"""Attention times its gradient, accumulated over the layers."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_viz.attributions.attention import AttentionMap
from lit_viz.attributions.attention_rollout import propagate
from lit_viz.optim import Evaluate


class AttentionGradient(AttentionMap):
    """Row of the class token in R - I, with ``R <- R + E R`` over the layers, from R = I.
    Chefer et al. 2021, "Generic Attention-model Explainability", arXiv:2103.15679, equations 5 and 6.

    ``E`` is the mean over the heads of ``relu(d score / d A * A)`` of a layer's attention map A.

    Networks that pool other tokens than the class token use the mean of their rows.

    Args:
        grid: see :class:`~lit_viz.attributions.attention.AttentionMap`.
    """

    def relevance(self, x: Tensor, slots: Tensor, evaluate: Evaluate) -> Tensor:
        evaluation = evaluate(x, slots=slots)
        gradients = evaluation.gradients_at(self.attention)
        pooling = self.pooling(x)
        relevance = torch.zeros_like(pooling)
        for layer in reversed(self.attention):
            gradient, attention = gradients[layer].to(x.dtype), evaluation.activations[layer].to(x.dtype)
            weighted = (gradient * attention).relu().mean(1)
            relevance = relevance + propagate(pooling + relevance, weighted)
        return relevance
