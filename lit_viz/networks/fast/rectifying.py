"""Backward of the rectifiers that a network computes by functions of torch, such as ``functional.relu``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lit_viz.networks.fast.backward import Activation, Backprop, rectify
from lit_viz.networks.fast.frozen import FrozenNetwork, RuledNetwork

#: Functions that rectify, and the largest value that they return.
_TOPS: Mapping[Callable[..., Any], float] = {
    functional.relu: math.inf,
    torch.relu: math.inf,
    torch.relu_: math.inf,
    Tensor.relu: math.inf,
    Tensor.relu_: math.inf,
    functional.relu6: 6.0,
}
_IN_PLACE = (torch.relu_, Tensor.relu_)


class RectifiedNetwork(RuledNetwork):
    """A frozen network whose rectifying functions have another backward."""

    def __init__(self, network: FrozenNetwork, backprop: Backprop) -> None:
        super().__init__(network)
        self._backprop: Backprop = backprop

    def forward(self, x: Tensor, layers: Sequence[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits and activations of :meth:`FrozenNetwork.forward`, with the backward of the rule."""
        with Rectifying(self._backprop):
            return super().forward(x, layers)


class Rectifying(TorchFunctionMode):
    """Give the functions that rectify another backward, in the body.

    A function that changes a view in place keeps its own, which torch's graph shows.

    Attributes:
        is_used: whether a function has been given it.
    """

    def __init__(self, backprop: Backprop) -> None:
        super().__init__()
        self.is_used = False
        self._backprop = backprop

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        top = _TOPS.get(func)
        if top is None or not args or not torch.is_grad_enabled() or not args[0].requires_grad:
            return func(*args, **options)
        x: Tensor = args[0]
        in_place = func in _IN_PLACE or bool(options.get("inplace"))
        if in_place and x._is_view():
            return func(*args, **options)
        self.is_used = True
        return rectify(x, Activation(top, self._backprop), in_place)
