"""Shared by the tests of attacks: networks that record their inputs, and linear ones, whose optima are known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Watched:
    """A network that records its inputs and counts rows with a backward pass."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward = forward
        self.inputs: list[Tensor] = []
        self.backwards = self.passes = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.inputs.append(x.detach().clone())
        logits = self.forward(x)
        if logits.requires_grad:
            logits.register_hook(self._went_back)
        return logits

    @property
    def forwards(self) -> int:
        return sum(map(len, self.inputs))

    def _went_back(self, gradient: Tensor) -> None:
        self.backwards += int((gradient != 0).any(1).sum())
        self.passes += 1


class Linear:
    """``logits = W x + b`` in float64."""

    def __init__(self, classes: int = 2, shape: tuple[int, ...] = (3, 6, 5), seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        size = torch.Size(shape).numel()
        self.weight = torch.randn(classes, size, dtype=torch.float64, generator=generator)
        self.bias = torch.randn(classes, dtype=torch.float64, generator=generator)

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias

    def between(self, reach: int, leave: int) -> Tensor:
        """Return the weight of the margin between two classes."""
        return self.weight[reach] - self.weight[leave]


class Curved:
    """Two linear layers with tanh between them, in float64: neither convex nor concave."""

    def __init__(self, classes: int = 5, shape: tuple[int, ...] = (3, 6, 5), width: int = 12, seed: int = 2) -> None:
        self.first, self.second = Linear(width, shape, seed), Linear(classes, (width,), seed + 1)
        self.first.bias -= self.first.weight.sum(1) / 2  # grey is in the middle

    def __call__(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x) / 2)) * 2


def photographs(count: int = 4, height: int = 6, width: int = 5, low: float = 0.0, high: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, 3, height, width, dtype=torch.float64, generator=generator)
    return low + (high - low) * x


def saturated(count: int = 4, height: int = 6, width: int = 5) -> Tensor:
    """Return images of black and white values only."""
    return photographs(count, height, width).round()


def margins(logits: Tensor, labels: list[int], targets: list[int] | None = None) -> Tensor:
    """Return the margin of each row: a positive margin is a success."""
    out = []
    for n, row in enumerate(logits.tolist()):
        own = (labels if targets is None else targets)[n]
        others = max(z for k, z in enumerate(row) if k != own)
        out.append(others - row[own] if targets is None else row[own] - others)
    return torch.tensor(out, dtype=torch.float64)


def longest(direction: Tensor, low: Tensor, high: Tensor, length: float) -> Tensor:
    """Return the change in [low, high] of Euclidean length ``length`` that is largest along ``direction``.

    It is clip(t w), with t by bisection, if the box contains a longer change.
    """
    least, most = 0.0, 1e9
    for _ in range(120):
        t = (least + most) / 2
        if (t * direction).clamp(low, high).norm() < length:
            least = t
        else:
            most = t
    return (least * direction).clamp(low, high)
