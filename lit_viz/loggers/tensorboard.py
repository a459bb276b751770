"""TensorBoard: images, and their captions as texts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger

from lit_viz.loggers.base import FILE_SECONDS, CaptionedImage, ImageAdapter, LoggerSettings, RunResults
from lit_viz.presentations import EvidenceItem
from lit_viz.runs.folder import FolderStorage
from lit_viz.utils.formatting import Notify


class TensorBoardAdapter(ImageAdapter):
    """Adapter to ``TensorBoardLogger``."""

    call_seconds = end_seconds = FILE_SECONDS

    def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log each image under its key, and its caption under ``<key>/caption``."""
        super().log(metrics, images, step)
        writer = self.logger.experiment
        for key, (image, caption) in images.items():
            writer.add_image(key, image, step, dataformats="HWC")
            writer.add_text(f"{key}/caption", caption.replace("\n", "  \n"), step)  # a line break in Markdown

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
    """Return the adapter of a run folder, whose earlier event files are deleted."""
    shutil.rmtree(folder.path / "tensorboard", ignore_errors=True)
    return TensorBoardAdapter(TensorBoardLogger(folder.path, name="tensorboard", version=""), "iteration")
