"""What a run consists of (tasks), and what it tells while it runs (observations, results)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

#: An image: ``(C, H, W)`` in [0, 1], or the path of a file that is read when it is drawn.
Picture = Tensor | Path


@dataclass(frozen=True)
class Task:
    """One image to train.

    Attributes:
        index: place in the queue, from 0; results come out in this order.
        name: short readable name; the files of the task are called ``<index>_<name>``.
        seed: of every draw of this task (run seed + index unless given).
        target: class index that the objective asks for, or None.
        target_name: its name.
        source: path of the photograph it starts from, or None.
        label, label_source: true class of the photograph and where it is known from, or None.
        options: what varies between the tasks of a run besides (layer, channel, lr ...), plain values only.
    """

    index: int
    name: str
    seed: int
    target: int | None = None
    target_name: str | None = None
    source: str | None = None
    label: int | None = None
    label_source: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def goal(self) -> int | None:
        """The class to reach, or, where none is asked for, the true one, which is to be left."""
        return self.label if self.target is None else self.target

    @property
    def key(self) -> str:
        """``0000_tarantula``: names the task's files, its rows in ``metrics.csv`` and its keys in W&B."""
        return key_of(self.index, self.name)


def key_of(index: int, name: str) -> str:
    """Return ``0000_tarantula``, the key of the task with this index and name."""
    return f"{index:04d}_{slug(name)}"


def slug(name: str) -> str:
    """Return the name with everything but letters, digits, dots and dashes turned into ``_``; at most 60 characters."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_.")[:60] or "image"


@dataclass(frozen=True)
class Snapshot:
    """Image k of a task, that is the image after k updates, with the scalars of its evaluation.

    Attributes:
        task: whose.
        iteration: k; 0 is the start.
        metrics: ``objective``, ``logit``, ``probability``, ``rank`` (1 is the top), ``gradient_norm``, loss terms ...
        image: ``(C, H, W)`` float in [0, 1] on the CPU, as shown; None where only scalars are observed.
        top5: the five most probable classes as (name, probability), most probable first; may be empty.
        extra_images: further pictures ``(3, H, W)`` of the iteration, by name.
        file_metrics: scalars of the picture where it isn't image k: at the end it may be a file.
    """

    task: Task
    iteration: int
    metrics: Mapping[str, float]
    image: Tensor | None = None
    top5: tuple[tuple[str, float], ...] = ()
    extra_images: Mapping[str, Tensor] = field(default_factory=dict)
    file_metrics: Mapping[str, float] | None = None


@dataclass(frozen=True)
class PerturbedImage:
    """One of many photographs that bear what a task trained for all of them: a universal perturbation.

    Attributes:
        record: what became of it, plain values: ``index``, ``name`` ...
        image: ``(C, H, W)`` on the CPU with it, as its file holds it: bytes, or float in [0, 1]; a file, where it is
            read back; None where the photograph couldn't be read.
        source: the photograph without it, likewise.
    """

    record: Mapping[str, Any]
    image: Tensor | Path | None
    source: Tensor | Path | None


@dataclass(frozen=True)
class Result:
    """A finished task.

    Attributes:
        task: whose.
        record: what was found out: ``status``, ``iterations`` ... and what the method adds (see :meth:`complete`).
        image: ``(C, H, W)`` float in [0, 1] on the CPU, or None where a task failed before it had one.
        array: what ``arrays/`` keeps (float32); None where it would only repeat the image.
        source: the photograph it was made of, ``(C, H, W)`` in [0, 1], as the network saw it; None where there is none.
        perturbed_images: photographs that bear it.
    """

    task: Task
    record: Mapping[str, Any]
    image: Tensor | None = None
    array: Tensor | None = None
    source: Tensor | None = None
    perturbed_images: Sequence[PerturbedImage] = ()

    def complete(self, file: str | None = None, array: str | None = None) -> dict[str, Any]:
        """Return the record as in ``results.jsonl``: the common keys first, then the method's.

        Args:
            file, array: where picture and array lie, relative to the run folder.
        """
        task = self.task
        common: dict[str, Any] = {
            "index": task.index,
            "name": task.name,
            "source": task.source,
            "status": "done",
            "error": None,
            "label": task.label,
            "label_source": task.label_source,
            "target": task.target,
            "target_name": task.target_name,
            "seed": task.seed,
        }
        common |= dict.fromkeys(("iterations", "forwards", "backwards", "seconds"))
        common |= {"file": file, "array": array}
        return {**common, **self.record, "file": file, "array": array}
