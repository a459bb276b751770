"""Networks with a batch size of 1, such as exported ones, evaluated on one image at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lit_viz.errors import LitVizError


class EachImage(nn.Module):
    """Evaluate a network on each image of a batch, and concatenate what it returns.

    Args:
        network: returns tensors ``(1, ...)``, also in tuples, lists and dictionaries, for an image ``(1, C, H, W)``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, x: Tensor) -> Any:
        first, *others = [self.network(image) for image in torch.split(x, 1)]
        return tree_map(_concatenated, first, *others)


def _concatenated(*parts: Any) -> Any:
    """Return the tensors of the images as one, and any other value as it is for the first image."""
    if not isinstance(parts[0], Tensor):
        return parts[0]
    if parts[0].ndim == 0 or len(parts[0]) != 1:
        shape = tuple(parts[0].shape)
        raise LitVizError(f"each_image requires tensors with one row for an image, got shape {shape}")
    return torch.cat(parts)
