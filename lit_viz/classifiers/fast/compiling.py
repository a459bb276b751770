"""A frozen network as ``torch.compile`` makes it: for GPUs, for which lit_viz has no kernels of its own."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

#: The modes of ``torch.compile``. Those that replay CUDA graphs are ``reduce-overhead`` and ``max-autotune``.
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class Compiled:
    """Calls a network that is compiled once for images of a size, however many they are.

    Args:
        network: in eval mode and frozen.
        mode: of ``torch.compile``; nothing is compiled before the first call.
    """

    def __init__(self, network: nn.Module, mode: CompileMode) -> None:
        # A graph may be gone back several times, so the memory of what it keeps is not used again on the way back. The
        # setting is read in every backward, and belongs to a thread (to the process in older torch).
        torch._functorch.config.donated_buffer = False
        self._call: Any = torch.compile(network, mode=mode)

    def __call__(self, x: Tensor) -> Any:
        """Return what the network gives for normalized images ``(N, C, H, W)``."""
        # Slots that empty make other batches. One row alone would be compiled apart.
        rows = torch.cat([x, x]) if len(x) == 1 else x
        torch._dynamo.maybe_mark_dynamic(rows, 0)
        output = self._call(rows)
        # CUDA graphs write the next result to the same place.
        return torch.utils._pytree.tree_map_only(Tensor, lambda leaf: leaf[: len(x)].clone(), output)


def mark_compiled_step() -> None:
    """Let CUDA graphs have the memory of the last step, whose graphs nobody will go back any more."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
