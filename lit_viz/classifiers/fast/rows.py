"""Row-sparse backward: skip the rows of a batch whose gradient is zero.

All images of a batch share a forward, but a score may read only some of them, and torch's backward computes every row.
The fast convolutions and rectifiers detect zero rows, compute the other rows and pass their indices on. They also mark
gradients that no other operation reads, so that the next step writes its result into the same memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_FRACTION: ContextVar[float] = ContextVar("fraction", default=1.0)  # of the rows that the score reads
_ROWS = "_lit_viz_rows"  # attribute of a gradient: its version and the result of nonzero_rows()
_EXCLUSIVE = "_lit_viz_exclusive"  # attribute of a gradient that may be overwritten

#: Row indices ``(R,)`` and the gradient's rows ``(R, C, H, W)``.
Rows = tuple[Tensor, Tensor]


@contextmanager
def sparse_backward(rows: Tensor | None) -> Iterator[None]:
    """Allow backwards in the body to skip zero rows.

    Detecting zero rows costs a pass over each gradient, so it is limited to scores that read few rows, on CPUs.

    Args:
        rows: bool ``(N,)``, the rows that the score reads; None for all.
    """
    fraction = float(rows.double().mean()) if rows is not None and rows.is_cpu else 1.0
    token = _FRACTION.set(fraction)
    try:
        yield
    finally:
        _FRACTION.reset(token)


def record_source(ctx: Any, x: Tensor, sole_reader: bool) -> None:
    """Record in a forward whether its input is the direct output of another row-sparse function.

    The gradient with respect to such an input is a new tensor that only that function reads, since torch sums gradients
    into new tensors. A function in between, such as the copy of a layer that is read, breaks this.

    Args:
        ctx: context of an autograd function with the attribute ``row_sparse``.
        x: input of the forward.
        sole_reader: whether no other operation reads ``x``.
    """
    ctx.direct = hasattr(getattr(x.grad_fn, "_forward_cls", None), "row_sparse")
    ctx.sole_reader = sole_reader and ctx.direct


def mark_exclusive(ctx: Any, gradient: Tensor) -> Tensor:
    """Mark a backward's result as exclusive to the preceding function, if it is; return it."""
    if ctx.direct and not torch.is_grad_enabled():
        setattr(gradient, _EXCLUSIVE, True)
    return gradient


def pop_exclusive(gradient: Tensor) -> bool:
    """Remove the mark of an exclusive gradient; return whether it was set."""
    return bool(gradient.__dict__.pop(_EXCLUSIVE, False))


def nonzero_rows(gradient: Tensor, threshold: float) -> Rows | None:
    """Return the rows of a gradient that are not zero; None for all rows.

    The rows are detected rather than passed in, because a network may reorder or multiply the rows of its batch.

    Args:
        gradient: ``(N, C, H, W)``.
        threshold: largest fraction of rows read by the score at which zero rows are detected.
    """
    recorded = pop_recorded_rows(gradient)
    if recorded is not None:
        return recorded
    if _FRACTION.get() > threshold or torch.is_grad_enabled():
        return None
    inner = tuple(range(1, gradient.ndim))
    zero = (gradient.amax(inner) == 0) & (gradient.amin(inner) == 0)  # false for NaN
    if not bool(zero.any()):
        return None
    rows = (~zero).nonzero()[:, 0]
    return rows, select_rows(gradient, rows)


def pop_recorded_rows(gradient: Tensor) -> Rows | None:
    """Remove and return the rows recorded by :func:`scatter_rows`; None if the gradient was changed since."""
    version, rows = gradient.__dict__.pop(_ROWS, (None, None))
    return rows if version == gradient._version else None


def runs(rows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield consecutive row indices as slices of ``rows`` and of the whole batch, which index without a copy."""
    indices = rows.tolist()
    start = 0
    for stop in range(1, len(indices) + 1):
        if stop == len(indices) or indices[stop] != indices[stop - 1] + 1:
            yield slice(start, stop), slice(indices[start], indices[stop - 1] + 1)
            start = stop


def select_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Return ``x[rows]`` of ``(N, C, H, W)``, channels-last."""
    return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def scatter_rows(x: Tensor, rows: Tensor, count: int, *, placeholder: bool = False) -> Tensor:
    """Return a gradient ``(count, C, H, W)`` with the rows of ``x`` at the indices ``rows`` and zeros elsewhere.

    The rows are recorded for the preceding function.

    Args:
        x: ``(R, C, H, W)``.
        rows: indices ``(R,)``.
        count: N of the result.
        placeholder: return a tensor without values, for a preceding function that reads the recorded rows only.
    """
    if placeholder:
        whole = x.new_full((), torch.nan).expand(count, *x.shape[1:])
    else:
        inner = x.permute(0, 2, 3, 1)
        whole = inner.new_zeros(count, *inner.shape[1:]).index_copy_(0, rows, inner).permute(0, 3, 1, 2)
    setattr(whole, _ROWS, (whole._version, (rows, x)))
    return whole
