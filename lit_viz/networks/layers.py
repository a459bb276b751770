"""Layers by name: list them, name what is read of them, read all outputs, and detect their layouts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.networks.isolation import Original
from lit_viz.networks.summaries import probe_images

CONV2D_SAME = "timm.layers.conv2d_same.Conv2dSame"
#: Suffixes of a layer's name, for what is read instead of its output.
STATISTICS, ATTENTION, LOGITS = ":statistics", ":attention", ":logits"
#: Possible strides, in pixels, of patches and of stages of convolutions.
_STRIDES = tuple(factor * 2**power for factor, power in product((1, 3, 5, 7), range(9)))
LayerKind = Literal["maps", "grid", "tokens", "vector", "other"]


def timm_types(path: str) -> tuple[type[Any], ...]:
    """Return a class of timm, by its dotted path, as an argument of ``isinstance``.

    The result is empty while timm is not imported (which takes a second); no instance can exist then.
    """
    module, _, name = path.rpartition(".")
    if module not in sys.modules:
        return ()
    return (getattr(sys.modules[module], name),)


def statistics_of(layer: str) -> str:
    """Return the name that reads the activation statistics of a layer's input instead of its output.

    They are mean and biased variance per channel, ``(N, 2, C)``, of an input ``(N, C, ...)``, with their graph.
    """
    return layer + STATISTICS


def attention_of(layer: str) -> str:
    """Return the name that reads the attention map ``(N, heads, T, T)`` of a layer instead of its output."""
    return layer + ATTENTION


def block_logits_of(block: str) -> str:
    """Return the name that reads the logits ``(N, K)`` of the mean token of a transformer's block.

    They are the network's logits if this token were every token of its last block. Their gradient does not pass to the
    block before. All blocks that are scored are read together, in the order of the forward, with the last one.
    """
    return block + LOGITS


def layer_of(name: str) -> str:
    """Return the layer that a name reads."""
    return name.removesuffix(STATISTICS).removesuffix(ATTENTION).removesuffix(LOGITS)


def readable_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that can be read by name, in the order of the network's modules.

    Containers without a forward and scripted layers, which accept no hooks, are excluded.
    """
    layers = {}
    for name, layer in network.named_modules():
        if not name or isinstance(layer, torch.jit.ScriptModule):
            continue
        if type(layer).forward is not nn.Module.forward:
            layers[name] = layer
    return layers


def modules_of(network: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return the modules of a network with these names."""
    return {name: network.get_submodule(name) for name in names}


def layer_names(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that can be read, in the order of the network's modules."""
    return tuple(readable_layers(network))


def in_module(layer: str, module: str | None) -> bool:
    """Return whether a layer is inside a module, by their names; every layer is if there is none."""
    return module is None or layer.startswith(f"{module}.")


def layer_name(layer: str | nn.Module, network: nn.Module) -> str:
    """Return the name of a layer that is given by its name or as the module itself.

    Raises:
        LitVizError: the network does not have it.
    """
    if not isinstance(layer, nn.Module):
        name = str(layer)
        check_layers([name], network)
        return name
    names: list[str] = [name for name, module in network.named_modules() if name and module is layer]
    if not names:
        raise LitVizError(f"layer must be a module of {type(network).__name__}, got another {type(layer).__name__}")
    return names[0]


def check_layers(names: Collection[str], network: nn.Module) -> None:
    """Raise :class:`LitVizError` with similar names unless the network has all these layers."""
    available = layer_names(network) if names else ()
    for name in map(layer_of, names):
        if name not in available:
            hint = did_you_mean(name, available) or f"; it has {len(available)}, such as {', '.join(available[-3:])}"
            raise LitVizError(f"the network has no layer {name!r}{hint}")


@contextmanager
def hooked(
    layers: Mapping[str, nn.Module], hook: Callable[..., Any], *, before: bool = False, with_kwargs: bool = False
) -> Iterator[None]:
    """Call a forward hook of these layers in the body, with the layer's name as its first argument.

    The other arguments are torch's: module, args (then kwargs, if requested) and, unless ``before``, output.
    """
    with ExitStack() as handles:
        for name, layer in layers.items():
            register: Any = layer.register_forward_pre_hook if before else layer.register_forward_hook
            handles.enter_context(register(partial(hook, name), with_kwargs=with_kwargs))
        yield


def unreadable(layer: str) -> LitVizError:
    """Return the error for a layer without an output in the forward."""
    return LitVizError(f"layer {layer!r} can't be read: a forward doesn't call it, or it returns no tensor")


@contextmanager
def reading_all(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of all layers that the body's forward calls, in the order of their last calls."""
    outputs: dict[str, Tensor] = {}

    def read(name: str, module: nn.Module, args: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            outputs.pop(name, None)  # a repeated call moves the layer to the end
            outputs[name] = tensor.clone()  # many networks change it in place afterwards

    with hooked(readable_layers(network), read):
        yield outputs


def first_tensor(output: Any) -> Tensor | None:
    """Return the tensor, or the first tensor of the tuple, that a layer returns; None for other outputs."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


@dataclass(frozen=True)
class Layout:
    """Layout of a layer's output for one image of the network's size.

    Attributes:
        shape: without the batch dimension.
        kind: ``maps`` (C, H, W), ``grid`` (H, W, D) channels-last, ``tokens`` (T, D), ``vector`` (D,), or ``other``,
            where rows are not images (attention windows) or the dimensions differ.
        prefix: number of leading tokens without a place: class token and registers.
    """

    shape: tuple[int, ...]
    kind: LayerKind
    prefix: int = 0

    @property
    def has_tokens(self) -> bool:
        """Whether "channel" may mean a feature of all tokens or all features of a token."""
        return self.kind in ("tokens", "grid")

    @property
    def channels(self) -> int:
        """Number of channels or features; 0 if unknown."""
        if not self.shape or self.kind == "other":
            return 0
        if self.kind == "maps":
            return self.shape[0]
        return self.shape[-1]

    @property
    def tokens(self) -> int:
        """Number of tokens with a place; 0 if there are none."""
        places = {"tokens": self.shape[:1], "grid": self.shape[:2]}.get(self.kind, (0,))
        return int(torch.Size(places).numel()) - self.prefix

    def __str__(self) -> str:
        """Return ``80 x 14 x 14, 80 channels``."""
        shape = " x ".join(map(str, self.shape))
        if self.kind == "other":
            return shape
        if not self.has_tokens:
            return f"{shape}, {self.channels} channels"
        prefix = f" after {self.prefix} without a place" if self.prefix else ""
        return f"{shape}, {self.channels} features of {self.tokens} tokens{prefix}"


def layouts(classifier: Original) -> dict[str, Layout]:
    """Return the layouts of all layers that a forward calls, in the order of the calls.

    If a layer has as many features as places along a side, features are the last dimension in transformers and the
    first in other networks.
    """
    network, size = classifier.original, classifier.size
    prefix = prefix_tokens(network)
    patches = getattr(getattr(network, "patch_embed", None), "num_patches", 0)  # of timm's transformers
    with reading_all(network) as outputs:
        classifier.scores(probe_images(classifier.channels, size)[:1])
    return {name: layout_of(output, size, prefix, patches) for name, output in outputs.items()}


def layout(network: Original, layer: str) -> Layout:
    """Return the layout of one layer; raise :class:`LitVizError` if the network does not have or call it."""
    check_layers([layer], network.original)
    available = layouts(network)
    if layer not in available:
        raise unreadable(layer)
    return available[layer]


def layout_of(output: Tensor, size: Sequence[int], prefix: int = 0, patches: int = 0) -> Layout:
    """Return the layout of a layer's output, with its batch dimension, for one image of a size (H, W).

    Tokens are ``prefix`` without a place (see :func:`prefix_tokens`) and ``patches`` with one, 0 if unknown.
    """
    rows, *shape = output.shape
    if rows != 1 or not 1 <= len(shape) <= 3:
        return Layout(tuple(output.shape), "other")
    if len(shape) == 1:
        return Layout(tuple(shape), "vector")
    if len(shape) == 3:
        first, last = _is_map(shape[:2], size), _is_map(shape[1:], size)
        is_grid = first and (not last or prefix or patches)
        return Layout(tuple(shape), "grid" if is_grid else "maps")
    tokens = shape[0]
    if patches and tokens in (patches, patches + prefix):
        prefix = tokens - patches
    elif isqrt(tokens) ** 2 == tokens and isqrt(max(tokens - prefix, 0)) ** 2 != tokens - prefix:
        prefix = 0  # the patches alone, which form a square
    return Layout(tuple(shape), "tokens", prefix)


def _is_map(sides: Sequence[int], size: Sequence[int]) -> bool:
    """Return whether these may be the sides of a map of the input (H, W): its proportions, exactly or rounded."""
    exact = sides[0] * size[1] == sides[1] * size[0]
    return exact or any(_is_rounded(sides, size, stride) for stride in _STRIDES)


def _is_rounded(sides: Sequence[int], size: Sequence[int], stride: int) -> bool:
    return abs(size[0] / stride - sides[0]) < 1 and abs(size[1] / stride - sides[1]) < 1


def prefix_tokens(network: nn.Module) -> int:
    """Return the number of class tokens and registers before a transformer's patches.

    It is timm's ``num_prefix_tokens``, else 1 for modules with ``class_token`` (torchvision) or ``cls_token``, else 0.
    """
    for module in network.modules():
        number = getattr(module, "num_prefix_tokens", None)
        if isinstance(number, int):
            return number
        for name in ("class_token", "cls_token"):
            if isinstance(getattr(module, name, None), Tensor):
                return 1
    return 0
