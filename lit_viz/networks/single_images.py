"""Networks with a batch size of 1, such as exported ones, evaluated on one image at a time."""

from __future__ import annotations

from collections.abc import Sequence
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


def join_images(parts: Sequence[Tensor]) -> Tensor:
    """Return the rows that were read in a forward of each image, as one tensor with its parts (:func:`parts_of`).

    The scores depend on the parts and not on the tensor that is made of them.
    """
    rows = torch.cat([*parts])
    rows.parts = tuple(parts)  # type: ignore[attr-defined]
    return rows


def parts_of(rows: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors that the scores depend on: those of each image, or the tensor itself."""
    parts: tuple[Tensor, ...] = getattr(rows, "parts", (rows,))
    return parts
