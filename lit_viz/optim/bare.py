"""Asking a network without an engine: what the bare loops of attributions and attacks give their rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lit_viz.objectives import Objective, Outputs
from lit_viz.objectives.base import evaluate_objective
from lit_viz.optim.evaluation import Evaluate, Evaluation


class Network(Protocol):
    """A network that is asked: images (or any inputs) -> logits, and the activations of the layers that are named."""

    def __call__(self, x: Tensor, layers: Sequence[str] = ()) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return logits ``(M, K)`` and ``{layer: activation}``, with their graph."""
        ...


def bare_evaluate(
    objective: Objective, networks: Mapping[str, Network], goals: Mapping[str, Tensor], layers: Sequence[str] = ()
) -> Evaluate:
    """Return what evaluates inputs of N rows and counts nothing.

    Args:
        objective: what is maximized.
        networks: that are asked, by name.
        goals: ``targets`` and, where the objective reads them, ``labels`` and ``targeted``, each ``(N,)`` (see
            :class:`~lit_viz.objectives.Outputs`).
        layers: whose activations are read.
    """

    def evaluate(
        x: Tensor,
        *,
        gradient: bool = True,
        slots: Tensor | None = None,
        network: str = "plain",
        logged: bool = False,
    ) -> Evaluation:
        with torch.set_grad_enabled(gradient):
            leaf = x.detach().requires_grad_(gradient)
            logits, activations = networks[network](leaf, layers)
            mine: Mapping[str, Any] = goals if slots is None else {name: row[slots] for name, row in goals.items()}
            score = evaluate_objective(objective, Outputs(logits, activations=activations, **mine))
        return Evaluation(leaf, score, logits, activations=activations)

    return evaluate
