"""What the fast copy's convolutions and rectifiers tell each other on the way back: which rows of a batch want no
gradient, and that nobody else gets a tensor.

Whether an image wants a slope shows in its forward, which it shares with the others of its batch; torch's backward is
of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_WANTED: ContextVar[float] = ContextVar("wanted", default=1.0)  # of the rows
_KNOWN = "_lit_viz_rows"  # of a gradient, its version and what rows_of() returns
_OURS = "_lit_viz_ours"  # marks a gradient that the step before may write over: nobody else gets it


def begin(ctx: Any, x: Tensor, alone: bool) -> None:
    """Note in a forward where its ``x`` comes from.

    Where it comes straight from another step of ours, the gradient by it is a new tensor that goes there alone (any sum
    on the way is a new one, or ours as well), so that this may write over it. A step between the two, as the copy of a
    layer that is read, breaks that.

    Args:
        ctx: of an autograd function that has ``takes_rows``.
        x: what the forward is given.
        alone: whether nothing else takes ``x`` (see :func:`~lit_viz.classifiers.fast.convolution.find_chains`).
    """
    ctx.straight = hasattr(getattr(x.grad_fn, "_forward_cls", None), "takes_rows")
    ctx.alone = alone and ctx.straight


def end(ctx: Any, gradient: Tensor) -> Tensor:
    """Return a backward's result, marked as the step before's own where it is."""
    if ctx.straight and not torch.is_grad_enabled():
        setattr(gradient, _OURS, True)
    return gradient


def is_ours(gradient: Tensor) -> bool:
    """Return whether a backward may write over the gradient that it is given; asked once."""
    return bool(gradient.__dict__.pop(_OURS, False))


@contextmanager
def sparse_backward(rows: Tensor | None) -> Iterator[None]:
    """Let backwards in the body, of a score that reads ``rows`` ``(N,)`` bool alone, look for what is zero.

    It costs a pass over each gradient, so they don't where the score reads most rows (also: None), nor on a GPU.

    Args:
        rows: that are read.
    """
    wanted = float(rows.double().mean()) if rows is not None and rows.is_cpu else 1.0
    token = _WANTED.set(wanted)
    try:
        yield
    finally:
        _WANTED.reset(token)


def rows_of(gradient: Tensor, few: float) -> tuple[Tensor, Tensor] | None:
    """Return the indices of the rows that aren't zero, and these rows; None for all, or where nobody has said that they
    are ``few``, a part of all.

    Without being told which: a network may give the rows of its batch another order, or more images than one, inside.
    Where the gradient comes straight from :func:`spread`, to which nobody has added since, they are known.
    """
    known = known_rows(gradient)
    if known is not None:
        return known
    if _WANTED.get() > few or torch.is_grad_enabled():
        return None
    inner = tuple(range(1, gradient.ndim))
    zero = (gradient.amax(inner) == 0) & (gradient.amin(inner) == 0)  # no number is not zero
    if not bool(zero.any()):
        return None
    rows = (~zero).nonzero()[:, 0]
    return rows, picked(gradient, rows)


def known_rows(gradient: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return what :func:`rows_of` does where it needn't look; asked once."""
    version, known = gradient.__dict__.pop(_KNOWN, (None, None))
    return known if version == gradient._version else None


def runs(rows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the rows that follow each other, as slices of the rows and of the whole batch: views of both, where
    :func:`picked` copies."""
    indices = rows.tolist()
    begin = 0
    for end in range(1, len(indices) + 1):
        if end == len(indices) or indices[end] != indices[end - 1] + 1:
            yield slice(begin, end), slice(indices[begin], indices[end - 1] + 1)
            begin = end


def picked(x: Tensor, rows: Tensor) -> Tensor:
    """Return ``x[rows]``, channels-last; of ``(N, C, H, W)`` that is."""
    return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def put_back(ctx: Any, x: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return a gradient of ``count`` rows of which ``x`` are those in the places ``rows``."""
    return (carried if ctx.alone else spread)(x, rows, count)


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
