"""Networks of several bands."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BANDS = 13


def band_network(channels: int = BANDS, classes: int = 5, gain: float = 5.0) -> nn.Sequential:
    """Return a small convolutional network with fixed random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
    network[-1].weight.data *= gain
    return network.eval()


class SingleBand(nn.Module):
    """A network that reads one band."""

    def __init__(self, band: int, channels: int = BANDS) -> None:
        super().__init__()
        self.network = band_network(channels)
        weight = self.network[0].weight.data
        keep = torch.zeros_like(weight)
        keep[:, band] = 1.0
        self.network[0].weight.data = weight * keep

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores
