"""Fusion of rectifiers into the convolutions before them."""

from __future__ import annotations

import math
from collections.abc import Collection

from torch import Tensor, nn

from lit_viz.classifiers.fast.convolution import ACTIVATED, FastConvolution, replaceable
from lit_viz.classifiers.fast.folding import Link, links
from lit_viz.classifiers.fast.kernels import Activation
from lit_viz.classifiers.fast.rectifiers import Rectifier, is_rectifier, rectifier_top


class FusedActivation(nn.Module):
    """The activation after a fused convolution: the identity for marked tensors, the activation for others.

    A shared module is called in several places (ResNet has one ReLU per block), some of which do not follow a fused
    convolution.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = (activation,)  # in a tuple, so that it is no named submodule

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``."""
        if x.__dict__.pop(ACTIVATED, False):
            return x
        return self.activation[0](x)  # type: ignore[no-any-return]


def fuse_activations(network: nn.Module, x: Tensor, keep: Collection[str]) -> list[Link]:
    """Fuse the rectifiers of ``network`` in place; return the pairs (convolution, activation)."""
    found, _ = links(network, x, replaceable, lambda module: _fused(module) is not None)
    pairs = [pair for pair in found if not {*pair} & set(keep)]
    activations = {pair.reader: network.get_submodule(pair.reader) for pair in pairs}
    for writer, reader in pairs:
        convolution: nn.Conv2d = network.get_submodule(writer)  # type: ignore[assignment]
        activation = _fused(activations[reader])
        assert activation is not None
        network.set_submodule(writer, FastConvolution(convolution, activation))
    replaced = {activation: FusedActivation(activation) for activation in activations.values()}
    for name, module in list(network.named_modules(remove_duplicate=False)):  # a module may have several names
        if module in replaced:
            network.set_submodule(name, replaced[module])
    return pairs


def _fused(module: nn.Module) -> Activation | None:
    """Return the kernel's activation for a rectifier; None for other modules."""
    if type(module) is Rectifier:
        top, backprop = module.top, module.backprop
    elif is_rectifier(module):
        top, backprop = rectifier_top(module), "plain"
    else:
        return None
    return Activation("relu", (), backprop) if top == math.inf else Activation("hardtanh", (0.0, top), backprop)
