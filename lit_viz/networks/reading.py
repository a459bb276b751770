"""The reader: what a forward computes in layers, by name. See the names of :mod:`~lit_viz.networks.layers`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_map

from lit_viz.networks.attention import reading_attention, scoring_blocks
from lit_viz.networks.layers import (
    ATTENTION,
    LOGITS,
    STATISTICS,
    attention_of,
    block_logits_of,
    check_layers,
    first_tensor,
    hooked,
    layer_of,
    unreadable,
)


@dataclass(frozen=True)
class Reading:
    """What was read in a forward of N images.

    Attributes:
        outputs: outputs and input statistics by name, in the order of the forward.
        maps: layers and their attention maps, in the order of the forward.
        blocks: blocks with a scored mean token. The network then returns N rows of logits for the images, and N for
            each block.
        calls: number of calls of each layer that was read.
    """

    outputs: dict[str, Tensor]
    maps: list[tuple[str, Tensor]]
    blocks: tuple[str, ...]
    calls: Counter[str]

    @property
    def can_stop(self) -> bool:
        """Whether a forward may stop at the last layer: outputs alone are read, each by one call."""
        return not self.maps and not self.blocks and set(self.calls.values()) == {1}

    @property
    def rows(self) -> int:
        """Number of rows of the logits for each image."""
        return 1 + len(self.blocks)

    def split(self, logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits ``(N, K)`` of the images, of all rows ``(N * rows, K)``, and all that was read by name."""
        of_images, *of_blocks = logits.chunk(self.rows)
        values = dict(self.outputs)
        for layer, attention_map in self.maps:
            values[attention_of(layer)] = attention_map
        for block, scores in zip(self.blocks, of_blocks, strict=True):
            values[block_logits_of(block)] = scores
        return of_images, values


class Stopped(BaseException):
    """The forward has computed all that is read; no error, so that code of the network does not catch it."""


@contextmanager
def reading(
    network: nn.Module, names: Sequence[str], device: torch.device | None = None, *, stops: bool = False
) -> Iterator[Reading]:
    """Read outputs, input statistics, attention maps and block logits in the body's forward, with their graph.

    Outputs and attention maps are on ``device``. Of a layer that is called several times the last output is read, of a
    tuple its first tensor. The forward continues from a copy of the output, because many networks change an output in
    place.

    With ``stops`` the forward raises :class:`Stopped` once every name was read, which needs :attr:`Reading.can_stop`
    of an earlier forward.

    Raises:
        LitVizError: a layer is unknown, or the forward does not call it.
        Stopped: in the forward.
    """
    calls: Counter[str] = Counter()
    attention, blocks, others = list[str](), list[str](), list[str]()
    for name in dict.fromkeys(names):
        if name.endswith(ATTENTION):
            attention.append(layer_of(name))
        elif name.endswith(LOGITS):
            blocks.append(layer_of(name))
        else:
            others.append(name)
    with (
        _reading_outputs(network, others, device, calls, stops) as outputs,
        reading_attention(network, attention, device) as maps,
        scoring_blocks(network, blocks),
    ):
        yield Reading(outputs, maps, tuple(blocks), calls)


@contextmanager
def _reading_outputs(
    network: nn.Module, names: Sequence[str], device: torch.device | None, calls: Counter[str], stops: bool
) -> Iterator[dict[str, Tensor]]:
    check_layers(names, network)
    outputs: dict[str, Tensor] = {}

    def read_output(name: str, module: nn.Module, args: Any, output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is None:
            return output
        outputs[name] = tensor.clone().to(device)
        calls[name] += 1
        if stops and len(outputs) == len(names):
            raise Stopped
        copied = outputs[name].to(tensor.device, copy=True)
        return tree_map(lambda leaf: copied if leaf is tensor else leaf, output)

    def read_statistics(name: str, module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], Tensor):
            outputs[name] = activation_statistics(args[0])
            calls[name] += 1

    layers: dict[str, nn.Module] = {}
    of_inputs: dict[str, nn.Module] = {}
    for name in names:
        chosen = of_inputs if name.endswith(STATISTICS) else layers
        chosen[name] = network.get_submodule(layer_of(name))
    with hooked(layers, read_output), hooked(of_inputs, read_statistics, before=True):
        yield outputs
    for name in names:
        if name not in outputs:
            raise unreadable(name)


def activation_statistics(x: Tensor) -> Tensor:
    """Return mean and biased variance ``(N, 2, C)`` over all but the first two dimensions of ``x`` ``(N, C, ...)``."""
    statistics: Tensor = _Statistics.apply(x if x.ndim > 2 else x[..., None])  # type: ignore[no-untyped-call]
    return statistics


class _Statistics(torch.autograd.Function):
    """Mean and variance with a backward in one pass; ``torch.var_mean`` takes 20 times as long for channels-last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        places = tuple(range(2, x.ndim))
        mean = x.mean(places, keepdim=True)
        variance = (x - mean).square_().mean(places)
        ctx.save_for_backward(x, mean)
        return torch.stack([mean.flatten(1), variance], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        of_mean, of_variance = (gradient / x[0, 0].numel()).view(len(x), 2, *mean.shape[1:]).unbind(1)
        return torch.addcmul(of_mean - 2 * of_variance * mean, x, 2 * of_variance)
