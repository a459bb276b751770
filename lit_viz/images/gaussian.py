"""Gaussian blur with a width of its own for every image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lit_viz.utils.device import to_device, to_list


def gaussian_blur(images: Tensor, sigma: Tensor, truncate: float = 4.0) -> Tensor:
    """Return the images blurred, row n by ``sigma[n]``; differentiable in the images.

    The kernel is sampled at whole pixels up to ``truncate * sigma`` and sums to 1; at the border the image is mirrored
    about its edge (``b a | a b``), as ``scipy.ndimage.gaussian_filter`` does.

    Args:
        images: ``(N, C, H, W)``.
        sigma: ``(N,)`` in pixels, 0 or more; 0 leaves the row as it is.
        truncate: where the kernel ends, in sigmas.
    """
    blurred: Tensor = _Blur.apply(images, sigma, truncate)  # type: ignore[no-untyped-call]
    return blurred


class _Blur(torch.autograd.Function):
    """With this border the blur is a symmetric matrix (the DCT diagonalizes it): the backward is the blur itself."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, sigma: Tensor, truncate: float) -> Tensor:
        ctx.kernels = [_half_kernel(value, truncate) for value in to_list(sigma)]
        return _blur(images, ctx.kernels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _blur(gradient, ctx.kernels), None, None


def _blur(images: Tensor, kernels: Sequence[list[float]]) -> Tensor:
    radius = max(map(len, kernels)) - 1
    if radius == 0:
        return images.clone()
    mirrored = _mirrored(images, radius)
    rows = _by_shifts if images.device.type == "cpu" else _by_convolution
    blurred = rows(mirrored, kernels)
    return blurred[..., radius:-radius, radius:-radius].contiguous()


def _half_kernel(sigma: float, truncate: float) -> list[float]:
    """Return the kernel from its centre outwards."""
    half = [math.exp(-0.5 * (tap / sigma) ** 2) if tap else 1.0 for tap in range(int(truncate * sigma + 0.5) + 1)]
    total = 2 * sum(half) - 1
    return [tap / total for tap in half]


def _by_shifts(mirrored: Tensor, kernels: Sequence[list[float]]) -> Tensor:
    """Sum shifted copies of each row, across and then down; what comes out in the margin is of no use.

    Shifts of the flat memory, so every term is one pass over contiguous numbers that stay in the cache; a narrow kernel
    pays for its own width only. Forward and backward take half the time of grouped convolutions.
    """
    out = mirrored.flatten(1)
    across = torch.empty_like(out[0])
    for row, kernel in zip(out, kernels, strict=True):
        _sum_shifted(row, kernel, 1, across)
        _sum_shifted(across, kernel, mirrored.shape[-1], row)
    return out.view_as(mirrored)


def _sum_shifted(row: Tensor, kernel: list[float], stride: int, out: Tensor) -> None:
    reach = (len(kernel) - 1) * stride
    length = len(row) - 2 * reach
    total = out.narrow(0, reach, length)
    torch.mul(row.narrow(0, reach, length), kernel[0], out=total)
    for tap, weight in enumerate(kernel[1:], start=1):
        total.add_(row.narrow(0, reach - tap * stride, length), alpha=weight)
        total.add_(row.narrow(0, reach + tap * stride, length), alpha=weight)


def _by_convolution(mirrored: Tensor, kernels: Sequence[list[float]]) -> Tensor:
    """Do the same by one grouped convolution in each direction, with the widest kernel for all."""
    count, channels = mirrored.shape[:2]
    radius = max(map(len, kernels)) - 1
    halves = [kernel + [0.0] * (radius + 1 - len(kernel)) for kernel in kernels]
    weight = to_device([half[:0:-1] + half for half in halves], mirrored.device, mirrored.dtype)
    weight = weight.repeat_interleave(channels, 0)
    planes = mirrored.view(1, count * channels, *mirrored.shape[-2:])
    groups = count * channels
    planes = F.conv2d(planes, weight[:, None, None, :], padding=(0, radius), groups=groups)
    planes = F.conv2d(planes, weight[:, None, :, None], padding=(radius, 0), groups=groups)
    return planes.view_as(mirrored)


def _mirrored(images: Tensor, radius: int) -> Tensor:
    """Return a copy with ``radius`` pixels more on every side, mirrored about the edge (again and again if need be)."""
    height, width = images.shape[-2:]
    if radius > min(height, width):
        rows, columns = (to_device(_mirror_indices(length, radius), images.device) for length in (height, width))
        return images[..., rows[:, None], columns]
    out = images.new_empty(*images.shape[:-2], height + 2 * radius, width + 2 * radius)
    middle = out[..., radius : radius + height, :]
    middle[..., radius : radius + width] = images
    middle[..., :radius] = images[..., :radius].flip(-1)
    middle[..., radius + width :] = images[..., width - radius :].flip(-1)
    out[..., :radius, :] = middle[..., :radius, :].flip(-2)
    out[..., radius + height :, :] = middle[..., height - radius :, :].flip(-2)
    return out


def _mirror_indices(length: int, radius: int) -> Tensor:
    places = torch.arange(-radius, length + radius) % (2 * length)
    return torch.minimum(places, 2 * length - 1 - places)
