"""The results of a run in memory; files are written only to save the run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from lit_viz.engine.snapshots import PerturbedImage, Result, Snapshot
from lit_viz.images.formats import FileFormat
from lit_viz.runs.evidence import E, Evidence
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.results import Outcome, curves_of
from lit_viz.runs.verification import write_checkpoint
from lit_viz.types import Curve, Picture, Record, Task
from lit_viz.utils.files import plain

#: The resolved options as YAML, and the provenance of the run; see :meth:`FolderStorage.write_config`.
Configuration = tuple[str, Mapping[str, Any]]


class MemoryStorage:
    """The results of a run in memory.

    Args:
        results: finished tasks.
        configure: returns the configuration, when the run is saved; by default it is empty.

    Attributes:
        path: None; of a folder its path.
        is_slow: whether writing takes so long that a thread does it.
        keeps_snapshots: whether snapshots are added.
        results: by task index.
        snapshots: by task index, in order of iteration.
    """

    is_slow: ClassVar[bool] = False
    keeps_snapshots: ClassVar[bool] = True
    path: None = None

    def __init__(self, results: Iterable[Result] = (), configure: Callable[[], Configuration] | None = None) -> None:
        self.results: dict[int, Result] = {}
        self.snapshots: dict[int, list[Snapshot]] = defaultdict(list)
        self._configure = configure
        self._evidence: Evidence | None = None
        for result in results:
            self.add_result(result)

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Add a snapshot of a task."""
        self.snapshots[snapshot.task.index].append(snapshot)

    def add_result(self, result: Result) -> Record:
        """Add a finished task; return its record as it is stored."""
        self.results[result.task.index] = result
        return result.record

    def commit(self) -> dict[str, Any]:
        """Make what has finished so far part of the run; return what a checkpoint states of the store."""
        return {}

    def task(self, index: int) -> Task:
        """Return a task of the run."""
        return self.results[index].task

    def records(self) -> list[Record]:
        """Return the records of finished tasks, in task order."""
        return [result.record for result in self._in_order()]

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of finished tasks, in task order."""
        outcomes: list[Outcome] = []
        for result in self._in_order():
            outcomes.append(MemoryOutcome(result, self.snapshots.get(result.task.index, ())))
        return outcomes

    def not_done(self) -> list[Record]:
        """Return the records of finished tasks with another status than ``done``."""
        return [record for record in self.records() if record.status != "done"]

    sample = outcomes  # that figure, report and evidence are of

    def _in_order(self) -> list[Result]:
        return [self.results[index] for index in sorted(self.results)]

    def amend(self, records: Iterable[Record]) -> None:
        """Replace the records of finished tasks by these."""
        for record in records:
            self.results[record.index] = replace(self.results[record.index], record=record)

    def evidence(self, kind: type[E]) -> E:
        """Return the evidence of the run, of the class of its method; without parts if none was computed."""
        if self._evidence is None:
            return kind()
        assert isinstance(self._evidence, kind)
        return self._evidence

    def merge_evidence(self, evidence: Evidence) -> None:
        """Replace these parts of the evidence; the other parts remain."""
        kind = type(evidence)
        merged = self.evidence(kind).amend(**evidence.to_dict())
        self._evidence = kind.from_dict(plain(merged.to_dict()))  # as a file returns it

    def save(self, path: str | Path) -> FolderStorage:
        """Write the run to a new run folder, with its checkpoint; return it."""
        folder = FolderStorage.create(path)
        results = self._in_order()
        options, recorded = ("", {}) if self._configure is None else self._configure()
        folder.write_start(options, recorded, [result.task for result in results])
        for result in results:
            for snapshot in self.snapshots.get(result.task.index, ()):
                folder.add_snapshot(snapshot)
            folder.add_result(result)
        folder.commit()
        if self._evidence is not None:
            folder.merge_evidence(self._evidence)
        write_checkpoint(folder)
        return folder


class MemoryOutcome(Outcome):
    """The outcome of a task in memory, with the logged ``snapshots`` in order of iteration."""

    def __init__(self, result: Result, snapshots: Sequence[Snapshot]) -> None:
        super().__init__(result.record)
        self._result, self._snapshots = result, snapshots

    @property
    def has_image(self) -> bool:
        return self._result.image is not None

    def image(self) -> Tensor | None:
        return self._result.image

    def file_image(self) -> Tensor | None:
        image, file_format = self.image(), FileFormat.of(self.record.format)
        return None if image is None else file_format.decode(file_format.encode(image))

    def array(self) -> Tensor | None:
        return self._result.array

    def terms(self) -> Tensor | None:
        return self._result.terms

    def source(self) -> Tensor | None:
        return self._result.source

    def perturbed_images(self) -> Sequence[PerturbedImage]:
        return self._result.perturbed_images

    def frames(self, name: str = "image") -> Sequence[tuple[int, Picture]]:
        frames: list[tuple[int, Picture]] = []
        for snapshot in self._snapshots:
            image = snapshot.image if name == "image" else snapshot.extra_images.get(name)
            if image is not None:
                frames.append((snapshot.iteration, image))
        return frames

    def curves(self) -> Mapping[str, Curve]:
        return curves_of((0, snapshot.iteration, snapshot.metrics) for snapshot in self._snapshots)


#: The results of a run.
Storage = MemoryStorage | FolderStorage
