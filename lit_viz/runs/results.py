"""The outcomes of a run, and the storage that holds them: a run folder or memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Generic

from PIL import Image
from torch import Tensor
from typing_extensions import TypeVar

from lit_viz.engine.snapshots import PerturbedImage, Result, Snapshot
from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.images.formats import FileFormat
from lit_viz.images.rendering import side_by_side
from lit_viz.runs.evidence import Evidence
from lit_viz.types import Curve, Picture, Record, Task
from lit_viz.utils.formatting import probability_text

#: Class of the records of a method.
R = TypeVar("R", bound=Record, default=Record)
R_co = TypeVar("R_co", bound=Record, covariant=True, default=Record)


class Outcome(Generic[R_co]):
    """The outcome of a task. Images and arrays are read when they are accessed; without a storage there are none.

    A notebook displays the photograph, if there is one, next to the final image.

    Args:
        record: its record.
    """

    def __init__(self, record: R_co) -> None:
        self.record = record

    def __repr__(self) -> str:
        probability = "" if self.record.probability is None else f", {probability_text(self.record.probability)}"
        return f"Outcome({self.record.key}: {self.record.status}{probability})"

    def _repr_png_(self) -> bytes | None:
        """Return photograph and final image as PNG, which a notebook displays."""
        drawn = self.photograph(), self.drawn()
        pictures = [picture for picture in drawn if picture is not None]
        if not pictures:
            return None
        buffer = BytesIO()
        Image.fromarray(side_by_side(pictures)).save(buffer, "PNG")
        return buffer.getvalue()

    @property
    def name(self) -> str:
        """The target's name, or the task's where it has none."""
        return self.record.title

    @property
    def has_image(self) -> bool:
        """Whether there is a final image."""
        return self.record.file is not None

    def image(self) -> Tensor | None:
        """Return the final image ``(C, H, W)`` in [0, 1]; None if the task failed before it had one."""
        return None

    def file_image(self) -> Tensor | None:
        """Return the final image as its file has it, which evidence is about; None if there is none."""
        return self.image()

    def array(self) -> Tensor | None:
        """Return the raw float32 result; None if it would repeat the image."""
        return None

    def terms(self) -> Tensor | None:
        """Return what was recorded of the terms of a saliency map ``(evaluations, ...)``; None if nothing was."""
        return None

    def source(self) -> Tensor | None:
        """Return the photograph ``(C, H, W)`` in [0, 1] as the network received it; None if there is none."""
        return None

    def photograph(self) -> Tensor | None:
        """Return the bands ``(1, H, W)`` or ``(3, H, W)`` of the photograph that are drawn; None if there is none."""
        source = self.source()
        return None if source is None else FileFormat.of(self.record.format).draw(source)

    def drawn(self) -> Tensor | None:
        """Return the final image as it is drawn; None if there is none."""
        image = self.image()
        if image is None or self.record.format is None or self.array() is not None:
            return image
        return FileFormat.of(self.record.format).draw(image)

    def pictures(self) -> tuple[Picture | None, Picture | None]:
        """Return photograph and final image for a figure, as files where there are any: a figure draws only some."""
        return self.photograph(), self.drawn()

    def perturbed_images(self) -> Sequence[PerturbedImage]:
        """Return the photographs of a universal perturbation; none for other tasks."""
        return ()

    def frames(self, name: str = "image") -> Sequence[tuple[int, Picture]]:
        """Return the logged images as (iteration, image), in order of iteration.

        Args:
            name: ``image``, or of additional images of the iterations, such as ``difference``.
        """
        return ()

    def curves(self) -> Mapping[str, Curve]:
        """Return the logged metrics by name, as (iteration, value) in order of iteration."""
        return {}

    def curve(self, metric: str) -> Curve:
        """Return a metric as (iteration, value).

        Raises:
            LitVizError: it was not logged.
        """
        curves = self.curves()
        if metric not in curves:
            names = sorted(curves)
            known = f"it has {', '.join(names)}" if names else "it has none"
            raise LitVizError(f"{self.record.key} has no curve {metric!r}{did_you_mean(metric, names)} ({known})")
        return curves[metric]

    def logged(self, metric: str) -> Curve:
        """Return a metric as (iteration, value); empty if it was not logged."""
        return self.curves().get(metric, ())

    def amend(self, **values: Any) -> None:
        """Replace fields of the record; :meth:`Storage.amend` stores them."""
        self.record = self.record.amend(**values)


class Storage(ABC):
    """The results of a run.

    Attributes:
        path: run folder; None in memory.
        is_slow: whether writing takes so long that a thread does it.
        keeps_snapshots: whether snapshots are added.
    """

    is_slow: ClassVar[bool] = False
    keeps_snapshots: ClassVar[bool] = True
    path: Path | None

    @abstractmethod
    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Add a snapshot of a task."""

    @abstractmethod
    def add_result(self, result: Result) -> Record:
        """Add a finished task; return its record as it is stored."""

    def commit(self) -> dict[str, Any]:
        """Make what has finished so far part of the run; return what a checkpoint states of the store."""
        return {}

    def finish(self) -> None:
        """Complete the results of a run."""
        self.commit()

    @abstractmethod
    def task(self, index: int) -> Task:
        """Return a task of the run."""

    @abstractmethod
    def records(self) -> Sequence[Record]:
        """Return the records of finished tasks, in task order."""

    @abstractmethod
    def outcomes(self) -> Sequence[Outcome]:
        """Return the outcomes of finished tasks, in task order."""

    def not_done(self) -> Iterable[Record]:
        """Return the records of finished tasks with another status than ``done``."""
        return [record for record in self.records() if record.status != "done"]

    def sample(self) -> Sequence[Outcome]:
        """Return the outcomes that figure, report and evidence are of: of many tasks, only some."""
        return self.outcomes()

    @abstractmethod
    def amend(self, records: Iterable[Record]) -> None:
        """Replace the records of finished tasks by these."""

    @abstractmethod
    def evidence(self) -> Evidence:
        """Return the evidence of the run; without parts if none was computed."""

    @abstractmethod
    def merge_evidence(self, evidence: Evidence) -> None:
        """Replace these parts of the evidence; the other parts remain."""

    @abstractmethod
    def save(self, path: str | Path) -> Storage:
        """Write the run to a new run folder, with its checkpoint; return it.

        Raises:
            LitVizError: the folder exists, or the disk is full.
        """


def records_of(outcomes: Iterable[Outcome[R]]) -> list[R]:
    """Return the records of outcomes."""
    return [outcome.record for outcome in outcomes]
