"""Color planes of Pillow images of any mode, and their fit to the classifier's input size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Fit = Literal["crop", "squash", "pad"]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Plane = npt.NDArray[np.float32]

#: Weights of R, G and B in gray images: ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)
_BORDER = 128  # gray, of 255


def planes_of(image: Image.Image, *, negative: bool = False, any_depth: bool = False) -> Iterator[Plane]:
    """Yield the planes R, G and B of an image as float32 ``(H, W)`` in [0, 255], one at a time to limit memory.

    Transparency is composited on white in float. 16-bit gray (modes ``I;16`` and ``I``) is divided by 257; float gray
    (mode ``F``) must be in [0, 1].

    Args:
        image: any mode.
        negative: 0 is white in images with more than 8 bits, which Pillow does not invert.
        any_depth: integers have 8 or 16 bits independent of their storage; the maximum decides.

    Raises:
        ValueError: if values of mode ``I`` or ``F`` are out of range.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        gray = _deep_gray(image, any_depth)
        gray = 255 - gray if negative else gray
        yield from (gray, gray, gray)
    elif image.has_transparency_data:
        *colors, alpha = image.convert("RGBA").split()
        opacity: Plane = np.asarray(alpha, np.float32) / np.float32(255)
        for color in colors:
            yield np.float32(255) + (np.asarray(color, np.float32) - np.float32(255)) * opacity
    else:
        for color in image.convert("RGB").split():
            yield np.asarray(color, np.float32)


def _deep_gray(image: Image.Image, any_depth: bool) -> Plane:
    # Pillow's conversion of these modes to 8 bits clips, so 16-bit images would be white.
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    limit = 1.0 if image.mode == "F" else 255.0 if any_depth and high <= 255 else 65535.0
    if not (low >= 0 and high <= limit):
        raise ValueError(
            f"values of Pillow mode {image.mode} must be in [0, {limit:g}], got [{low:g}, {high:g}]: save it with 8 or "
            "16 bits"
        )
    return (values.astype(np.float64) * (255 / limit)).astype(np.float32)


@dataclass(frozen=True)
class Placement:
    """Mapping of a picture to an image: the region that is read, and the region of the image that it fills.

    Attributes:
        original: (height, width) of the picture.
        size: (height, width) of the image.
        source: region of the picture, in its pixels.
        corner: (top, left) of the filled region, in pixels of the image.
        inner: (height, width) of the filled region; the rest of the image is gray.
    """

    original: tuple[int, int]
    size: tuple[int, int]
    source: Box
    corner: tuple[int, int]
    inner: tuple[int, int]

    @property
    def box(self) -> Box:
        """Extent of the whole image, in pixels of the picture."""
        left, top, right, bottom = self.source
        step_x, step_y = (right - left) / self.inner[1], (bottom - top) / self.inner[0]
        left, top = left - self.corner[1] * step_x, top - self.corner[0] * step_y
        return left, top, left + self.size[1] * step_x, top + self.size[0] * step_y

    def apply(self, plane: Plane) -> Plane:
        """Resize a plane without rounding: Pillow's float mode does not round between its two passes.

        The plane can be a downsampled version of the picture (a JPEG file decoded at a fraction of its size).
        """
        height, width = plane.shape
        scale_x, scale_y = width / self.original[1], height / self.original[0]
        left, top, right, bottom = self.source
        box = (left * scale_x, top * scale_y, min(right * scale_x, width), min(bottom * scale_y, height))
        inner = Image.fromarray(plane).resize(self.inner[::-1], Image.Resampling.BICUBIC, box)
        out = np.full(self.size, _BORDER, np.float32)
        (y, x), (inner_height, inner_width) = self.corner, self.inner
        out[y : y + inner_height, x : x + inner_width] = np.asarray(inner)
        return out


def place(original: tuple[int, int], size: tuple[int, int], fit: Fit) -> Placement:
    """Compute the placement of a picture of ``original`` (height, width) in an image of ``size``."""
    (h, w), (height, width) = original, size
    if fit == "squash":
        return Placement(original, size, (0.0, 0.0, w, h), (0, 0), size)
    if fit == "crop":
        step = min(w / width, h / height)
        left, top = max(0.0, (w - step * width) / 2), max(0.0, (h - step * height) / 2)
        return Placement(original, size, (left, top, w - left, h - top), (0, 0), size)
    step = max(w / width, h / height)
    inner = max(1, round(h / step)), max(1, round(w / step))
    corner = (height - inner[0]) // 2, (width - inner[1]) // 2
    return Placement(original, size, (0.0, 0.0, w, h), corner, inner)
