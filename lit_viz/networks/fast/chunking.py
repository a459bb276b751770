"""Chunking: layers that are much wider inside than outside compute a few images at a time.

An inverted bottleneck (Sandler et al. 2018, arXiv:1801.04381, section 3.3) of high resolution produces maps that exceed
the processor's cache for a whole batch, so that each step reads from memory what the one before has written. The rows
of a batch are independent, so the results are equal.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.networks.fast.convolution import FastConvolution, usable
from lit_viz.networks.layers import hooked, readable_layers
from lit_viz.networks.outputs import LOGITS, Output

#: Bytes of the widest maps of a chunk. 10 million was the fastest of 5, 10, 20 and 40 million for EfficientNet-Lite0 on
#: two cores with 1 MiB and 16 MiB of cache each.
CHUNK_BYTES = 10_000_000
_MIN_WIDENING = 2  # values inside, relative to the values of input and output
_MIN_LIGHTNESS = 10  # bytes of a chunk's maps, relative to those of the weights, which every chunk reads


class Chunked(nn.Module):
    """Computes ``module`` for as many images at a time as fit into ``chunk_bytes``; shares the module's attributes.

    ``widening`` is the number of values of an image's widest maps inside, relative to the input's.
    """

    def __init__(self, module: nn.Module, widening: float) -> None:
        super().__init__()
        self.__dict__.update(module.__dict__)
        self.whole = (module,)  # in a tuple, so that it is no named submodule
        self.widening = widening
        self.chunk_bytes = 0.0

    def forward(self, x: Tensor) -> Tensor:
        widest = x.numel() * x.element_size() * self.widening
        compute = self.whole[0].forward  # without the hooks, which are shared
        if not usable(x) or widest < 2 * self.chunk_bytes:
            return compute(x)  # type: ignore[no-any-return]
        count = max(int(self.chunk_bytes / widest * len(x)), 1)
        images = 1 << count.bit_length() - 1  # a power of two divides most batches
        return torch.cat([compute(part) for part in torch.split(x, images)])


def chunk_bottlenecks(network: nn.Module, x: Tensor, keep: Collection[str], output: Output = LOGITS) -> list[str]:
    """Replace the layers of ``network`` that are wide inside, in place; return their names.

    Until :func:`set_chunk_bytes` is called they compute one image at a time, so that two images show any difference.
    Inside of them only the last chunk can be read, so layers around a kept layer are not replaced.
    """
    calls = _calls(network, x, output)
    wide: dict[str, float] = {}  # widening by name
    for name in calls:
        widening = _widening(name, network.get_submodule(name), calls, len(x))
        if widening and not _any_inside(name, keep):
            wide[name] = widening
    innermost = [name for name in wide if not _any_inside(name, wide)]
    for name in innermost:
        network.set_submodule(name, Chunked(network.get_submodule(name), wide[name]))
    return innermost


def undo_chunking(network: nn.Module, names: Collection[str]) -> None:
    """Undo :func:`chunk_bottlenecks`."""
    for name in names:
        network.set_submodule(name, network.get_submodule(name).whole[0])  # type: ignore[index, arg-type]


def set_chunk_bytes(network: nn.Module, chunk_bytes: float = CHUNK_BYTES) -> None:
    """Set the bytes of a chunk's widest maps; a chunk has at least one image."""
    for module in network.modules():
        if isinstance(module, Chunked):
            module.chunk_bytes = chunk_bytes


#: Shapes of a call's only input and its output; None for anything but one tensor.
_CallShapes = tuple[torch.Size | None, torch.Size | None]


def _calls(network: nn.Module, x: Tensor, output: Output) -> dict[str, list[_CallShapes]]:
    calls: dict[str, list[_CallShapes]] = {}

    def record(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        is_single = len(args) == 1 and not kwargs
        calls.setdefault(name, []).append((_shape(args[0]) if is_single else None, _shape(output)))

    with hooked(readable_layers(network), record, with_kwargs=True), torch.no_grad():
        output.returned(network, x.clone())
    return calls


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def _widening(name: str, module: nn.Module, calls: dict[str, list[_CallShapes]], images: int) -> float:
    """Return the values of the widest maps inside relative to the input's; 0 where chunks have no advantage."""
    (inputs, outputs), *others = calls[name]
    if others or inputs is None or outputs is None:
        return 0
    if not len(inputs) == len(outputs) == 4 or not inputs[0] == outputs[0] == images:
        return 0
    weights = 0
    for parameter in module.parameters():
        weights += parameter.numel() * parameter.element_size()
    widest = _widest_inside(name, module, calls)
    is_light = weights * _MIN_LIGHTNESS <= CHUNK_BYTES
    is_wide = widest >= _MIN_WIDENING * (inputs.numel() + outputs.numel())
    return widest / inputs.numel() if is_light and is_wide else 0


def _widest_inside(name: str, module: nn.Module, calls: dict[str, list[_CallShapes]]) -> int:
    """Return the number of values of the largest output of a convolution inside, of all images."""
    widest = 0
    for inner, layer in module.named_modules():
        if not isinstance(layer, FastConvolution):
            continue
        for _, shape in calls.get(f"{name}.{inner}", ()):
            if shape is not None:
                widest = max(widest, shape.numel())
    return widest


def _any_inside(name: str, others: Collection[str]) -> bool:
    return any(other.startswith(f"{name}.") for other in others)
