"""MLflow: metrics, images and their captions as artifacts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lit_viz.loggers.base import CaptionedImage, ImageAdapter


class MLflowAdapter(ImageAdapter):
    """Adapter to ``MLFlowLogger``."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log scalars. Characters that MLflow does not accept in keys are replaced."""
        self.logger.log_metrics({_valid(key): value for key, value in metrics.items()}, step)

    def log_images(self, images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log each image under its key, and its caption as ``captions/<key>/<step>.txt``."""
        client, run_id = self.logger.experiment, self.logger.run_id
        for key, (image, caption) in images.items():
            client.log_image(run_id, image, key=_valid(key), step=step)
            client.log_text(run_id, caption, f"captions/{_valid(key)}/{step:06d}.txt")


def _valid(key: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_/. -]", "_", key)
