"""Gradients of batch norms for a batch of one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_BATCH_NORMS = (functional.batch_norm, torch.batch_norm)


class LaidOutGradients(TorchFunctionMode):
    """Give the gradient of a batch norm's output the layout of the output, in the forward of the body.

    On a CPU, torch 2.13 reads the gradient of a batch of one in the layout of the output, whatever its own is. Without
    this mode the gradient of ``batch_norm(x).flatten(2).transpose(1, 2)`` for one image is wrong.

    Attributes:
        was_needed: whether a gradient had another layout than its output.
    """

    def __init__(self) -> None:
        super().__init__()
        self.was_needed = False

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _BATCH_NORMS and len(result) == 1 and result.requires_grad:
            result.register_hook(partial(self._laid_out, result.stride()))
        return result

    def _laid_out(self, strides: tuple[int, ...], gradient: Tensor) -> Tensor:
        if gradient.stride() == strides:
            return gradient
        self.was_needed = True
        laid_out = torch.empty_strided(gradient.shape, strides, dtype=gradient.dtype, device=gradient.device)
        return laid_out.copy_(gradient)
