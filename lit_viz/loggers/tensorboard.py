"""TensorBoard: images, and their captions as texts."""

from __future__ import annotations

from collections.abc import Mapping

from lit_viz.loggers.base import CaptionedImage, ImageAdapter


class TensorBoardAdapter(ImageAdapter):
    """Adapter to ``TensorBoardLogger``."""

    def log_images(self, images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log each image under its key, and its caption under ``<key>/caption``."""
        writer = self.logger.experiment
        for key, (image, caption) in images.items():
            writer.add_image(key, image, step, dataformats="HWC")
            writer.add_text(f"{key}/caption", caption.replace("\n", "  \n"), step)  # a line break in Markdown
