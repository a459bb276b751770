"""Convolution and activation in one kernel, with a backward that needs only the output.

A ReLU6 in place copies its input for the backward, and every activation is a pass over memory of its own. oneDNN
applies it while it writes the convolution's result; the gradient passes where ``0 < y`` (and ``y < 6``), which the
output tells.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn

from lit_viz.classifiers.folding import plain_convolution
from lit_viz.classifiers.observing import Link, links

_ACTIVATED = "_lit_viz_activated"  # marks a tensor that a fused convolution has activated, until the activation sees it


class _Activation(NamedTuple):
    name: str  # as oneDNN calls it
    limits: tuple[float, ...]


_ACTIVATIONS = {nn.ReLU: _Activation("relu", ()), nn.ReLU6: _Activation("hardtanh", (0.0, 6.0))}


class _Geometry(NamedTuple):
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


class _FusedConvolution(torch.autograd.Function):
    """``y = act(conv(x))``; differentiable in ``x`` alone, any number of times."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry, activation: _Activation
    ) -> Tensor:
        y = _convolve(x, weight, bias, geometry, activation)
        ctx.save_for_backward(x, weight, y)
        ctx.geometry, ctx.activation = geometry, activation
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, weight, y = ctx.saved_tensors
        if ctx.activation.limits:
            gradient = torch.ops.aten.hardtanh_backward(gradient, y, *ctx.activation.limits)
        else:
            gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        stride, padding, dilation, groups = ctx.geometry
        only_input = [True, False, False]
        gradients = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, stride, padding, dilation, False, [0, 0], groups, only_input
        )
        return gradients[0], None, None, None, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry, activation: _Activation) -> Tensor:
    stride, padding, dilation, groups = geometry
    return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
        x, weight, bias, padding, stride, dilation, groups, activation.name, list(activation.limits), None
    )


def can_fuse() -> bool:
    """Return whether this build of torch has the (private) fused kernel."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class FusedConvolution(nn.Conv2d):
    """A convolution that also applies the activation that follows it; it takes over the attributes of ``conv``.

    On other devices and dtypes, under autocast or with oneDNN switched off it is the plain convolution, and the
    activation does its own work.
    """

    def __init__(self, conv: nn.Conv2d, activation: type[nn.Module]) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(conv.__dict__)
        self.activation = _ACTIVATIONS[activation]
        self.same = isinstance(conv, Conv2dSame)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``act(conv(x))``, marked as such, or ``conv(x)``."""
        if self.same:
            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        if not _usable(x):
            y: Tensor = self._conv_forward(x, self.weight, self.bias)
            return y
        padding = [0, 0] if self.same else [int(p) for p in self.padding]
        geometry = _Geometry(list(self.stride), padding, list(self.dilation), self.groups)
        if torch.is_grad_enabled() and x.requires_grad:
            y = _FusedConvolution.apply(x, self.weight, self.bias, geometry, self.activation)  # type: ignore[no-untyped-call]
        else:
            y = _convolve(x, self.weight, self.bias, geometry, self.activation)
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


def _usable(x: Tensor) -> bool:
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return on_cpu and bool(torch.backends.mkldnn.enabled) and x.numel() > 0


def fuse_activations(network: nn.Module, x: Tensor, keep: Collection[str]) -> list[Link]:
    """Fuse the ReLUs and ReLU6s of ``network`` in place and return (convolution, activation) by name.

    Args:
        network: a private copy in eval mode, batch norm folded.
        x: any normalized input that it takes.
        keep: names of layers that stay; neither they nor their partners are fused.
    """
    found, _ = links(network, x, _fusable, lambda module: type(module) in _ACTIVATIONS)
    pairs = [pair for pair in found if not {pair.giver, pair.taker} & set(keep)]
    for pair in pairs:
        activation = network.get_submodule(pair.taker)
        kind = type(activation.alone[0] if isinstance(activation, FusedActivation) else activation)
        network.set_submodule(pair.giver, FusedConvolution(network.get_submodule(pair.giver), kind))  # type: ignore[arg-type]
        if not isinstance(activation, FusedActivation):
            network.set_submodule(pair.taker, FusedActivation(activation))
    return pairs


def _fusable(module: nn.Module) -> bool:
    if not plain_convolution(module):
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)
