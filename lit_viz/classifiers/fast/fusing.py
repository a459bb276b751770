"""Activations fused into the convolutions before them, found by watching a forward."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn

from lit_viz.classifiers.fast.convolution import FastConvolution, replaceable, usable
from lit_viz.classifiers.fast.kernels import Activation
from lit_viz.classifiers.fast.links import Link, links
from lit_viz.classifiers.fast.rectifiers import Rectifier, is_rectifier, top_of

_ACTIVATED = "_lit_viz_activated"  # marks a tensor that a fused convolution has activated, until the activation sees it


def _fusable(activation: nn.Module) -> Activation | None:
    """Return what a convolution does in place of this module; None for other modules than rectifiers."""
    if type(activation) is Rectifier:
        top, backprop = activation.top, activation.backprop
    elif is_rectifier(activation):
        top, backprop = top_of(activation), "plain"
    else:
        return None
    return Activation("relu", (), backprop) if top == math.inf else Activation("hardtanh", (0.0, top), backprop)


def can_fuse() -> bool:
    """Return whether this build of torch has oneDNN's (private) kernels."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and all(hasattr(torch.ops.mkldnn, f"_{kind}_pointwise") for kind in ("convolution", "linear"))


class FusedConvolution(FastConvolution):
    """A convolution that also applies the activation that follows it, and marks its output as activated."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``act(conv(x))``, marked as such, or ``conv(x)``."""
        y = super().forward(x)
        if usable(x):
            setattr(y, _ACTIVATED, True)
        return y


class FusedActivation(nn.Module):
    """The activation after a fused convolution: does nothing to a tensor that is marked, and its own work otherwise.

    A layer may be called in several places (ResNet has one ReLU a block), not all of which follow a fused convolution.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.alone = (activation,)  # in a tuple: no further layer with a name of its own

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``."""
        if x.__dict__.pop(_ACTIVATED, False):
            return x
        return self.alone[0](x)  # type: ignore[no-any-return]


def fuse_activations(network: nn.Module, x: Tensor, keep: Collection[str]) -> list[Link]:
    """Fuse the rectifiers of ``network`` in place and return (convolution, activation) by name.

    Args:
        network: a private copy in eval mode, batch norm folded.
        x: any normalized input that it takes.
        keep: names of layers that stay; neither they nor their partners are fused.
    """
    found, _ = links(network, x, replaceable, lambda module: _fusable(module) is not None)
    pairs = [pair for pair in found if not {pair.giver, pair.taker} & set(keep)]
    activations = {pair.taker: network.get_submodule(pair.taker) for pair in pairs}
    for giver, taker in pairs:
        convolution: nn.Conv2d = network.get_submodule(giver)  # type: ignore[assignment]
        fused = _fusable(activations[taker])
        assert fused is not None
        network.set_submodule(giver, FusedConvolution(convolution, fused))
    replaced = {activation: FusedActivation(activation) for activation in activations.values()}
    for name, module in list(network.named_modules(remove_duplicate=False)):  # one module may have several names
        if module in replaced:
            network.set_submodule(name, replaced[module])
    return pairs
