"""Attention maps: read them in a forward, and find the attention layers and blocks of a transformer.

An attention map is the softmax ``(N, heads, queries, keys)`` that weights the values. Fused kernels do not return it,
so attention is computed explicitly while maps are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map, tree_map_only

from lit_viz.errors import NetworkError, first_line
from lit_viz.networks.isolation import Original, dtype_of
from lit_viz.networks.layers import hooked, in_module, layer_names, modules_of
from lit_viz.networks.summaries import LOGITS_TOLERANCE, probe_images, relative_difference

_SOFTMAX = (torch.softmax, Tensor.softmax, F.softmax)


class _ExplicitAttention(TorchFunctionMode):
    """Computes attention without fused kernels, and replaces each attention map by ``on_map`` of it.

    With ``differences``, appends the relative difference of each output from that of the replaced function.
    """

    def __init__(self, on_map: Callable[[Tensor], Tensor], differences: list[float] | None = None) -> None:
        super().__init__()
        self.on_map, self.differences = on_map, differences

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and not (kwargs.get("is_causal") or kwargs.get("enable_gqa")):
            mixed = self._scaled_dot_product(*args, **kwargs)
            self._compare(mixed, lambda: func(*args, **kwargs))
            return mixed
        if func is F.multi_head_attention_forward:
            projected = self._multi_head(*args, **kwargs)
            self._compare(projected, lambda: func(*args, **kwargs)[0])
            return projected, None
        output = func(*args, **kwargs)
        if func in _SOFTMAX and output.ndim == 4:
            return self.on_map(output)
        return output

    def _compare(self, output: Tensor, reference: Callable[[], Tensor]) -> None:
        if self.differences is not None:
            self.differences.append(relative_difference(output, reference()))

    def _scaled_dot_product(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *_: Any, scale: Any = None, **__: Any
    ) -> Tensor:
        if scale is None:
            scale = query.shape[-1] ** -0.5
        logits = query @ key.mT * scale
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            logits = logits.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            logits = logits + attn_mask
        return self.on_map(logits.softmax(-1)) @ value

    def _multi_head(self, *args: Any, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
        """Compute :class:`nn.MultiheadAttention` for ``(T, N, D)``, without its rarer options."""
        query, key, value, _width, heads, weight, bias, *rest = args
        biases = (None, None, None)
        if bias is not None:
            biases = bias.chunk(3)
        projected = []
        for x, w, b in zip((query, key, value), weight.chunk(3), biases, strict=True):
            projected.append(F.linear(x, w, b).view(*x.shape[:2], heads, -1).permute(1, 2, 0, 3))
        mixed = self._scaled_dot_product(*projected, attn_mask)
        return F.linear(mixed.permute(2, 0, 1, 3).flatten(2), *rest[4:6])


@contextmanager
def reading_attention(
    network: nn.Module,
    layers: Sequence[str],
    device: torch.device | None = None,
    differences: list[float] | None = None,
) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect the attention maps that the named layers compute in the body's forward, with their graph.

    A map belongs to the innermost named layer. The forward continues from the collected map, which is on ``device`` and
    requires a gradient where gradients are enabled. ``differences`` receives the relative difference of the output of
    each fused attention from that of its kernel.
    """
    running: list[str] = []
    maps: list[tuple[str, Tensor]] = []

    def record(values: Tensor) -> Tensor:
        if not running:
            return values
        collected = values.to(device)
        if torch.is_grad_enabled() and not collected.requires_grad:
            collected.requires_grad_()
        maps.append((running[-1], collected))
        return collected.to(values.device)

    def enter(name: str, module: nn.Module, args: Any) -> None:
        running.append(name)

    def leave(name: str, module: nn.Module, args: Any, output: Any) -> None:
        running.pop()

    if not layers:
        yield maps
        return
    modules = modules_of(network, layers)
    with hooked(modules, enter, before=True), hooked(modules, leave), _ExplicitAttention(record, differences):
        yield maps


@contextmanager
def scoring_blocks(network: nn.Module, blocks: Sequence[str]) -> Iterator[None]:
    """Append the mean token of each block to the batch after the last block, in the body's forward.

    For blocks with outputs ``(N, T, D)``, rows ``N (1 + b)`` to ``N (2 + b)`` of the logits belong to block b, as if
    its mean token were every token of the last block. Gradients do not pass from a block to the one before it.
    """
    means: list[Tensor] = []

    def detach(name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        return tree_map_only(Tensor, Tensor.detach, (args, kwargs))

    def collect(name: str, module: nn.Module, args: Any, output: Any) -> Any:
        tokens = output if isinstance(output, Tensor) else output[0]
        means.append(tokens.mean(1, keepdim=True).expand_as(tokens))
        if len(means) < len(blocks):
            return output
        rows = torch.cat([tokens, *means])
        return tree_map(lambda leaf: rows if leaf is tokens else leaf, output)

    modules = modules_of(network, blocks)
    with hooked(modules, detach, before=True, with_kwargs=True), hooked(modules, collect):
        yield


@dataclass(frozen=True)
class AttentionLayers:
    """Attention layers of a network.

    Attributes:
        layers: names, in the order of the forward.
        blocks: name of the block of each layer, which may be a container without a forward.
        tokens: number of tokens T; the patches are the last ones.
        problem: description of the attention maps if they do not relate all tokens in every layer, or are not readable.
    """

    layers: tuple[str, ...]
    blocks: tuple[str, ...]
    tokens: int
    problem: str | None


def attention_layers(classifier: Original) -> AttentionLayers:
    """Find the attention layers of a network, and whether their maps relate all tokens, not only a window.

    Of an output with a backbone they are those inside of it: a decoder of text relates other tokens.
    """
    network, x = classifier.original, probe_images(classifier.channels, classifier.size)[:1]
    differences: list[float] = []
    try:
        backbone = classifier.output.backbone
        inside = [name for name in layer_names(network) if in_module(name, backbone)]
        with reading_attention(network, inside, differences=differences) as maps:
            classifier.scores(x)
    except NetworkError as error:  # such as of a network that uses the weights of nn.MultiheadAttention
        cause = first_line(error.__cause__ or error)
        return AttentionLayers((), (), 0, f"an error where they are read ({cause})")
    if not maps:
        return AttentionLayers((), (), 0, "none")
    names, values = zip(*maps, strict=True)
    problem = _shape_problem(values)
    if problem is None and len(set(names)) < len(names):
        problem = "several maps of one layer"
    tolerance = max(LOGITS_TOLERANCE, math.sqrt(torch.finfo(dtype_of(network)).eps))  # two kernels round differently
    if problem is None and max(differences, default=0.0) > tolerance:
        problem = "other outputs where they are read"
    blocks = tuple(_block(name, names) for name in names)
    return AttentionLayers(names, blocks, values[0].shape[-1], problem)


def _shape_problem(maps: Sequence[Tensor]) -> str | None:
    """Return the shape of the first map that does not relate all tokens of one image, or None."""
    tokens = maps[0].shape[-1]
    for values in maps:
        if values.shape[0] != 1 or values.shape[2:] != (tokens, tokens):
            return f"shape {tuple(values.shape)} for one image"
    return None


def _block(layer: str, layers: Sequence[str]) -> str:
    """Return the outermost module that contains no attention layer but this one."""
    others = [f"{other}." for other in layers if other != layer]
    parts = layer.split(".")
    for end in range(1, len(parts)):
        name = ".".join(parts[:end])
        if not any(other.startswith(f"{name}.") for other in others):
            return name
    return layer
