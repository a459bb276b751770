"""Skip gradient method: a smaller part of the gradient returns through residual branches.

The output of a residual branch is more specific to the network than its shortcut. A gradient that passes through the
shortcuts more than through the branches transfers better (Wu et al. 2020, "Skip Connections Matter", arXiv:2002.05990).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from lit_viz.classifiers.layers import layer_names
from lit_viz.classifiers.outputs import differentiable_logits
from lit_viz.errors import LitVizError


def residual_branches(network: nn.Module, x: Tensor) -> list[str]:
    """Return the names of the layers whose output is added to a tensor that it was computed from, in forward order.

    The additions are searched in the backward graph, so their form in the code does not matter. Blocks with a computed
    shortcut (a change of size) and layers that are called more than once are excluded.
    """
    writers: dict[Node, str] = {}  # the last of several layers that pass a tensor on
    calls: Counter[str] = Counter()

    def record(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            calls[name] += 1
            if isinstance(output, Tensor) and output.grad_fn is not None:
                writers[output.grad_fn] = name

        return hook

    handles = [network.get_submodule(name).register_forward_hook(record(name)) for name in layer_names(network)]
    try:
        _, logits = differentiable_logits(network, x)
    finally:
        for handle in handles:
            handle.remove()
    sums = [node for node in _upstream(logits.grad_fn) if type(node).__name__ == "AddBackward0"]
    ends = {end for node in sums for end in _branches(node)}
    return [name for node, name in writers.items() if node in ends and calls[name] == 1]


def check_residual_gradient(factor: float) -> float:
    """Return the factor of :func:`scale_branches`.

    Raises:
        LitVizError: unless it is above 0 and at most 1.
    """
    if not 0 < factor <= 1:
        raise LitVizError(f"residual_gradient must be above 0 and at most 1, got {factor}")
    return factor


def scale_branches(network: nn.Module, layers: Sequence[str], factor: float) -> None:
    """Multiply the gradient of these layers' outputs by a factor; their values stay."""
    for name in layers:
        network.get_submodule(name).register_forward_hook(_ScaledGradient(factor))


class _ScaledGradient:
    """Forward hook; a module would add a layer with a name of its own, and a closure could not be copied."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(self._scaled)  # type: ignore[no-untyped-call]

    def _scaled(self, gradient: Tensor) -> Tensor:
        return gradient * self.factor


def _branches(node: Node) -> list[Node]:
    """Return the terms of a sum that were computed from another term of it."""
    terms = [term for term, _ in node.next_functions if term is not None]
    return [term for term in terms if any(other is not term and other in _upstream(term) for other in terms)]


def _upstream(node: Node | None) -> set[Node]:
    """Return a step of the graph and all steps before it."""
    visited: set[Node] = set()
    pending = [node]
    while pending:
        if (node := pending.pop()) is not None and node not in visited:
            visited.add(node)
            pending += [previous for previous, _ in node.next_functions]
    return visited
