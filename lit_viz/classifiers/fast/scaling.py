"""Gradients through a network in float16, whose least number is 6e-8: each image's is scaled on its way back, so that
what is small (that of a cross-entropy near its end) is not lost.

As the loss scaling of mixed precision (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2), but by a power of two
an image, which the gradient by its logits tells: the rows of a network in eval mode don't meet.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Scale:
    """By what the rows of the present backward are multiplied: known where it begins, asked for where it ends."""

    def __init__(self) -> None:
        self.factor = torch.ones(())

    def lowered(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return images ``(N, ...)`` in half precision, where a backward ends."""
        lowered: Tensor = _Lowered.apply(x, self, dtype)  # type: ignore[no-untyped-call]
        return lowered

    def raised(self, logits: Tensor) -> Tensor:
        """Return logits ``(N, K)``, which may be in float32 already, in float32, where a backward begins."""
        raised: Tensor = _Raised.apply(logits, self)  # type: ignore[no-untyped-call]
        return raised


class _Lowered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Scale, dtype: torch.dtype) -> Tensor:
        ctx.scale, ctx.dtype = scale, x.dtype
        return x.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        factor = ctx.scale.factor.view(-1, *[1] * (gradient.ndim - 1))
        return gradient.to(ctx.dtype) / factor.to(ctx.dtype), None, None


class _Raised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, scale: Scale) -> Tensor:
        ctx.scale, ctx.dtype = scale, logits.dtype
        return logits.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        largest = gradient.flatten(1).abs().amax(1)
        usual = (largest > 0) & largest.isfinite()
        exponents = torch.frexp(torch.where(usual, largest, 1)).exponent
        powers = (1 - exponents).clamp(max=126)  # the largest is 1 to 2 then, unless it is next to nothing
        ctx.scale.factor = torch.ldexp(torch.ones_like(largest), powers)
        return (gradient * ctx.scale.factor[:, None]).to(ctx.dtype), None
