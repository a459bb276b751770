"""Residual branches: find them in the backward graph, and scale their gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from lit_viz.networks.fast.backward import upstream
from lit_viz.networks.layers import hooked, readable_layers
from lit_viz.networks.outputs import LOGITS, Output


def residual_branches(network: nn.Module, x: Tensor, output: Output = LOGITS) -> list[str]:
    """Return the names of the last layers of residual branches, in forward order.

    The additions are searched in the backward graph, so their form in the code does not matter. Blocks with a computed
    shortcut (a change of size) and layers that are called more than once are excluded.
    """
    writers: dict[Node, str] = {}  # the last of several layers that pass a tensor on
    calls: Counter[str] = Counter()

    def record(name: str, module: nn.Module, args: Any, output: Any) -> None:
        calls[name] += 1
        if isinstance(output, Tensor) and output.grad_fn is not None:
            writers[output.grad_fn] = name

    with hooked(readable_layers(network), record):
        _, logits = output.with_graph(network, x)
    branches: set[Node] = set()
    for node in upstream(logits.grad_fn):
        if type(node).__name__ == "AddBackward0":
            branches |= _branches(node)
    return [name for node, name in writers.items() if node in branches and calls[name] == 1]


def _branches(addition: Node) -> set[Node]:
    """Return the terms of an addition that were computed from another term."""
    terms = [term for term, _ in addition.next_functions if term is not None]
    branches = set()
    for end in terms:
        steps = upstream(end) - {end}
        if not steps.isdisjoint(terms):
            branches.add(end)
    return branches


def scale_branches(network: nn.Module, layers: Sequence[str], factor: float) -> None:
    """Multiply the gradient of these layers' outputs by a factor; their values stay.

    The output of a residual branch is more specific to the network than its shortcut. A gradient that passes through
    the shortcuts more than through the branches transfers better (skip gradient method: Wu et al. 2020, "Skip
    Connections Matter", arXiv:2002.05990).
    """
    for name in layers:
        network.get_submodule(name).register_forward_hook(_ScaledGradient(factor))


class _ScaledGradient:
    """Forward hook; a module would add a layer with a name of its own, and a closure could not be copied."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * self.factor)  # type: ignore[no-untyped-call]
