"""oneDNN kernels with constant weights, for float32 on CPUs: convolution and linear layer.

- Weights are reordered into oneDNN's layout once instead of at every call. In small batches, late layers otherwise
  spend as long on their weights as on the images.
- The gradient of a convolution with stride 1 is a convolution with the transposed kernel. oneDNN's own backward is slow
  in depthwise layers.
- The linear kernel computes a row independently of the batch size. The default library sums in another order for one
  row than for sixteen.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_viz.classifiers.fast.rectifiers import Backprop

#: Channels of an image, with or without an alpha channel.
FEW_CHANNELS = 4


def kernels_available() -> bool:
    """Return whether this build of torch has oneDNN's (private) kernels."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and all(hasattr(torch.ops.mkldnn, f"_{kind}_pointwise") for kind in ("convolution", "linear"))


def computable(x: Tensor) -> bool:
    """Return whether the kernels accept ``x``: float32 on the CPU, no autocast, oneDNN enabled."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return on_cpu and bool(torch.backends.mkldnn.enabled) and x.numel() > 0


class Activation(NamedTuple):
    """An activation applied to a kernel's result."""

    name: str  # oneDNN's name: none, relu or hardtanh
    limits: tuple[float, ...] = ()  # of hardtanh
    backprop: Backprop = "plain"

    @property
    def top(self) -> float:
        """Largest output of the rectifier."""
        return self.limits[1] if self.limits else math.inf


NONE = Activation("none")


class Geometry(NamedTuple):
    """Arguments of a convolution; pairs are (vertical, horizontal)."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class Kernel:
    """A convolution of float32 images on the CPU, without a graph.

    Args:
        weight: constant, ``(C_out, C_in / groups, h, w)``.
        bias: ``(C_out,)`` or None.
        geometry: stride, padding, dilation and groups.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> None:
        self.weight, self.bias, self.geometry = weight.contiguous(memory_format=torch.channels_last), bias, geometry
        self._packed: tuple[tuple[Any, ...], Tensor | None] = ((), None)  # input shape and threads, reordered weight

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle without the reordered weight, which supports neither."""
        return Kernel, (self.weight, self.bias, self.geometry)

    def __call__(self, x: Tensor, activation: Activation = NONE) -> Tensor:
        """Return ``act(conv(x))``."""
        stride, padding, dilation, groups = self.geometry
        limits = list(activation.limits)
        return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
            x, self._weight_for(x), self.bias, padding, stride, dilation, groups, activation.name, limits, None
        )

    @cached_property
    def transposed(self) -> Kernel | None:
        """The kernel that maps the gradient of ``conv(x)`` to the gradient of ``x`` for stride 1.

        None for other strides, for padding beyond the kernel, and for few channels, where oneDNN is slow.
        """
        weight, (stride, padding, dilation, groups) = self.weight, self.geometry
        reach = tuple(d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True))
        if set(stride) != {1} or min(reach) < 0 or (groups == 1 and weight.shape[1] <= FEW_CHANNELS):
            return None
        swapped = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1).flip(2, 3)
        return Kernel(swapped, None, Geometry(stride, reach, dilation, groups))

    def _weight_for(self, x: Tensor) -> Tensor:
        """Return the weight, in oneDNN's layout from the second call with the same input shape.

        Another shape or number of threads may need another layout, and a change of layouts is slow.
        """
        case = (*x.shape, torch.get_num_threads())
        previous, packed = self._packed
        if packed is None and case == previous:
            stride, padding, dilation, groups = self.geometry
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, padding, stride, dilation, groups, list(x.shape)
            )
        self._packed = (case, packed if case == previous else None)
        return self.weight if self._packed[1] is None else self._packed[1]


class FastLinear(nn.Linear):
    """Computes ``x @ weight.T + bias`` by oneDNN; shares the attributes of ``linear``."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(linear.__dict__)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., out_features)``."""
        if x.dim() < 2 or not computable(x):
            return super().forward(x)
        return _linear(x.flatten(0, -2), self.weight, self.bias).view(*x.shape[:-1], -1)


def replace_linears(network: nn.Module) -> int:
    """Replace the linear layers of ``network``; return their number."""
    layers = [(name, layer) for name, layer in network.named_modules() if name and type(layer) is nn.Linear]
    for name, linear in layers:
        network.set_submodule(name, FastLinear(linear))
    return len(layers)


class _Linear(torch.autograd.Function):
    """Linear layer, differentiable in ``x`` alone, any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _linear(gradient, ctx.weight.t(), None), None, None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        return _Linear.apply(x, weight, bias)  # type: ignore[no-any-return, no-untyped-call]
    return _product(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x @ weight.T + bias`` for rows ``(N, D)``; a single row is duplicated to use the kernel of batches."""
    rows = x.expand(2, -1) if len(x) == 1 else x
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], None)[: len(x)]  # type: ignore[no-any-return]
