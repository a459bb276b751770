"""Gradient of a convolution with respect to an image, as a sub-pixel convolution.

The gradient of an image is bit-equal in every batch size. That of oneDNN's own backward is not for few channels, and it
is slower for large kernels (ResNet-50).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_viz.classifiers.fast.kernels import FEW_CHANNELS, Geometry


def is_sub_pixel(weight: Tensor, geometry: Geometry) -> bool:
    """Return whether the sub-pixel form applies: few input channels, one group, no dilation, a spatial kernel."""
    few = geometry.groups == 1 and weight.shape[1] <= FEW_CHANNELS
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


class _Axis(NamedTuple):
    """One axis of a sub-pixel convolution."""

    taps: Tensor  # (block, U): index of the kernel's row for each phase and offset; the last index is a zero row
    stride: int
    padding: int
    first: int  # index of the first result that is kept
    blocks: int
    block: int  # pixels per block


def _axis(kernel: int, stride: int, padding: int, size: int, outputs: int) -> _Axis:
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
    return _Axis(taps, step, zeros, (zeros + lowest) // step, blocks, block)
