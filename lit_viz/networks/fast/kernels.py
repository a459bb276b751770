"""oneDNN kernels with constant weights, for float32 on CPUs: convolution, its gradient, and linear layer.

- Weights are reordered into oneDNN's layout once instead of at every call. In small batches, late layers otherwise
  spend as long on their weights as on the images.
- The gradient of a convolution with stride 1 is a convolution with the transposed kernel. oneDNN's own backward is slow
  in depthwise layers.
- The gradient of an image is a sub-pixel convolution. It is bit-equal in every batch size; that of oneDNN's own
  backward is not for few channels, and it is slower for large kernels (ResNet-50).
- The linear kernel computes a row independently of the batch size. The default library sums in another order for one
  row than for sixteen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_viz.networks.fast.backward import Activation

_FEW_CHANNELS = 4  # of an image, with or without an alpha channel


def kernels_available() -> bool:
    """Return whether this build of torch has oneDNN's (private) kernels."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and all(hasattr(torch.ops.mkldnn, f"_{kind}_pointwise") for kind in ("convolution", "linear"))


def computable(x: Tensor) -> bool:
    """Return whether the kernels accept ``x``: float32 on the CPU, no autocast, oneDNN enabled."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return on_cpu and bool(torch.backends.mkldnn.enabled) and x.numel() > 0


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

    def __call__(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        stride, padding, dilation, groups = self.geometry
        name, limits = "none", list[float]()
        if activation is not None and activation.top < math.inf:
            name, limits = "hardtanh", [0.0, activation.top]
        elif activation is not None:
            name = "relu"
        return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
            x, self._weight_for(x), self.bias, padding, stride, dilation, groups, name, limits, None
        )

    @cached_property
    def transposed(self) -> Kernel | None:
        """The kernel that maps the gradient of ``conv(x)`` to the gradient of ``x`` for stride 1.

        None for other strides, for padding beyond the kernel, and for few channels, where oneDNN is slow.
        """
        weight, (stride, padding, dilation, groups) = self.weight, self.geometry
        reach = tuple(d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True))
        if set(stride) != {1} or min(reach) < 0 or (groups == 1 and weight.shape[1] <= _FEW_CHANNELS):
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


def is_sub_pixel(weight: Tensor, geometry: Geometry) -> bool:
    """Return whether the sub-pixel form applies: few input channels, one group, no dilation, a spatial kernel."""
    few = geometry.groups == 1 and weight.shape[1] <= _FEW_CHANNELS
    return few and geometry.dilation == (1, 1) and max(weight.shape[2:]) > 1


def sub_pixel_gradient(gradient: Tensor, weight: Tensor, geometry: Geometry, shape: Sequence[int]) -> Tensor:
    """Return the gradient by a sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158, section 3)."""
    y, x = (
        _axis(weight.shape[i], geometry.stride[i - 2], geometry.padding[i - 2], shape[i], gradient.shape[i])
        for i in (2, 3)
    )
    kernels = F.pad(weight, (0, 1, 0, 1))[:, :, y.taps[:, None, :, None], x.taps[:, None]]
    kernels = kernels.permute(2, 3, 1, 0, 4, 5).flatten(0, 2).contiguous(memory_format=torch.channels_last)
    phases: Tensor = torch.ops.aten.convolution(  # unlike conv2d, not affected by autocast around the backward
        gradient, kernels, None, [y.stride, x.stride], [y.padding, x.padding], [1, 1], False, [0, 0], 1
    )
    phases = phases[:, :, y.first : y.first + y.blocks, x.first : x.first + x.blocks]
    # A pixel shuffle with the channels innermost, which moves whole rows of a block.
    rows = phases.permute(0, 2, 3, 1).reshape(-1, y.blocks, x.blocks, y.block, x.block * shape[1]).transpose(2, 3)
    pixels = rows.reshape(-1, y.blocks * y.block, x.blocks * x.block, shape[1])
    return pixels.permute(0, 3, 1, 2)[:, :, : shape[2], : shape[3]]


class _KernelAxis(NamedTuple):
    """One axis of a sub-pixel convolution."""

    taps: Tensor  # (block, U): index of the kernel's row for each phase and offset; the last index is a zero row
    stride: int
    padding: int
    first: int  # index of the first result that is kept
    blocks: int
    block: int  # pixels per block


def _axis(kernel: int, stride: int, padding: int, size: int, outputs: int) -> _KernelAxis:
    """Return the layout of one axis, from ``outputs`` values of a gradient to ``size`` pixels.

    Pixel ``i = block q + r`` receives ``gradient[p] kernel[i + padding - stride p]`` from every ``p``. With
    ``p = (block / stride) q + u`` this is ``kernel[r + padding - stride u]``, equal for all ``q``: each phase ``r`` is
    a channel. A block has at least two pixels, because an image's channels alone do not fill oneDNN's registers.
    """
    block = max(stride, 2)
    lowest, highest = -((kernel - 1 - padding) // stride), (block - 1 + padding) // stride  # of u
    r, u = torch.arange(block, device="cpu"), torch.arange(lowest, highest + 1, device="cpu")
    taps = r[:, None] + padding - stride * u
    blocks, step = -(-size // block), block // stride
    zeros = max(-lowest, step * (blocks - 1) + highest - (outputs - 1), 0)
    zeros += -(zeros + lowest) % step  # the first block starts at a multiple of the step
    taps = taps.where((taps >= 0) & (taps < kernel), kernel)
    return _KernelAxis(taps, step, zeros, (zeros + lowest) // step, blocks, block)


class FastLinear(nn.Linear):
    """Computes ``x @ weight.T + bias`` by oneDNN; shares the attributes of ``linear``."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(linear.__dict__)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or not computable(x):
            return super().forward(x)
        return _linear(x.flatten(0, -2), self.weight, self.bias).view(*x.shape[:-1], -1)


def replace_linears(network: nn.Module) -> None:
    """Replace the linear layers of ``network``."""
    for name, layer in list(network.named_modules()):
        if name and type(layer) is nn.Linear:
            network.set_submodule(name, FastLinear(layer))


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
