"""The results of a run in memory; files are written only to save the run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_viz.engine.snapshots import PerturbedImage, Result, Snapshot
from lit_viz.images.formats import FileFormat
from lit_viz.images.reading import decode, encode_png
from lit_viz.runs.checkpoint import write_checkpoint
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.metrics import curves_of
from lit_viz.runs.results import Outcome, Storage
from lit_viz.types import Curve, Picture, Record, Task
from lit_viz.utils.files import plain

#: The resolved options as YAML, and the provenance of the run; see :meth:`FolderStorage.write_config`.
Configuration = tuple[str, Mapping[str, Any]]


class MemoryStorage(Storage):
    """The results of a run in memory.

    Args:
        results: finished tasks.
        configure: returns the configuration, when the run is saved; by default it is empty.

    Attributes:
        results: by task index.
        snapshots: by task index, in order of iteration.
    """

    def __init__(self, results: Iterable[Result] = (), configure: Callable[[], Configuration] | None = None) -> None:
        self.path = None
        self.results: dict[int, Result] = {}
        self.snapshots: dict[int, list[Snapshot]] = defaultdict(list)
        self._configure = configure
        self._evidence: dict[str, Any] = {}  # as in evidence.json
        for result in results:
            self.add_result(result)

    def add_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots[snapshot.task.index].append(snapshot)

    def add_result(self, result: Result) -> Record:
        self.results[result.task.index] = result
        return result.record

    def task(self, index: int) -> Task:
        return self.results[index].task

    def records(self) -> list[Record]:
        return [result.record for result in self._in_order()]

    def outcomes(self) -> list[Outcome]:
        return [MemoryOutcome(result, self.snapshots.get(result.task.index, ())) for result in self._in_order()]

    def _in_order(self) -> list[Result]:
        return [self.results[index] for index in sorted(self.results)]

    def amend(self, records: Iterable[Record]) -> None:
        for record in records:
            self.results[record.index] = replace(self.results[record.index], record=record)

    def evidence(self) -> Evidence:
        return Evidence.from_dict(self._evidence)

    def merge_evidence(self, evidence: Evidence) -> None:
        self._evidence = plain(self.evidence().with_parts(evidence).to_dict())

    def save(self, path: str | Path) -> FolderStorage:
        folder = FolderStorage.create(path)
        results = self._in_order()
        options, recorded = ("", {}) if self._configure is None else self._configure()
        folder.write_start(options, recorded, [result.task for result in results])
        for result in results:
            for snapshot in self.snapshots.get(result.task.index, ()):
                folder.add_snapshot(snapshot)
            folder.add_result(result)
        folder.finish()
        if self._evidence:
            folder.merge_evidence(self.evidence())
        write_checkpoint(folder)
        return folder


class MemoryOutcome(Outcome):
    """The outcome of a task in memory.

    Args:
        result: of the task.
        snapshots: of the task, in order of iteration.
    """

    def __init__(self, result: Result, snapshots: Sequence[Snapshot]) -> None:
        super().__init__(result.record)
        self._result, self._snapshots = result, snapshots

    @property
    def has_image(self) -> bool:
        return self._result.image is not None

    def image(self) -> Tensor | None:
        return self._result.image

    def file_image(self) -> Tensor | None:
        image, file_format = self._result.image, FileFormat.of(self.record.format)
        if image is None:
            return None
        if self.record.format is None:
            return decode(encode_png(image))
        return file_format.decode(file_format.encode(image))

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

    def curves(self) -> dict[str, Curve]:
        return curves_of((0, snapshot.iteration, snapshot.metrics) for snapshot in self._snapshots)
