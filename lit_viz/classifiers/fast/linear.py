"""The linear layer of the fast copy: oneDNN's, which gives a row the same numbers in every batch.

A matrix product of the default library sums in another order for one row, or three, than for sixteen, and on some
processors takes twice as long.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.classifiers.fast.kernels import computable


class FastLinear(nn.Linear):
    """Computes ``x @ weight.T + bias``; it takes over the attributes of ``linear``."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(linear.__dict__)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., out_features)``."""
        if x.dim() < 2 or not computable(x):
            return super().forward(x)
        return _linear(x.flatten(0, -2), self.weight, self.bias).view(*x.shape[:-1], -1)


def replace_linears(network: nn.Module) -> int:
    """Replace the linear layers of ``network``, a private copy in eval mode; return how many."""
    found = [(n, m) for n, m in network.named_modules() if n and type(m) is nn.Linear]
    for name, linear in found:
        network.set_submodule(name, FastLinear(linear))
    return len(found)


class _Linear(torch.autograd.Function):
    """Differentiable in ``x`` alone, any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _linear(gradient, ctx.weight.t(), None), None, None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        return _Linear.apply(x, weight, bias)  # type: ignore[no-any-return, no-untyped-call]
    return _product(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x @ weight.T + bias`` of rows ``(N, D)``; a single one is multiplied twice, for alone it takes another
    kernel than in a batch."""
    rows = x.expand(2, -1) if len(x) == 1 else x
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], None)[: len(x)]  # type: ignore[no-any-return]
