"""The results of a run in memory; files are written only for evidence that reads files, and to save the run."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_viz.engine.snapshots import PerturbedImage, Result, Snapshot
from lit_viz.runs.checkpoint import write_checkpoint
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.results import Storage
from lit_viz.types import Curve, Picture, Record, index_of
from lit_viz.utils.files import plain

#: The resolved options as YAML, and the provenance of the run; see :meth:`FolderStorage.write_config`.
Configuration = tuple[str, Mapping[str, Any]]


class MemoryStorage(Storage):
    """The results of a run in memory.

    Args:
        results: finished tasks.
        configure: returns the configuration, when files are written; by default it is empty.

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

    def records(self) -> list[Record]:
        return [result.record for result in self._in_order()]

    def _in_order(self) -> list[Result]:
        return [self.results[index] for index in sorted(self.results)]

    def amend(self, records: Iterable[Record]) -> None:
        for record in records:
            self.results[record.index] = replace(self.results[record.index], record=record)

    def evidence(self) -> Evidence:
        return Evidence.from_dict(self._evidence)

    def merge_evidence(self, evidence: Evidence) -> None:
        self._evidence = plain(self.evidence().with_parts(evidence).to_dict())

    def image(self, record: Record) -> Tensor | None:
        return self.results[record.index].image

    def array(self, record: Record) -> Tensor | None:
        return self.results[record.index].array

    def terms(self, record: Record) -> Tensor | None:
        return self.results[record.index].terms

    def source(self, record: Record) -> Tensor | None:
        return self.results[record.index].source

    def perturbed_images(self, key: str) -> Sequence[PerturbedImage]:
        return self.results[index_of(key)].perturbed_images

    def frames(self, key: str) -> Sequence[tuple[int, Picture]]:
        frames: list[tuple[int, Picture]] = []
        for snapshot in self.snapshots.get(index_of(key), ()):
            if snapshot.image is not None:
                frames.append((snapshot.iteration, snapshot.image))
        return frames

    def curve(self, key: str, metric: str) -> Curve:
        curve = []
        for snapshot in self.snapshots.get(index_of(key), ()):
            if metric in snapshot.metrics:
                curve.append((snapshot.iteration, snapshot.metrics[metric]))
        return curve

    def curve_names(self, key: str) -> list[str]:
        names: set[str] = set()
        for snapshot in self.snapshots.get(index_of(key), ()):
            names.update(snapshot.metrics)
        return sorted(names)

    @contextmanager
    def files(self) -> Iterator[FolderStorage]:
        """Yield a temporary run folder without logged images, and take over its evidence and records at the end."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = FolderStorage(scratch)
            self._write(folder, with_frames=False)
            yield folder
            self.merge_evidence(folder.evidence())
            self.amend(record.amend(file=None, array=None) for record in folder.records())

    def save(self, path: str | Path) -> FolderStorage:
        folder = FolderStorage.create(path)
        self._write(folder, with_frames=True)
        write_checkpoint(folder)
        return folder

    def _write(self, folder: FolderStorage, with_frames: bool) -> None:
        """Write the run to a folder: queue, configuration, metrics, images, arrays, records and evidence."""
        results = self._in_order()
        options, recorded = ("", {}) if self._configure is None else self._configure()
        folder.write_start(options, recorded, [result.task for result in results])
        for result in results:
            for snapshot in self.snapshots.get(result.task.index, ()):
                folder.add_snapshot(snapshot if with_frames else replace(snapshot, content=None, extra_images={}))
            folder.add_result(result)
        folder.finish()
        if self._evidence:
            folder.merge_evidence(self.evidence())
