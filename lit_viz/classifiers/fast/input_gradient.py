"""The gradient of a convolution by its input, as another forward convolution where oneDNN is faster at that.

Its backward is slow in depthwise layers, and in those from few channels: the first of a network, whose gradient is the
image's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_viz.classifiers.fast.kernels import FEW_CHANNELS, Geometry, Kernel


def input_gradient(gradient: Tensor, x: Tensor, kernel: Kernel) -> Tensor:
    """Return the gradient by ``x`` ``(N, C, H, W)`` from that by ``conv(x)``; differentiable in ``gradient``."""
    weight, (stride, padding, dilation, groups) = kernel.weight, kernel.geometry
    if groups == 1 and x.shape[1] <= FEW_CHANNELS and dilation == (1, 1) and max(weight.shape[2:]) > 1:
        return _by_phases(gradient, weight, kernel.geometry, x.shape)
    only_input = [True, False, False]
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, dilation, False, [0, 0], groups, only_input
    )
    return gradients[0]


def _by_phases(gradient: Tensor, weight: Tensor, geometry: Geometry, shape: Sequence[int]) -> Tensor:
    """Return the gradient by the image as a sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158, section 3)."""
    y, x = (
        _axis(weight.shape[i], geometry.stride[i - 2], geometry.padding[i - 2], shape[i], gradient.shape[i])
        for i in (2, 3)
    )
    kernels = F.pad(weight, (0, 1, 0, 1))[:, :, y.taps[:, None, :, None], x.taps[:, None]]
    kernels = kernels.permute(2, 3, 1, 0, 4, 5).flatten(0, 2).contiguous(memory_format=torch.channels_last)
    phases: Tensor = torch.ops.aten.convolution(  # not conv2d, which autocast around the backward would round
        gradient, kernels, None, [y.stride, x.stride], [y.padding, x.padding], [1, 1], False, [0, 0], 1
    )
    phases = phases[:, :, y.first : y.first + y.blocks, x.first : x.first + x.blocks]
    # torch's pixel shuffle, but with the channels innermost: so it moves whole rows of a block.
    rows = phases.permute(0, 2, 3, 1).reshape(-1, y.blocks, x.blocks, y.block, x.block * shape[1]).transpose(2, 3)
    pixels = rows.reshape(-1, y.blocks * y.block, x.blocks * x.block, shape[1])
    return pixels.permute(0, 3, 1, 2)[:, :, : shape[2], : shape[3]]


class _Axis(NamedTuple):
    """One axis of a sub-pixel convolution."""

    taps: Tensor  # (block, U): which row of the kernel a phase has at each place; the one after the last is zero
    stride: int
    padding: int
    first: int  # of the results that are kept
    blocks: int
    block: int  # pixels in one of them


def _axis(kernel: int, stride: int, padding: int, size: int, outputs: int) -> _Axis:
    """Lay out one axis of the sub-pixel convolution from ``outputs`` values of a gradient to ``size`` pixels.

    Pixel ``i = block q + r`` gets ``gradient[p] kernel[i + padding - stride p]`` from every ``p``. With
    ``p = (block / stride) q + u`` that is ``kernel[r + padding - stride u]``, the same for all ``q``: each phase ``r``
    is a channel. A block has at least two pixels, since an image's channels alone are too few for oneDNN's registers.
    """
    block = max(stride, 2)
    lowest, highest = -((kernel - 1 - padding) // stride), (block - 1 + padding) // stride  # of u
    r, u = torch.arange(block, device="cpu"), torch.arange(lowest, highest + 1, device="cpu")
    taps = r[:, None] + padding - stride * u
    blocks, step = -(-size // block), block // stride
    zeros = max(-lowest, step * (blocks - 1) + highest - (outputs - 1), 0)
    zeros += -(zeros + lowest) % step  # the first block is a whole number of steps away
    taps = taps.where((taps >= 0) & (taps < kernel), kernel)
    return _Axis(taps, step, zeros, (zeros + lowest) // step, blocks, block)
