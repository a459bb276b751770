"""Scaling of gradients through float16 networks."""

from __future__ import annotations

import torch
from torch import Tensor


class GradientScaling:
    """Scales the gradient of each image through a float16 network, so that small values do not underflow.

    As loss scaling in mixed precision (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2), but with a power of
    two per image, computed from the gradient of its logits. The rows of a network in eval mode are independent.

    Args:
        active: whether gradients are scaled; the images and logits are returned as they are otherwise.
    """

    def __init__(self, active: bool) -> None:
        self.active = active
        self._factor = torch.ones(())  # (N,), set at the start of each backward and divided out at its end

    def input(self, x: Tensor) -> Tensor:
        """Return images ``(N, ...)`` at which a backward divides the factor out."""
        if not self.active:
            return x
        x = x.view_as(x)
        if x.requires_grad:
            x.register_hook(self._unscaled)  # type: ignore[no-untyped-call]
        return x

    def output(self, logits: Tensor) -> Tensor:
        """Return float32 logits ``(N, K)`` at which a backward multiplies its gradient by the factor."""
        if self.active and logits.requires_grad:
            logits.register_hook(self._scaled)  # type: ignore[no-untyped-call]
        return logits

    def _unscaled(self, gradient: Tensor) -> Tensor:
        return gradient / self._factor.view(-1, *[1] * (gradient.ndim - 1))

    def _scaled(self, gradient: Tensor) -> Tensor:
        largest = gradient.flatten(1).abs().amax(1)
        normal = (largest > 0) & largest.isfinite()
        exponents = torch.frexp(torch.where(normal, largest, 1)).exponent
        powers = (1 - exponents).clamp(max=126)  # scales the largest value to [1, 2), except subnormal numbers
        self._factor = torch.ldexp(torch.ones_like(largest), powers)
        return gradient * self._factor[:, None]
