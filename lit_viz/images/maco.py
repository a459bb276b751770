"""The phase alone as what is trained, under the magnitude of natural images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.listing import photographs
from lit_viz.images.parameterizations import Canvas, Parameterization
from lit_viz.images.reading import read_photograph
from lit_viz.images.waves import (
    colour_matrix,
    decode_waves,
    encode_waves,
    frequencies,
    occurrences,
    weights_and_adjoint,
)
from lit_viz.rng import Draws

#: Pixels nearer to 0 or 1 count as here: a picture's blacks and whites would be most of its magnitude otherwise.
_CLIP = 0.02


@dataclass(frozen=True)
class MACO(Parameterization):
    """Magnitude constrained optimization (Fel et al. 2023, arXiv:2306.06805): what is trained are phases, so that no
    update can raise a frequency above what natural images have of it.

    x holds a phase a wave, ``(N, C, H, W // 2 + 1)``, and with r the magnitude, which stays as it is,

        image = sigmoid(colour @ irfft2(r * exp(i x)))

    Waves that are their own mirror images are real, so their phases are odd: of x only its odd part counts there, and
    the mean is fixed as well.

    Args:
        magnitude: a folder of photographs whose mean spectrum r is (also a file, or a CSV table that lists some), each
            cropped to the canvas's shape; the image is about as bright and of the same hue as they are on average.
            None: ``r ~ 1 / f ** decay`` around grey.
        decay: exponent of the spectrum without photographs; 1 is about that of natural images, more is smoother.
        contrast: standard deviation of each plane before the sigmoid; with photographs a factor of theirs, whose
            mean stays.
        chroma: strength of the two colour directions; below 1 the colours are calmer, with photographs than theirs.

    Raises:
        LitVizError: the folder is not there or holds no picture.
    """

    preserves: ClassVar[str] = "its phases only"

    magnitude: str | None = None
    decay: float = 1.0
    contrast: float = 1.0
    chroma: float = 1.0

    def __post_init__(self) -> None:
        for name in ("contrast", "chroma"):
            if not 0 < getattr(self, name) < math.inf:
                raise LitVizError(f"the {name} of MACO is a factor above 0, not {getattr(self, name)}")
        if self.magnitude is not None:
            photographs([self.magnitude])

    def start(self, draws: Draws, canvas: Canvas) -> Tensor:
        """Return random phases: clouds of the given spectrum."""
        return draws.uniform("start", -math.pi, math.pi, (canvas.channels, canvas.height, canvas.width // 2 + 1))

    def encode(self, images: Tensor, canvas: Canvas) -> Tensor:
        """Return the phases of the images; their magnitude is lost."""
        return encode_waves(images, colour_matrix(canvas.channels, self.chroma), _CLIP).angle()

    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        """Return the images, in (0, 1)."""
        phases = _odd(x, canvas.width)
        waves = torch.stack([phases.cos(), phases.sin()], dim=-1)
        weights = _weights(self, canvas.shape, x.dtype, x.device)
        return decode_waves(waves, *weights, canvas.width)


def _odd(phases: Tensor, width: int) -> Tensor:
    """Return the phases with their odd part in the columns that hold a wave and its mirror image both."""
    own = torch.tensor([0, width // 2] if width % 2 == 0 else [0], device=phases.device)
    columns = phases.index_select(-1, own)
    return phases.index_copy(-1, own, (columns - columns.flip(-2).roll(1, -2)) / 2)


@lru_cache(maxsize=8)
def _weights(
    maco: MACO, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the magnitude and its adjoint as the images are decoded with them, and the colour matrix."""
    colour = colour_matrix(shape[0], maco.chroma)
    if maco.magnitude is None:
        magnitude = maco.contrast * _power_law(maco.decay, *shape[1:])
    else:
        spectrum = _mean_spectrum(maco.magnitude, shape, colour_matrix(shape[0], 1.0))
        magnitude = maco.contrast * spectrum
        magnitude[:, 0, 0] = spectrum[:, 0, 0]
    constants = (*weights_and_adjoint(magnitude, shape[2]), colour)
    weights, adjoint, colour = (constant.to(device, dtype) for constant in constants)
    return weights, adjoint, colour


def _power_law(decay: float, height: int, width: int) -> Tensor:
    """Return ``1 / f ** decay``, float64 ``(H, W // 2 + 1)``, of mean zero and standard deviation 1."""
    magnitude = frequencies(height, width) ** -decay
    magnitude[0, 0] = 0
    return magnitude / (magnitude.square() * occurrences(width)).sum().sqrt().clamp_min(1e-30)


def _mean_spectrum(folder: str, shape: tuple[int, int, int], colour: Tensor) -> Tensor:
    """Return the photographs' mean magnitude, float64 ``(C, H, W // 2 + 1)``, and their mean with its sign; they are
    read one by one."""
    channels, height, width = shape
    total = torch.zeros(channels, height, width // 2 + 1, dtype=torch.float64)
    paths = [entry.path for entry in photographs([folder]).entries]
    for path in paths:
        pixels = read_photograph(path, (height, width), channels).pixels.double()
        waves = encode_waves(pixels[None], colour, _CLIP)[0]
        total += waves.abs()
        total[:, 0, 0] += waves[:, 0, 0].real - waves[:, 0, 0].abs()
    return total / (len(paths) * height * width)
