"""The fast copy compiled by ``torch.compile``."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

#: Modes of ``torch.compile``. ``reduce-overhead`` and ``max-autotune`` replay CUDA graphs.
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class Compiled:
    """A network, in eval mode and frozen, compiled once for an image size and any batch size."""

    def __init__(self, network: nn.Module, mode: CompileMode) -> None:
        # A graph may be used for several backwards, so its saved tensors can't be reused. The setting is read in every
        # backward and belongs to a thread (to the process in older versions of torch).
        torch._functorch.config.donated_buffer = False
        self._call: Any = torch.compile(network, mode=mode)

    def __call__(self, x: Tensor) -> Any:
        """Return the network's output for normalized images ``(N, C, H, W)``."""
        rows = torch.cat([x, x]) if len(x) == 1 else x  # torch specializes on a batch of one
        torch._dynamo.maybe_mark_dynamic(rows, 0)
        output = self._call(rows)
        # Cloned, because CUDA graphs write the next output to the same memory.
        return torch.utils._pytree.tree_map_only(Tensor, lambda leaf: leaf[: len(x)].clone(), output)
