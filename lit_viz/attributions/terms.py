"""What a run records of the terms of a saliency map, so that the map can be verified without computing it again.

A map that is a mean of images has terms ``(C, H, W)``, of which :data:`PROJECTIONS` are recorded: their dot products
with four fixed vectors of signs. The projections of a weighted sum are the weighted sum of the projections. A map
that is computed from scores of changed images has these :data:`SCORES` as terms.

The record is an entry of the state with a row per evaluation. A state without it, as outside of a run, records nothing.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from lit_viz.optim import State
from lit_viz.rng import Key, generator_for

#: Keys of the state: dot products ``(N, evaluations, 4)`` of images, and scores ``(N, evaluations)``.
PROJECTIONS, SCORES = "projections", "scores"
#: Shape of the record of a term.
TERM_SHAPES: dict[str, tuple[int, ...]] = {PROJECTIONS: (4,), SCORES: ()}


def empty_record(key: str, x: Tensor, evaluations: int) -> State:
    """Return the entry of the state of images ``x`` ``(N, ...)`` for this number of evaluations."""
    return {key: x.new_zeros(len(x), evaluations, *TERM_SHAPES[key])}


def record_images(state: State, slots: Tensor, numbers: Tensor, terms: Tensor) -> None:
    """Record terms ``(M, ...)`` of the evaluations ``numbers`` ``(M,)`` of these slots ``(M,)``, in place."""
    if PROJECTIONS in state:
        _record(state, PROJECTIONS, slots, numbers, projections(terms))


def record_scores(state: State, slots: Tensor, numbers: Tensor, scores: Tensor) -> None:
    """Record the scores ``(M,)`` of the evaluations ``numbers`` ``(M,)`` of these slots ``(M,)``, in place."""
    if SCORES in state:
        _record(state, SCORES, slots, numbers, scores)


def _record(state: State, key: str, slots: Tensor, numbers: Tensor, values: Tensor) -> None:
    state[key] = state[key].index_put((slots, numbers), values.to(state[key]))


def projections(images: Tensor) -> Tensor:
    """Return the dot products ``(M, 4)`` of images ``(M, ...)`` with the vectors of signs.

    Their root mean square is an unbiased estimate of the images' Euclidean norm.
    """
    rows = images.flatten(1)
    signs = _signs(rows.shape[1], rows.device, rows.dtype)
    return torch.stack([signs.mv(row) for row in rows])  # one by one: a product of matrices rounds by their size


@lru_cache(maxsize=8)
def _signs(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return four fixed vectors of independent random signs, ``(4, count)``."""
    shape = (count, *TERM_SHAPES[PROJECTIONS])
    drawn = torch.randint(2, shape, generator=generator_for(Key(0, 0), "signs"))
    return (2 * drawn - 1).T.contiguous().to(device, dtype)
