"""Layers by name: list them, and read their outputs and input statistics in a forward."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lit_viz.errors import LitVizError, did_you_mean

CONV2D_SAME = "timm.layers.conv2d_same.Conv2dSame"
_STATISTICS = ":statistics"  # suffix of a layer's name


def timm_types(path: str) -> tuple[type[Any], ...]:
    """Return a class of timm as an argument of ``isinstance``, without importing timm, which takes a second.

    The result is empty while timm is not imported; no instance can exist then.

    Args:
        path: dotted, such as ``timm.layers.conv2d_same.Conv2dSame``.
    """
    module, _, name = path.rpartition(".")
    return (getattr(sys.modules[module], name),) if module in sys.modules else ()


def statistics_of(layer: str) -> str:
    """Return the name that reads the activation statistics of a layer's input instead of its output.

    They are mean and biased variance per channel, ``(N, 2, C)``, of an input ``(N, C, ...)``, with their graph.
    """
    return layer + _STATISTICS


def is_statistics(name: str) -> bool:
    """Return whether a name is a result of :func:`statistics_of`."""
    return name.endswith(_STATISTICS)


def layer_of(name: str) -> str:
    """Return the layer that a name reads."""
    return name.removesuffix(_STATISTICS)


def layer_names(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that can be read, in the order of the network's modules.

    Containers without a forward and scripted layers, which accept no hooks, are excluded.
    """
    layers = [(n, m) for n, m in network.named_modules() if n and not isinstance(m, torch.jit.ScriptModule)]
    return tuple(name for name, layer in layers if type(layer).forward is not nn.Module.forward)


def check_layers(names: Collection[str], network: nn.Module) -> None:
    """Raise :class:`LitVizError` with similar names unless the network has all these layers."""
    available = layer_names(network) if names else ()
    for name in map(layer_of, names):
        if name not in available:
            hint = did_you_mean(name, available) or f"; it has {len(available)}, such as {', '.join(available[-3:])}"
            raise LitVizError(f"the network has no layer {name!r}{hint}")


@contextmanager
def reading(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the named layers in the body's forward, with their graph.

    Of a layer that is called several times the last output is collected, of a tuple its first tensor. A name of
    :func:`statistics_of` collects the statistics of the layer's input.

    Raises:
        LitVizError: the network has no such layer, or the forward does not call it.
    """
    check_layers(names, network)
    with _collecting({name: network.get_submodule(layer_of(name)) for name in names}) as outputs:
        yield outputs
    for name in names:
        if name not in outputs:
            raise unreadable(name)


def unreadable(layer: str) -> LitVizError:
    """Return the error for a layer without an output."""
    return LitVizError(f"layer {layer!r} can't be read: a forward doesn't call it, or it returns no tensor")


@contextmanager
def reading_all(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of all layers that the body's forward calls, in the order of their last calls."""
    with _collecting({name: network.get_submodule(name) for name in layer_names(network)}) as outputs:
        yield outputs


@contextmanager
def _collecting(layers: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    outputs: dict[str, Tensor] = {}

    def read_output(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, (tuple, list)) and output else output
            if isinstance(tensor, Tensor):
                outputs.pop(name, None)  # a repeated call moves the layer to the end
                outputs[name] = tensor.clone()  # many networks change it in place afterwards

        return hook

    def read_statistics(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            if args and isinstance(args[0], Tensor):
                outputs[name] = activation_statistics(args[0])

        return hook

    handles = [
        layer.register_forward_pre_hook(read_statistics(name))
        if is_statistics(name)
        else layer.register_forward_hook(read_output(name))
        for name, layer in layers.items()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


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
