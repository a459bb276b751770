"""Channels that no photograph activates, and their contribution to the activation of a unit by its synthetic image.

Silent channels can give a unit any synthetic image without a change of its activations by natural images (Geirhos et
al. 2024, arXiv:2306.04719, section 3.2); so can a detector of synthetic images (section 3.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.networks import Network
from lit_viz.networks.layers import hooked, layouts

_BATCH = 16
#: A layer's name and the number of its call in a forward: a rectifier may be called several times.
_Call = tuple[str, int]


class Silence:
    """Channels that have one value for all photographs, at all positions.

    They are sought in layers without parameters and sublayers, such as rectifiers.

    Args:
        network: the network.
        layers: names of the layers of the units.
    """

    def __init__(self, network: Network, layers: Sequence[str]) -> None:
        self._dimensions = _channel_dimensions(network)
        self._network = network.fast([*layers, *self._dimensions])
        self._modules = {name: self._network.layer(name) for name in self._dimensions}
        self._low: dict[_Call, Tensor] = {}
        self._high: dict[_Call, Tensor] = {}

    def activations(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return the activations of layers by photographs ``(N, C, H, W)`` in [0, 1], and record the range of each
        channel."""
        calls: Counter[str] = Counter()

        def record(name: str, module: object, args: object, output: object) -> None:
            call = (name, calls[name])
            calls[name] += 1
            if not isinstance(output, Tensor):
                return
            values = output.movedim(self._dimensions[name], 0).flatten(1)
            low, high = values.amin(1), values.amax(1)
            self._low[call] = torch.minimum(low, self._low.get(call, low))
            self._high[call] = torch.maximum(high, self._high.get(call, high))

        with torch.no_grad(), hooked(self._modules, record):
            return self._network.activations(images, layers)

    def held(self, images: Tensor, layer: str) -> Tensor:
        """Return the activation of a layer by images ``(N, C, H, W)`` with constant channels of other layers at their
        value for photographs."""
        others = {name: module for name, module in self._modules.items() if name != layer}
        parts = []
        for part in torch.split(images, _BATCH):
            calls: Counter[str] = Counter()

            def hold(name: str, module: object, args: object, output: Any, calls: Counter[str] = calls) -> Any:
                call = (name, calls[name])
                calls[name] += 1
                if call not in self._low:
                    return output
                is_constant = self._low[call] == self._high[call]
                if not is_constant.any():
                    return output
                shape = [1] * output.ndim
                shape[self._dimensions[name]] = -1
                return torch.where(is_constant.view(shape), self._low[call].view(shape), output)

            with torch.no_grad(), hooked(others, hold):
                parts.append(self._network.activations(part, [layer])[layer])
        return torch.cat(parts)


def _channel_dimensions(network: Network) -> dict[str, int]:
    """Return the layers without parameters and sublayers, with the dimension of their channels."""
    dimensions = {}
    for name, layout in layouts(network).items():
        module = network.original.get_submodule(name)
        has_parts = any(True for _ in module.children()) or any(True for _ in module.parameters())
        if name and not has_parts and layout.channels:
            dimensions[name] = 1 if layout.kind == "maps" else -1
    return dimensions
