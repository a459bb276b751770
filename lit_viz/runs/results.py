"""Outcomes of a run, read from its folder or kept in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lit_viz.images.reading import read_png
from lit_viz.runs.folder import RunFolder
from lit_viz.types import Curve, PerturbedImage, Picture, Record, Result, Snapshot, Task

R = TypeVar("R", bound=Record)


class Outcome(ABC):
    """The outcome of a task. Images and arrays are read when they are accessed.

    Attributes:
        record: its record.
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    @property
    def name(self) -> str:
        """The target's name, or the task's where it has none."""
        return self.record.title

    @abstractmethod
    def image(self) -> Tensor | None:
        """Return the final image ``(C, H, W)`` in [0, 1]; None if the task failed before it had one."""

    @abstractmethod
    def array(self) -> Tensor | None:
        """Return the raw float32 result; None if it would repeat the image."""

    @abstractmethod
    def source(self) -> Tensor | None:
        """Return the photograph ``(C, H, W)`` in [0, 1] as the network saw it; None if there is none."""

    def pictures(self) -> tuple[Picture | None, Picture | None]:
        """Return photograph and final image for a figure, as files where there are any: a figure draws only some."""
        return self.source(), self.image()

    def perturbed_images(self) -> Sequence[PerturbedImage]:
        """Return the photographs of a universal perturbation; none for other tasks."""
        return ()

    @abstractmethod
    def frames(self) -> Sequence[tuple[int, Picture]]:
        """Return the logged images as (iteration, image)."""

    @abstractmethod
    def curve(self, metric: str) -> Curve:
        """Return a metric as (iteration, value); empty if it was not logged."""

    def amend(self, **values: Any) -> None:
        """Replace fields of the record."""
        self.record = self.record.amend(**values)


class _StoredOutcome(Outcome):
    def __init__(self, record: Record, folder: RunFolder, curves: Callable[[str], Mapping[str, Curve]]) -> None:
        super().__init__(record)
        self._folder, self._curves = folder, curves

    def image(self) -> Tensor | None:
        file = self.record.file
        return read_png(self._folder.path / file) if file else None

    def array(self) -> Tensor | None:
        file = self.record.array
        return torch.from_numpy(np.load(self._folder.path / file, allow_pickle=False)) if file else None

    def source(self) -> Tensor | None:
        path = self._source_path
        exact = path.with_suffix(".npy")  # of an image off the 8-bit lattice
        if exact.exists():
            return torch.from_numpy(np.load(exact, allow_pickle=False))
        return read_png(path) if path.exists() else None

    def pictures(self) -> tuple[Picture | None, Picture | None]:
        path, file = self._source_path, self.record.file
        is_file = path.exists() and not path.with_suffix(".npy").exists()
        return path if is_file else self.source(), self._folder.path / file if file else None

    def perturbed_images(self) -> Sequence[PerturbedImage]:
        return self._folder.perturbed_images(self.record.key)

    def frames(self) -> Sequence[tuple[int, Picture]]:
        return self._folder.frames(self.record.key)

    def curve(self, metric: str) -> Curve:
        return self._curves(metric).get(self.record.key, ())

    @property
    def _source_path(self) -> Path:
        return self._folder.path / "sources" / f"{self.record.key}.png"


class _MemoryOutcome(Outcome):
    def __init__(self, result: Result, snapshots: Sequence[Snapshot]) -> None:
        super().__init__(result.record)
        self._result, self._snapshots = result, snapshots

    def image(self) -> Tensor | None:
        return self._result.image

    def array(self) -> Tensor | None:
        return self._result.array

    def source(self) -> Tensor | None:
        return self._result.source

    def perturbed_images(self) -> Sequence[PerturbedImage]:
        return self._result.perturbed_images

    def frames(self) -> Sequence[tuple[int, Picture]]:
        return [(snapshot.iteration, snapshot.image) for snapshot in self._snapshots if snapshot.image is not None]

    def curve(self, metric: str) -> Curve:
        return [(s.iteration, s.metrics[metric]) for s in self._snapshots if metric in s.metrics]

    @property
    def task(self) -> Task:
        """The task."""
        return self._result.task

    def write(self, folder: RunFolder, frames: bool) -> None:
        """Write result, metrics and, if ``frames``, the logged images to a folder."""
        for snapshot in self._snapshots:
            folder.add_snapshot(snapshot if frames else replace(snapshot, image=None, extra_images={}))
        folder.add_result(replace(self._result, record=self.record))


def stored_outcomes(folder: RunFolder) -> list[Outcome]:
    """Return the outcomes in a run folder, in task order."""
    curves = cache(folder.curves)  # one metric at a time: all metrics of thousands of tasks take gigabytes
    return [_StoredOutcome(record, folder, curves) for record in folder.records()]


def memory_outcomes(results: Mapping[int, Result], snapshots: Mapping[int, Sequence[Snapshot]]) -> list[Outcome]:
    """Return the outcomes of a run without a folder, in task order."""
    return [_MemoryOutcome(result, snapshots.get(index, ())) for index, result in sorted(results.items())]


def write_memory_outcomes(
    outcomes: Iterable[Outcome], folder: RunFolder, options: str, recorded: Mapping[str, Any], frames: bool = False
) -> None:
    """Write a run in memory to a folder, with its configuration as in :meth:`RunFolder.write_config`."""
    in_memory = [outcome for outcome in outcomes if isinstance(outcome, _MemoryOutcome)]
    folder.write_queue([outcome.task for outcome in in_memory])
    folder.write_config(options, recorded)  # with the checksum of the queue
    for outcome in in_memory:
        outcome.write(folder, frames)
    folder.finish()


def records_of(outcomes: Iterable[Outcome], kind: type[R]) -> list[R]:
    """Return the records of this kind. A task that failed before it started has a plain :class:`Record`."""
    return [outcome.record for outcome in outcomes if isinstance(outcome.record, kind)]
