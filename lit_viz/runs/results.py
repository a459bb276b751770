"""What a run has left of each task, read from its folder or kept in memory: what figures and evidence are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.errors import LitVizError
from lit_viz.images.reading import read_png
from lit_viz.runs.writer import RunFolder
from lit_viz.types import PerturbedImage, Picture, Record, Result, Snapshot
from lit_viz.utils.formatting import pluralize, status_summary


R = TypeVar("R", bound=Record)


class Outcome(ABC):
    """One task's outcome; nothing is read before it is asked for.

    Attributes:
        record: as in ``results.jsonl``.
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    @property
    def name(self) -> str:
        """What the task is called: by its target where it has one."""
        return self.record.title

    @abstractmethod
    def image(self) -> Tensor | None:
        """Return the final picture ``(C, H, W)`` in [0, 1], or None where the task failed before it had one."""

    @abstractmethod
    def array(self) -> Tensor | None:
        """Return the raw result, float32, where the picture only shows it."""

    @abstractmethod
    def source(self) -> Tensor | None:
        """Return the photograph ``(C, H, W)`` in [0, 1] as the network saw it, where there is one."""

    def pictures(self) -> tuple[Picture | None, Picture | None]:
        """Return the photograph and the final picture for a figure: files, where there are some, of which it may draw
        only a few."""
        return self.source(), self.image()

    def perturbed_images(self) -> Sequence[PerturbedImage]:
        """Return the photographs that bear what was trained for all of them; none of a task that trained for one."""
        return ()

    @abstractmethod
    def frames(self) -> Sequence[tuple[int, Picture]]:
        """Return the logged images as (iteration, picture)."""

    @abstractmethod
    def curve(self, metric: str) -> Sequence[tuple[int, float]]:
        """Return a scalar as (iteration, value); empty where it wasn't logged."""

    def amend(self, **values: Any) -> None:
        """Replace fields of the record."""
        self.record = self.record.amend(**values)


#: From a metric to its curves by task: (iteration, value), in order.
_Curves = Callable[[str], Mapping[str, Sequence[tuple[int, float]]]]


class _Filed(Outcome):
    def __init__(self, record: Record, folder: RunFolder, key: str, curves: _Curves) -> None:
        super().__init__(record)
        self._folder, self._key, self._curves = folder, key, curves

    def image(self) -> Tensor | None:
        file = self.record.file
        return read_png(self._folder.path / file) if file else None

    def array(self) -> Tensor | None:
        file = self.record.array
        return torch.from_numpy(np.load(self._folder.path / file, allow_pickle=False)) if file else None

    def source(self) -> Tensor | None:
        path = self._folder.path / "sources" / f"{self._key}.png"
        exact = path.with_suffix(".npy")
        if exact.exists():
            return torch.from_numpy(np.load(exact, allow_pickle=False))
        return read_png(path) if path.exists() else None

    def pictures(self) -> tuple[Picture | None, Picture | None]:
        source, file = self._folder.path / "sources" / f"{self._key}.png", self.record.file
        exact = source.with_suffix(".npy").exists()
        photograph = self.source() if exact or not source.exists() else source
        return photograph, self._folder.path / file if file else None

    def perturbed_images(self) -> Sequence[PerturbedImage]:
        return self._folder.perturbed_images(self._key)

    def frames(self) -> Sequence[tuple[int, Picture]]:
        return self._folder.frames(self._key)

    def curve(self, metric: str) -> Sequence[tuple[int, float]]:
        return self._curves(metric).get(self._key, ())


class _Remembered(Outcome):
    def __init__(self, result: Result, snapshots: Sequence[Snapshot]) -> None:
        super().__init__(result.record)
        self._result, self._observations = result, snapshots

    def image(self) -> Tensor | None:
        return self._result.image

    def array(self) -> Tensor | None:
        return self._result.array

    def source(self) -> Tensor | None:
        return self._result.source

    def perturbed_images(self) -> Sequence[PerturbedImage]:
        return self._result.perturbed_images

    def frames(self) -> Sequence[tuple[int, Picture]]:
        return [(o.iteration, o.image) for o in self._observations if o.image is not None]

    def curve(self, metric: str) -> Sequence[tuple[int, float]]:
        return [(o.iteration, o.metrics[metric]) for o in self._observations if metric in o.metrics]


def filed(folder: RunFolder) -> list[Outcome]:
    """Return the outcomes that lie in a run folder, in task order."""
    curves = cache(folder.curves)  # the file is read once a metric: all at once are gigabytes of thousands of images
    return [_Filed(record, folder, key, curves) for key, record in folder.keyed_records()]


def remembered(results: Mapping[int, Result], snapshots: Mapping[int, Sequence[Snapshot]]) -> list[Outcome]:
    """Return the outcomes of a run without a folder, in task order."""
    return [_Remembered(result, snapshots.get(index, ())) for index, result in sorted(results.items())]


def records_of(outcomes: Iterable[Outcome], kind: type[R]) -> list[R]:
    """Return the records of this kind; a task that failed before it started has a plain one."""
    return [outcome.record for outcome in outcomes if isinstance(outcome.record, kind)]


class Run:
    """The outcome of a run.

    Attributes:
        outcomes: one a task, in task order.
        folder: the run folder; None unless one was asked for.
    """

    def __init__(
        self, outcomes: Sequence[Outcome], folder: Path | None, draw: Callable[[Sequence[Outcome]], Figure]
    ) -> None:
        self.outcomes, self.folder, self._draw = outcomes, folder, draw

    def __repr__(self) -> str:
        where = "kept in memory" if self.folder is None else str(self.folder)
        return f"Run({pluralize(len(self.outcomes), 'image')}: {status_summary(self.results)}; {where})"

    @property
    def results(self) -> list[dict[str, Any]]:
        """The records, in task order, as in ``results.jsonl``."""
        return [outcome.record.to_dict() for outcome in self.outcomes]

    @property
    def images(self) -> Tensor:
        """The final pictures ``(N, C, H, W)`` in [0, 1]; NaN where a task has none."""
        return _stacked([outcome.image() for outcome in self.outcomes])

    @property
    def attributions(self) -> Tensor:
        """What the pictures only show, ``(N, C, H, W)`` or ``(N, 1, H, W)``, signed: the raw maps of a saliency run, or
        universal perturbations; NaN where a task has none.

        Raises:
            LitVizError: some methods give a value a colour, and others one a pixel.
        """
        arrays = [outcome.array() for outcome in self.outcomes]
        if len({array.shape for array in arrays if array is not None}) > 1:
            raise LitVizError(
                "the raw maps of these methods have different shapes: take run.outcomes[0].array() ..., or run.maps."
            )
        return _stacked(arrays)

    @property
    def maps(self) -> Tensor:
        """The saliency maps ``(N, H, W)``, as the figure shows them: one number a pixel, by the ``reducer`` of each
        record (see :data:`~lit_viz.attributions.reducers.REDUCERS`); NaN where a task has none."""
        found = [(outcome.array(), str(outcome.record.get("reducer", "max_abs"))) for outcome in self.outcomes]
        return _stacked([None if array is None else reduce_channels(array, how)[0] for array, how in found])

    def figure(self) -> Figure:
        """Return the method's figure; the last line of a notebook's cell shows it."""
        return self._draw(self.outcomes)


def _stacked(tensors: Sequence[Tensor | None]) -> Tensor:
    known = [tensor for tensor in tensors if tensor is not None]
    if not known:
        return torch.empty(0)
    blank = torch.full_like(known[0], torch.nan)
    return torch.stack([blank if tensor is None else tensor for tensor in tensors])
