"""Gaussian blur with one sigma per image, and affine resampling."""

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
    blurred: Tensor = _BlurFunction.apply(images, sigma, truncate)  # type: ignore[no-untyped-call]
    return blurred


class _BlurFunction(torch.autograd.Function):
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
    radius = int(truncate * sigma + 0.5)
    half = [1.0]
    for tap in range(1, radius + 1):
        half.append(math.exp(-0.5 * (tap / sigma) ** 2))
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
    rows = []
    for kernel in kernels:
        half = kernel + [0.0] * (radius + 1 - len(kernel))
        rows.append(half[:0:-1] + half)
    weight = to_device(rows, padded.device, padded.dtype)
    weight = weight.repeat_interleave(channels, 0)
    groups = count * channels
    planes = padded.view(1, groups, *padded.shape[-2:])
    planes = F.conv2d(planes, weight[:, None, None, :], padding=(0, radius), groups=groups)
    planes = F.conv2d(planes, weight[:, None, :, None], padding=(radius, 0), groups=groups)
    return planes.view_as(padded)


def _reflect(images: Tensor, radius: int) -> Tensor:
    """Pad all sides by ``radius`` pixels, reflected about the edge, repeatedly if the radius exceeds the image."""
    images = images.contiguous()  # gradients may be channels-last
    for dim in (-1, -2):
        missing = radius
        while missing:
            length = images.shape[dim]
            part = min(missing, length)
            first = images.narrow(dim, 0, part).flip(dim)
            last = images.narrow(dim, length - part, part).flip(dim)
            images = torch.cat([first, images, last], dim)
            missing -= part
    return images


def resample(images: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample affine views of images, bilinear with reflection at the border; differentiable in the images.

    Bilinear sampling reads four pixels. If the whole image in a view would skip pixels (a side more than twice as
    long), a pixel of the view is the mean over several positions.

    Args:
        images: ``(N, C, H, W)``.
        matrices: float64 ``(N * B, 3, 3)`` on the CPU; row n * B + b maps positions (x, y, 1) in view b of image n to
            positions in the image, in pixels of the view relative to the center. The identity is the whole image.
        size: (height, width) of the views ``(N * B, C, *size)``.
    """
    count, channels, height, width = images.shape
    views = len(matrices) // count
    factor = max(1, math.ceil(max(height / size[0], width / size[1]) / 2))  # positions along a side of a pixel
    fine = (size[0] * factor, size[1] * factor)
    # grid_sample parallelizes over images, so one image would use one thread: two copies share its views. The number of
    # copies is independent of N, because the order in which gradients are summed changes the last bit.
    copies, sources = 1, images
    if images.device.type == "cpu" and views % 2 == 0:
        copies, sources = 2, images.repeat_interleave(2, 0)
    # The views of an image are stacked in one tall grid, so the image is not repeated, nor its gradient summed.
    grid = _grid(matrices, size, fine, images).view(count * copies, views // copies * fine[0], fine[1], 2)
    tall = F.grid_sample(sources, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if factor > 1:
        tall = F.avg_pool2d(tall, factor)
    stacked = tall.view(count * copies, channels, views // copies, *size)
    return stacked.transpose(1, 2).reshape(count * views, channels, *size)


def _grid(matrices: Tensor, size: tuple[int, int], fine: tuple[int, int], like: Tensor) -> Tensor:
    """Compute the sampling positions ``(M, *fine, 2)`` as (x, y), with the image in [-1, 1] x [-1, 1].

    Sums of a column and a row term: ten times as fast on a CPU as ``affine_grid``, which multiplies matrices.
    """
    height, width = fine
    extent = matrices.new_tensor([size[1], size[0]])
    # From pixels of the view to [-1, 1] in both coordinates.
    linear = to_device(matrices[:, :2, :2] * extent / extent[:, None], like.device, like.dtype)
    offset = to_device(matrices[:, :2, 2] * 2 / extent, like.device, like.dtype)
    x, y = _pixel_centers(width, like), _pixel_centers(height, like)
    rows = linear[:, None, :, 1] * y[:, None] + offset[:, None]
    columns = linear[:, None, :, 0] * x[:, None]
    return rows[:, :, None] + columns[:, None]


def _pixel_centers(count: int, like: Tensor) -> Tensor:
    """Return the centers of ``count`` pixels that divide [-1, 1], with the device and dtype of ``like``."""
    return (2 * torch.arange(count, device=like.device, dtype=like.dtype) + 1) / count - 1
