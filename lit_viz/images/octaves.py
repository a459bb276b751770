"""Octaves: the network sees a canvas that grows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import interpolate

from lit_viz.errors import LitVizError


@dataclass(frozen=True)
class Octaves:
    """The network sees the canvas shrunk at first, and so many times larger every octave until as large as it is
    (Mordvintsev, Olah and Tyka 2015, "Inceptionism: Going Deeper into Neural Networks").

    What is trained has the canvas's size throughout: a coarse view's gradient comes back enlarged and smooth and is
    added to what is there. So a photograph keeps its detail, which DeepDream saves by adding what every octave has
    changed to the photograph at the next size.

    Args:
        count: of the octaves; each takes an equal share of the iterations.
        scale: from one to the next.
    """

    count: int = 4
    scale: float = 1.4

    def __post_init__(self) -> None:
        if not (self.count >= 1 and self.scale > 1):
            raise LitVizError(
                f"Octaves needs a count of 1 or more and a scale above 1, not {self.count} and {self.scale}"
            )

    def at(self, iteration: int, iterations: int) -> int:
        """Return the octave of an iteration, from 0 to count - 1."""
        return min(iteration * self.count // iterations, self.count - 1)

    def size(self, canvas: tuple[int, int], octave: int) -> tuple[int, int]:
        """Return how large (H, W) a canvas is seen in an octave."""
        part = self.scale ** (octave + 1 - self.count)
        return max(1, round(canvas[0] * part)), max(1, round(canvas[1] * part))

    def __call__(self, images: Tensor, octave: int) -> Tensor:
        """Return the images ``(N, C, H, W)`` as they are seen in an octave, antialiased; differentiable."""
        height, width = images.shape[-2:]
        size = self.size((height, width), octave)
        if size == (height, width):
            return images
        return interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
