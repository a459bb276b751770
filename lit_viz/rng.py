"""Counter-based random draws: each draw is a pure function of (task seed, iteration, view, purpose).

Draws do not depend on slot, batch, rank, device or global random state. A checkpoint therefore contains no random
state, and any task can be repeated alone.

Small draws (angles, shifts, colors) are hashed from the key for all rows at once; seeding a generator per draw would
cost more than the transforms. Large draws use a generator seeded with the hash. Image noise is copied from one fixed
table, from a keyed offset (:meth:`Draws.noise`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
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
_SMALL = 64  # values per row; above this a generator is faster than the hash
_TABLE = 1 << 22  # standard normals in the noise table: 16 MiB, 28 images of (3, 224, 224)


class Key(NamedTuple):
    """Key of a random draw: seed of the task, iteration of the image, and view (0 <= view < views of the task)."""

    seed: int
    iteration: int
    view: int = 0


def restart_seed(seed: int, restart: int) -> int:
    """Return the seed of all draws after the given restart of a task with this seed; its own seed before the first."""
    if restart == 0:
        return seed
    return int(_hash_keys([Key(seed, restart)], "restart")[0])


def generator_for(key: Key, purpose: str) -> torch.Generator:
    """Create a CPU generator that is a pure function of ``key`` and ``purpose``."""
    return _generator(int(_hash_keys([key], purpose)[0]))


def _generator(word: int) -> torch.Generator:
    # torch uses 32 bits of the seed: in a million large draws, about a hundred pairs coincide.
    return torch.Generator().manual_seed(word >> 32)


@dataclass(frozen=True)
class Draws:
    """Random draws of a batch: row m of every returned tensor depends on ``keys[m]`` only.

    Purposes and scopes are frozen strings: changing one changes the draws, and recorded results can't be reproduced.

    Args:
        keys: one key per row, M in total.
        device: of the returned tensors.
        scope: prefix of the purposes; it separates two transforms of one class (see :meth:`scoped`).
        last_iterations: ``(M,)``, last iteration of the image of each row; read by :attr:`progress` only.
    """

    keys: Sequence[Key]
    device: torch.device = torch.device("cpu")
    scope: str = ""
    last_iterations: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def scoped(self, name: str) -> Draws:
        """Return the same draws with a prefix appended to the scope."""
        return replace(self, scope=f"{self.scope}{name}/")

    def rows(self, indices: Sequence[int]) -> Draws:
        """Return the draws of a subset of the rows."""
        keys = [self.keys[index] for index in indices]
        last_iterations: Sequence[int] = ()
        if self.last_iterations:
            last_iterations = [self.last_iterations[index] for index in indices]
        return replace(self, keys=keys, last_iterations=last_iterations)

    @property
    def progress(self) -> Tensor:
        """Fraction of the iterations completed by the image of each row, float64 ``(M,)`` in [0, 1]."""
        if len(self.last_iterations) != len(self.keys):
            raise RuntimeError("progress requires last_iterations")
        fractions = []
        for key, last in zip(self.keys, self.last_iterations, strict=True):
            fractions.append(key.iteration / max(last, 1))
        return torch.tensor(fractions, dtype=torch.float64)

    def uniform(self, purpose: str, low: float = 0.0, high: float = 1.0, shape: Sequence[int] = ()) -> Tensor:
        """Draw float32 ``(M, *shape)``, uniform in [low, high]."""
        if math.prod(shape) > _SMALL:
            return self._filled(purpose, shape, lambda row, generator: row.uniform_(low, high, generator=generator))
        unit = _to_unit(self._words(purpose, math.prod(shape)))
        return self._tensor((low + (high - low) * unit).astype(np.float32), shape)

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """Draw float32 ``(M, *shape)``, standard normal."""
        count = math.prod(shape)
        if count > _SMALL:
            return self._filled(purpose, shape, lambda row, generator: row.normal_(generator=generator))
        unit = _to_unit(self._words(purpose, 2 * count))
        # Box-Muller; 1 - u is in (0, 1], where the logarithm is finite.
        drawn = np.sqrt(-2 * np.log1p(-unit[:, :count])) * np.cos(2 * np.pi * unit[:, count:])
        return self._tensor(drawn.astype(np.float32), shape)

    def integers(self, purpose: str, low: int, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Draw int64 ``(M, *shape)``, uniform in [low, high], both included (at most 2**32 values)."""
        words = self._words(purpose, math.prod(shape)) >> np.uint64(32)
        return self._tensor(low + ((words * np.uint64(high - low + 1)) >> np.uint64(32)).astype(np.int64), shape)

    def noise(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Draw float32 ``(M, *shape)`` standard normal noise at the cost of a copy, a tenth of :meth:`normal`.

        Each row is a contiguous part of one fixed table of 4 million standard normals, from a keyed offset. Given the
        table, rows are independent, so means over rows converge, up to the sampling error of the table. Two rows can
        share values, but not at the same pixel unless their offsets are equal (one pair in four million).
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
        """Return ``(M, count)`` words: element j of a row is the hash of (key of the row, purpose, j)."""
        keys = _hash_keys(self.keys, self.scope + purpose)
        return _mix(keys[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))

    def _filled(self, purpose: str, shape: Sequence[int], fill: _Fill) -> Tensor:
        """Fill each row in place from a generator seeded with the hash."""
        rows = torch.empty(len(self.keys), *shape, dtype=torch.float32)  # independent of the default dtype
        for row, word in zip(rows, _hash_keys(self.keys, self.scope + purpose).tolist(), strict=True):
            fill(row, _generator(word))
        return to_device(rows, self.device)

    def _tensor(self, values: npt.NDArray[np.generic], shape: Sequence[int]) -> Tensor:
        return to_device(torch.from_numpy(values.reshape(len(self.keys), *shape)), self.device)


def _hash_keys(keys: Sequence[Key], purpose: str) -> _Words:
    """Hash each key with the purpose to a word, ``(M,)``."""
    parts: list[int] = []
    for seed, iteration, view in keys:
        parts += [seed & _MASK, iteration & _MASK, view & _MASK]
    columns = np.array(parts, dtype=np.uint64).reshape(-1, 3)
    words = np.full(len(keys), _hash_text(purpose), dtype=np.uint64)
    for column in columns.T:
        words = _mix((words ^ column) + _GOLDEN)
    return words


def _mix(words: _Words) -> _Words:
    """Apply the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: _Words = words ^ (words >> np.uint64(31))
    return mixed


def _to_unit(words: _Words) -> npt.NDArray[np.float64]:
    """Convert words to float64 in [0, 1) with 53 bits."""
    unit: npt.NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return unit


@lru_cache(maxsize=1024)
def _hash_text(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@lru_cache(maxsize=8)
def _noise_table(device: torch.device) -> Tensor:
    table = torch.empty(_TABLE, dtype=torch.float32)
    return table.normal_(generator=generator_for(Key(0, 0), "noise table")).to(device)
