"""Base class of the adapters, which is the adapter of all other loggers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_viz.errors import require
from lit_viz.utils.checking import check_fields
from lit_viz.utils.files import read_regular_text

if TYPE_CHECKING:  # the names of modes and settings are read before torch is imported
    from lit_viz.presentations import EvidenceItem
    from lit_viz.runs.folder import FolderStorage

#: Image ``(H, W, 3)`` uint8, and its caption.
CaptionedImage = tuple[NDArray[np.uint8], str]
#: How a run is logged to W&B.
WandbMode = Literal["auto", "online", "offline", "disabled"]
#: Time limits of loggers that write files, which are slow only under load.
FILE_SECONDS = 120.0
_MOST_ID = 200  # bytes
_ARTIFACT_FILES = ("config.yaml", "results.jsonl", "metrics.csv", "evidence.*", "figure.*", "figure_*", "evolution.*")
_ARTIFACT_FOLDERS = ("images", "sources", "arrays", "photographs")


@dataclass(frozen=True)
class LoggerSettings:
    """Settings of the loggers of a run folder.

    Attributes:
        project: W&B project, MLflow experiment. Default: ``WANDB_PROJECT`` or ``MLFLOW_EXPERIMENT_NAME``, or
            ``lit_viz``.
        tags: tags of the run in W&B and MLflow.
        group, job_type: of the W&B run.
        wandb: mode of W&B.

    Raises:
        LitVizError: a value has another type.
    """

    project: str | None = None
    tags: Sequence[str] = ()
    group: str | None = None
    job_type: str | None = None
    wandb: WandbMode = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.project, Path):
            object.__setattr__(self, "project", str(self.project))
        check_fields(self)


@dataclass(frozen=True)
class RunResults:
    """What is logged at the end of a run.

    Attributes:
        folder: the complete run folder.
        hyperparameters: configuration of the run.
        evidence: items of the evidence, as terminal, notebook and report state them.
        summary: numbers by which runs are compared.
        iteration: the last iteration.
    """

    folder: FolderStorage
    hyperparameters: Mapping[str, Any]
    evidence: Sequence[EvidenceItem]
    summary: Mapping[str, float]
    iteration: int

    def figures(self) -> list[Path]:
        """Return the files of the figure and the evidence that the run has."""
        paths = (self.folder.path / "figure.png", self.folder.path / "evidence.png")
        return [path for path in paths if path.exists()]

    def files(self) -> Iterator[tuple[Path, str]]:
        """Yield each file of the artifact, and its folder in it."""
        for pattern in _ARTIFACT_FILES:
            for file in sorted(self.folder.path.glob(pattern)):
                yield file, ""
        for name in _ARTIFACT_FOLDERS:
            for file in sorted((self.folder.path / name).rglob("*")):
                if file.is_file():
                    yield file, str(file.parent.relative_to(self.folder.path))


def stored_run_id(path: Path) -> str | None:
    """Return the id of a logger's run in a file of a run folder; None if there is none.

    Raises:
        LitVizError: the file is none of lit_viz.
    """
    if not os.path.lexists(path):
        return None
    run_id = read_regular_text(path, most=_MOST_ID).strip()
    require(
        re.fullmatch(r"[\w.-]*", run_id),
        f"{path} must hold the id of a run",
        repr(run_id),
        hint="delete the file",
        is_argument=False,
    )
    return run_id or None


class ImageAdapter:
    """Metrics and images of a logger over an axis.

    Args:
        logger: logger of Lightning.
        axis: name of the axis of the steps; None for the global step of the Trainer.

    Attributes:
        rows_logged: number of rows of the run that the logger already has.
        call_seconds: time limit of a row or another call during the run.
        end_seconds: time limit of all that follows the last row: results, summary and end. Servers receive files.
    """

    rows_logged = 0
    call_seconds = 10.0
    end_seconds = 60.0

    def __init__(self, logger: Any, axis: str | None = None) -> None:
        self.logger = logger
        self.axis = axis

    def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log scalars and images by key at a position on the axis; other loggers do not receive the images."""
        if metrics:
            self.logger.log_metrics(dict(metrics), step)

    # Runs in a folder

    def open(self) -> None:
        """Connect to the logger, before anything else."""

    def log_hyperparameters(self, hyperparameters: Mapping[str, Any]) -> None:
        """Log the configuration of the run, by which runs are filtered; repeating it changes nothing."""
        self.logger.log_hyperparams(dict(hyperparameters))

    def log_results(self, results: RunResults) -> None:
        """Log the figures and the evidence of a complete run, as its last row."""
        images: dict[str, CaptionedImage] = {}
        for file in results.figures():
            images[file.stem] = (np.asarray(Image.open(file).convert("RGB")), file.stem)
        self.log({}, images, results.iteration)
        self.log_evidence(results.evidence, results.iteration)

    def log_evidence(self, items: Sequence[EvidenceItem], step: int) -> None:
        """Log each item of the evidence as ``evidence/<name>``; loggers without texts and tables do not receive
        them."""

    def log_summary(self, results: RunResults) -> None:
        """Log the summary of a complete run; repeating it changes nothing."""
        self.log(results.summary, {}, results.iteration)

    def close(self, success: bool) -> None:
        """Finish the run of the logger; a resume continues it."""
        status = "success" if success else "failed"
        self.logger.finalize(status)

    def abandon(self) -> None:
        """Release a logger that failed or timed out."""

    def calls(self) -> AbstractContextManager[None]:
        """Return the context of all calls."""
        return nullcontext()

    @property
    def place(self) -> str:
        """Location of the run, or the command that shows it."""
        return str(self.logger.save_dir)


#: Logs a row of a run by an adapter.
LogRow = Callable[[ImageAdapter], None]
