"""Stateless randomness: every draw is keyed by (task seed, iteration, view, purpose) and by nothing else.

So a draw does not depend on the slot, batch, rank, device or global random state, a resumed run needs no random state
in its checkpoint, and one task can be run again alone. Draws are made on the CPU and moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

_Fill = Callable[[Tensor, torch.Generator], Tensor]


class Key(NamedTuple):
    """Who draws: the task's seed, the image's own iteration, and the view (0 <= view < views of the task)."""

    seed: int
    iteration: int
    view: int = 0


def generator_for(key: Key, purpose: str) -> torch.Generator:
    """Return a CPU generator that is a pure function of ``key`` and ``purpose``."""
    generator = torch.Generator()
    _reseed(generator, key, purpose)
    return generator


def _reseed(generator: torch.Generator, key: Key, purpose: str) -> None:
    # The CPU generator keeps only the low 32 bits of a seed, so neighbouring keys are told apart by a hash.
    digest = hashlib.blake2b(f"{key.seed}|{key.iteration}|{key.view}|{purpose}".encode(), digest_size=4).digest()
    generator.manual_seed(int.from_bytes(digest, "little"))


@dataclass(frozen=True)
class Draws:
    """The draws of a batch: row m of every returned tensor belongs to ``keys[m]`` alone.

    Args:
        keys: one key for each of the M rows of the batch.
        device: where the drawn tensors are wanted.
        scope: prefix of the purposes, so that two transforms of one kind draw differently (see :meth:`scoped`).
    """

    keys: Sequence[Key]
    device: torch.device = torch.device("cpu")
    scope: str = ""

    def __len__(self) -> int:
        return len(self.keys)

    def scoped(self, name: str) -> Draws:
        """Return the same draws under a further prefix."""
        return replace(self, scope=f"{self.scope}{name}/")

    def uniform(self, purpose: str, low: float = 0.0, high: float = 1.0, shape: Sequence[int] = ()) -> Tensor:
        """Return float32 ``(M, *shape)``, uniform in [low, high)."""
        drawn = self._rows(purpose, shape, lambda row, generator: row.uniform_(low, high, generator=generator))
        return drawn.to(self.device)

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """Return float32 ``(M, *shape)``, standard normal."""
        drawn = self._rows(purpose, shape, lambda row, generator: row.normal_(generator=generator))
        return drawn.to(self.device)

    def integers(self, purpose: str, low: int, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Return int64 ``(M, *shape)``, uniform in [low, high] (both ends included)."""
        unit = self._rows(purpose, shape, lambda row, generator: row.uniform_(0.0, 1.0, generator=generator))
        return (low + (unit.double() * (high - low + 1)).floor().long()).clamp_(max=high).to(self.device)

    def _rows(self, purpose: str, shape: Sequence[int], fill: _Fill) -> Tensor:
        rows = torch.empty(len(self.keys), *shape)
        generator = torch.Generator()
        for row, key in zip(rows, self.keys, strict=True):
            _reseed(generator, key, self.scope + purpose)
            fill(row, generator)
        return rows
