"""The moments of what a layer is given, channel by channel, without keeping what it is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def moments(x: Tensor) -> Tensor:
    """Return mean and biased variance ``(N, 2, C)`` over the places of ``x`` ``(N, C, ...)``; differentiable."""
    both: Tensor = _Moments.apply(x if x.ndim > 2 else x[..., None])  # type: ignore[no-untyped-call]
    return both


class _Moments(torch.autograd.Function):
    """Both at once, with the backward in one pass: ``torch.var_mean`` takes twenty times as long for channels-last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        places = tuple(range(2, x.ndim))
        mean = x.mean(places, keepdim=True)
        variance = (x - mean).square_().mean(places)
        ctx.save_for_backward(x, mean)
        return torch.stack([mean.flatten(1), variance], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        of_mean, of_variance = (gradient / x[0, 0].numel()).view(len(x), 2, *mean.shape[1:]).unbind(1)
        return torch.addcmul(of_mean - 2 * of_variance * mean, x, 2 * of_variance)
