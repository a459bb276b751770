"""Evaluation of images by the frozen network: a counted forward, and counted backwards on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.networks.isolation import network_errors_wrapped
from lit_viz.networks.single_images import parts_of
from lit_viz.objectives import Objective, Outputs
from lit_viz.objectives.base import evaluate_objective
from lit_viz.utils.device import to_list

#: Function of a batch, such as logits -> scores or views -> images.
BatchFunction = Callable[[Tensor], Tensor]


def identity(batch: Tensor) -> Tensor:
    """Return the batch."""
    return batch


class _Graph(NamedTuple):
    x: Tensor
    score: Tensor
    logits: Tensor
    activations: Mapping[str, Tensor]


class Evaluation:
    """Result of one evaluation of M images.

    Success is tested on the forward; the backward is deferred, and the graph kept, until a gradient is requested.

    Args:
        x: evaluated images ``(M, ...)``; a leaf that requires a gradient, if one will be requested.
        score, logits, metrics, activations: with their graph, one row per view where an attribute has one per image.
        final: one row per view; scores that success depends on in place of the logits.
        average_views: mean over the views of each image, ``(M * views, ...) -> (M, ...)``.
        sum_over_ranks: sum over the ranks that share the views; the other arguments then hold the share of this rank.
        on_backward: called after each backward with the images it is counted for, ``(M,)`` bool, or None for all.

    Attributes:
        score: ``(M,)``, the mean objective over the views, less the priors.
        logits: ``(M, K)``, the mean over the views, of the final scores where the network has some: success depends on
            them (see :meth:`~lit_viz.networks.outputs.Output.final`).
        metrics: ``(M,)`` each, by name: the objective and every prior.
        activations: ``{layer: (M * views, ...)}`` of the layers read.
    """

    def __init__(
        self,
        x: Tensor,
        score: Tensor,
        logits: Tensor,
        *,
        final: Tensor | None = None,
        metrics: Mapping[str, Tensor] | None = None,
        activations: Mapping[str, Tensor] | None = None,
        average_views: BatchFunction = identity,
        sum_over_ranks: BatchFunction = identity,
        on_backward: Callable[[Sequence[bool] | None], None] = lambda rows: None,
    ) -> None:
        self.score = sum_over_ranks(score.detach())
        decisive = logits if final is None else final
        self.logits = sum_over_ranks(average_views(decisive.detach()))
        self.metrics = {name: sum_over_ranks(metric.detach()) for name, metric in (metrics or {}).items()}
        self.activations = {name: sum_over_ranks(value.detach()) for name, value in (activations or {}).items()}
        self._graph: _Graph | None = _Graph(x, score, logits, activations or {})
        self._average_views, self._sum_over_ranks, self._on_backward = average_views, sum_over_ranks, on_backward
        self._metrics_by_row: list[dict[str, float]] | None = None
        self._gradient: Tensor | None = None
        self._gradient_rows: Sequence[bool] | None = None  # rows of the gradient that were computed; None for all

    @property
    def gradient(self) -> Tensor:
        """Gradient of the score with respect to the evaluated images ``(M, ...)``; computed once."""
        if self._gradient is None:
            self._gradient = self.backward()
        return self._gradient

    def metrics_by_row(self) -> list[dict[str, float]]:
        """Return the metrics of each image as numbers; transferred from the device once."""
        if self._metrics_by_row is None:
            rows: list[list[float]] = [[]] * len(self.score)
            if self.metrics:
                rows = torch.stack([metric.double() for metric in self.metrics.values()], 1).tolist()
            self._metrics_by_row = [dict(zip(self.metrics, row, strict=True)) for row in rows]
        return self._metrics_by_row

    def gradient_norms(self, rows: Sequence[int]) -> dict[int, float]:
        """Return the Euclidean norm of the gradient of each of these rows for which it was computed."""
        gradient, computed = self._gradient, self._gradient_rows
        if gradient is None:
            return {}
        norms = {}
        for row in rows:
            if computed is None or computed[row]:
                norms[row] = torch.linalg.vector_norm(gradient[row])
        if not norms:
            return {}
        return dict(zip(norms, torch.stack([*norms.values()]).tolist(), strict=True))

    def backward(
        self, score_fn: BatchFunction | None = None, *, rows: Tensor | None = None, keep: bool = False
    ) -> Tensor:
        """Compute the gradient of a score with respect to the images and count one backward.

        Args:
            score_fn: logits ``(M * views, K)`` to scores ``(M * views,)``; the score of the objective by default.
            rows: ``(M,)`` bool; the gradient of the other images is zero, and no backward is counted for them.
            keep: keep the graph for another backward.

        Returns:
            ``(M, ...)`` like the images.
        """
        x, score, logits, _ = self._require_graph()
        # Read the rows before the backward is queued; a later read would wait for it.
        counted = None if rows is None else to_list(rows)
        with torch.enable_grad():
            if score_fn is not None:
                score = self._average_views(score_fn(logits))
            if rows is not None:
                score = torch.where(rows, score, 0)
            total = score.sum()
        gradient = self._sum_over_ranks(_differentiate(total, [x], keep=keep)[0])
        self._on_backward(counted)
        if score_fn is None and self._gradient is None:
            self._gradient, self._gradient_rows = gradient, counted
        if not keep:
            self.close()
        return gradient

    def gradients_at(self, layers: Sequence[str]) -> dict[str, Tensor]:
        """Compute the gradients of the score at the activations of layers that were read; counts one backward.

        Raises:
            LitVizError: the score does not depend on a layer.
        """
        _, score, _, activations = self._require_graph()
        with torch.enable_grad():
            total = score.sum()
        inputs: list[Tensor] = []
        for layer in layers:
            inputs += parts_of(activations[layer])
        of_inputs = [*_differentiate(total, inputs, allow_unused=True)]
        gradients: dict[str, Tensor] = {}
        for layer in layers:
            count = len(parts_of(activations[layer]))
            of_layer, of_inputs = of_inputs[:count], of_inputs[count:]
            if any(gradient is None for gradient in of_layer):
                path = "choose a layer on the path to the logits"
                raise LitVizError(f"the score does not depend on layer {layer!r}: {path}")
            gradients[layer] = self._sum_over_ranks(of_layer[0] if count == 1 else torch.cat(of_layer))
        self._on_backward(None)
        self.close()
        return gradients

    def average_views(self, function: BatchFunction) -> Tensor:
        """Return the mean over the views of a function of the logits, ``(M,)``; no evaluation is counted."""
        return self._sum_over_ranks(self._average_views(function(self._require_graph().logits.detach())))

    def rescore(self, score_fn: BatchFunction) -> None:
        """Replace the score by another function of the logits; no evaluation is counted."""
        graph = self._require_graph()
        with torch.set_grad_enabled(graph.x.requires_grad):
            score = self._average_views(score_fn(graph.logits))
        self.score = self._sum_over_ranks(score.detach())
        self._graph = graph._replace(score=score)

    def close(self) -> None:
        """Release the graph."""
        self._graph = None

    def _require_graph(self) -> _Graph:
        if self._graph is None:
            raise RuntimeError("the graph of this evaluation was released: pass keep=True to the previous backward")
        return self._graph


def _differentiate(
    total: Tensor, inputs: list[Tensor], *, keep: bool = False, allow_unused: bool = False
) -> Sequence[Tensor]:
    # On GPUs autograd would use another thread, where the settings of torch.compile do not hold.
    with torch.autograd.set_multithreading_enabled(False), network_errors_wrapped(inputs[0].shape):
        return torch.autograd.grad(total, inputs, retain_graph=keep, allow_unused=allow_unused)


class Evaluate(Protocol):
    """Evaluation of the images in the slots, at the iteration of each slot."""

    def __call__(
        self,
        x: Tensor,
        *,
        gradient: bool = True,
        slots: Tensor | None = None,
        network: str = "plain",
        logged: bool = False,
    ) -> Evaluation:
        """Evaluate ``x`` ``(M, ...)``.

        Args:
            x: images.
            gradient: whether a gradient may be requested; otherwise no graph is kept.
            slots: ``(M,)`` int64, the slot of each row, any number of rows per slot; by default one row per slot.
            network: name of the network copy; ``plain`` is the fast copy of the network.
            logged: whether the rows of ``slots`` are the images x_k, so that their metrics are logged. Without
                ``slots`` they always are.
        """
        ...


class LayeredNetwork(Protocol):
    """Network that returns logits and the activations of named layers."""

    def __call__(self, x: Tensor, layers: Sequence[str] = ()) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return logits ``(M, K)`` and ``{layer: activation}``, with their graph."""
        ...


def bare_evaluate(
    objective: Objective,
    networks: Mapping[str, LayeredNetwork],
    goals: Mapping[str, Tensor],
    layers: Sequence[str] = (),
) -> Evaluate:
    """Return an :class:`Evaluate` for N images outside of the engine; it counts nothing.

    Args:
        objective: objective to maximize.
        networks: networks by name.
        goals: fields of :class:`~lit_viz.objectives.Outputs`, such as ``targets`` and ``labels``, each ``(N,)``.
        layers: layers with the activations to read.
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
            x = x.detach().requires_grad_(gradient)
            logits, activations = networks[network](x, layers)
            row_goals: dict[str, Any] = dict(goals)
            if slots is not None:
                row_goals = {name: values[slots] for name, values in goals.items()}
            score = evaluate_objective(objective, Outputs(logits, activations=activations, **row_goals))
        return Evaluation(x, score, logits, activations=activations)

    return evaluate
