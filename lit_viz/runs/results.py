"""Outcomes of a run, read from its folder or kept in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.errors import LitVizError
from lit_viz.images.reading import read_png
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.folder import RunFolder
from lit_viz.types import Curve, PerturbedImage, Picture, Record, Result, Snapshot, Task
from lit_viz.utils.formatting import choose_notify, is_notebook, pluralize, status_summary

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


def filed(folder: RunFolder) -> list[Outcome]:
    """Return the outcomes in a run folder, in task order."""
    curves = cache(folder.curves)  # one metric at a time: all metrics of thousands of tasks take gigabytes
    return [_StoredOutcome(record, folder, curves) for record in folder.records()]


def remembered(results: Mapping[int, Result], snapshots: Mapping[int, Sequence[Snapshot]]) -> list[Outcome]:
    """Return the outcomes of a run without a folder, in task order."""
    return [_MemoryOutcome(result, snapshots.get(index, ())) for index, result in sorted(results.items())]


def records_of(outcomes: Iterable[Outcome], kind: type[R]) -> list[R]:
    """Return the records of this kind. A task that failed before it started has a plain :class:`Record`."""
    return [outcome.record for outcome in outcomes if isinstance(outcome.record, kind)]


class Run:
    """The results of a run.

    A run is a sequence of outcomes: ``run[0].frames()`` are the logged images as (iteration, image), and
    ``run[0].curve("probability")`` is a metric as (iteration, value).

    Attributes:
        outcomes: the outcome of each task, in task order.
        folder: the run folder; None for a run in memory.
    """

    def __init__(
        self,
        outcomes: Sequence[Outcome],
        folder: Path | None,
        draw: Callable[[Sequence[Outcome]], Figure],
        verify: Callable[..., bool] | None = None,
        render: Callable[[Run], str] | None = None,
        store: Callable[[Run, Path], Run] | None = None,
    ) -> None:
        self.outcomes, self.folder, self._draw, self._verify = outcomes, folder, draw, verify
        self._render, self._store = render, store
        self._evidence: Evidence | None = None  # of a run in memory

    def __len__(self) -> int:
        return len(self.outcomes)

    def __getitem__(self, index: int) -> Outcome:
        return self.outcomes[index]

    def _repr_html_(self) -> str | None:
        """Return figure, table and verdicts, which a notebook displays."""
        return None if self._render is None or not self.outcomes else self._render(self)

    def __repr__(self) -> str:
        where = "kept in memory" if self.folder is None else str(self.folder)
        summary = status_summary(outcome.record for outcome in self.outcomes)
        return f"Run({pluralize(len(self.outcomes), 'image')}: {summary}; {where})"

    @property
    def results(self) -> list[dict[str, Any]]:
        """The records as in ``results.jsonl``, in task order."""
        return [outcome.record.to_dict() for outcome in self.outcomes]

    @property
    def images(self) -> Tensor:
        """The final images ``(N, C, H, W)`` in [0, 1]; NaN for a task without one."""
        return _stack([outcome.image() for outcome in self.outcomes])

    @property
    def attributions(self) -> Tensor:
        """The raw signed results ``(N, C, H, W)`` or ``(N, 1, H, W)``, maps or universal perturbations; NaN for a task
        without one.

        Raises:
            LitVizError: the results have different shapes, because of their methods.
        """
        arrays = [outcome.array() for outcome in self.outcomes]
        if len({array.shape for array in arrays if array is not None}) > 1:
            raise LitVizError(
                "the raw maps of these methods have different shapes: take run.outcomes[0].array() ..., or run.maps"
            )
        return _stack(arrays)

    @property
    def maps(self) -> Tensor:
        """The saliency maps ``(N, H, W)`` of the figure, reduced by the ``reducer`` of each record (see
        :data:`~lit_viz.attributions.reducers.REDUCERS`); NaN for a task without one."""
        maps = []
        for outcome in self.outcomes:
            array, reducer = outcome.array(), getattr(outcome.record, "reducer", "max_abs")
            maps.append(None if array is None else reduce_channels(array, reducer)[0])
        return _stack(maps)

    def figure(self) -> Figure:
        """Return the figure of the run; a notebook displays it."""
        return self._draw(self.outcomes)

    def show(self) -> None:
        """Display figure, table and verdicts in a notebook; elsewhere open the figure in the image viewer."""
        if is_notebook():
            from IPython.display import display

            display(self)
        else:
            buffer = BytesIO()
            figure = self.figure()
            figure.savefig(buffer, format="png", dpi=figure.dpi)
            Image.open(buffer).show()

    def save(self, folder: str | Path) -> Run:
        """Write images, arrays, logged images, records, figure and report to a new run folder; return the run in it.

        :func:`lit_viz.check` accepts the folder. If files of a run in memory are lost, a resume computes all of it.

        Raises:
            LitVizError: the folder exists, or the disk is full.
        """
        if self._store is None:
            raise LitVizError("only rank 0 has the results of a run")
        if not isinstance(folder, (str, Path)):
            raise LitVizError(f"folder must be a path, got {folder!r}")
        return self._store(self, Path(folder))

    @property
    def evidence(self) -> Evidence:
        """The evidence of the end of the run, or of the last :meth:`check`.

        The evidence of a run in memory is computed at the first access.
        """
        if self.folder is not None:
            return RunFolder(self.folder).evidence()
        if self._evidence is None and self._verify is not None:
            self._verify(self, at_end=True)
        return self._evidence or Evidence()

    def check(self, *, faithfulness: bool = False, trust: bool = False, progress: bool | None = None) -> bool:
        """Compute all evidence of the run, as :func:`lit_viz.check` does.

        Args:
            faithfulness: also compute saliency metrics.
            trust: also run stronger attacks on images that an attack with a budget did not fool.
            progress: show messages. Default: in notebooks.

        Returns:
            True if no check has failed.
        """
        notify = choose_notify(progress)
        return self._verify is None or self._verify(self, faithfulness=faithfulness, trust=trust, notify=notify)

    def write(self, folder: RunFolder, options: str, recorded: Mapping[str, Any], frames: bool = False) -> None:
        """Write a run in memory to a folder, with its configuration as in :meth:`RunFolder.write_config`."""
        outcomes = [outcome for outcome in self.outcomes if isinstance(outcome, _MemoryOutcome)]
        folder.write_queue([outcome.task for outcome in outcomes])
        folder.write_config(options, recorded)  # with the checksum of the queue
        for outcome in outcomes:
            outcome.write(folder, frames)
        folder.finish()


def _stack(tensors: Sequence[Tensor | None]) -> Tensor:
    """Stack tensors ``(...)`` to ``(N, ...)``, with NaN for None."""
    known = [tensor for tensor in tensors if tensor is not None]
    if not known:
        return torch.empty(0)
    blank = torch.full_like(known[0], torch.nan)
    return torch.stack([blank if tensor is None else tensor for tensor in tensors])
