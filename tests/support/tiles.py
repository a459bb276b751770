"""Networks whose gradient maps are known, and large images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
import torch
from torch import Tensor, nn

import lit_viz as lv

SIDE = 16


class Squares(nn.Module):
    """Logits of which the gradient by a pixel is the pixel: half the sum of squares, and its negative."""

    def forward(self, x: Tensor) -> Tensor:
        score = x.square().flatten(1).sum(1) / 2
        return torch.stack([score, -score], 1)


class Weighted(nn.Module):
    """Logits of which the gradient is a fixed pattern in the pixels of the input, whatever the image."""

    def __init__(self, channels: int = 3, side: int = SIDE) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.pattern = nn.Parameter(torch.randn(channels, side, side, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        score = (self.pattern[:, :height, :width] * x[:, :, : self.pattern.shape[1], : self.pattern.shape[2]]).sum(
            (1, 2, 3)
        )
        return torch.stack([score, -score], 1)


def network_of(module: nn.Module, **options: object) -> lv.Network:
    """Return a network of images of 16 x 16, without normalization."""
    arguments: dict[str, object] = {"size": SIDE, "mean": 0.0, "std": 1.0, **options}
    return lv.load_network(module, **arguments)  # type: ignore[arg-type]


def write_image(folder: Path, size: tuple[int, int] = (45, 61), channels: int = 3, name: str = "slide") -> np.ndarray:
    """Write a tiled TIFF of 8 bits, and return its values ``(H, W, C)``."""
    values = np.random.default_rng(0).integers(0, 256, (*size, channels)).astype(np.uint8)
    tifffile.imwrite(folder / f"{name}.tif", values, tile=(16, 32), compression="zlib", photometric="rgb")
    return values
