"""Gaussian blur with one sigma per image."""

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
    """Blur image n with ``sigma[n]``; differentiable in the images.

    The kernel is sampled at integer offsets up to ``truncate * sigma`` and sums to 1. The border is reflected about the
    edge (``b a | a b``), as in ``scipy.ndimage.gaussian_filter``.

    Args:
        images: ``(N, C, H, W)``.
        sigma: ``(N,)`` in pixels, non-negative; 0 leaves the image unchanged.
        truncate: radius of the kernel in sigmas.
    """
    blurred: Tensor = _Blur.apply(images, sigma, truncate)  # type: ignore[no-untyped-call]
    return blurred


class _Blur(torch.autograd.Function):
    """Blur with reflected border: a symmetric matrix (the DCT diagonalizes it), so backward equals forward."""

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
    convolve = _by_shifts if images.device.type == "cpu" else _by_convolution
    blurred = convolve(_reflect(images, radius), kernels)
    return blurred[..., radius:-radius, radius:-radius].contiguous()


def _half_kernel(sigma: float, truncate: float) -> list[float]:
    """Return the kernel from its center outwards."""
    half = [math.exp(-0.5 * (tap / sigma) ** 2) if tap else 1.0 for tap in range(int(truncate * sigma + 0.5) + 1)]
    total = 2 * sum(half) - 1
    return [tap / total for tap in half]


def _by_shifts(padded: Tensor, kernels: Sequence[list[float]]) -> Tensor:
    """Convolve by sums of shifted copies, horizontally and then vertically; values in the margin are invalid.

    The shifts are in flat memory, so each term is one pass over contiguous values in the cache, and narrow kernels cost
    less. Forward and backward take half the time of grouped convolutions on a CPU.
    """
    out = padded.flatten(1)
    horizontal = torch.empty_like(out[0])
    for row, kernel in zip(out, kernels, strict=True):
        _sum_shifted(row, kernel, 1, horizontal)
        _sum_shifted(horizontal, kernel, padded.shape[-1], row)
    return out.view_as(padded)


def _sum_shifted(row: Tensor, kernel: list[float], stride: int, out: Tensor) -> None:
    reach = (len(kernel) - 1) * stride
    length = len(row) - 2 * reach
    total = out.narrow(0, reach, length)
    torch.mul(row.narrow(0, reach, length), kernel[0], out=total)
    for tap, weight in enumerate(kernel[1:], start=1):
        total.add_(row.narrow(0, reach - tap * stride, length), alpha=weight)
        total.add_(row.narrow(0, reach + tap * stride, length), alpha=weight)


def _by_convolution(padded: Tensor, kernels: Sequence[list[float]]) -> Tensor:
    """Convolve by one grouped convolution per direction, with the widest kernel for all images."""
    count, channels = padded.shape[:2]
    radius = max(map(len, kernels)) - 1
    halves = [kernel + [0.0] * (radius + 1 - len(kernel)) for kernel in kernels]
    weight = to_device([half[:0:-1] + half for half in halves], padded.device, padded.dtype)
    weight = weight.repeat_interleave(channels, 0)
    planes = padded.view(1, count * channels, *padded.shape[-2:])
    groups = count * channels
    planes = F.conv2d(planes, weight[:, None, None, :], padding=(0, radius), groups=groups)
    planes = F.conv2d(planes, weight[:, None, :, None], padding=(radius, 0), groups=groups)
    return planes.view_as(padded)


def _reflect(images: Tensor, radius: int) -> Tensor:
    """Pad all sides by ``radius`` pixels, reflected about the edge, repeatedly if the radius exceeds the image."""
    height, width = images.shape[-2:]
    if radius > min(height, width):
        rows, columns = (to_device(_reflected_indices(length, radius), images.device) for length in (height, width))
        return images[..., rows[:, None], columns]
    out = images.new_empty(*images.shape[:-2], height + 2 * radius, width + 2 * radius)
    middle = out[..., radius : radius + height, :]
    middle[..., radius : radius + width] = images
    middle[..., :radius] = images[..., :radius].flip(-1)
    middle[..., radius + width :] = images[..., width - radius :].flip(-1)
    out[..., :radius, :] = middle[..., :radius, :].flip(-2)
    out[..., radius + height :, :] = middle[..., height - radius :, :].flip(-2)
    return out


def _reflected_indices(length: int, radius: int) -> Tensor:
    indices = torch.arange(-radius, length + radius) % (2 * length)
    return torch.minimum(indices, 2 * length - 1 - indices)
