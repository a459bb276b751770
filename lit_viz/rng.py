"""Stateless randomness: every draw is keyed by (task seed, iteration, view, purpose) and by nothing else.

So a draw does not depend on the slot, batch, rank, device or global random state, a resumed run needs no random state
in its checkpoint, and one task can be run again alone.

Small draws (angles, shifts, colours) are a counter-based hash of the key, for all rows at once: reseeding a generator
for each of them would cost more than the transforms they serve. Large ones come from a generator seeded by that hash.
Noise for images is read from one fixed table at a keyed place (:meth:`Draws.noise`).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_viz.utils.device import to_device

_Words = npt.NDArray[np.uint64]
_Fill = Callable[[Tensor, torch.Generator], Tensor]

_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SMALL = 64  # values a row; above it a generator is faster than the hash
_ALONE = 1 << 16  # values of a batch; above it several threads draw
_TABLE = 1 << 22  # standard normals in the noise table: 16 MiB, 28 images of (3, 224, 224)


class Key(NamedTuple):
    """Who draws: the task's seed, the image's own iteration, and the view (0 <= view < views of the task)."""

    seed: int
    iteration: int
    view: int = 0


def generator_for(key: Key, purpose: str) -> torch.Generator:
    """Return a CPU generator that is a pure function of ``key`` and ``purpose``.

    A CPU generator of torch keeps 32 bits of its seed: of a million large draws about a hundred pairs coincide.
    """
    word = int(_hash_keys([key], purpose)[0])
    return torch.Generator().manual_seed(word >> 32)


@dataclass(frozen=True)
class Draws:
    """The draws of a batch: row m of every returned tensor belongs to ``keys[m]`` alone.

    Purposes and scopes are frozen strings, never derived from the names of functions or of the package's classes:
    another string means other draws, and results that were recorded before can't be reproduced.

    Args:
        keys: one key for each of the M rows of the batch.
        device: where the drawn tensors are wanted.
        scope: prefix of the purposes, so that two transforms of one kind draw differently (see :meth:`scoped`).
        last_iterations: ``(M,)``, last iteration of the image of each row; read by :attr:`progress` only.
    """

    keys: Sequence[Key]
    device: torch.device = torch.device("cpu")
    scope: str = ""
    last_iterations: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def scoped(self, name: str) -> Draws:
        """Return the same draws under a further prefix."""
        return replace(self, scope=f"{self.scope}{name}/")

    def rows(self, indices: Sequence[int]) -> Draws:
        """Return the draws of some of the rows."""
        last_iterations = [self.last_iterations[index] for index in indices] if self.last_iterations else ()
        return replace(self, keys=[self.keys[index] for index in indices], last_iterations=last_iterations)

    @property
    def progress(self) -> Tensor:
        """How far the image of each row is, float64 ``(M,)``: 0 at its start, 1 at its last iteration."""
        if len(self.last_iterations) != len(self.keys):
            raise RuntimeError("these draws don't know the last iterations of their images: give lasts")
        parts = [key.iteration / max(last, 1) for key, last in zip(self.keys, self.last_iterations, strict=True)]
        return torch.tensor(parts, dtype=torch.float64)

    def uniform(self, purpose: str, low: float = 0.0, high: float = 1.0, shape: Sequence[int] = ()) -> Tensor:
        """Return float32 ``(M, *shape)``, uniform in [low, high]."""
        if math.prod(shape) > _SMALL:
            return self._filled(purpose, shape, lambda row, generator: row.uniform_(low, high, generator=generator))
        unit = _to_unit(self._words(purpose, math.prod(shape)))
        return self._tensor((low + (high - low) * unit).astype(np.float32), shape)

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """Return float32 ``(M, *shape)``, standard normal."""
        count = math.prod(shape)
        if count > _SMALL:
            return self._filled(purpose, shape, lambda row, generator: row.normal_(generator=generator))
        unit = _to_unit(self._words(purpose, 2 * count))
        # Box-Muller; 1 - u lies in (0, 1], where the logarithm is finite.
        drawn = np.sqrt(-2 * np.log1p(-unit[:, :count])) * np.cos(2 * np.pi * unit[:, count:])
        return self._tensor(drawn.astype(np.float32), shape)

    def integers(self, purpose: str, low: int, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Return int64 ``(M, *shape)``, uniform in [low, high] (both ends included; at most 2**32 values)."""
        words = self._words(purpose, math.prod(shape)) >> np.uint64(32)
        return self._tensor(low + ((words * np.uint64(high - low + 1)) >> np.uint64(32)).astype(np.int64), shape)

    def noise(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Return float32 ``(M, *shape)``, standard normal noise that costs no more than a copy.

        Each row is a stretch of one fixed table of 4 million standard normals, from a keyed place, at a tenth of the
        cost of :meth:`normal`. Given the table rows are independent, so a mean over them converges; what it converges
        to is off by the table's own sampling error, that of a mean over millions of rows. Two rows may share numbers,
        never at the same pixel unless they begin at the same place (one pair in four million).
        """
        count = math.prod(shape)
        if 4 * count > _TABLE:
            return self.normal(purpose, shape)
        table = _noise_table(self.device)
        starts = replace(self, device=torch.device("cpu")).integers(purpose, 0, _TABLE - count).tolist()
        out = torch.empty(len(self.keys), count, dtype=torch.float32, device=self.device)
        for row, start in zip(out, starts, strict=True):
            row.copy_(table[start : start + count])
        return out.view(-1, *shape)

    def _words(self, purpose: str, count: int) -> _Words:
        """Return ``(M, count)`` hashed words: element j of a row is the hash of (its key, purpose, j)."""
        keys = _hash_keys(self.keys, self.scope + purpose)
        return _mix(keys[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))

    def _filled(self, purpose: str, shape: Sequence[int], fill: _Fill) -> Tensor:
        with torch.inference_mode(False):  # another thread may not write to what was made in this mode
            rows = torch.empty(len(self.keys), *shape, dtype=torch.float32)  # whatever torch's default is
        words = _hash_keys(self.keys, self.scope + purpose).tolist()

        def draw(m: int) -> None:
            fill(rows[m], torch.Generator().manual_seed(words[m] >> 32))

        threads = torch.get_num_threads()
        together = threads > 1 and len(words) > 1 and rows.numel() > _ALONE
        list((_drawers(threads).map if together else map)(draw, range(len(words))))
        return to_device(rows, self.device)

    def _tensor(self, values: npt.NDArray[np.generic], shape: Sequence[int]) -> Tensor:
        return to_device(torch.from_numpy(values.reshape(len(self.keys), *shape)), self.device)


def _hash_keys(keys: Sequence[Key], purpose: str) -> _Words:
    """Return ``(M,)`` words, a hash of each key and the purpose."""
    columns = np.array([[part & _MASK for part in key] for key in keys], dtype=np.uint64).reshape(-1, 3)
    words = np.full(len(keys), _hash_text(purpose), dtype=np.uint64)
    for column in columns.T:
        words = _mix((words ^ column) + _GOLDEN)
    return words


def _mix(words: _Words) -> _Words:
    """Return the finalizer of SplitMix64 (Steele, Lea and Flood 2014): each bit out depends on all bits in."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: _Words = words ^ (words >> np.uint64(31))
    return mixed


def _to_unit(words: _Words) -> npt.NDArray[np.float64]:
    """Return the words as float64 in [0, 1), of 53 bits."""
    unit: npt.NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return unit


@lru_cache(maxsize=1024)
def _hash_text(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@lru_cache(maxsize=1)
def _drawers(threads: int) -> ThreadPoolExecutor:
    """Return threads that draw: torch draws a row in one, and meanwhile holds no lock that another would wait for."""
    return ThreadPoolExecutor(threads, thread_name_prefix="draws")


os.register_at_fork(after_in_child=_drawers.cache_clear)  # a fork has the object, but not its threads


@lru_cache(maxsize=8)
def _noise_table(device: torch.device) -> Tensor:
    table = torch.empty(_TABLE, dtype=torch.float32)
    return table.normal_(generator=generator_for(Key(0, 0), "noise table")).to(device)
