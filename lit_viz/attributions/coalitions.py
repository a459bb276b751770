"""Coalitions of superpixels: listed in full by size, with the weights of the Shapley kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice

import torch
from torch import Tensor


@dataclass(frozen=True)
class Design:
    """Coalitions of a map.

    Attributes:
        coalitions: those that are evaluated in full, with their complements, bool ``(L, count)``.
        kernel: their weights in the regression.
        smallest_drawn: size from which on coalitions are drawn.
        drawn: weight of each drawn coalition.
    """

    coalitions: Tensor
    kernel: Sequence[float]
    smallest_drawn: int
    drawn: float

    def weight(self, pair: int) -> float:
        """Return the weight of a pair, given its number."""
        return self.kernel[pair] if pair < len(self.kernel) else self.drawn


@lru_cache(maxsize=64)
def design_of(count: int, pairs: int) -> Design:
    """Return the coalitions of ``count`` superpixels for a number of pairs of a coalition and its complement.

    Of the weights of the Shapley kernel, ``(count - 1) / (binomial(count, size) size (count - size))``, only ratios
    matter.
    """
    listed: list[tuple[int, ...]] = []
    kernel: list[float] = []
    size = 1
    while size <= count // 2:
        number = math.comb(count, size)
        if 2 * size == count:  # the complement has the same size
            number //= 2
        if len(listed) + number > pairs:
            break
        listed += islice(combinations(range(count), size), number)
        kernel += [1 / (math.comb(count, size) * size * (count - size))] * number
        size += 1
    coalitions = torch.zeros(len(listed), count, dtype=torch.bool)
    for row, members in zip(coalitions, listed, strict=True):
        row[list(members)] = True
    rest = sum(1 / (k * (count - k)) for k in range(size, count - size + 1)) / 2
    return Design(coalitions, kernel, size, rest / max(pairs - len(listed), 1))


def drawn_only(count: int) -> Design:
    """Return the design of coalitions that are all drawn, with equal weights."""
    return Design(torch.zeros(0, count, dtype=torch.bool), (), 1, 1.0)


def pair_of(number: int) -> int:
    """Return the number of the pair to which an evaluation belongs, from 0; the image and its baseline are -1."""
    return number // 2 - 1
