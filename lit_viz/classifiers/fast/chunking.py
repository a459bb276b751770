"""Parts of a network that are much wider inside than outside, computed for a few images at a time.

An inverted bottleneck (Sandler et al. 2018, arXiv:1801.04381, section 3.3) of a high resolution makes maps that the
processor's cache can't hold for a whole batch: each step would fetch from memory what the one before has just written.
Every image gets the same numbers, for no row of a batch depends on another.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_viz.classifiers.fast.convolution import FastConvolution, usable

#: Bytes of the widest maps of the images that are computed together. Of 5, 10, 20 and 40 million the second was the
#: fastest, by 7 % of EfficientNet-Lite0's forward and backward (two cores, 1 MiB and 16 MiB of cache each).
FITTING = 10_000_000
_WIDER = 2  # times as many values inside as go in and come out
_LIGHTER = 10  # times fewer bytes of weights, which every chunk reads, than of its maps


class Chunked(nn.Module):
    """Computes what ``module`` does, for as many images at a time as ``fitting`` bytes hold.

    It takes over the module's attributes.

    Args:
        module: takes and gives one tensor of images.
        widening: values of an image in its widest maps, for each value that goes in.
    """

    def __init__(self, module: nn.Module, widening: float) -> None:
        super().__init__()
        self.__dict__.update(module.__dict__)
        self.whole = (module,)  # in a tuple: no further layer with a name of its own
        self.widening = widening
        self.fitting = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output for all images."""
        widest = x.numel() * x.element_size() * self.widening
        compute = self.whole[0].forward  # without the hooks, which are this module's
        if not usable(x) or widest < 2 * self.fitting:
            return compute(x)  # type: ignore[no-any-return]
        fitting = max(int(self.fitting / widest * len(x)), 1)
        images = 1 << fitting.bit_length() - 1  # a power of two divides most batches
        return torch.cat([compute(part) for part in torch.split(x, images)])


def chunk_bottlenecks(network: nn.Module, x: Tensor, keep: Collection[str]) -> list[str]:
    """Replace the parts of ``network`` that are wide inside, in place, and return their names.

    They compute one image at a time until :func:`fit_chunks`, so that two images show what chunks change: what is read
    inside of them is the last chunk's.

    Args:
        network: a private copy in eval mode.
        x: any normalized input that it takes, of two images at least.
        keep: names of layers that are read: what they are inside of is left alone.
    """
    calls = _calls(network, x)
    found = {name: _widening(name, network.get_submodule(name), calls, len(x)) for name in calls}
    wide = [name for name, widening in found.items() if widening and not _any_inside(name, keep)]
    innermost = [name for name in wide if not _any_inside(name, wide)]
    for name in innermost:
        network.set_submodule(name, Chunked(network.get_submodule(name), found[name]))
    return innermost


def restore(network: nn.Module, names: Collection[str]) -> None:
    """Undo :func:`chunk_bottlenecks`."""
    for name in names:
        chunked = network.get_submodule(name)
        assert isinstance(chunked, Chunked)
        network.set_submodule(name, chunked.whole[0])


def fit_chunks(network: nn.Module, fitting: float = FITTING) -> None:
    """Let the parts compute as many images at a time as so many bytes hold, and one at least."""
    for module in network.modules():
        if isinstance(module, Chunked):
            module.fitting = fitting


class _Call(NamedTuple):
    """What a module was called with: the shapes of its only tensor and of what it gave, or None."""

    taken: torch.Size | None
    given: torch.Size | None


def _calls(network: nn.Module, x: Tensor) -> dict[str, list[_Call]]:
    calls: dict[str, list[_Call]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
            given = output.shape if isinstance(output, Tensor) else None
            calls.setdefault(name, []).append(_Call(args[0].shape if alone else None, given))

        return hook

    layers = [(n, m) for n, m in network.named_modules() if n and not isinstance(m, torch.jit.ScriptModule)]
    handles = [module.register_forward_hook(note(name), with_kwargs=True) for name, module in layers]
    try:
        with torch.no_grad():
            network(x.clone())
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _widening(name: str, module: nn.Module, calls: dict[str, list[_Call]], images: int) -> float:
    """Return how many values the widest maps inside have for each that goes in; 0 where chunks gain nothing."""
    (taken, given), *further = calls[name]
    if further or taken is None or given is None:
        return 0
    if not len(taken) == len(given) == 4 or not taken[0] == given[0] == images:
        return 0
    inside = [f"{name}.{inner}" for inner, layer in module.named_modules() if isinstance(layer, FastConvolution)]
    shapes = [call.given for inner in inside for call in calls.get(inner, ())]
    widest = max((shape.numel() for shape in shapes if shape is not None), default=0)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    light = weights * _LIGHTER <= FITTING
    return widest / taken.numel() if light and widest >= _WIDER * (taken.numel() + given.numel()) else 0


def _any_inside(name: str, others: Collection[str]) -> bool:
    return any(other.startswith(f"{name}.") for other in others)
