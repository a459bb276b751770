"""MACO parameterization: phases are optimized, magnitudes are fixed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.fourier import (
    color_matrix,
    decode_waves,
    encode_waves,
    frequencies,
    multiplicities,
    weights_and_adjoint,
)
from lit_viz.images.listing import photographs
from lit_viz.images.parameterizations import Canvas, Parameterization
from lit_viz.images.reading import read_photograph
from lit_viz.rng import Draws

#: Pixels are clipped to [_CLIP, 1 - _CLIP]; the logits of black and white would dominate the magnitude.
_CLIP = 0.02


@dataclass(frozen=True)
class MACO(Parameterization):
    """Magnitude constrained optimization (Fel et al. 2023, arXiv:2306.06805): the magnitude of every frequency is that
    of natural images.

    x contains one phase per coefficient, ``(N, C, H, W // 2 + 1)``. With the fixed magnitude r,

        image = sigmoid(color @ irfft2(r * exp(i x)))

    In columns that contain a frequency and its negative, only the odd part of x is used; the mean is fixed.

    Args:
        magnitude: folder, file or CSV table of photographs whose mean spectrum is r, each cropped to the canvas's
            shape; brightness and hue are those of the mean photograph. None: ``r ~ 1 / f ** decay``, mean gray.
        decay: exponent of the spectrum without photographs: about 1 in natural images; larger values are smoother.
        contrast: standard deviation of each plane before the sigmoid; with photographs, a factor of theirs.
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
        for name in ("contrast", "chroma"):
            if not 0 < getattr(self, name) < math.inf:
                raise LitVizError(f"{name} of MACO must be positive, got {getattr(self, name)}")
        if self.magnitude is not None:
            photographs([self.magnitude])

    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        """Draw uniform random phases: clouds with the given spectrum."""
        return draws.uniform("start", -math.pi, math.pi, (canvas.channels, canvas.height, canvas.width // 2 + 1))

    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        """Compute the phases of images; their magnitude is discarded."""
        return encode_waves(images, color_matrix(canvas.channels, self.chroma), _CLIP).angle()

    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        """Compute the images, in (0, 1)."""
        phases = _odd(x, canvas.width)
        waves = torch.stack([phases.cos(), phases.sin()], dim=-1)
        weights = _weights(self, canvas.shape, x.dtype, x.device)
        return decode_waves(waves, *weights, canvas.width)


def _odd(phases: Tensor, width: int) -> Tensor:
    """Replace the columns that contain a frequency and its negative by their odd part."""
    index = torch.tensor([0, width // 2] if width % 2 == 0 else [0], device=phases.device)
    columns = phases.index_select(-1, index)
    return phases.index_copy(-1, index, (columns - columns.flip(-2).roll(1, -2)) / 2)


@lru_cache(maxsize=8)
def _weights(
    maco: MACO, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the magnitude, its adjoint and the color matrix for :func:`decode_waves`."""
    color = color_matrix(shape[0], maco.chroma)
    if maco.magnitude is None:
        magnitude = maco.contrast * _power_law(maco.decay, *shape[1:])
    else:
        spectrum = _mean_spectrum(maco.magnitude, shape, color_matrix(shape[0], 1.0))
        magnitude = maco.contrast * spectrum
        magnitude[:, 0, 0] = spectrum[:, 0, 0]
    constants = (*weights_and_adjoint(magnitude, shape[2]), color)
    weights, adjoint, color = (constant.to(device, dtype) for constant in constants)
    return weights, adjoint, color


def _power_law(decay: float, height: int, width: int) -> Tensor:
    """Compute ``1 / f ** decay`` with zero mean and unit standard deviation, float64 ``(H, W // 2 + 1)``."""
    magnitude = frequencies(height, width) ** -decay
    magnitude[0, 0] = 0
    return magnitude / (magnitude.square() * multiplicities(width)).sum().sqrt().clamp_min(1e-30)


def _mean_spectrum(folder: str, shape: tuple[int, int, int], color: Tensor) -> Tensor:
    """Compute the mean magnitude of photographs and their signed mean value, float64 ``(C, H, W // 2 + 1)``."""
    channels, height, width = shape
    total = torch.zeros(channels, height, width // 2 + 1, dtype=torch.float64)
    paths = [entry.path for entry in photographs([folder]).entries]
    for path in paths:
        pixels = read_photograph(path, (height, width), channels).pixels.double()
        waves = encode_waves(pixels[None], color, _CLIP)[0]
        total += waves.abs()
        total[:, 0, 0] += waves[:, 0, 0].real - waves[:, 0, 0].abs()
    return total / (len(paths) * height * width)
