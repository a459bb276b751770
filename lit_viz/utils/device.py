"""Numbers on their way between the processor and the device of a tensor.

A GPU works off a queue. Who reads a number waits until all is done that was asked for before, and so does who copies
one there in the usual way, and meanwhile nothing new is asked for. So what is read is read at once and kept, nobody
waits for what is sent, and what was sent needn't be read back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_LISTED = "_lit_viz_listed"  # of a tensor, its version and its values
_FETCHED = "_lit_viz_fetched"  # of a tensor, its version and its copy
_FEW = 1 << 12  # values of a tensor that is sent, which are kept


def to_list(tensor: Tensor) -> list[Any]:
    """Return a tensor's values as plain numbers, nested as it has dimensions; read once, until it is changed, but for
    changes through ``.data``, which torch doesn't count. Nested lists belong to all who ask: don't change them."""
    version, values = tensor.__dict__.get(_LISTED, (None, ()))
    if tensor.is_inference() or version != tensor._version:  # changes in that mode are not counted
        values = tensor.tolist()
        _keep(tensor, values)
    return list(values)


def to_cpu(tensor: Tensor) -> Tensor:
    """Return a tensor on the processor; copied once, until it is changed."""
    if tensor.is_cpu:
        return tensor
    version, here = tensor.__dict__.get(_FETCHED, (None, None))
    if tensor.is_inference() or not isinstance(here, Tensor) or version != tensor._version:
        here = tensor.cpu()
        if not tensor.is_inference():
            setattr(tensor, _FETCHED, (tensor._version, here))
    return here


def to_device(values: Tensor | Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return plain numbers, or a tensor of the processor, on a device; nobody waits for it."""
    here = values.to(dtype or values.dtype) if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)
    there = here.to(device, non_blocking=True)
    if there is not here and here.dim() and here.numel() <= _FEW:
        _keep(there, here.tolist())
    return there


def _keep(tensor: Tensor, values: list[Any]) -> None:
    if not tensor.is_inference():
        setattr(tensor, _LISTED, (tensor._version, values))
