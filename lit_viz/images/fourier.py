"""Fourier coefficients as what is trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.parameterizations import Canvas, Parameterization
from lit_viz.images.waves import colour_matrix, decode_waves, encode_waves, frequencies, weights_and_adjoint
from lit_viz.rng import Draws


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
        waves = torch.view_as_real(encode_waves(images, colour, self.clip))
        return waves / weights / (canvas.height * canvas.width)

    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        """Return the images, in (0, 1)."""
        return decode_waves(x, *self._constants(canvas, x), canvas.width)

    def _constants(self, canvas: Canvas, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _constants(self.decay, self.chroma if self.decorrelate else None, canvas.shape, like.dtype, like.device)


@lru_cache(maxsize=32)
def _constants(
    decay: float, chroma: float | None, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of the coefficients and of their gradient, all scales folded in, and the colour matrix."""
    channels, height, width = shape
    weights = frequencies(height, width) ** -decay / (4 * (height * width) ** 0.5)
    constants = (*weights_and_adjoint(weights, width), colour_matrix(channels, chroma))
    weights, adjoint, colour = (constant.to(device, dtype) for constant in constants)
    return weights, adjoint, colour
