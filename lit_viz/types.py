"""Plain data of a run: tasks and records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import Field, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from torch import Tensor

#: Whether a task is done, was not attacked since its photograph is misclassified, has failed, or was stopped.
Status = Literal["done", "skipped", "failed", "unfinished"]
#: Image ``(C, H, W)`` in [0, 1], or the path of its file.
Picture = Tensor | Path
#: Values of a list or a mapping, and characters of a text, that the text of a record shows.
_MOST_SHOWN, _MOST_CHARACTERS = 8, 200
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


def seeds_of(tasks: Iterable[Task]) -> list[int]:
    """Return the seeds of tasks."""
    return [task.seed for task in tasks]


def index_of(key: str) -> int:
    """Return the task index at the start of a key or of a file's name, as in ``0000_tarantula.png``; -1 for other
    names."""
    number = key.partition("_")[0]
    return int(number) if number.isdecimal() else -1


def slug(name: str) -> str:
    """Replace all characters but letters, digits, dots and dashes by ``_``, and truncate to 60 characters."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_.")[:60] or "image"


Self = TypeVar("Self", bound="JsonObject")
Value = TypeVar("Value")
Extended = TypeVar("Extended", bound="Record")


def optional(**metadata: Any) -> Any:
    """Return a field of a :class:`JsonObject` whose key may be absent."""
    return field(default=None, metadata=dict(metadata, optional=True))


def flattened() -> Any:
    """Return a field of a :class:`JsonObject` that holds a mapping; its items are written as keys of the object itself.

    The first one of a class holds all keys without another place. The items of a further one are declared by name, each
    by an :class:`Item`.
    """
    return field(default_factory=dict, metadata={"flattened": True})


def nested(kind: type[JsonObject], *, by_name: bool = False, optional: bool = False) -> Any:
    """Return a field of a :class:`JsonObject` that holds objects of another kind: one, a list, or with ``by_name`` a
    mapping."""
    metadata: dict[str, Any] = {"kind": kind, "by_name": by_name}
    if not optional:
        return field(metadata=metadata)
    metadata["optional"] = True
    return field(default=None, metadata=metadata)


class Item(Generic[Value]):
    """Attribute of a :class:`JsonObject` that is an item of its flattened field ``home``; None if it is absent."""

    def __init__(self, home: str) -> None:
        self.home = home

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Value | None:
        item: Value | None = getattr(instance, self.home, {}).get(self.name)
        return item


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class JsonObject:
    """A typed JSON object, such as a line of a JSON Lines file: its keys are the names of the fields, in their order.

    Attributes:
        extra: items without a field, written last.
        nulls: optional fields that are written although they are None.
    """

    extra: Mapping[str, Any] = field(default_factory=dict)
    nulls: frozenset[str] = frozenset()

    @classmethod
    def make(cls: type[Self], **values: Any) -> Self:
        """Return an object of these fields; an optional one that is given as None is written as null."""
        return cls(**values, nulls=cls._nulls(values))

    @classmethod
    def from_dict(cls: type[Self], values: Mapping[str, Any]) -> Self:
        """Return the object of these items, by name; their order has no meaning.

        A key that is neither a field nor an :class:`Item` belongs to the first flattened field: to the metrics of a
        record. Without a flattened field it belongs to ``extra``.
        """
        made: dict[str, Any] = {"extra": {}}
        plain_parts: dict[str, Field[Any]] = {}
        for part in cls._parts():
            if "flattened" in part.metadata:
                made[part.name] = {}
            else:
                plain_parts[part.name] = part
        homes, rest = cls._homes()
        for key, value in values.items():
            part_of_key = plain_parts.get(key)
            if part_of_key is None:
                made[homes.get(key, rest)][key] = value
            elif "kind" in part_of_key.metadata:
                made[key] = _nested_objects(value, part_of_key.metadata["kind"], part_of_key.metadata["by_name"])
            else:
                made[key] = value
        return cls.make(**made)

    def to_dict(self) -> dict[str, Any]:
        """Return the object as it is written, by key."""
        values: dict[str, Any] = {}
        for part in self._parts():
            value = getattr(self, part.name)
            if "flattened" in part.metadata:
                values |= value
            elif value is not None or "optional" not in part.metadata or part.name in self.nulls:
                values[part.name] = value
        values |= self.extra
        return values

    def __repr__(self) -> str:
        """Return the class and the values that are there, one per line; long ones are shortened."""
        lines = []
        for name, value in self.to_dict().items():
            if value is not None:
                lines.append(f"  {name}: {_shortened(value)}")
        kind = type(self).__name__
        return "\n".join([kind, *lines]) if lines else f"{kind} (empty)"

    def amend(self: Self, **values: Any) -> Self:
        """Return the object with these fields replaced."""
        return replace(self, **values, nulls=self.nulls - values.keys() | self._nulls(values))

    @classmethod
    def _nulls(cls, values: Mapping[str, Any]) -> frozenset[str]:
        names = []
        for part in cls._parts():
            if "optional" in part.metadata and part.name in values and values[part.name] is None:
                names.append(part.name)
        return frozenset(names)

    @classmethod
    @cache
    def _parts(cls) -> tuple[Field[Any], ...]:
        """Return the fields that are written as keys."""
        return tuple(part for part in fields(cls) if part.name not in ("extra", "nulls"))

    @classmethod
    @cache
    def _homes(cls) -> tuple[Mapping[str, str], str]:
        """Return the flattened field of each :class:`Item`, and the field of all keys without one."""
        flattened_names = [part.name for part in cls._parts() if "flattened" in part.metadata]
        homes: dict[str, str] = {}
        for kind in reversed(cls.__mro__):
            for name, value in vars(kind).items():
                if isinstance(value, Item) and value.home in flattened_names:
                    homes[name] = value.home
        return homes, next(iter(flattened_names), "extra")


def _shortened(value: Any) -> str:
    """Return a value of a :class:`JsonObject` in one line; of many values only their number."""
    if isinstance(value, JsonObject):
        value = value.to_dict()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        present = {key: item for key, item in value.items() if item is not None}
        if len(present) > _MOST_SHOWN:
            return _count(present)
        return ", ".join(f"{key} {_shortened(item)}" for key, item in present.items()) or "none"
    if isinstance(value, (list, tuple)):
        if len(value) > _MOST_SHOWN or any(isinstance(item, JsonObject) for item in value):
            return _count(value)
        return ", ".join(map(_shortened, value)) or "none"
    text = str(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."


def _count(values: Sized) -> str:
    return "1 value" if len(values) == 1 else f"{len(values)} values"


def _nested_objects(value: Any, kind: type[JsonObject], by_name: bool) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [kind.from_dict(item) for item in value]
    if by_name:
        return {name: kind.from_dict(item) for name, item in value.items()}
    return kind.from_dict(value)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Record(JsonObject):
    """The outcome of a task, a line of ``results.jsonl``. A method extends it by fields of its own.

    Attributes:
        index, name, source, label, label_source, target, target_name, seed: see :class:`Task`.
        status: ``done``, ``skipped`` or ``failed``; ``error`` is the reason.
        iterations: updates of the image, or evaluations of a map.
        forwards, backwards: evaluations of the network.
        seconds: time in the slot.
        file, array: paths of the image and of the raw result, relative to the run folder.
        metrics: scalars of the final image, by name; ``probability`` is that of the target or the label, and
            ``score`` the one of a network whose scores are numbers.
        norm, eps: norm and radius of the ball, in units of [0, 1], of an attack with a budget; else None.
        l2, linf: Euclidean norm and largest absolute value of a change, in units of [0, 1].
    """

    kinds: ClassVar[list[type[Record]]] = []

    index: int
    name: str
    source: str | None = None
    status: Status = "done"
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
    score = Item[float]("metrics")
    norm = Item[Literal["l2", "linf"]]("settings")
    eps = Item[float]("settings")
    l2 = Item[float]("metrics")
    linf = Item[float]("metrics")

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if not abstract:
            Record.kinds.append(cls)

    @classmethod
    def of(cls: type[Extended], task: Task, **values: Any) -> Extended:
        """Return the record of a task with these other fields."""
        return cls.make(
            index=task.index,
            name=task.name,
            source=task.source,
            label=task.label,
            label_source=task.label_source,
            target=task.target,
            target_name=task.target_name,
            seed=task.seed,
            **values,
        )

    @classmethod
    def extend(cls: type[Extended], record: Record, **values: Any) -> Extended:
        """Return a record with the fields of another one, and these."""
        inherited = {part.name: getattr(record, part.name) for part in fields(record)}
        inherited |= values
        inherited["nulls"] = record.nulls | cls._nulls(values)
        return cls(**inherited)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Record:
        """Return the record of these items, of their kind."""
        return cls.kind_of(values).from_dict(values)

    @classmethod
    def kind_of(cls, values: Mapping[str, Any]) -> type[Record]:
        """Return the kind with the most required keys, all of which are present."""
        best: type[Record] = Record
        for kind in Record.kinds:
            if kind.required() <= values.keys() and len(kind.required()) > len(best.required()):
                best = kind
        return best

    @classmethod
    @cache
    def required(cls) -> frozenset[str]:
        """Return the keys that every record of this kind has in addition to the common keys."""
        common = {part.name for part in Record._parts()}
        names = set()
        for part in cls._parts():
            if part.name not in common and not {"optional", "flattened"} & part.metadata.keys():
                names.add(part.name)
        return frozenset(names)

    def without_evidence(self) -> dict[str, Any]:
        """Return the record without ``extra`` and the fields that evidence replaces after the run."""
        values = self.to_dict()
        for name in self.extra:
            values.pop(name, None)
        for kind in Record.kinds:
            for name in kind.evidence_fields():
                values.pop(name, None)
        return values

    @classmethod
    @cache
    def evidence_fields(cls) -> frozenset[str]:
        """Return the names of the fields that evidence replaces after the run."""
        return frozenset(part.name for part in cls._parts() if "evidence" in part.metadata)

    @property
    def lr(self) -> float | None:
        """Learning rate, if it varies between the tasks."""
        return None

    @property
    def label_name(self) -> str | None:
        """Name of the label, if it is recorded."""
        return None

    @property
    def success_file(self) -> bool | None:
        """Whether the 8-bit file fools the original network; None for other methods, and if it was not computed."""
        return None

    @property
    def key(self) -> str:
        """``0000_tarantula``, the key of the task."""
        return key_of(self.index, self.name)

    @property
    def title(self) -> str:
        """The target's name, or the task's where it has none."""
        return self.target_name or self.name
