"""TensorBoard: images, and their captions as texts."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from lit_viz.loggers import LOGGERS
from lit_viz.loggers.base import FILE_SECONDS, CaptionedImage, ImageAdapter, LoggerSettings, RunResults
from lit_viz.presentations import EvidenceItem
from lit_viz.runs.folder import FolderStorage
from lit_viz.utils.formatting import Notify
from lit_viz.utils.imports import required

with required(LOGGERS["tensorboard"].versions, "the logger tensorboard", extra="tensorboard"):
    from tensorboard.compat.proto.summary_pb2 import Summary

_RGB = 3  # TensorBoard's number of this color space


class TensorBoardAdapter(ImageAdapter):
    """Adapter to ``TensorBoardLogger``."""

    call_seconds = end_seconds = FILE_SECONDS

    def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log each image under its key, and its caption under ``<key>/caption``."""
        super().log(metrics, images, step)
        for key, (image, caption) in images.items():
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, format="PNG")
            self._add_png(key, buffer.getvalue(), image.shape[:2], caption, step)

    def log_results(self, results: RunResults) -> None:
        """Log the files of the figures as they are, which may be large, and the evidence."""
        for file in results.figures():
            with Image.open(file) as figure:
                width, height = figure.size
            self._add_png(file.stem, file.read_bytes(), (height, width), file.stem, results.iteration)
        self.log_evidence(results.evidence, results.iteration)

    def _add_png(self, key: str, png: bytes, size: Sequence[int], caption: str, step: int) -> None:
        """Log an encoded image: ``add_image`` of the writer needs 14 bytes per value while it converts one."""
        writer = self.logger.experiment
        writer.add_text(f"{key}/caption", caption.replace("\n", "  \n"), step)  # a line break in Markdown
        height, width = size
        encoded = Summary.Image(height=height, width=width, colorspace=_RGB, encoded_image_string=png)
        writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=key, image=encoded)]), step)

    def log_evidence(self, items: Sequence[EvidenceItem], step: int) -> None:
        """Log each item as the text ``evidence/<name>``."""
        for item in items:
            self.logger.experiment.add_text(f"evidence/{item.name}", item.markdown, step)

    def log_hyperparameters(self, hyperparameters: Mapping[str, Any]) -> None:
        """Do nothing: TensorBoard's table of hyperparameters takes them with the summary, at the end of the run."""

    def log_summary(self, results: RunResults) -> None:
        """Log the summary with the hyperparameters, so that TensorBoard's table compares runs."""
        self.logger.log_hyperparams(dict(results.hyperparameters), dict(results.summary), results.iteration)

    @property
    def place(self) -> str:
        return f"tensorboard --logdir {self.logger.log_dir}"


def open_adapter(folder: FolderStorage, settings: LoggerSettings, notify: Notify) -> ImageAdapter:
    """Return the adapter of a run folder; delete its earlier event files."""
    shutil.rmtree(folder.path / "tensorboard", ignore_errors=True)
    return TensorBoardAdapter(TensorBoardLogger(folder.path, name="tensorboard", version=""), "iteration")
