"""Transfers between the CPU and the device of a tensor, with few synchronizations.

A GPU executes a queue of operations. Reading a value, or a blocking copy, waits for the whole queue. Values that were
read, or copied to the device, are therefore cached on the tensor, and copies to the device are non-blocking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Attributes of a tensor: its version, and its values or its copy on the CPU.
_LIST, _CPU_COPY = "_lit_viz_list", "_lit_viz_cpu_copy"
_MAX_CACHED = 1 << 12  # values of a tensor that are cached when it is copied to a device


def to_list(tensor: Tensor) -> list[Any]:
    """Return the values of a tensor as nested lists, cached until the tensor is modified.

    Changes through ``.data`` are not counted by torch and not detected. Callers must not modify nested lists.
    """
    values: list[Any] | None = _cached(tensor, _LIST)
    if values is None:
        values = _cache(tensor, _LIST, tensor.tolist())
    return list(values)


def to_cpu(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU; the copy is cached until the tensor is modified."""
    if tensor.is_cpu:
        return tensor
    copy: Tensor | None = _cached(tensor, _CPU_COPY)
    if copy is None:
        copy = _cache(tensor, _CPU_COPY, tensor.cpu())
    return copy


def to_device(values: Tensor | Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy numbers, or a CPU tensor, to a device without blocking; small tensors cache their values."""
    source = values.to(dtype or values.dtype) if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)
    copy = source.to(device, non_blocking=True)
    if copy is not source and source.dim() and source.numel() <= _MAX_CACHED:
        _cache(copy, _LIST, source.tolist())
    return copy


def rows_equal(values: Tensor, value: Any) -> Tensor:
    """Return the rows ``(M,)`` int64 at which ``values`` ``(N,)`` is equal to a value.

    Cached values are compared on the CPU, so that no result is waited for, unlike with ``nonzero``.
    """
    rows = [row for row, item in enumerate(to_list(values)) if item == value]
    return to_device(rows, values.device, torch.long)


#: Index of a class or channel that there is not, in tensors.
NO_INDEX = -1


def index_or_none(index: int | None) -> int:
    """Return an index for a tensor: ``NO_INDEX`` for None."""
    return NO_INDEX if index is None else index


def _cached(tensor: Tensor, attribute: str) -> Any:
    if tensor.is_inference():  # inference tensors have no version
        return None
    version, value = tensor.__dict__.get(attribute, (None, None))
    if version == tensor._version:
        return value
    return None


def _cache(tensor: Tensor, attribute: str, value: Any) -> Any:
    if not tensor.is_inference():
        setattr(tensor, attribute, (tensor._version, value))
    return value
