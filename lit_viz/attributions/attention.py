"""Base class of saliency methods that read the attention maps of a transformer."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from lit_viz.attributions.gradient import Gradient
from lit_viz.attributions.tokens import TokenGrid, logit_gradient, parse_grid, patch_grid
from lit_viz.errors import require
from lit_viz.networks import Network
from lit_viz.networks.attention import attention_layers
from lit_viz.networks.layers import attention_of, layouts
from lit_viz.optim import Evaluate


class AttentionMap(Gradient):
    """Base class of maps of the relevance of a transformer's patches, upsampled bilinearly to the input.

    Tokens are the class token, distillation token and registers, then the patches in reading order. Every layer must
    compute self-attention between all tokens, by :func:`torch.nn.functional.scaled_dot_product_attention`,
    :class:`torch.nn.MultiheadAttention` or a softmax of ``(N, heads, T, T)``. Maps are not negative.

    Subclasses implement :meth:`relevance`.

    Args:
        grid: rows and columns of the patches; by default from the convolution that embeds them.
    """

    spatial = True
    reducer: ClassVar[str] = "above_least"

    def __init__(self, grid: TokenGrid = None) -> None:
        self.grid = parse_grid(grid)
        self._patches = self.grid or (1, 1)
        self._pooled: Sequence[float] = ()

    def bind(self, network: Network) -> None:
        """Find the attention layers, the grid of the patches, and the tokens that the logits depend on.

        Raises:
            LitVizError: if attention is not between all tokens, the grid of the patches is unknown, or the last block
                does not return tokens.
        """
        attention = attention_layers(network)
        maps = f"attention maps (N, heads, T, T) of all T tokens in every layer of {network.name}"
        constraint = f"{type(self).__name__} requires {maps}"
        require(attention.problem is None, constraint, attention.problem, hint="use grad_cam")
        layouts_by_name = layouts(network)
        self._patches = patch_grid(network, attention.tokens, layouts_by_name, self.grid)
        self.attention, self.blocks = tuple(map(attention_of, attention.layers)), attention.blocks
        self.layers, self._tokens = self.attention, attention.tokens
        block = attention.blocks[-1]
        last_layer = block  # or of a container, the last layer that is called
        for name in layouts_by_name:
            if f"{name}.".startswith(f"{block}."):
                last_layer = name
        self._pooled = _pooling(network, last_layer, attention.tokens, math.prod(self._patches))
        super().bind(network)

    def record_fields(self) -> dict[str, Any]:
        return {"grid": list(self._patches)}

    @abstractmethod
    def relevance(self, x: Tensor, slots: Tensor, evaluate: Evaluate) -> Tensor:
        """Compute the relevance ``(M, T)`` of the tokens of images ``x`` ``(M, ...)``."""

    def evaluate_map(self, x: Tensor, slots: Tensor, evaluate: Evaluate) -> Tensor:
        rows, columns = self._patches
        patches = self.relevance(x, slots, evaluate)[:, -rows * columns :]
        patches = patches.reshape(-1, 1, rows, columns)
        return F.interpolate(patches, x.shape[2:], mode="bilinear", align_corners=False)

    def pooling(self, x: Tensor) -> Tensor:
        """Return the weights ``(M, T)`` of the tokens in the pooling before the head.

        The class token, the distillation token and the mean of the patches have equal weights, if the logits
        depend on them.
        """
        return x.new_tensor(self._pooled).expand(len(x), -1)


def _pooling(network: Network, block: str, tokens: int, patches: int) -> list[float]:
    gradient, prefix = logit_gradient(network, block), tokens - patches
    if gradient is not None:
        constraint = f"the last block {block!r} of {network.name} must return tokens (N, {tokens}, D)"
        shape = tuple(gradient.shape)
        require(shape[:-1] == (1, tokens), constraint, shape, hint="use grad_cam", is_argument=False)
    reached = [False] * tokens
    if gradient is not None:
        reached = (gradient[0] != 0).any(-1).tolist()
    if not any(reached):  # a new head of zeros
        reached[0] = True
    share = any(reached[prefix:]) / patches
    weights = [*map(float, reached[:prefix]), *[share] * patches]
    return [weight / sum(weights) for weight in weights]
