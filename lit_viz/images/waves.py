"""From waves to images and back: what the parameterizations by Fourier coefficients share.

With z the coefficients of three planes along decorrelated colours, ``image = sigmoid(colour @ irfft2(z))``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Square root of the colour covariance of ImageNet, in the published rounding; divided by its largest column norm.
_COLOUR = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


def frequencies(height: int, width: int) -> Tensor:
    """Return float64 ``(H, W // 2 + 1)``, in cycles a pixel; at least ``1 / max(H, W)``, so that a power is finite."""
    rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    return torch.hypot(rows, torch.fft.rfftfreq(width, dtype=torch.float64)).clamp_(min=1 / max(height, width))


def occurrences(width: int) -> Tensor:
    """Return float64 ``(W // 2 + 1,)``: how often a column of the half spectrum occurs in the whole; the inner ones
    stand for their mirror images too."""
    times = torch.ones(width // 2 + 1, dtype=torch.float64)
    times[1 : (width + 1) // 2] = 2
    return times


def colour_matrix(channels: int, chroma: float | None) -> Tensor:
    """Return float64 ``(C, C)``, whose columns are light and dark and the two colour directions of ImageNet, the latter
    times ``chroma``; the identity where chroma is None, or where one channel has no colour to mix."""
    if chroma is None or channels != 3:
        return torch.eye(channels, dtype=torch.float64)
    colour = torch.tensor(_COLOUR, dtype=torch.float64)
    colour /= colour.norm(dim=0).max()
    colour[:, 1:] *= chroma
    return colour


def weights_and_adjoint(weights: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return weights ``(..., H, W // 2 + 1)`` of coefficients, and those of their gradient, as :func:`decode_waves`
    wants them."""
    # Written out for real and imaginary parts: a factor repeated along so short a dimension is slow.
    pairs = [factor[..., None].expand(*weights.shape, 2) for factor in (weights, weights * occurrences(width))]
    return pairs[0].contiguous(), pairs[1].contiguous()


def decode_waves(x: Tensor, weights: Tensor, adjoint: Tensor, colour: Tensor, width: int) -> Tensor:
    """Return the images ``(N, C, H, W)``, in (0, 1); differentiable in x.

    Args:
        x: real and imaginary parts ``(N, C, H, W // 2 + 1, 2)``.
        weights, adjoint: that they and their gradient are multiplied by; the inverse transform runs unscaled, which
            makes it one pass over the planes shorter.
        colour: ``(C, C)``.
        width: W.
    """
    images: Tensor = _Decode.apply(x, weights, adjoint, colour, width)  # type: ignore[no-untyped-call]
    return images


def encode_waves(images: Tensor, colour: Tensor, clip: float) -> Tensor:
    """Return the complex coefficients ``(N, C, H, W // 2 + 1)``, unscaled, of images, whose pixels are kept in
    [clip, 1 - clip]."""
    planes = _mix_channels(colour.double().inverse().to(images), torch.logit(images, clip))
    waves: Tensor = torch.fft.rfft2(planes)
    return waves


def _mix_channels(matrix: Tensor, planes: Tensor) -> Tensor:
    return torch.matmul(matrix, planes.flatten(2)).view_as(planes) if len(matrix) > 1 else planes


class _Decode(torch.autograd.Function):
    """``sigmoid(colour @ irfft2(x * weights))`` with its backward written out.

    It stands on the hot path. Autograd would keep every intermediate result and run through the planes twice as often.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, adjoint: Tensor, colour: Tensor, width: int) -> Tensor:
        spectrum = torch.view_as_complex(x * weights)
        # Columns first, then rows: faster than irfft2, which walks the columns of a transposed copy.
        planes = torch.fft.irfft(torch.fft.ifft(spectrum, dim=-2, norm="forward"), n=width, norm="forward")
        images = _mix_channels(colour, planes).sigmoid_()
        ctx.save_for_backward(images, adjoint, colour)
        return images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        images, adjoint, colour = ctx.saved_tensors
        planes = _mix_channels(colour.T, torch.ops.aten.sigmoid_backward(gradient, images))
        return torch.view_as_real(torch.fft.rfft2(planes)).mul_(adjoint), None, None, None, None
