"""Tokens of a transformer: the grid of its patches, and the influence of a layer on the logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError, require
from lit_viz.networks import Network
from lit_viz.networks.layers import Layout, prefix_tokens
from lit_viz.networks.summaries import probe_images
from lit_viz.utils.sequences import split_commas

#: Rows and columns of patches, such as (14, 14) or "14,14"; None for those of the network.
TokenGrid = Sequence[int] | str | None


def parse_grid(grid: TokenGrid) -> tuple[int, int] | None:
    """Return rows and columns; raise :class:`LitVizError` unless they are two positive integers."""
    if grid is None:
        return None
    try:
        rows, columns = map(int, split_commas(grid))
    except ValueError as error:
        raise LitVizError(f"grid must be rows,columns such as 14,14, got {grid!r}") from error
    require(min(rows, columns) >= 1, "rows and columns of grid must be positive", repr(grid))
    return rows, columns


def patch_grid(
    network: Network, tokens: int, layouts_by_name: Mapping[str, Layout], given: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Return rows and columns of the patches, which are the last of ``tokens`` tokens.

    They are ``given``, or else taken from the convolution that embeds the patches: of all convolutions the largest map
    with at most as many positions as tokens. Without such a convolution they have the proportions of the input.

    Raises:
        LitVizError: if there are fewer tokens than patches, or no grid can be determined.
    """
    if given is not None:
        require(math.prod(given) <= tokens, f"grid must have at most the {tokens} tokens of {network.name}", given)
        return given
    modules = dict(network.original.named_modules())
    grids: list[tuple[int, int]] = []
    for name, layout in layouts_by_name.items():
        if not isinstance(modules[name], nn.Conv2d) or len(layout.shape) != 3:
            continue
        _, rows, columns = layout.shape
        if rows * columns <= tokens < 2 * rows * columns:
            grids.append((rows, columns))
    if grids:
        return max(grids, key=math.prod)
    height, width = network.size
    patches = max(0, tokens - prefix_tokens(network.original))
    rows = round(math.sqrt(patches * (height / width)))
    columns = round(math.sqrt(patches * (width / height)))
    if patches < 2 or rows * columns != patches:
        raise LitVizError(
            f"the rows and columns of the {tokens} tokens of {network.name} are unknown: give grid ROWS,COLUMNS"
        )
    return rows, columns


def logit_gradient(network: Network, layer: str) -> Tensor | None:
    """Return the gradient of a sum of the logits at the output of a layer, for one image; None without influence."""
    images = probe_images(network.channels, network.size)[:1]
    with torch.enable_grad():
        logits, activations = network.original_network()(images.requires_grad_(), layers=[layer])
        score = (logits * torch.arange(1, 1 + network.num_classes)).sum()  # equal weights might cancel out
        if not activations[layer].requires_grad:  # such as an embedding of positions
            return None
        gradient: Tensor | None = torch.autograd.grad(score, activations[layer], allow_unused=True)[0]
    return gradient
