"""Which layer feeds which, found by watching a forward instead of tracing the code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class Link(NamedTuple):
    """``taker`` (a layer's name) takes the very tensor that ``giver`` gave, and nothing else uses it."""

    giver: str
    taker: str


class _Uses(TorchFunctionMode):
    """Counts how often a tensor, before it is changed in place, is used by a function that computes something."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[tuple[int, int]] = Counter()  # by identity and version

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        used = [_state(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # so that reading a shape is no use
            self.of.update(used)
        return result


def _state(tensor: Tensor) -> tuple[int, int]:
    return id(tensor), tensor._version


def links(
    network: nn.Module, x: Tensor, givers: Callable[[nn.Module], bool], takers: Callable[[nn.Module], bool]
) -> tuple[list[Link], Counter[str]]:
    """Run ``network`` once on ``x`` and return the links from givers to takers, and how often each taker was called.

    A link is only reported where the giver is called once, its output reaches the taker unchanged (not altered in
    place, not even a view of it) and no other function is seen to use it. What can't be seen (scripted code) is left
    to the proof that follows every change made on this ground.
    """
    given: dict[tuple[int, int], tuple[str, Tensor]] = {}  # holds the tensors, so that no identity is used again
    gives: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    found: list[tuple[Link, tuple[int, int]]] = []

    def give(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            gives[name] += 1
            if isinstance(output, Tensor):
                given[_state(output)] = (name, output)
                uses.of[_state(output)] = 0  # what was counted belongs to a tensor of the past

        return hook

    def take(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            calls[name] += 1
            if args and isinstance(args[0], Tensor) and _state(args[0]) in given:
                found.append((Link(given[_state(args[0])][0], name), _state(args[0])))

        return hook

    handles = [m.register_forward_hook(give(name)) for name, m in network.named_modules() if givers(m)]
    handles += [m.register_forward_pre_hook(take(name)) for name, m in network.named_modules() if takers(m)]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), _Uses() as uses:  # what is compiled isn't seen
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return [link for link, state in found if gives[link.giver] == 1 and uses.of[state] == 1], calls
