"""What the frozen network said of some images: a forward that is paid, and a backward that is paid when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lit_viz.classifiers.fast import sparse_backward
from lit_viz.errors import LitVizError
from lit_viz.utils.device import to_list

#: From scores or logits, a row a network input, to a row an image; the identity where every image is one input.
Reduce = Callable[[Tensor], Tensor]


class Evaluation:
    """What one evaluation of M images gave.

    Success is tested on the forward before a backward is paid, so the gradient is computed when it is asked for. Until
    then the graph of the forward is held.

    Args:
        x: what was evaluated ``(M, ...)``; it wants a gradient if there is to be one.
        score: ``(M,)``, with its graph.
        logits: of the network's inputs ``(M * views, K)``, with their graph.
        metrics: ``(M,)`` each, parts of the score by name.
        activations: of the layers that were asked for, with their graph, a row an input.
        over_views: the mean over an image's inputs.
        over_processes: the sum over the processes that evaluate the images together, a part of the inputs each; then
            all of the above are their own parts, zero elsewhere.
        pay: is told which of the images a backward is paid for, or None for all.

    Attributes:
        score: ``(M,)``, the mean objective over the image's views, less its priors.
        logits: ``(M, K)``, the mean over the image's views.
        metrics: ``(M,)`` each: the objective and every prior, by name.
        activations: ``{layer: (M * views, ...)}``.
    """

    def __init__(
        self,
        x: Tensor,
        score: Tensor,
        logits: Tensor,
        *,
        metrics: Mapping[str, Tensor] | None = None,
        activations: Mapping[str, Tensor] | None = None,
        over_views: Reduce = lambda rows: rows,
        over_processes: Reduce = lambda rows: rows,
        pay: Callable[[Sequence[bool] | None], None] = lambda rows: None,
    ) -> None:
        self.score = over_processes(score.detach())
        self.logits = over_processes(over_views(logits.detach()))
        self.metrics = {name: over_processes(term.detach()) for name, term in (metrics or {}).items()}
        self.activations = {name: over_processes(one.detach()) for name, one in (activations or {}).items()}
        self._graph: tuple[Tensor, Tensor, Tensor, Mapping[str, Tensor]] | None = (x, score, logits, activations or {})
        self._over_views, self._over_processes, self._pay = over_views, over_processes, pay
        self._told: list[dict[str, float]] | None = None
        self._gradient: Tensor | None = None
        self._of: Sequence[bool] | None = None  # whether it was asked for, of each row, or None for all

    def metrics_by_row(self) -> list[dict[str, float]]:
        """Return the terms of each row as plain numbers; read once."""
        if self._told is None:
            rows = torch.stack([term.double() for term in self.metrics.values()], 1).tolist() if self.metrics else []
            self._told = [dict(zip(self.metrics, row, strict=True)) for row in rows] or [{} for _ in self.score]
        return self._told

    @property
    def gradient(self) -> Tensor:
        """Of the score with respect to what was evaluated, ``(M, ...)``; computed once."""
        if self._gradient is None:
            self._gradient = self.backward()
        return self._gradient

    def gradient_norms(self, rows: Sequence[int]) -> dict[int, float]:
        """Return the length of the gradient of those of these rows of which it was asked for: looking costs nothing."""
        gradient = self._gradient
        known = [m for m in rows if self._of is None or self._of[m]]
        if gradient is None or not known:
            return {}
        norms = torch.stack([torch.linalg.vector_norm(gradient[m]) for m in known]).tolist()
        return dict(zip(known, norms, strict=True))

    def backward(
        self, of: Reduce | None = None, *, at: str | None = None, rows: Tensor | None = None, keep: bool = False
    ) -> Tensor:
        """Return the gradient of a score, and pay a backward for it.

        Args:
            of: from logits, a row an input, to scores; the objective's score unless given.
            at: a layer that was asked for, with respect to whose activation it is; what was evaluated unless given.
            rows: ``(M,)`` bool: the other images get a zero gradient, and no backward is counted for them.
            keep: hold the graph for another slope.

        Returns:
            ``(M, ...)`` like what was evaluated, or like the activation ``at``.

        Raises:
            LitVizError: the score doesn't depend on the layer ``at``.
        """
        if self._graph is None:
            raise RuntimeError("the graph of this evaluation is gone: ask for the first slope with keep=True")
        x, score, logits, activations = self._graph
        asked = None if rows is None else to_list(rows)  # now, for later it would have to wait for the backward
        source = x if at is None else activations[at]
        with torch.enable_grad():
            score = score if of is None else self._over_views(of(logits))
            total = (score if rows is None else torch.where(rows, score, 0)).sum()
        # On the thread that asks, where what is set of torch.compile holds; for GPUs it would be another.
        with sparse_backward(rows), torch.autograd.set_multithreading_enabled(False):
            (slope,) = torch.autograd.grad(total, source, retain_graph=keep, allow_unused=at is not None)
        if slope is None:
            raise LitVizError(f"the score doesn't depend on layer {at!r}: name one on the way to the logits.")
        slope = self._over_processes(slope)
        self._pay(asked)
        if at is None and of is None and self._gradient is None:
            self._gradient, self._of = slope, asked
        if not keep:
            self.close()
        return slope

    def over_views(self, of: Reduce) -> Tensor:
        """Return the mean over an image's views of what ``of`` makes of logits ``(M,)``; it costs no evaluation."""
        if self._graph is None:
            raise RuntimeError("the graph of this evaluation is gone: ask before the last slope")
        return self._over_processes(self._over_views(of(self._graph[2].detach())))

    def rescore(self, of: Reduce) -> None:
        """Let another score, from logits, a row an input, take the place of the present one; it costs no evaluation."""
        if self._graph is None:
            raise RuntimeError("the graph of this evaluation is gone: score it anew before a slope is asked for")
        x, _, logits, activations = self._graph
        with torch.set_grad_enabled(x.requires_grad):
            score = self._over_views(of(logits))
        self.score = self._over_processes(score.detach())
        self._graph = x, score, logits, activations

    def close(self) -> None:
        """Let the graph go."""
        self._graph = None


class Evaluate(Protocol):
    """Asks the frozen network about the slots' images, at the iteration that each slot is in."""

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
            x: what is evaluated.
            gradient: whether a slope may be asked for; without it no graph is held.
            slots: ``(M,)`` int64, whose each row is: any number of rows a slot, also none. One row each unless given.
            network: which of the networks that the method has made: ``plain`` is the classifier's fast copy.
            logged: whether rows with ``slots`` are the images of these, one each, whose numbers belong to x_k; those of
                an evaluation without ``slots`` do.
        """
        ...
