"""Plain data of a run: tasks and records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor
from typing_extensions import dataclass_transform

from lit_viz.errors import LitVizError, did_you_mean

#: Whether a task is done, was not attacked since its photograph is misclassified, has failed, or was stopped.
Status = Literal["done", "skipped", "failed", "unfinished"]
#: Image ``(C, H, W)`` in [0, 1], or the path of its file.
Picture = Tensor | Path
#: Values of a list or a mapping, and characters of a text, that the text of a record shows.
_MOST_VALUES, _MOST_CHARACTERS = 8, 200
#: A metric as (iteration, value), in order of iteration.
Curve = Sequence[tuple[int, float]]


#: Arguments of which a list of values is a task each.
VARYING = ("eps", "iterations", "lr")


@dataclass(frozen=True, slots=True)
class Task:
    """One image to optimize. None is the default of the method.

    Attributes:
        index: position in the queue, from 0, and in the results.
        name: short readable name; files of the task are called ``<index>_<name>``.
        seed: seed of all its draws; by default the run's seed + index.
        target: class index to reach, or None.
        target_name: name of the target, ``stingray vs. eagle ray`` if it is contrasted with another class.
        source: path of the photograph to start from, or None.
        label, label_source: true class of the photograph and its origin, or None.
        layer, channel, axis: unit of the network to visualize.
        iterations, lr, eps: values that vary between the tasks of a run.
        against: class that the target is contrasted with, or the rule that selects it; ``gamma`` is its weight.
        rule: how the target depends on the label or the prediction.
        aim: goal of an attack on scores that do not exclude each other, as text.
        threshold: score that divides success from failure.
        method: name of the saliency method.
        image: index of the image among those of the queue, if it has no file.
        reading: how its file is read.
        tiling: how tiles of the image overlap, before they are tasks; ``tile`` is the one that a task is about.
        photographs: fields of the tasks of a universal perturbation; ``held_out`` marks those not trained on.
        error: reason why the task fails.
        original_size, original_box, format, clipped, filled, no_data: what reading the file has found; see
            :class:`Record`.
        options: values of methods outside of lit_viz, plain values only.
        source_digest: size and digest of both ends of the photograph when the queue was written; see
            :func:`~lit_viz.engine.sources.source_digest`.
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
    layer: str | None = None
    channel: int | None = None
    axis: str | None = None
    iterations: int | None = None
    lr: float | None = None
    eps: float | None = None
    against: int | str | None = None
    gamma: float | None = None
    rule: str | None = None
    aim: str | None = None
    threshold: float | None = None
    method: str | None = None
    image: int | None = None
    reading: Mapping[str, Any] | None = None
    tiling: Mapping[str, int | None] | None = None
    tile: Mapping[str, int] | None = None
    photographs: Sequence[Mapping[str, Any]] | None = None
    held_out: bool | None = None
    error: str | None = None
    original_size: Sequence[int] | None = None
    original_box: Sequence[float] | None = None
    format: Mapping[str, Any] | None = None
    clipped: int | None = None
    filled: int | None = None
    no_data: Sequence[int] | None = None
    source_digest: str | None = None

    @property
    def goal(self) -> int | None:
        """The target, or in an untargeted task the label."""
        if self.target is None:
            return self.label
        return self.target

    @property
    def has_given_label(self) -> bool:
        """Whether there is a label that is not the prediction."""
        return self.label is not None and self.label_source != "predicted"

    @property
    def key(self) -> str:
        """``0000_tarantula``: name of the task in files, in ``metrics.csv`` and in W&B."""
        return key_of(self.index, self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as files hold them: those that have not their default."""
        values: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value != {}:
                values[name] = value
        return values

    def amend(self, **values: Any) -> Task:
        """Return the task with these fields replaced; in a quarter of the time of dataclasses.replace."""
        assert all(hasattr(self, name) for name in values)
        amended = object.__new__(Task)
        for name in self.__slots__:
            object.__setattr__(amended, name, values[name] if name in values else getattr(self, name))
        return amended


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


class Item(Generic[Value]):
    """Attribute of a :class:`JsonObject` that is an item of its mapping ``home``; None if it is absent."""

    def __init__(self, home: str) -> None:
        self.home = home

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Value | None:
        item: Value | None = getattr(instance, self.home, {}).get(self.name)
        return item

    @cached_property
    def hint(self) -> Any:
        """Type of the value."""
        (hint,) = get_args(getattr(self, "__orig_class__", Item[Any]))
        return hint | None


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class JsonObject:
    """A typed JSON object, such as a line of a JSON Lines file; its keys are the names of its fields, in order.

    Each subclass is a frozen dataclass, whose arguments are keywords.
    """

    def __init_subclass__(cls, eq: bool = True) -> None:
        dataclass(frozen=True, eq=eq, kw_only=True, repr=False)(cls)

    @classmethod
    def from_dict(cls: type[Self], values: Mapping[str, Any]) -> Self:
        """Return the object of these items, by name; their order has no meaning.

        Raises:
            LitVizError: a key is no field, or a field is missing.
        """
        kind: Any = cls
        hints = _field_hints(kind)
        made: dict[str, Any] = {}
        for key, value in values.items():
            if key not in hints:
                raise LitVizError(f"{key} is not a key of {cls.__name__}{did_you_mean(key, hints)}")
            made[key] = _restored(value, hints[key])
        try:
            return cls(**made)
        except TypeError as error:
            raise LitVizError(f"{cls.__name__} lacks a key ({error})") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the object as it is written, by key; an absent key is None by default."""
        kind: Any = type(self)
        defaults = _field_defaults(kind)
        return {name: value for name, value in vars(self).items() if value is not None or defaults[name] is not None}

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
        assert values.keys() <= vars(self).keys()
        amended = object.__new__(type(self))  # dataclasses.replace assigns the fields one by one
        vars(amended).update(vars(self) | values)
        return amended


def _shortened(value: Any) -> str:
    """Return a value of a :class:`JsonObject` in one line; of many values only their number."""
    if isinstance(value, JsonObject):
        value = value.to_dict()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        present = {key: item for key, item in value.items() if item is not None}
        if len(present) > _MOST_VALUES:
            return _count(present)
        return ", ".join(f"{key} {_shortened(item)}" for key, item in present.items()) or "none"
    if isinstance(value, (list, tuple)):
        if len(value) > _MOST_VALUES or any(isinstance(item, JsonObject) for item in value):
            return _count(value)
        return ", ".join(map(_shortened, value)) or "none"
    text = str(value)
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]} ..."


def _count(values: Sized) -> str:
    if len(values) == 1:
        return "1 value"
    return f"{len(values)} values"


@cache
def items_of(kind: Any) -> Mapping[str, Item[Any]]:
    """Return the attributes of a :class:`JsonObject` that are items of a mapping, by name."""
    items: dict[str, Item[Any]] = {}
    for base in reversed(kind.__mro__):
        items |= {name: value for name, value in vars(base).items() if isinstance(value, Item)}
    return items


@cache
def _field_hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {part.name: hints[part.name] for part in fields(kind)}


@cache
def _field_defaults(kind: Any) -> dict[str, Any]:
    return {part.name: part.default for part in fields(kind)}


def _restored(value: Any, hint: Any) -> Any:
    """Return a JSON value with the objects that an annotation names: one, a list, or a mapping of them."""
    if not _names_object(hint):
        return value
    for kind in get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]:
        if isinstance(kind, type) and issubclass(kind, JsonObject) and isinstance(value, Mapping):
            return kind.from_dict(value)
        arguments = get_args(kind)
        if get_origin(kind) is Sequence and isinstance(value, list):
            return [_restored(item, arguments[0]) for item in value]
        if get_origin(kind) is Mapping and isinstance(value, Mapping):
            return {key: _restored(item, arguments[1]) for key, item in value.items()}
    return value


@cache
def _names_object(hint: Any) -> bool:
    """Return whether an annotation names a :class:`JsonObject`."""
    if isinstance(hint, type) and issubclass(hint, JsonObject):
        return True
    return any(map(_names_object, get_args(hint)))


class Tile(JsonObject):
    """A part of a large image, in pixels of the image.

    Attributes:
        image: index of the image among those of the run.
        row, column: the upper left pixel.
        height, width: rows and columns; of an image that is smaller than a tile those of the image.
    """

    image: int
    row: int
    column: int
    height: int
    width: int

    def precedes(self, other: Tile) -> bool:
        """Return whether another tile of the same image follows, row by row."""
        return self.image == other.image and (self.row, self.column) < (other.row, other.column)

    def overlaps(self, other: Tile) -> bool:
        """Return whether another tile of the same image shares a pixel."""
        return abs(self.row - other.row) < self.height and abs(self.column - other.column) < self.width

    @property
    def suffix(self) -> str:
        """``_y224_x448``: end of the name of its task."""
        return f"_y{self.row}_x{self.column}"

    @property
    def rows(self) -> slice:
        """The rows of the image."""
        return slice(self.row, self.row + self.height)

    @property
    def columns(self) -> slice:
        """The columns of the image."""
        return slice(self.column, self.column + self.width)


class Record(JsonObject, eq=False):
    """The outcome of a task, a line of ``results.jsonl``. A method extends it by fields of its own.

    ``record["probability"]`` is a value by its name: of a field, a metric or a setting.

    Attributes:
        kind: name of the class in ``results.jsonl``.
        index, name, source, label, label_source, target, target_name, seed: see :class:`Task`.
        status: ``done``, ``skipped`` or ``failed``; ``error`` is the reason.
        iterations: updates of the image, or evaluations of a map.
        forwards, backwards: evaluations of the network.
        seconds: time in the slot.
        file, array: paths of the image and of the raw result, relative to the run folder.
        offset: position of the files in their tar, in bytes, if they are in one.
        format: of the file, or of the photograph of a map, if it is no picture of 8 bits; see
            :class:`~lit_viz.images.formats.FileFormat`.
        source_sha256: SHA-256 of the photograph as the network received it, if the run has no copy of it.
        clipped, filled: number of values of the source that were outside of the range, and that were no data.
        no_data: pixels of the network's input without data, as the first and the last + 1 flat index of each run.
        tile: the part of a large image that it is about.
        metrics: scalars of the final image, by name; ``probability`` of the target or the label, or ``score``
            if scores are numbers.
        settings: settings of the method and what it records of itself, by name.
        norm, eps: norm of the perturbation that an attack bounds or minimizes, and radius of its ball in units of
            [0, 1], if it has one.
        l2, linf: Euclidean norm and largest absolute value of a change, in units of [0, 1].
    """

    kinds: ClassVar[dict[str, type[Record]]] = {}
    kind: ClassVar[str] = "record"

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
    offset: int | None = None
    format: Mapping[str, Any] | None = None
    source_sha256: str | None = None
    clipped: int | None = None
    filled: int | None = None
    no_data: Sequence[int] | None = None
    tile: Tile | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    probability = Item[float]("metrics")
    score = Item[float]("metrics")
    norm = Item[Literal["l2", "linf"]]("settings")
    eps = Item[float]("settings")
    l2 = Item[float]("metrics")
    linf = Item[float]("metrics")

    def __init_subclass__(cls, abstract: bool = False, kind: str | None = None) -> None:
        super().__init_subclass__(eq=False)
        if not abstract:
            cls.kind = kind or re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Record")).lower()
            Record.kinds[cls.kind] = cls

    def __contains__(self, name: object) -> bool:
        return name in self.flat()

    def __getitem__(self, name: str) -> Any:
        kind: Any = type(self)
        if name == "kind" or name in _field_hints(kind) or name in items_of(kind):
            return getattr(self, name)
        for values in (self.metrics, self.settings):
            if name in values:
                return values[name]
        raise KeyError(f"{name}{did_you_mean(name, self.flat())}")

    @classmethod
    def of(cls: type[Extended], task: Task, **values: Any) -> Extended:
        """Return the record of a task with these other fields."""
        tile = task.tile
        return cls(
            index=task.index,
            name=task.name,
            source=task.source,
            label=task.label,
            label_source=task.label_source,
            target=task.target,
            target_name=task.target_name,
            seed=task.seed,
            tile=None if tile is None else Tile.from_dict(tile),
            **values,
        )

    @classmethod
    def extend(cls: type[Extended], record: Record, **values: Any) -> Extended:
        """Return a record with the fields of another one, and these."""
        return cls(**{**vars(record), **values})

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Record:
        """Return the record of a line of ``results.jsonl``, of its kind.

        Raises:
            LitVizError: the kind or a key is unknown.
        """
        return cls.class_of(values).from_dict(values)

    @classmethod
    def class_of(cls, values: Mapping[str, Any]) -> type[Record]:
        """Return the class of a line of ``results.jsonl``, by its ``kind``."""
        kinds: dict[str, type[Record]] = {Record.kind: Record, **Record.kinds}
        kind = values.get("kind")
        if not isinstance(kind, str) or kind not in kinds:
            raise LitVizError(f"kind must be one of {', '.join(kinds)}, got {kind!r}")
        return kinds[kind]

    @classmethod
    def from_dict(cls: type[Extended], values: Mapping[str, Any]) -> Extended:
        return super().from_dict({key: value for key, value in values.items() if key != "kind"})

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **super().to_dict()}

    def flat(self) -> dict[str, Any]:
        """Return the fields, the metrics and the settings by name; a row of a table."""
        values = self.to_dict()
        metrics, settings = values.pop("metrics"), values.pop("settings")
        return {**values, **metrics, **settings}

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
    def picture(self) -> str | None:
        """Path of the drawn image, which is the file itself unless that is no picture of 8 bits."""
        if self.file is None or self.format is None or self.array is not None:
            return self.file
        return f"{self.file.rpartition('.')[0]}.drawn.png"

    @property
    def title(self) -> str:
        """The target's name, or the task's where it has none."""
        return self.target_name or self.name
