"""Parameterizations: stateless, differentiable maps from a parameter ``(N, *shape)`` with independent rows to images.

:class:`Fourier` and :class:`MACO` compute ``sigmoid(color @ irfft2(z))``, with z the coefficients of three planes
along decorrelated color directions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lit_viz.errors import require
from lit_viz.images.canvas import Canvas
from lit_viz.images.listing import photographs
from lit_viz.images.reading import read_photograph
from lit_viz.rng import Draws
from lit_viz.utils.parts import Part

# Square root of the color covariance of ImageNet as published, divided by its largest column norm in _color_matrix.
_COLOR = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
_MACO_CLIP = 0.02  # MACO encodes pixels clipped to [0.02, 0.98]; logits of black and white would dominate the magnitude
#: Factors of the coefficients, and the color matrix.
_Constants = tuple[Tensor, Tensor]


class Parameterization(Part, ABC):
    """Base class of differentiable maps from a parameter to images.

    Attributes:
        preserves: phrase for messages: the part of an encoded photograph that is preserved.
    """

    preserves: ClassVar[str] = "little of it"

    @abstractmethod
    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        """Draw the parameter ``(N, *shape)`` of N random images, one per row of ``draws``."""

    @abstractmethod
    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        """Compute the parameter that approximates images ``(N, C, H, W)`` in [0, 1]."""

    @abstractmethod
    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        """Compute the images ``(N, C, H, W)`` of a parameter; differentiable."""


@dataclass(frozen=True)
class Pixels(Parameterization):
    """Pixel values. Encoding is exact up to float rounding.

    Args:
        space: ``"unit"``: x is the image in [0, 1], and the start is clamped to [0, 1]. ``"normalized"``: x is the
            input of the network, ``decode(x) = x * std + mean``, as in Simonyan et al. (2014, section 2); images can
            leave [0, 1] unless the projection ``Clamp`` is used.
        sd: standard deviation of the initial noise in units of x, around gray (unit) or the mean color (normalized).
            None: 0.1 in unit space, 1 in normalized space.
    """

    space: Literal["unit", "normalized"] = "unit"
    sd: float | None = None

    def __post_init__(self) -> None:
        require(
            self.space in ("unit", "normalized"), "space of Pixels must be 'unit' or 'normalized'", repr(self.space)
        )
        require(self.sd is None or self.sd >= 0, "sd of Pixels must be non-negative", self.sd)

    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        noise = draws.normal("start", canvas.shape)
        if self.space == "normalized":
            sd = 1.0 if self.sd is None else self.sd
            return noise * sd
        sd = 0.1 if self.sd is None else self.sd
        return (0.5 + noise * sd).clamp_(0, 1)

    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        if self.space == "unit":
            return images.clone()
        mean, std = canvas.normalization(images)
        return (images - mean) / std

    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        if self.space == "unit":
            return x
        mean, std = canvas.normalization(x)
        return torch.addcmul(mean, x, std)


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
        require(math.isfinite(self.decay), "decay of Fourier must be finite", self.decay, hint="1 is usual")
        require(self.sd >= 0, "sd of Fourier must be non-negative", self.sd)
        require(self.chroma > 0, "chroma of Fourier must be positive", self.chroma)
        require(0 < self.clip < 0.5, "clip of Fourier must be between 0 and 0.5", self.clip)

    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        return self.sd * draws.normal("start", (canvas.channels, canvas.height, canvas.width // 2 + 1, 2))

    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        weights, color = _fourier_constants(self, canvas.shape, canvas.is_rgb, images.dtype, images.device)
        waves = torch.view_as_real(_encode_waves(images, color, self.clip))
        return waves / weights / (canvas.height * canvas.width)

    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        return _decode_waves(x, _fourier_constants(self, canvas.shape, canvas.is_rgb, x.dtype, x.device), canvas.width)


@dataclass(frozen=True)
class MACO(Parameterization):
    """Magnitude constrained optimization: the magnitude of every frequency is that of natural images.
    Fel et al. 2023, arXiv:2306.06805.

    x contains one phase per coefficient, ``(N, C, H, W // 2 + 1)``. With the fixed magnitude r,

        image = sigmoid(color @ irfft2(r * exp(i x)))

    In columns that contain a frequency and its negative, only the odd part of x is used; the mean is fixed.

    Args:
        magnitude: folder, file or CSV table of photographs with the mean spectrum r, each cropped to the canvas's
            shape; brightness and hue are taken from the mean photograph. None: ``r ~ 1 / f ** decay``, mean gray.
        decay: exponent of the spectrum without photographs: about 1 in natural images; larger values are smoother.
        contrast: standard deviation of each plane before the sigmoid; with photographs, relative to them.
        chroma: scale of the two color directions; below 1 the colors are less saturated.

    Raises:
        LitVizError: if an argument is invalid, or there is no photograph.
    """

    preserves: ClassVar[str] = "its phases only"

    magnitude: str | None = None
    decay: float = 1.0
    contrast: float = 1.0
    chroma: float = 1.0

    def __post_init__(self) -> None:
        require(math.isfinite(self.decay), "decay of MACO must be finite", self.decay, hint="1 is usual")
        for name in ("contrast", "chroma"):
            require(0 < getattr(self, name) < math.inf, f"{name} of MACO must be positive", getattr(self, name))
        if self.magnitude is not None:
            photographs([self.magnitude])

    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        return draws.uniform("start", -math.pi, math.pi, (canvas.channels, canvas.height, canvas.width // 2 + 1))

    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        return _encode_waves(images, _color_matrix(canvas.channels, canvas.is_rgb, self.chroma), _MACO_CLIP).angle()

    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        phases = _odd(x, canvas.width)
        waves = torch.stack([phases.cos(), phases.sin()], dim=-1)
        return _decode_waves(waves, _maco_constants(self, canvas.shape, canvas.is_rgb, x.dtype, x.device), canvas.width)


def encoding_error(parameterization: Parameterization, images: Tensor, canvas: Canvas) -> tuple[float, float]:
    """Return maximum and mean of ``|decode(encode(images)) - images|``, in /255."""
    with torch.no_grad():
        difference = parameterization.decode(parameterization.encode(images, canvas), canvas).sub(images).abs().mul(255)
    return float(difference.max()), float(difference.mean())


@lru_cache(maxsize=32)
def _fourier_constants(
    fourier: Fourier, shape: tuple[int, int, int], is_rgb: bool, dtype: torch.dtype, device: torch.device
) -> _Constants:
    channels, height, width = shape
    weights = _frequencies(height, width) ** -fourier.decay / (4 * (height * width) ** 0.5)
    color = _color_matrix(channels, is_rgb, fourier.chroma if fourier.decorrelate else None)
    return _constants(weights, color, dtype, device)


@lru_cache(maxsize=8)
def _maco_constants(
    maco: MACO, shape: tuple[int, int, int], is_rgb: bool, dtype: torch.dtype, device: torch.device
) -> _Constants:
    channels, height, width = shape
    if maco.magnitude is None:  # zero mean and unit standard deviation
        law = _frequencies(height, width) ** -maco.decay
        law[0, 0] = 0
        scale = (law.square() * _multiplicities(width)).sum().sqrt().clamp_min(1e-30)
        magnitude = maco.contrast * (law / scale)
    else:
        spectrum = _mean_spectrum(maco.magnitude, shape, _color_matrix(channels, is_rgb, 1.0))
        magnitude = maco.contrast * spectrum
        magnitude[:, 0, 0] = spectrum[:, 0, 0]
    return _constants(magnitude, _color_matrix(channels, is_rgb, maco.chroma), dtype, device)


def _constants(weights: Tensor, color: Tensor, dtype: torch.dtype, device: torch.device) -> _Constants:
    # A contiguous copy for real and imaginary parts: broadcasting along a dimension of 2 is slow.
    return weights[..., None].expand(*weights.shape, 2).contiguous().to(device, dtype), color.to(device, dtype)


def _frequencies(height: int, width: int) -> Tensor:
    """Return the frequencies of ``rfft2``, in cycles per pixel, at least ``1 / max(H, W)``: powers are finite."""
    rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    return torch.hypot(rows, torch.fft.rfftfreq(width, dtype=torch.float64)).clamp_(min=1 / max(height, width))


def _multiplicities(width: int) -> Tensor:
    """Return how often each column of the half spectrum occurs in the full spectrum (1 or 2)."""
    counts = torch.ones(width // 2 + 1, dtype=torch.float64)
    counts[1 : (width + 1) // 2] = 2
    return counts


def _color_matrix(channels: int, is_rgb: bool, chroma: float | None) -> Tensor:
    """Return the color matrix ``(C, C)``: luminance and two color directions, or the identity without colors."""
    if chroma is None or channels != 3 or not is_rgb:
        return torch.eye(channels, dtype=torch.float64)
    color = torch.tensor(_COLOR, dtype=torch.float64)
    color /= color.norm(dim=0).max()
    color[:, 1:] *= chroma
    return color


def _mean_spectrum(folder: str, shape: tuple[int, int, int], color: Tensor) -> Tensor:
    """Compute the mean magnitude of photographs and their signed mean value."""
    channels, height, width = shape
    total = torch.zeros(channels, height, width // 2 + 1, dtype=torch.float64)
    paths = [entry.path for entry in photographs([folder]).entries]
    for path in paths:
        pixels = read_photograph(path, (height, width), channels).pixels.double()
        waves = _encode_waves(pixels[None], color, _MACO_CLIP)[0]
        total += waves.abs()
        total[:, 0, 0] += waves[:, 0, 0].real - waves[:, 0, 0].abs()
    return total / (len(paths) * height * width)


def _odd(phases: Tensor, width: int) -> Tensor:
    """Replace the columns that contain a frequency and its negative by their odd part."""
    index = torch.tensor([0, width // 2] if width % 2 == 0 else [0], device=phases.device)
    columns = phases.index_select(-1, index)
    return phases.index_copy(-1, index, (columns - columns.flip(-2).roll(1, -2)) / 2)


def _encode_waves(images: Tensor, color: Tensor, clip: float) -> Tensor:
    """Compute the complex coefficients, unscaled, of images clipped to [clip, 1 - clip]."""
    waves: Tensor = torch.fft.rfft2(_mix_channels(color.double().inverse().to(images), torch.logit(images, clip)))
    return waves


def _decode_waves(x: Tensor, constants: _Constants, width: int) -> Tensor:
    weights, color = constants
    # The inverse transform is unscaled, which saves a pass; the weights contain the scale.
    planes = torch.fft.irfft2(torch.view_as_complex(x * weights), s=(x.shape[-3], width), norm="forward")
    return _mix_channels(color, planes).sigmoid()


def _mix_channels(matrix: Tensor, planes: Tensor) -> Tensor:
    if len(matrix) == 1:
        return planes
    return torch.matmul(matrix, planes.flatten(2)).view_as(planes)
