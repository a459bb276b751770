"""Rows of a batch that want no gradient, left out of the backward of the fast copy's convolutions.

Whether an image wants a slope shows in its forward, which it shares with the others of its batch; torch's backward is
of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_WANTED: ContextVar[float] = ContextVar("wanted", default=1.0)  # of the rows
_AGAIN: ContextVar[bool] = ContextVar("again", default=False)
_KNOWN = "_lit_viz_rows"  # of a gradient, its version and what rows_of() returns


@contextmanager
def of_rows(rows: Tensor | None, *, again: bool = False) -> Iterator[None]:
    """Let backwards in the body, of a score that reads ``rows`` ``(N,)`` bool alone, look for what is zero.

    It costs a pass over each gradient, so they don't where the score reads most rows (also: None), nor on a GPU.

    Args:
        rows: that are read.
        again: whether the same graph is gone back once more afterwards.
    """
    wanted = float(rows.double().mean()) if rows is not None and rows.is_cpu else 1.0
    tokens = _WANTED.set(wanted), _AGAIN.set(again)
    try:
        yield
    finally:
        _WANTED.reset(tokens[0])
        _AGAIN.reset(tokens[1])


def rows_of(gradient: Tensor, few: float) -> tuple[Tensor, Tensor] | None:
    """Return the indices of the rows that aren't zero, and these rows; None for all, or where nobody has said that they
    are ``few``, a part of all.

    Without being told which: a network may give the rows of its batch another order, or more images than one, inside.
    Where the gradient comes straight from :func:`spread`, to which nobody has added since, they are known.
    """
    version, known = gradient.__dict__.pop(_KNOWN, (None, None))
    if version == gradient._version:
        return known  # type: ignore[no-any-return]
    if _WANTED.get() > few or torch.is_grad_enabled():
        return None
    inner = tuple(range(1, gradient.ndim))
    zero = (gradient.amax(inner) == 0) & (gradient.amin(inner) == 0)  # no number is not zero
    if not bool(zero.any()):
        return None
    rows = (~zero).nonzero()[:, 0]
    return rows, picked(gradient, rows)


def activated_rows(ctx: Any, activated: Sequence[Tensor], rows: Tensor) -> Sequence[Tensor]:
    """Return the rows of what a step's forward gave, which are kept in ``ctx`` where it is gone back again."""
    known, parts = getattr(ctx, "parts", (None, ()))
    if known is not None and torch.equal(known, rows):
        return parts
    parts = [picked(y, rows) for y in activated]
    if _AGAIN.get():
        ctx.parts = rows, parts
    return parts


def picked(x: Tensor, rows: Tensor) -> Tensor:
    """Return ``x[rows]``, channels-last; of ``(N, C, H, W)`` that is."""
    return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def spread(x: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return ``(count, C, H, W)`` that has the rows of ``x`` in the places ``rows``, and is zero elsewhere."""
    inner = x.permute(0, 2, 3, 1)
    whole = inner.new_zeros(count, *inner.shape[1:]).index_copy_(0, rows, inner).permute(0, 3, 1, 2)
    return _known(whole, x, rows)


def carried(x: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return what stands for ``spread(x, rows, count)`` where nothing but :func:`rows_of` looks at it: it holds no
    numbers."""
    return _known(x.new_full((), torch.nan).expand(count, *x.shape[1:]), x, rows)


def _known(whole: Tensor, x: Tensor, rows: Tensor) -> Tensor:
    setattr(whole, _KNOWN, (whole._version, (rows, x)))
    return whole
