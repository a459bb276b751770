"""How photographs are fitted to the input of a network, as published with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lit_viz.errors import require

_FILTERS = tuple(name.lower() for name in Image.Resampling.__members__)


@dataclass(frozen=True)
class Resizing:
    """Resize with antialiasing, then crop the center.

    Attributes:
        crop_fraction: side of the input, relative to that of the resized picture, in (0, 1].
        interpolation: filter of Pillow: nearest, bilinear, bicubic, lanczos, box or hamming.
        stretch: whether the resized picture has the aspect ratio of the input, instead of its own.

    Raises:
        LitVizError: a value is invalid.
    """

    crop_fraction: float = 1.0
    interpolation: str = "bicubic"
    stretch: bool = False

    def __post_init__(self) -> None:
        is_fraction = isinstance(self.crop_fraction, (int, float)) and 0 < self.crop_fraction <= 1
        require(
            is_fraction,
            "the crop fraction of photographs must be in (0, 1]",
            repr(self.crop_fraction),
            is_argument=False,
        )
        names = ", ".join(_FILTERS)
        require(self.interpolation in _FILTERS, f"interpolation must be one of {names}", repr(self.interpolation))

    def box(self, original: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the region (x0, y0, x1, y1) of a picture that an input of ``size`` (height, width) shows."""
        h, w = original
        height, width = size
        rows, columns = self._resized(original, size)
        top, left = (rows - height) // 2, (columns - width) // 2
        return left * w / columns, top * h / rows, (left + width) * w / columns, (top + height) * h / rows

    def _resized(self, original: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of a resized picture, before the crop to ``size``."""
        rows = _floor(size[0] / self.crop_fraction)
        columns = _floor(size[1] / self.crop_fraction)
        if self.stretch:
            return rows, columns
        scale = max(rows / original[0], columns / original[1])
        return max(rows, _floor(original[0] * scale)), max(columns, _floor(original[1] * scale))


def resizing_of_timm(config: Mapping[str, Any]) -> Resizing:
    """Return the resizing in a ``pretrained_cfg`` of timm, with timm's defaults."""
    fraction, interpolation = config.get("crop_pct") or 0.875, config.get("interpolation") or "bicubic"
    return Resizing(fraction, interpolation, stretch=config.get("crop_mode") == "squash")


def _floor(length: float) -> int:
    return math.floor(length + 1e-6)  # of quotients such as 224 / (224 / 235)
