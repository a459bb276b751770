"""MLflow: metrics, images and their captions as artifacts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from pytorch_lightning.loggers import MLFlowLogger

from lit_viz.loggers.base import CaptionedImage, ImageAdapter, LoggerSettings, RunResults
from lit_viz.runs.folder import RunFolder
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import Notify


class MLflowAdapter(ImageAdapter):
    """Adapter to ``MLFlowLogger``."""

    def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log each image under its key, and its caption as ``captions/<key>/<step>.txt``.

        Characters that MLflow does not accept in keys are replaced.
        """
        super().log({_valid(key): value for key, value in metrics.items()}, {}, step)
        client, run_id = self.logger.experiment, self.logger.run_id
        for key, (image, caption) in images.items():
            client.log_image(run_id, image, key=_valid(key), step=step)
            client.log_text(run_id, caption, f"captions/{_valid(key)}/{step:06d}.txt")


class _RunAdapter(MLflowAdapter):
    """Adapter of a run folder: continues its MLflow run, and logs what that run lacks."""

    def __init__(self, folder: RunFolder, settings: LoggerSettings) -> None:
        experiment = settings.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "lit_viz"
        self._id_file = folder.path / "mlflow" / "run_id.txt"
        self._config = folder.config
        self._steps: dict[str, set[int]] = {}  # that the MLflow run already has, by key
        self._is_new = True
        options: dict[str, Any] = {
            "tracking_uri": mlflow.get_tracking_uri(),
            "run_name": folder.path.resolve().name,
            "tags": dict.fromkeys(settings.tags, ""),
        }
        super().__init__(MLFlowLogger(experiment, **options), "iteration")

    def open(self) -> None:
        """Continue the run if the store has it, otherwise create it."""
        stored = self._id_file.read_text().strip() if self._id_file.exists() else None
        try:
            if stored is not None:
                self.logger._mlflow_client.update_run(stored, status="RUNNING")
                self.logger._run_id, self._is_new = stored, False
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE"):
                raise  # the server does not respond; otherwise this is another store
        write_text(self._id_file, f"{self.logger.run_id}\n")
        if self._is_new:
            self.logger.log_hyperparams(self._config)

    def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log what the run lacks; a caption is logged after its image."""
        client, run_id = self.logger.experiment, self.logger.run_id
        for key in () if self._is_new else (metrics.keys() | images.keys()) - self._steps.keys():
            if key in metrics:
                self._steps[key] = {metric.step for metric in client.get_metric_history(run_id, _valid(key))}
            else:
                captions = client.list_artifacts(run_id, f"captions/{_valid(key)}")
                self._steps[key] = {int(Path(file.path).stem) for file in captions if not file.is_dir}
        missing = {key for key in (*metrics, *images) if step not in self._steps.get(key, ())}
        super().log(
            {key: value for key, value in metrics.items() if key in missing},
            {key: image for key, image in images.items() if key in missing},
            step,
        )

    def log_summary(self, results: RunResults) -> None:
        """Log the summary, and the files of the run as artifacts."""
        super().log_summary(results)
        for file, place in results.files():
            self.logger.experiment.log_artifact(self.logger.run_id, str(file), place or None)

    @property
    def place(self) -> str:
        return f"run {self.logger.run_id} in {self.logger._tracking_uri}"


def open_adapter(folder: RunFolder, settings: LoggerSettings, notify: Notify) -> ImageAdapter:
    """Return the adapter of a run folder, in the store of ``MLFLOW_TRACKING_URI`` or MLflow's default."""
    return _RunAdapter(folder, settings)


def _valid(key: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_/. -]", "_", key)
