"""A run folder for many tasks: their results are members of tars, a thousand tasks in each.

A saliency map is stored reduced, in float16 with a scale. A photograph that lies in a file is read from it again, and
nothing is kept of the iterations. Figure, report and evidence are of a sample of the tasks.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels, to_one_channel
from lit_viz.engine.module import image_digest
from lit_viz.engine.snapshots import Result
from lit_viz.errors import LitVizError
from lit_viz.images.formats import FileFormat
from lit_viz.images.reading import locate
from lit_viz.images.rendering import Heat
from lit_viz.rng import Key, generator_for
from lit_viz.runs.folder import FolderStorage, file_mismatch
from lit_viz.runs.layout import TARS
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.results import Outcome
from lit_viz.runs.segments import MOST_TASKS, Contents, task_line
from lit_viz.runs.tars import DamagedTar, NewTar, read_member
from lit_viz.runs.task_files import array_of, npy_of
from lit_viz.types import Record
from lit_viz.utils.files import json_line
from lit_viz.utils.formatting import command_line
from lit_viz.utils.sequences import MappedSequence

#: Where the results of tasks are: in files, or in tars of a thousand tasks each.
Store = Literal["files", "tar"]
#: Returns the photograph ``(C, H, W)`` of a record as the network received it, from its file; None without the method.
ReadSource = Callable[[Record], Tensor] | None
#: Number of tasks of the sample: the first ones, those with the least probability, and drawn ones.
SAMPLE = 100
#: Number of the first tasks, and of those with the least probability. Maps of as many tasks have channels.
_FIRST = 34
_LEAST = 33
#: Binary exponent of the largest value of a map in float16; small values have the same number of digits.
_EXPONENT = 15


class TarStorage(FolderStorage):
    """A run folder with the results of its tasks in tars.

    Attributes:
        read_source: reads the photographs that are not in the tars, if the method has given it.
    """

    # A result is appended to one file: a thread would take as much processor time again, for the lock of Python.
    is_slow: ClassVar[bool] = False
    keeps_snapshots: ClassVar[bool] = False

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.read_source: ReadSource = None
        self._tar = NewTar(self.path)
        self._stem = ""  # of the next tar and segment
        self._finished: list[tuple[Record, str]] = []  # with its text

    # -- writing

    def add_result(self, result: Result) -> Record:
        """Append image or map of a finished task to the tar of the next :meth:`commit`."""
        if not self._stem:
            self._stem = self._next_segment()
        prefix = _prefix(result.task.key)
        members, fields = self._members(result)
        for name in ("file", "array"):
            if name in fields:
                fields |= {name: f"{TARS}/{self._stem}.tar/{prefix}.{fields[name]}", "offset": self._tar.size}
        record = result.record.amend(**fields)
        text = json_line(record.to_dict())
        members["json"] = text.encode()
        self._tar.append({f"{prefix}.{name}": content for name, content in members.items()})
        self._finished.append((record, text[:-1]))
        if len(self._finished) >= MOST_TASKS:
            self.commit()
        return record

    def commit(self) -> dict[str, Any]:
        """End the tar, and then write its segment."""
        if self._finished:
            name = f"{self._stem}.tar"
            contents = Contents({f"{TARS}/{name}": self._tar.end(name)}).text()
            for record, text in self._finished:
                self._pending[record.index] = task_line(record, self.digest, text, contents)
            self._finished, self._stem = [], ""
        return super().commit()

    def _members(self, result: Result) -> tuple[dict[str, bytes], dict[str, Any]]:
        """Return the files of a result by name without the key, and the fields of the record about them."""
        record = result.record
        members: dict[str, bytes] = {}
        fields: dict[str, Any] = {}
        if isinstance(record, SaliencyRecord) and result.array is not None:
            values, scale = to_half(to_one_channel(result.array, record.reducer))
            members["map.npy"] = npy_of(values)
            fields |= {"array": "map.npy", "scale": scale}
            if self._keeps_arrays or record.index < _FIRST:
                members["array.npy"] = npy_of(result.array)
                fields["array"] = "array.npy"
            elif len(result.array) > 1:
                fields["signed"] = None  # reduced maps have lost the sign
        elif result.image is not None:
            file_format = FileFormat.of(record.format)
            name = f"image{file_format.suffix}"
            members[name] = file_format.encode(result.image)
            fields["file"] = name
        if result.terms is not None:
            members["terms.npy"] = npy_of(result.terms)
        if result.source is not None and record.source is None:
            members["source.npy"] = npy_of(result.source)
        elif result.source is not None:
            fields["source_sha256"] = image_digest(result.source)
        return members, fields

    @cached_property
    def _keeps_arrays(self) -> bool:
        """Whether all maps are stored with their channels too, in float32."""
        return bool((self.config.get("run") or {}).get("store_arrays"))

    # -- reading

    def missing_photographs(self) -> list[str]:
        """Return what is missing of the photographs that are not copied to the folder, as messages."""
        missing = [values["source"] for values in self.records().values() if is_missing(values)]
        if not missing:
            return []
        return [f"missing photographs: {len(missing)}, such as {missing[0]}; restore the files to see them"]

    def outcomes(self) -> Sequence[Outcome]:
        return MappedSequence(self.outcome, self.records())

    def outcome(self, record: Record) -> Outcome:
        return TarOutcome(record, self.path, self.read_source, partial(self.contents, record.index))

    # -- the sample

    def sample(self) -> list[Outcome]:
        """Return the outcomes of the sample, in task order.

        The sample has of the tasks that are done the first ones, those with the least probability, and drawn ones.
        """
        records = self.records()
        positions, probabilities = array("q"), array("d")  # of a run with many tasks
        for position, values in enumerate(records.values()):
            if values.get("status") == "done" and not is_missing(values):
                probability = (values.get("metrics") or {}).get("probability")
                positions.append(position)
                probabilities.append(math.inf if probability is None else probability)
        order = np.argsort(np.array(probabilities[_FIRST:]), kind="stable")
        chosen = np.concatenate([np.arange(_FIRST), _FIRST + order[:_LEAST]])[: len(positions)]
        others = np.setdiff1d(np.arange(len(positions)), chosen)
        drawn = torch.randperm(len(others), generator=generator_for(Key(len(positions), 0), "sample of tasks"))
        chosen = np.append(chosen, others[drawn[: SAMPLE - len(chosen)].numpy()])
        return [self.outcome(records[positions[place]]) for place in np.sort(chosen).tolist()]


class TarOutcome(Outcome):
    """The outcome of a task in a tar; ``read_source`` returns its photograph, ``contents`` the signature of the tar."""

    def __init__(self, record: Record, root: Path, read_source: ReadSource, contents: Callable[[], Contents]) -> None:
        super().__init__(record)
        self._root, self._read_source, self._contents = root, read_source, contents

    def image(self) -> Tensor | None:
        record = self.record
        if record.file is not None:
            return FileFormat.of(record.format).decode(self._read(record.file))
        array = self.array()
        if array is None:
            return None
        assert isinstance(record, SaliencyRecord)
        return Heat(reduce_channels(array, record.drawn_reducer)[0]).picture

    def array(self) -> Tensor | None:
        record = self.record
        if record.array is None:
            return None
        values = array_of(BytesIO(self._read(record.array)), self._root / record.array)
        if is_reduced(record):
            assert isinstance(record, SaliencyRecord)
            return values.float() * (record.scale or 1.0)
        return values

    def terms(self) -> Tensor | None:
        return self._beside("terms.npy")

    def source(self) -> Tensor | None:
        record = self.record
        if record.source is None:
            return self._beside("source.npy")
        if self._read_source is None:
            return None
        photograph = self._read_source(record)
        if image_digest(photograph) != record.source_sha256:
            raise LitVizError(f"{record.source} is another picture than the run has read: restore the file")
        return photograph

    def _beside(self, name: str) -> Tensor | None:
        """Return another array of the task; None if there is none."""
        place = self.record.array or self.record.file
        if place is None:
            return None
        member = f"{place.rpartition('/')[0]}/{_prefix(self.record.key)}.{name}"
        content = self._member(member)
        return None if content is None else array_of(BytesIO(content), self._root / member)

    def _read(self, name: str) -> bytes:
        content = self._member(name)
        if content is None:
            raise LitVizError(f"{self._root / name} is missing: {self._remedy(name)}")
        return content

    def _member(self, name: str) -> bytes | None:
        """Return the content of a file in the tar; None if the task has no such file."""
        try:
            return read_member(self._root, name, self.record.offset or 0)
        except DamagedTar as error:
            raise LitVizError(f"{error}: {self._remedy(name)}") from error

    def _remedy(self, name: str) -> str:
        """Return what helps if a file can't be read; a resume finds nothing to compute in a tar as it was written."""
        tar = name.rpartition("/")[0]
        signature = self._contents().files.get(tar)
        if signature is not None and file_mismatch(self._root, tar, signature) is None:
            return "its record was edited, so start another run"
        return f"{command_line('resume', self._root)} computes its tasks again"


def to_half(values: Tensor) -> tuple[Tensor, float]:
    """Return a map in float16, and the power of two by which its values are multiplied."""
    largest = float(values.abs().max())
    if not 0 < largest < math.inf:
        return values.half(), 1.0
    scale = 2.0 ** (math.frexp(largest)[1] - _EXPONENT)
    return (values.double() / scale).half(), scale


def is_missing(values: Mapping[str, Any]) -> bool:
    """Return whether the photograph of a line of ``results.jsonl`` is in a file that is missing."""
    source = values.get("source")
    if source is None or values.get("source_sha256") is None:
        return False
    try:
        locate(source)
    except LitVizError:
        return True
    return False


def is_reduced(record: Record) -> bool:
    """Return whether the stored map of a record is reduced, in float16."""
    return record.array is not None and record.array.endswith(".map.npy")


def _prefix(key: str) -> str:
    """Return the start of the names of a task's members, which the layout of WebDataset ends at the first dot."""
    return key.replace(".", "_")


def storage_class(store: str | None) -> type[FolderStorage]:
    """Return the class of the run folders of a :data:`Store`."""
    return TarStorage if store == "tar" else FolderStorage


def open_run(path: str | Path) -> FolderStorage:
    """Open an existing run with its store; errors of :meth:`FolderStorage.open`."""
    folder = FolderStorage.open(path)
    options = folder.config.get("run") or {}
    return storage_class(options.get("store"))(path)
