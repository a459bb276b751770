"""Layers by name: listing them, and reading what they give in a forward."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lit_viz.classifiers.fast.moments import moments
from lit_viz.errors import LitVizError, did_you_mean

if TYPE_CHECKING:
    from lit_viz.classifiers.classifier import Classifier


#: Behind the name of a layer: not what it gives is read, but the moments of what it is given.
_MOMENTS = ":moments"


def statistics_of(layer: str) -> str:
    """Return the name under which the moments of what a layer is given are read, by channel over all places.

    They are the mean and the variance (biased), ``(N, 2, C)``, with their graph, of an input ``(N, C, ...)``; the input
    itself is not kept.
    """
    return layer + _MOMENTS


def is_statistics(name: str) -> bool:
    """Return whether the name is that of moments."""
    return name.endswith(_MOMENTS)


def layer_of(name: str) -> str:
    """Return the layer that is read under a name."""
    return name.removesuffix(_MOMENTS)


def layer_names(classifier: Classifier | nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that can be read, in the order in which the network holds them.

    Mere lists of layers, which are never called themselves, are left out, and scripted layers, which take no hooks.
    """
    module = classifier if isinstance(classifier, nn.Module) else classifier.original
    layers = [(n, m) for n, m in module.named_modules() if n and not isinstance(m, torch.jit.ScriptModule)]
    return tuple(name for name, layer in layers if type(layer).forward is not nn.Module.forward)


def check_layers(names: Collection[str], network: nn.Module) -> None:
    """Raise :class:`LitVizError`, which lists the near names, unless the network has all these layers."""
    known = layer_names(network) if names else ()
    for name in map(layer_of, names):
        if name not in known:
            near = did_you_mean(name, known) or f"; it has {len(known)}, for example {', '.join(known[-3:])}"
            raise LitVizError(f"the network has no layer {name!r}{near}")


@contextmanager
def reading(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the named layers of the forward in the body, with their graph.

    Of a layer that is called several times the last output is kept; of a tuple its first tensor. A name of
    :func:`statistics_of` gives the moments of the layer's input.

    Raises:
        LitVizError: a layer that the network doesn't have, or that the forward didn't call.
    """
    check_layers(names, network)
    with _collecting({name: network.get_submodule(layer_of(name)) for name in names}) as found:
        yield found
    for name in names:
        if name not in found:
            raise LitVizError(f"layer {name!r} can't be read: a forward doesn't call it, or it returns no tensor")


@contextmanager
def reading_all(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of all layers that the forward in the body calls."""
    with _collecting({name: network.get_submodule(name) for name in layer_names(network)}) as found:
        yield found


@contextmanager
def _collecting(layers: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    found: dict[str, Tensor] = {}

    def remember(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, (tuple, list)) and output else output
            if isinstance(tensor, Tensor):
                found.pop(name, None)  # a layer that is called again has its place where it is called last
                found[name] = tensor.clone()  # many networks change it in place right afterwards

        return hook

    def measure(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            if args and isinstance(args[0], Tensor):
                found[name] = moments(args[0])

        return hook

    handles = [
        layer.register_forward_pre_hook(measure(name))
        if is_statistics(name)
        else layer.register_forward_hook(remember(name))
        for name, layer in layers.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
