"""Attention rollout: product of the attention maps of all layers."""

from __future__ import annotations

from torch import Tensor

from lit_viz.attributions.attention import AttentionMap
from lit_viz.optim import Evaluate


class AttentionRollout(AttentionMap):
    """Row of the class token in ``B_L ... B_1`` (Abnar and Zuidema 2020, arXiv:2005.00928, section 3).

    ``B_l = (I + A) / 2``, with the mean A over the heads of the attention map of layer l.

    The map does not depend on the target. Networks that pool other tokens than the class token use the mean of their
    rows. Forward only.

    Args:
        grid: see :class:`~lit_viz.attributions.attention.AttentionMap`.
    """

    def relevance(self, x: Tensor, slots: Tensor, evaluate: Evaluate) -> Tensor:
        maps = evaluate(x, gradient=False, slots=slots).activations
        relevance = self.pooling(x)
        for layer in reversed(self.attention):
            relevance = (relevance + propagate(relevance, maps[layer].mean(1))) / 2
        return relevance


def propagate(relevance: Tensor, attention: Tensor) -> Tensor:
    """Return the relevance ``(M, T)`` of the keys, given that of the queries and an attention map ``(M, T, T)``."""
    return (relevance[:, None] @ attention.to(relevance))[:, 0]
