"""Rows of a batch that want no gradient, left out of the backward of the fast copy's convolutions.

Whether an image wants a slope shows in its forward, which it shares with the others of its batch; torch's backward is
of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_FEWER: ContextVar[bool] = ContextVar("fewer", default=False)
_KNOWN = "_lit_viz_rows"  # of a gradient, its version and what rows_of() returns


@contextmanager
def of_rows(rows: Tensor | None) -> Iterator[None]:
    """Let backwards in the body, of a score that reads ``rows`` ``(N,)`` bool alone, look for what is zero.

    It costs a pass over each gradient, so they don't where the score reads all rows (also: None). Backwards on a GPU
    never do: their threads don't hear of it.
    """
    token = _FEWER.set(rows is not None and rows.is_cpu and not bool(rows.all()))
    try:
        yield
    finally:
        _FEWER.reset(token)


def rows_of(gradient: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the indices of the rows that aren't zero, and these rows; None for all, or where nobody has said that some
    are zero.

    Without being told which: a network may give the rows of its batch another order, or more images than one, inside.
    Where the gradient comes straight from :func:`spread`, to which nobody has added since, they are known.
    """
    version, known = gradient.__dict__.pop(_KNOWN, (None, None))
    if version == gradient._version:
        return known  # type: ignore[no-any-return]
    if not _FEWER.get() or torch.is_grad_enabled():
        return None
    inner = tuple(range(1, gradient.ndim))
    zero = (gradient.amax(inner) == 0) & (gradient.amin(inner) == 0)  # no number is not zero
    if not bool(zero.any()):
        return None
    rows = (~zero).nonzero()[:, 0]
    return rows, picked(gradient, rows)


def picked(x: Tensor, rows: Tensor) -> Tensor:
    """Return ``x[rows]``, channels-last; of ``(N, C, H, W)`` that is."""
    return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def spread(x: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return ``(count, C, H, W)`` that has the rows of ``x`` in the places ``rows``, and is zero elsewhere."""
    inner = x.permute(0, 2, 3, 1)
    whole = inner.new_zeros(count, *inner.shape[1:]).index_copy_(0, rows, inner).permute(0, 3, 1, 2)
    setattr(whole, _KNOWN, (whole._version, (rows, x)))
    return whole
