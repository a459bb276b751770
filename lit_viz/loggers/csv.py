"""CSV: rows of metrics, and image files."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from pytorch_lightning.loggers import CSVLogger

from lit_viz.loggers.base import FILE_SECONDS, CaptionedImage, ImageAdapter, LoggerSettings
from lit_viz.presentations import EvidenceItem
from lit_viz.runs.folder import FolderStorage
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import Notify


class CSVAdapter(ImageAdapter):
    """Adapter to ``CSVLogger``.

    Rows of another axis than the global step have a column of its name. Images are files ``<key>/<step>.png`` in the
    folder of the logger; ``images.csv`` lists them with their captions.
    """

    call_seconds = end_seconds = FILE_SECONDS

    def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
        """Add a row to ``metrics.csv``; write the images, and a row for each to ``images.csv``."""
        row = dict(metrics)
        if metrics and self.axis is not None:
            row = {self.axis: step, **metrics}
        super().log(row, {}, step)
        for key, (image, caption) in images.items():
            folder = Path(self.logger.experiment.log_dir)  # creates it
            file = folder / f"{key}/{step:06d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
            self._list(folder / "images.csv", step, key, file.relative_to(folder), caption)

    def log_evidence(self, items: Sequence[EvidenceItem], step: int) -> None:
        """Write each item to the file ``evidence/<name>.md``."""
        for item in items:
            write_text(Path(self.logger.experiment.log_dir) / f"evidence/{item.name}.md", item.markdown)

    def _list(self, table: Path, *row: object) -> None:
        is_new = not table.exists()
        with table.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            if is_new:
                writer.writerow((self.axis or "step", "key", "file", "caption"))
            writer.writerow(row)

    @property
    def place(self) -> str:
        return str(Path(self.logger.log_dir) / "metrics.csv")


def open_adapter(folder: FolderStorage, settings: LoggerSettings, notify: Notify) -> ImageAdapter:
    """Return the adapter of a run folder; delete its earlier files."""
    shutil.rmtree(folder.path / "csv", ignore_errors=True)
    return CSVAdapter(CSVLogger(folder.path, name="csv", version=""), "iteration")
