"""Plain data of a run: tasks, snapshots, records and results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

#: Image ``(C, H, W)`` in [0, 1], or the path of its file.
Picture = Tensor | Path
#: A metric as (iteration, value), in order of iteration.
Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Task:
    """One image to optimize.

    Attributes:
        index: position in the queue, from 0, and in the results.
        name: short readable name; files of the task are called ``<index>_<name>``.
        seed: seed of all its draws; by default the run's seed + index.
        target: class index to reach, or None.
        target_name: name of the target, ``stingray vs. eagle ray`` if it is contrasted with another class.
        source: path of the photograph to start from, or None.
        label, label_source: true class of the photograph and its origin, or None.
        options: other values that vary between the tasks of a run (layer, channel, lr ...), plain values only.
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
        """The target, or in an untargeted task the label."""
        return self.label if self.target is None else self.target

    @property
    def key(self) -> str:
        """``0000_tarantula``: name of the task in files, in ``metrics.csv`` and in W&B."""
        return key_of(self.index, self.name)


def key_of(index: int, name: str) -> str:
    """Return ``0000_tarantula``, the key of the task with this index and name."""
    return f"{index:04d}_{slug(name)}"


def slug(name: str) -> str:
    """Replace all characters but letters, digits, dots and dashes by ``_``, and truncate to 60 characters."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_.")[:60] or "image"


Self = TypeVar("Self", bound="Row")
Value = TypeVar("Value")
Extended = TypeVar("Extended", bound="Record")


def optional(**metadata: Any) -> Any:
    """Return a field of a :class:`Row` whose key may be absent."""
    return field(default=None, metadata={"optional": True, **metadata})


def flattened() -> Any:
    """Return a field of a :class:`Row` that holds a mapping; its items are written as keys of the row itself."""
    return field(default_factory=dict, metadata={"flattened": True})


def nested(kind: type[Row], *, by_name: bool = False, optional: bool = False) -> Any:
    """Return a field of a :class:`Row` that holds rows of another kind: one, a list, or with ``by_name`` a mapping."""
    metadata = {"kind": kind, "by_name": by_name, **({"optional": True} if optional else {})}
    return field(default=None, metadata=metadata) if optional else field(metadata=metadata)


class Item(Generic[Value]):
    """Attribute of a :class:`Row` that is an item of its flattened field ``home``; None if it is absent."""

    def __init__(self, home: str) -> None:
        self.home = home

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, row: Any, owner: type) -> Value | None:
        item: Value | None = getattr(row, self.home).get(self.name)
        return item


@dataclass(frozen=True, eq=False, kw_only=True)
class Row:
    """A typed line of a JSON Lines file: its keys are the names of the fields, in their order.

    Attributes:
        extra: items without a field, written last.
        nulls: optional fields that are written although they are None.
    """

    extra: Mapping[str, Any] = field(default_factory=dict)
    nulls: frozenset[str] = frozenset()

    @classmethod
    def make(cls: type[Self], **values: Any) -> Self:
        """Return a row of these fields; an optional one that is given as None is written as null."""
        return cls(**values, nulls=cls._nulls(values))

    @classmethod
    def from_dict(cls: type[Self], values: Mapping[str, Any]) -> Self:
        """Return the row of these items. One that is neither a field nor an :class:`Item` belongs to the flattened
        field at its place in the order, or to ``extra``."""
        parts = cls._parts()
        homes = {name: value.home for kind in cls.__mro__ for name, value in vars(kind).items() if type(value) is Item}
        places = {part.name: place for place, part in enumerate(parts) if "flattened" not in part.metadata}
        made: dict[str, Any] = {"extra": {}, **{part.name: {} for part in parts if part.name not in places}}
        place = -1
        for key, value in values.items():
            if key in places:
                place = places[key]
                made[key] = value
            elif key in homes:
                made[homes[key]][key] = value
            else:
                following = parts[place + 1].name if place + 1 < len(parts) else "extra"
                made["extra" if following in places else following][key] = value
        for part in parts:
            if part.name in made and "kind" in part.metadata:
                made[part.name] = _nested_rows(made[part.name], part.metadata["kind"], part.metadata["by_name"])
        return cls.make(**made)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as it is written, by key."""
        values: dict[str, Any] = {}
        for part in self._parts():
            value = getattr(self, part.name)
            if "flattened" in part.metadata:
                values |= value
            elif value is not None or "optional" not in part.metadata or part.name in self.nulls:
                values[part.name] = value
        return {**values, **self.extra}

    def amend(self: Self, **values: Any) -> Self:
        """Return the row with these fields replaced."""
        return replace(self, **values, nulls=self.nulls - values.keys() | self._nulls(values))

    @classmethod
    def _nulls(cls, values: Mapping[str, Any]) -> frozenset[str]:
        optional = (part.name for part in cls._parts() if "optional" in part.metadata)
        return frozenset(name for name in optional if name in values and values[name] is None)

    @classmethod
    def _parts(cls) -> list[Field[Any]]:
        return [part for part in fields(cls) if part.name not in ("extra", "nulls")]


def _nested_rows(value: Any, kind: type[Row], by_name: bool) -> Any:
    if isinstance(value, list):
        return [kind.from_dict(item) for item in value]
    if by_name:
        return {name: kind.from_dict(item) for name, item in value.items()}
    return None if value is None else kind.from_dict(value)


@dataclass(frozen=True, eq=False, kw_only=True)
class Record(Row):
    """The outcome of a task, a line of ``results.jsonl``. A method extends it by fields of its own.

    Attributes:
        index, name, source, label, label_source, target, target_name, seed: see :class:`Task`.
        status: ``done``, ``skipped`` or ``failed``; ``error`` is the reason.
        iterations: updates of the image, or evaluations of a map.
        forwards, backwards: evaluations of the network.
        seconds: time in the slot.
        file, array: paths of the image and of the raw result, relative to the run folder.
        metrics: scalars of the final image, by name; ``probability`` is that of the target or the label.
    """

    kinds: ClassVar[list[type[Record]]] = []

    index: int
    name: str
    source: str | None = None
    status: str = "done"
    error: str | None = None
    label: int | None = None
    label_source: str | None = None
    target: int | None = None
    target_name: str | None = None
    seed: int | None = None
    iterations: int | None = None
    forwards: int | None = None
    backwards: int | None = None
    seconds: float | None = None
    file: str | None = None
    array: str | None = None
    metrics: Mapping[str, float | None] = flattened()

    probability = Item[float]("metrics")

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if not abstract:
            Record.kinds.append(cls)

    @classmethod
    def of(cls: type[Extended], task: Task, **values: Any) -> Extended:
        """Return the record of a task with these other fields."""
        names = ("index", "name", "source", "label", "label_source", "target", "target_name", "seed")
        return cls.make(**{name: getattr(task, name) for name in names}, **values)

    @classmethod
    def extend(cls: type[Extended], record: Record, **values: Any) -> Extended:
        """Return a record with the fields of another one, and these."""
        inherited = {part.name: getattr(record, part.name) for part in fields(record)}
        return cls(**{**inherited, **values, "nulls": record.nulls | cls._nulls(values)})

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Record:
        """Return the record of these items, of the kind with the most required keys, all of which are present."""
        matching = [kind for kind in Record.kinds if kind.required() <= values.keys()]
        return max(matching, key=lambda kind: len(kind.required()), default=Record).from_dict(values)

    @classmethod
    @cache
    def required(cls) -> frozenset[str]:
        """Return the keys that every record of this kind has in addition to the common keys."""
        own = [part for part in cls._parts() if not {"optional", "flattened"} & part.metadata.keys()]
        return frozenset(part.name for part in own) - {part.name for part in Record._parts()}

    def without_evidence(self) -> dict[str, Any]:
        """Return the row without ``extra`` and the fields that evidence replaces after the run."""
        replaced = {part.name for kind in Record.kinds for part in kind._parts() if "evidence" in part.metadata}
        return {key: value for key, value in self.to_dict().items() if key not in self.extra.keys() | replaced}

    @property
    def key(self) -> str:
        """``0000_tarantula``, the key of the task."""
        return key_of(self.index, self.name)

    @property
    def title(self) -> str:
        """The target's name, or the task's where it has none."""
        return self.target_name or self.name


@dataclass(frozen=True, eq=False, kw_only=True)
class PerturbedImageRecord(Row):
    """A photograph with a universal perturbation: ``held_out`` ones are not trained on, ``skipped`` ones not counted.

    A photograph that could not be read has only the required fields and the status ``failed``.
    """

    index: int
    name: str
    source: str | None = None
    held_out: bool = False
    status: str = "done"
    error: str | None = None
    label: int | None = optional()
    label_source: str | None = optional()
    target: int | None = optional()
    target_name: str | None = optional()
    predicted_before_name: str | None = optional()
    label_name: str | None = optional()
    probability_before: float | None = optional()
    predicted: int | None = optional()
    predicted_name: str | None = optional()
    probability: float | None = optional()
    success_float: bool | None = optional()
    success_file: bool | None = optional()
    success_jpeg95: bool | None = optional()
    success_jpeg75: bool | None = optional()
    l2: float | None = optional()
    linf: float | None = optional()
    file: str | None = optional()
    original: str | None = optional()


@dataclass(frozen=True)
class PerturbedImage:
    """A photograph with a universal perturbation.

    Attributes:
        record: its outcome.
        image: ``(C, H, W)`` uint8, or float in [0, 1], on the CPU; the path of its file if it was read from a run
            folder; None if the photograph could not be read.
        source: the photograph without the perturbation, in the same form.
    """

    record: PerturbedImageRecord
    image: Tensor | Path | None
    source: Tensor | Path | None


@dataclass(frozen=True)
class Snapshot:
    """The image at an iteration with its metrics.

    Attributes:
        task: its task.
        iteration: updates k of the image; 0 for the initial image.
        metrics: scalars of x_k by name: ``objective``, ``logit``, ``probability``, ``rank`` (1 is the best),
            ``gradient_norm``, penalties.
        image: ``(C, H, W)`` in [0, 1] on the CPU; None if only the metrics are logged.
        top5: the five most probable classes as (name, probability), in descending order; may be empty.
        extra_images: further images ``(3, H, W)`` of the iteration, by name, such as a magnified difference.
        file_metrics: metrics of the image as its file holds it, if that is not x_k.
        array: float32 result, if the image only visualizes it. Final snapshots only, like all below.
        source: the photograph ``(C, H, W)`` in [0, 1], as the network receives it.
        perturbed_images: photographs with the perturbation.
    """

    task: Task
    iteration: int
    metrics: Mapping[str, float]
    image: Tensor | None = None
    top5: tuple[tuple[str, float], ...] = ()
    extra_images: Mapping[str, Tensor] = field(default_factory=dict)
    file_metrics: Mapping[str, float] | None = None
    array: Tensor | None = None
    source: Tensor | None = None
    perturbed_images: Sequence[PerturbedImage] = ()

    @property
    def ranking(self) -> list[list[Any]]:
        """The most probable classes, as in records."""
        return [[name, round(probability, 6)] for name, probability in self.top5]

    def without_results(self) -> Snapshot:
        """Return the snapshot as it is logged, without the fields that belong to the result."""
        return replace(self, array=None, source=None, perturbed_images=())


@dataclass(frozen=True)
class Result:
    """A finished task: the record without the paths of its files, and the fields of its final :class:`Snapshot`."""

    task: Task
    record: Record
    image: Tensor | None = None
    array: Tensor | None = None
    source: Tensor | None = None
    perturbed_images: Sequence[PerturbedImage] = ()

    @property
    def is_finished(self) -> bool:
        """Whether the task is done, has failed or was skipped."""
        return self.record.status != "unfinished"

    def dump(self) -> dict[str, Any]:
        """Return the result as plain values and tensors, for a checkpoint."""
        perturbed = [(p.record.to_dict(), p.image, p.source) for p in self.perturbed_images]
        return {**vars(self), "task": asdict(self.task), "record": self.record.to_dict(), "perturbed_images": perturbed}

    @classmethod
    def restore(cls, values: Mapping[str, Any]) -> Result:
        """Return the result of :meth:`dump`."""
        perturbed = [
            PerturbedImage(PerturbedImageRecord.from_dict(p), *rest) for p, *rest in values["perturbed_images"]
        ]
        task, record = Task(**values["task"]), Record.read(values["record"])
        return cls(**{**values, "task": task, "record": record, "perturbed_images": perturbed})
