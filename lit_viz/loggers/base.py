"""Base class of the adapters, which also serves loggers that are unknown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Image ``(H, W, 3)`` uint8, and its caption.
CaptionedImage = tuple[NDArray[np.uint8], str]


class ImageAdapter:
    """Metrics and images of a logger over an axis.

    Args:
        logger: logger of Lightning.
        axis: name of the axis of the steps; None for the global step of the Trainer.
    """

    def __init__(self, logger: Any, axis: str | None = None) -> None:
        self.logger = logger
        self.axis = axis

    def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log the metrics and images of one position on the axis."""
        if metrics:
            self.log_metrics(metrics, step)
        if images:
            self.log_images(images, step)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log scalars by key at a position on the axis."""
        self.logger.log_metrics(dict(metrics), step)

    def log_images(self, images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log images by key at a position on the axis; an unknown logger does not receive them."""
