"""Shared by the tests of attributions: networks that count their inputs, and the distance between maps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.networks import smooth_network, trained

#: Mask of 12 rectangles of 16 x 16 pixels.
MASK = str(Path(__file__).with_name("mask_16x16.png"))
MEAN, STD = (0.45, 0.5, 0.4), (0.25, 0.2, 0.3)
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


class Capped(nn.ReLU):
    """A ReLU6 that Captum takes for a ReLU, whose backward it then changes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 6)


class Normalized(nn.Module):
    """The network as Captum is given it: the owner's, in float64, not in place, and with its normalization."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).double().eval().requires_grad_(False)
        for name, module in list(self.net.named_modules()):
            if isinstance(module, nn.ReLU6):
                self.net.set_submodule(name, Capped())
            elif isinstance(module, nn.ReLU):
                module.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(values, dtype=x.dtype).view(3, 1, 1) for values in (MEAN, STD))
        return self.net((x - mean) / std)


def made(make: Callable[..., nn.Module], **options: Any) -> nn.Module:
    """Return a network with weights that depend on nothing else, and batch norms as trained ones have."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return trained(make(num_classes=5, **options))
