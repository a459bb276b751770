"""How a picture of any shape is fitted to the classifier's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from lit_viz.images.modes import Plane

Fit = Literal["crop", "squash", "pad"]
Box = tuple[float, float, float, float]  # left, top, right, bottom

_BORDER = 128  # grey, of 255


@dataclass(frozen=True)
class Placed:
    """Where a picture goes: the part of it that is read, and the part of the image that this fills.

    Attributes:
        original: (height, width) of the picture.
        size: (height, width) of the image.
        source: what is read, in pixels of the picture.
        corner: (top, left) of where it goes, in pixels of the image.
        inner: (height, width) of where it goes; around it the image is grey.
    """

    original: tuple[int, int]
    size: tuple[int, int]
    source: Box
    corner: tuple[int, int]
    inner: tuple[int, int]

    @property
    def box(self) -> Box:
        """What the whole image spans, in pixels of the picture."""
        left, top, right, bottom = self.source
        step_x, step_y = (right - left) / self.inner[1], (bottom - top) / self.inner[0]
        left, top = left - self.corner[1] * step_x, top - self.corner[0] * step_y
        return left, top, left + self.size[1] * step_x, top + self.size[0] * step_y

    def apply(self, plane: Plane) -> Plane:
        """Return the fitted plane, not rounded: Pillow resizes floats without a rounding between its two passes.

        The plane may be a smaller version of the picture (a JPEG file decoded at a fraction of its size).
        """
        height, width = plane.shape
        across, down = width / self.original[1], height / self.original[0]
        left, top, right, bottom = self.source
        box = (left * across, top * down, min(right * across, width), min(bottom * down, height))
        inner = Image.fromarray(plane).resize(self.inner[::-1], Image.Resampling.BICUBIC, box)
        out = np.full(self.size, _BORDER, np.float32)
        (top_, left_), (tall, wide) = self.corner, self.inner
        out[top_ : top_ + tall, left_ : left_ + wide] = np.asarray(inner)
        return out


def place(original: tuple[int, int], size: tuple[int, int], fit: Fit) -> Placed:
    """Return where a picture of ``original`` (height, width) goes in an image of ``size``."""
    (h, w), (height, width) = original, size
    if fit == "squash":
        return Placed(original, size, (0.0, 0.0, w, h), (0, 0), size)
    if fit == "crop":
        step = min(w / width, h / height)
        left, top = max(0.0, (w - step * width) / 2), max(0.0, (h - step * height) / 2)
        return Placed(original, size, (left, top, w - left, h - top), (0, 0), size)
    step = max(w / width, h / height)
    inner = max(1, round(h / step)), max(1, round(w / step))
    corner = (height - inner[0]) // 2, (width - inner[1]) // 2
    return Placed(original, size, (0.0, 0.0, w, h), corner, inner)
