"""Shared by the tests of attributions: networks that count their inputs, and the distance between maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tests.conftest import smooth_network

#: Mask of 12 rectangles of 16 x 16 pixels.
MASK = str(Path(__file__).with_name("mask_16x16.png"))
SMOOTH = smooth_network().double()
TARGETS = torch.tensor([3, 0, 2])


class Counted:
    """A network with the signature that :func:`attribute` requires; ``rows`` counts its inputs."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward = forward
        self.rows = 0

    def __call__(self, x: Tensor, layers: Sequence[str] = ()) -> tuple[Tensor, Mapping[str, Tensor]]:
        self.rows += len(x)
        return self.forward(x), {}


def photographs(height: int = 17, width: int = 14) -> Tensor:
    """Return three photographs in float64."""
    return torch.rand(3, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def distance(map_: Tensor, reference: Tensor) -> float:
    """Return the largest difference, relative to the largest value of the reference."""
    return float((map_ - reference).abs().max() / reference.abs().max())
