"""What is trained instead of the pixels: a parameter ``x`` of another shape, and its differentiable way to the images.

A parameterization has no state: ``x`` is a plain tensor ``(N, *shape)`` whose rows are independent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_viz.errors import LitVizError
from lit_viz.randomness import Draws


@dataclass(frozen=True)
class Canvas:
    """The images that are trained: their shape, and the normalization of the classifier that will see them.

    Args:
        channels: 3, or 1 for a grey classifier.
        height: in pixels.
        width: in pixels.
        mean: by channel; the classifier sees ``(image - mean) / std``.
        std: by channel.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise LitVizError(f"a canvas of {self.channels} x {self.height} x {self.width} (C x H x W) is empty")
        if not len(self.mean) == len(self.std) == self.channels:
            raise LitVizError(
                f"the canvas has {self.channels} channels, but the classifier's mean has {len(self.mean)} values "
                f"and its std {len(self.std)}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width

    def normalization(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std as ``(C, 1, 1)``, of the dtype and on the device of ``like``."""
        mean, std = like.new_tensor(self.mean), like.new_tensor(self.std)
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)


class Parameterization(ABC):
    """A differentiable map from a parameter to images."""

    @abstractmethod
    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        """Return the parameter ``(N, *shape)`` of N random images, one for each row of ``draws``."""

    @abstractmethod
    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        """Return the parameter of given images ``(N, C, H, W)`` in [0, 1], as close as it allows."""

    @abstractmethod
    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        """Return the images ``(N, C, H, W)`` of a parameter; differentiable."""


@dataclass(frozen=True)
class Pixels(Parameterization):
    """The pixels themselves.

    Args:
        space: ``"unit"``: x is the image in [0, 1]. ``"normalized"``: x is the image as the classifier sees it, and
            ``decode(x) = x * std + mean``, as in the experiment of Simonyan et al. (2014, section 2); noise of
            standard deviation 1 leaves [0, 1], until a ``Clamp`` brings it back.
        sd: standard deviation of the starting noise, in the units of x, around grey (unit) or the mean colour
            (normalized). None means 0.1 in unit space and 1 in normalized space.

    In unit space the start is clamped to [0, 1]. Encoding is exact up to float rounding.
    """

    space: Literal["unit", "normalized"] = "unit"
    sd: float | None = None

    def __post_init__(self) -> None:
        if self.space not in ("unit", "normalized"):
            raise LitVizError(f"the space of Pixels is 'unit' or 'normalized', not {self.space!r}")
        if self.sd is not None and not self.sd >= 0:
            raise LitVizError(f"the sd of Pixels is a standard deviation of 0 or more, not {self.sd}")

    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        """Return noise ``(N, C, H, W)``."""
        noise = draws.normal("start", canvas.shape)
        if self.space == "normalized":
            return noise * (1.0 if self.sd is None else self.sd)
        return (0.5 + noise * (0.1 if self.sd is None else self.sd)).clamp_(0, 1)

    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        """Return the images, normalized in normalized space."""
        if self.space == "unit":
            return images.clone()
        mean, std = canvas.normalization(images)
        return (images - mean) / std

    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        """Return the images; in normalized space they may leave [0, 1]."""
        if self.space == "unit":
            return x
        mean, std = canvas.normalization(x)
        return torch.addcmul(mean, x, std)


@dataclass(frozen=True)
class Fourier(Parameterization):
    """Fourier coefficients with decorrelated colours (Olah, Mordvintsev and Schubert, "Feature Visualization", 2017).

    x holds real and imaginary parts, ``(N, C, H, W // 2 + 1, 2)``. With f the frequency in cycles a pixel,

        image = sigmoid(colour @ irfft2(x / max(f, 1 / max(H, W)) ** decay, norm="ortho") / 4)

    so that a step moves all frequencies as natural images do, and colours along their principal directions.

    Args:
        decay: exponent of the spectrum; 1 is that of natural images, more is smoother, 0 is white.
        sd: standard deviation of the starting coefficients.
        decorrelate: mix the channels by the colour correlation of ImageNet. One channel has no colour to mix.
        chroma: how fast the two colour directions move, against that of light and dark. Below 1 the colours are calmer.
        clip: encoding keeps pixels in [clip, 1 - clip], for 0 and 1 lie at infinity. The default is a quarter of an
            8-bit step, so a photograph comes back equal after rounding, though its pure blacks and whites move slowly.
    """

    decay: float = 1.0
    sd: float = 0.01
    decorrelate: bool = True
    chroma: float = 1.0
    clip: float = 0.25 / 255

    def __post_init__(self) -> None:
        if not self.sd >= 0:
            raise LitVizError(f"the sd of Fourier is a standard deviation of 0 or more, not {self.sd}")
        if not self.chroma > 0:
            raise LitVizError(f"the chroma of Fourier is a factor above 0, not {self.chroma}")
        if not 0 < self.clip < 0.5:
            raise LitVizError(f"the clip of Fourier lies between 0 and 0.5, not at {self.clip}")

    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        """Return small random coefficients: an almost grey image."""
        return self.sd * draws.normal("start", (canvas.channels, canvas.height, canvas.width // 2 + 1, 2))

    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        """Return the coefficients; pixels nearer than ``clip`` to 0 or 1 come out at ``clip``."""
        weights, _, colour = self._constants(canvas, images)
        planes = _mix_channels(colour.double().inverse().to(images), torch.logit(images, self.clip))
        height, width = images.shape[-2:]
        return torch.view_as_real(torch.fft.rfft2(planes)) / weights / (height * width)

    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        """Return the images, in (0, 1)."""
        images: Tensor = _FourierDecode.apply(  # type: ignore[no-untyped-call]
            x, *self._constants(canvas, x), canvas.width
        )
        return images

    def _constants(self, canvas: Canvas, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chroma = self.chroma if self.decorrelate and canvas.channels == 3 else None
        return _fourier_constants(self.decay, chroma, canvas.shape, like.dtype, like.device)


def encoding_error(parameterization: Parameterization, images: Tensor, canvas: Canvas) -> tuple[float, float]:
    """Return the largest and the mean absolute difference of ``decode(encode(images))`` to the images, in /255."""
    with torch.no_grad():
        difference = parameterization.decode(parameterization.encode(images, canvas), canvas).sub(images).abs().mul(255)
    return float(difference.max()), float(difference.mean())


# Square root of the colour covariance of ImageNet, in the published rounding; divided by its largest column norm.
_COLOUR = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


@lru_cache(maxsize=32)
def _fourier_constants(
    decay: float, chroma: float | None, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights ``(H, W // 2 + 1, 2)`` of the coefficients, all scales folded in, those of their gradient, and
    the colour ``(C, C)``.
    """
    channels, height, width = shape
    rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    columns = torch.fft.rfftfreq(width, dtype=torch.float64)
    frequency = torch.hypot(rows, columns).clamp_(min=1 / max(height, width))
    # 1/sqrt(HW): the inverse transform runs unscaled, which makes it one pass over the planes shorter.
    weights = frequency**-decay / (4 * (height * width) ** 0.5)
    colour = torch.eye(channels, dtype=torch.float64)
    if chroma is not None:
        colour = torch.tensor(_COLOUR, dtype=torch.float64)
        colour /= colour.norm(dim=0).max()
        colour[:, 1:] *= chroma
    # Written out for real and imaginary parts: a factor repeated along so short a dimension is slow.
    weights = weights[..., None].repeat(1, 1, 2)
    # The half spectrum stands for the whole: its inner columns count for their mirror images too.
    adjoint = weights.clone()
    adjoint[:, 1 : (width + 1) // 2] *= 2
    return weights.to(device, dtype), adjoint.to(device, dtype), colour.to(device, dtype)


def _mix_channels(matrix: Tensor, planes: Tensor) -> Tensor:
    return torch.matmul(matrix, planes.flatten(2)).view_as(planes) if len(matrix) > 1 else planes


class _FourierDecode(torch.autograd.Function):
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
