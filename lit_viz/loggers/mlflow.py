"""MLflow: metrics, images and their captions as artifacts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger

from lit_viz.loggers import LOGGERS
from lit_viz.loggers.base import CaptionedImage, ImageAdapter, LoggerSettings, RunResults, stored_run_id
from lit_viz.presentations import EvidenceItem
from lit_viz.runs.folder import FolderStorage
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import Notify
from lit_viz.utils.imports import required

with required(LOGGERS["mlflow"].versions, "the logger mlflow", extra="mlflow"):
    import mlflow
    from mlflow.exceptions import MlflowException

# Codes of the errors of a store that does not have the run.
_OTHER_STORE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE")


class MLflowAdapter(ImageAdapter):
    """Adapter to ``MLFlowLogger``."""

    def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log each image under its key, and its caption as ``captions/<key>/<step>.txt``.

        Characters that MLflow does not accept in keys are replaced.
        """
        valid = {_valid(key): value for key, value in metrics.items()}
        super().log(valid, {}, step)
        client, run_id = self.logger.experiment, self.logger.run_id
        for key, (image, caption) in images.items():
            client.log_image(run_id, image, key=_valid(key), step=step)
            client.log_text(run_id, caption, f"captions/{_valid(key)}/{step:06d}.txt")

    def log_evidence(self, items: Sequence[EvidenceItem], step: int) -> None:
        """Log each item as the artifact ``evidence/<name>.md``."""
        for item in items:
            self.logger.experiment.log_text(self.logger.run_id, item.markdown, f"evidence/{item.name}.md")


class _MLflowRunAdapter(MLflowAdapter):
    """Adapter of a run folder: continues its MLflow run, and logs what that run lacks."""

    def __init__(self, folder: FolderStorage, settings: LoggerSettings) -> None:
        self._id_file = folder.path / "mlflow" / "run_id.txt"
        self._steps: dict[str, set[int]] = {}  # that the MLflow run already has, by key
        self._is_new = True
        self._options: dict[str, Any] = {
            "experiment_name": settings.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "lit_viz",
            "tracking_uri": mlflow.get_tracking_uri(),
            "run_name": folder.path.resolve().name,
            "tags": dict.fromkeys(settings.tags, ""),
        }
        super().__init__(MLFlowLogger(**self._options), "iteration")

    def open(self) -> None:
        """Continue the run if the store has it, otherwise create it."""
        stored = self._stored_run()
        if stored is not None:
            self.logger = MLFlowLogger(**self._options, run_id=stored)
            self._is_new = False
        write_text(self._id_file, f"{self.logger.run_id}\n")

    def _stored_run(self) -> str | None:
        """Return the id of the run of the folder, which is set to running; None if the store does not have it."""
        run_id = stored_run_id(self._id_file)
        if run_id is None:
            return None
        try:
            mlflow.MlflowClient(self._options["tracking_uri"]).update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code not in _OTHER_STORE:
                raise  # the server does not respond
            return None
        return run_id

    def log_hyperparameters(self, hyperparameters: Mapping[str, Any]) -> None:
        """Log the hyperparameters of a new run; MLflow rejects other values, such as ``slots`` of a resume."""
        if self._is_new:
            super().log_hyperparameters(hyperparameters)

    def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log what the run lacks; a caption is logged after its image."""
        new_metrics: dict[str, float] = {}
        for key, value in metrics.items():
            if not self._has(key, step, self._metric_steps):
                new_metrics[key] = value
        new_images: dict[str, CaptionedImage] = {}
        for key, image in images.items():
            if not self._has(key, step, self._caption_steps):
                new_images[key] = image
        super().log(new_metrics, new_images, step)

    def _has(self, key: str, step: int, steps: Callable[[str], set[int]]) -> bool:
        """Return whether the continued run has a key at a step; it is queried once per key."""
        if self._is_new:
            return False
        if key not in self._steps:
            self._steps[key] = steps(_valid(key))
        return step in self._steps[key]

    def _metric_steps(self, key: str) -> set[int]:
        history = self.logger.experiment.get_metric_history(self.logger.run_id, key)
        return {metric.step for metric in history}

    def _caption_steps(self, key: str) -> set[int]:
        captions = self.logger.experiment.list_artifacts(self.logger.run_id, f"captions/{key}")
        return {int(Path(file.path).stem) for file in captions if not file.is_dir}

    def log_summary(self, results: RunResults) -> None:
        """Log the summary, and the files of the run as artifacts."""
        super().log_summary(results)
        for file, place in results.files():
            self.logger.experiment.log_artifact(self.logger.run_id, str(file), place or None)

    @property
    def place(self) -> str:
        return f"run {self.logger.run_id} in {self._options['tracking_uri']}"


def open_adapter(folder: FolderStorage, settings: LoggerSettings, notify: Notify) -> ImageAdapter:
    """Return the adapter of a run folder, in the store of ``MLFLOW_TRACKING_URI`` or MLflow's default."""
    return _MLflowRunAdapter(folder, settings)


def _valid(key: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_/. -]", "_", key)
