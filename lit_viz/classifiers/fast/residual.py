"""Residual branches, and how much of the gradient comes back through them.

What a residual block adds to its shortcut is particular to the network, so a gradient that comes back through the
shortcuts more than through the branches depends less on that one network (the skip gradient method: Wu et al. 2020,
"Skip Connections Matter", arXiv:2002.05990).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from lit_viz.classifiers.layers import layer_names
from lit_viz.classifiers.outputs import traced
from lit_viz.errors import LitVizError


def residual_branches(network: nn.Module, x: Tensor) -> list[str]:
    """Return the layers whose output is added to what it was computed from, by name, in the order of the forward.

    They are found in the graph of a forward, so it doesn't matter how the code adds. A block whose shortcut is computed
    as well (that changes the size) is none; nor is a layer that is called more than once.

    Args:
        network: in eval mode.
        x: any normalized input that it takes.
    """
    giver: dict[Node, str] = {}  # by the step of the graph; of several layers that pass a tensor on, the last
    calls: Counter[str] = Counter()

    def gave(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            calls[name] += 1
            if isinstance(output, Tensor) and output.grad_fn is not None:
                giver[output.grad_fn] = name

        return hook

    handles = [network.get_submodule(name).register_forward_hook(gave(name)) for name in layer_names(network)]
    try:
        _, logits = traced(network, x)
    finally:
        for handle in handles:
            handle.remove()
    sums = [node for node in _upstream(logits.grad_fn) if type(node).__name__ == "AddBackward0"]
    ends = {end for node in sums for end in _branches(node)}
    return [name for node, name in giver.items() if node in ends and calls[name] == 1]


def check_residual_gradient(part: float) -> float:
    """Return the factor of :func:`damp` if it is one.

    Raises:
        LitVizError: it isn't above 0 and at most 1.
    """
    if not 0 < part <= 1:
        raise LitVizError(f"residual_gradient {part} is no part of a gradient: give a number above 0, up to 1.")
    return part


def damp(network: nn.Module, layers: Sequence[str], factor: float) -> None:
    """Let the gradient by the output of these layers come back multiplied by ``factor``; what is computed stays.

    Args:
        network: a private copy.
        layers: by name.
        factor: 1 is the gradient itself.
    """
    for name in layers:
        network.get_submodule(name).register_forward_hook(_Damped(factor))


class _Damped:
    """A hook, for a module of its own would be a further layer with a name."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(self._damped)  # type: ignore[no-untyped-call]

    def _damped(self, gradient: Tensor) -> Tensor:
        return gradient * self.factor


def _branches(node: Node) -> list[Node]:
    """Return the terms of a sum that were computed from another term of it."""
    terms = [term for term, _ in node.next_functions if term is not None]
    return [term for term in terms if any(other is not term and other in _upstream(term) for other in terms)]


def _upstream(node: Node | None) -> set[Node]:
    """Return a step of the graph, and all before it."""
    found: set[Node] = set()
    waiting = [node]
    while waiting:
        if (node := waiting.pop()) is not None and node not in found:
            found.add(node)
            waiting += [before for before, _ in node.next_functions]
    return found
