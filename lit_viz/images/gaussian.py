"""Gaussian blur with a width of its own for every image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


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
        ctx.sigma, ctx.truncate = sigma, truncate
        return _blur_by_radius(images, sigma, truncate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _blur_by_radius(gradient, ctx.sigma, ctx.truncate), None, None


def _blur_by_radius(images: Tensor, sigma: Tensor, truncate: float) -> Tensor:
    """Blur the rows in groups of one radius: a narrow Gaussian does not pay for the widest of the batch."""
    radii = [int(truncate * value + 0.5) for value in sigma.tolist()]
    if len(set(radii)) == 1:
        return _blur(images, sigma, radii[0])
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    for radius in set(radii):
        rows = torch.tensor([n for n, own in enumerate(radii) if own == radius], device=images.device)
        out[rows] = _blur(images[rows], sigma[rows], radius)
    return out


def _blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    if radius == 0:
        return images.contiguous()
    count, channels = images.shape[:2]
    taps = torch.arange(-radius, radius + 1, device=sigma.device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (taps / sigma.double()[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(images).repeat_interleave(channels, 0)
    planes = images.reshape(1, count * channels, *images.shape[-2:])
    planes = F.conv2d(_mirror(planes, radius, -1), kernel[:, None, None, :], groups=count * channels)
    planes = F.conv2d(_mirror(planes, radius, -2), kernel[:, None, :, None], groups=count * channels)
    return planes.view(images.shape)


def _mirror(planes: Tensor, radius: int, dim: int) -> Tensor:
    """Return the planes with ``radius`` pixels more at both ends of ``dim``, mirrored about the edge."""
    length = planes.shape[dim]
    positions = torch.arange(-radius, length + radius, device=planes.device) % (2 * length)
    return planes.index_select(dim, torch.minimum(positions, 2 * length - 1 - positions))
