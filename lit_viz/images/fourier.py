"""Fourier parameterization, and the spectral transforms that it shares with MACO.

With z the coefficients of three planes along decorrelated color directions, ``image = sigmoid(color @ irfft2(z))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_viz.errors import LitVizError
from lit_viz.images.parameterizations import Canvas, Parameterization
from lit_viz.rng import Draws

# Square root of the color covariance of ImageNet as published, divided by its largest column norm in color_matrix.
_COLOR = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


@dataclass(frozen=True)
class Fourier(Parameterization):
    """Fourier coefficients with decorrelated colors (Olah, Mordvintsev and Schubert, "Feature Visualization", 2017).

    x contains real and imaginary parts, ``(N, C, H, W // 2 + 1, 2)``. With f the frequency in cycles per pixel,

        image = sigmoid(color @ irfft2(x / max(f, 1 / max(H, W)) ** decay, norm="ortho") / 4)

    Steps therefore have the spectrum and the color statistics of natural images.

    Args:
        decay: exponent of the spectrum: 1 as in natural images, 0 white; larger values are smoother.
        sd: standard deviation of the initial coefficients.
        decorrelate: mix the channels by the color correlation of ImageNet; has no effect on one channel.
        chroma: scale of the two color directions relative to luminance; below 1 the colors are less saturated.
        clip: encoding clips pixels to [clip, 1 - clip], because the logit of 0 and 1 is infinite. With the default, a
            quarter of an 8-bit level, photographs are recovered after rounding; pure black and white change slowly.
    """

    decay: float = 1.0
    sd: float = 0.01
    decorrelate: bool = True
    chroma: float = 1.0
    clip: float = 0.25 / 255

    def __post_init__(self) -> None:
        if not self.sd >= 0:
            raise LitVizError(f"sd of Fourier must be non-negative, got {self.sd}")
        if not self.chroma > 0:
            raise LitVizError(f"chroma of Fourier must be positive, got {self.chroma}")
        if not 0 < self.clip < 0.5:
            raise LitVizError(f"clip of Fourier must be between 0 and 0.5, got {self.clip}")

    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        """Draw small random coefficients: nearly gray images."""
        return self.sd * draws.normal("start", (canvas.channels, canvas.height, canvas.width // 2 + 1, 2))

    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        """Compute the coefficients of images clipped to [clip, 1 - clip]."""
        weights, _, color = self._constants(canvas, images)
        waves = torch.view_as_real(encode_waves(images, color, self.clip))
        return waves / weights / (canvas.height * canvas.width)

    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        """Compute the images, in (0, 1)."""
        return decode_waves(x, *self._constants(canvas, x), canvas.width)

    def _constants(self, canvas: Canvas, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _constants(self.decay, self.chroma if self.decorrelate else None, canvas.shape, like.dtype, like.device)


@lru_cache(maxsize=32)
def _constants(
    decay: float, chroma: float | None, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the weights of the coefficients and of their gradient, including all scales, and the color matrix."""
    channels, height, width = shape
    weights = frequencies(height, width) ** -decay / (4 * (height * width) ** 0.5)
    constants = (*weights_and_adjoint(weights, width), color_matrix(channels, chroma))
    weights, adjoint, color = (constant.to(device, dtype) for constant in constants)
    return weights, adjoint, color


def frequencies(height: int, width: int) -> Tensor:
    """Return the frequencies of ``rfft2`` in cycles per pixel, float64 ``(H, W // 2 + 1)``, at least ``1 / max(H, W)``
    so that negative powers are finite."""
    rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    return torch.hypot(rows, torch.fft.rfftfreq(width, dtype=torch.float64)).clamp_(min=1 / max(height, width))


def multiplicities(width: int) -> Tensor:
    """Return how often each column of the half spectrum occurs in the full spectrum (1 or 2), float64
    ``(W // 2 + 1,)``."""
    counts = torch.ones(width // 2 + 1, dtype=torch.float64)
    counts[1 : (width + 1) // 2] = 2
    return counts


def color_matrix(channels: int, chroma: float | None) -> Tensor:
    """Return the color matrix, float64 ``(C, C)``: columns are luminance and the two color directions of ImageNet.

    The color directions are scaled by ``chroma``. The matrix is the identity if ``chroma`` is None or C is not 3.
    """
    if chroma is None or channels != 3:
        return torch.eye(channels, dtype=torch.float64)
    color = torch.tensor(_COLOR, dtype=torch.float64)
    color /= color.norm(dim=0).max()
    color[:, 1:] *= chroma
    return color


def weights_and_adjoint(weights: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Expand weights ``(..., H, W // 2 + 1)`` to the factors of coefficients and gradient in :func:`decode_waves`."""
    # Contiguous copies for real and imaginary parts: broadcasting along a dimension of 2 is slow.
    factors = [factor[..., None].expand(*weights.shape, 2) for factor in (weights, weights * multiplicities(width))]
    return factors[0].contiguous(), factors[1].contiguous()


def decode_waves(x: Tensor, weights: Tensor, adjoint: Tensor, color: Tensor, width: int) -> Tensor:
    """Compute images ``(N, C, H, W)`` in (0, 1) from coefficients; differentiable in x.

    Args:
        x: real and imaginary parts ``(N, C, H, W // 2 + 1, 2)``.
        weights, adjoint: factors of the coefficients and of their gradient. The inverse transform is unscaled, which
            saves one pass over the planes.
        color: ``(C, C)``.
        width: W.
    """
    images: Tensor = _Decode.apply(x, weights, adjoint, color, width)  # type: ignore[no-untyped-call]
    return images


def encode_waves(images: Tensor, color: Tensor, clip: float) -> Tensor:
    """Compute the complex coefficients ``(N, C, H, W // 2 + 1)``, unscaled, of images clipped to [clip, 1 - clip]."""
    planes = _mix_channels(color.double().inverse().to(images), torch.logit(images, clip))
    waves: Tensor = torch.fft.rfft2(planes)
    return waves


def _mix_channels(matrix: Tensor, planes: Tensor) -> Tensor:
    return torch.matmul(matrix, planes.flatten(2)).view_as(planes) if len(matrix) > 1 else planes


class _Decode(torch.autograd.Function):
    """``sigmoid(color @ irfft2(x * weights))`` with an explicit backward.

    Autograd would store every intermediate result and make twice as many passes over the planes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, adjoint: Tensor, color: Tensor, width: int) -> Tensor:
        spectrum = torch.view_as_complex(x * weights)
        # Columns, then rows: faster than irfft2, which transforms the columns of a transposed copy.
        planes = torch.fft.irfft(torch.fft.ifft(spectrum, dim=-2, norm="forward"), n=width, norm="forward")
        images = _mix_channels(color, planes).sigmoid_()
        ctx.save_for_backward(images, adjoint, color)
        return images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        images, adjoint, color = ctx.saved_tensors
        planes = _mix_channels(color.T, torch.ops.aten.sigmoid_backward(gradient, images))
        return torch.view_as_real(torch.fft.rfft2(planes)).mul_(adjoint), None, None, None, None
