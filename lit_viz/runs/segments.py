"""``records/*.jsonl`` of a run folder: the finished tasks, in immutable files that each appear by a rename.

A segment has the tasks that have finished between two commits, a line each::

    {"index": 0, "status": "done", "run": "...", "record": {...}, "rows": [...], "files": {...}, "sha256": "..."}

with the digest of the run, the record, rows of metrics ``[number, iteration, {metric: value}]``, size and SHA-256 of
each file, and the digest of the text before it. A task is finished if it has such a line. A segment is replaced, by a
rename, when evidence amends records and when tasks are to be computed again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
from numpy.typing import NDArray

from lit_viz.errors import LitVizError
from lit_viz.runs.layout import SEGMENTS
from lit_viz.types import Record, Status
from lit_viz.utils.files import (
    atomic_write,
    file_version,
    json_line,
    lines_with_offsets,
    open_regular,
    parse_object,
    sync_filesystem,
    translate_write_errors,
)

#: Task indices are less, since they are stored in 64 bits.
INDEX_LIMIT = 2**62
_MOST_OPEN = 64  # files at a time: those of a merged run alternate
_MOST_CHARACTERS = 1 << 26


class IndexedLines(Mapping[int, str]):
    """Lines of files by task index, in task order; there is one about each task.

    A line takes 32 bytes of memory.

    Args:
        paths: the files; a line can't be read from one that another process has replaced.
        entries: task index, number of the file, offset and code of each line.

    Attributes:
        indices, codes: task index, ascending, and code of each line, int64 ``(N,)``.
    """

    def __init__(self, paths: Sequence[Path], entries: Iterable[tuple[int, int, int, int]]) -> None:
        self.paths, self._versions = list(paths), [file_version(path) for path in paths]
        values = array("q")
        for entry in entries:
            values.extend(entry)
        self._set_table(np.array(values, np.int64).reshape(-1, 4))

    def _set_table(self, table: NDArray[np.int64]) -> None:
        self._table = table[np.argsort(table[:, 0])]
        self.indices, self._files, self._offsets, self.codes = self._table.T

    def extended(self, others: IndexedLines) -> IndexedLines:
        """Return these lines, and those of other files about other tasks."""
        lines = IndexedLines((), ())
        lines.paths, lines._versions = self.paths + others.paths, self._versions + others._versions
        renumbered = others._table + np.array([0, len(self.paths), 0, 0])
        lines._set_table(np.concatenate([self._table, renumbered]))
        return lines

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return map(int, self.indices)

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and self._position(index) is not None

    def __getitem__(self, index: int) -> str:
        position = self._position(index)
        if position is None:
            raise KeyError(index)
        return self.at(position)

    def _position(self, index: int) -> int | None:
        position = int(np.searchsorted(self.indices, index))
        return position if position < len(self) and self.indices[position] == index else None

    def place(self, index: int) -> tuple[Path, int]:
        """Return the file of a line, and its offset."""
        position = int(np.searchsorted(self.indices, index))
        return self.paths[int(self._files[position])], int(self._offsets[position])

    def at(self, position: int) -> str:
        """Return the line at a position in task order."""
        with self._open(int(self._files[position])) as file:
            return _line(file, int(self._offsets[position]))

    def items(self) -> Any:
        """Yield the task index and the line of each, in task order."""
        return zip(self, self.lines(), strict=True)

    def lines(self) -> Iterator[str]:
        """Yield the lines in task order."""
        opened: dict[int, BinaryIO] = {}
        with ExitStack() as stack:
            for number, offset in zip(self._files.tolist(), self._offsets.tolist(), strict=True):
                if number not in opened:
                    if len(opened) >= _MOST_OPEN:
                        stack.close()
                        opened.clear()
                    opened[number] = stack.enter_context(self._open(number))
                yield _line(opened[number], offset)

    def are_current(self) -> bool:
        """Return whether the files are as they were when the object was made."""
        return [file_version(path) for path in self.paths] == self._versions

    def _open(self, number: int) -> BinaryIO:
        file, path = open_regular(self.paths[number]), self.paths[number]
        if file_version(path) != self._versions[number]:
            file.close()
            raise LitVizError(f"{path} was replaced after the run was opened: open the run again")
        return file


def _line(file: BinaryIO, offset: int) -> str:
    file.seek(offset)
    return file.readline(_MOST_CHARACTERS).decode("utf-8", "replace")


#: Most tasks of a segment.
MOST_TASKS = 1000
_STATUSES = get_args(Status)
_START = re.compile(r'\{"index": (\d{1,18}), "status": "(' + "|".join(_STATUSES) + r')", "run": "(\w{64})", "record": ')
_NAME = re.compile(r"(\d+of\d+-)?\d{6,}\.jsonl")  # of a shard, with its name
_ROWS = ', "rows": ['  # the last one: a metric or a file of this name is no list
_END = len(', "sha256": ""}\n') + 64
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)

#: Size and SHA-256 of a file.
Signature = Mapping[str, Any]
#: Reasons of a mismatch.
MISSING, CHANGED, OF_ANOTHER_RUN = "is missing", "was changed after it was written", "has tasks of another run"


def digest(content: str | bytes) -> str:
    """Return the SHA-256 of a text as 64 hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


@dataclass
class Contents:
    """Files and rows of a task so far.

    Attributes:
        files: signatures by name.
        rows: number of the snapshot in the run, iteration and metrics of each.
    """

    files: dict[str, Signature] = field(default_factory=dict)
    rows: list[Any] = field(default_factory=list)

    def add_file(self, name: str, content: bytes) -> None:
        """Add a file of the task."""
        self.files[name] = {"size": len(content), "sha256": digest(content)}

    def add_row(self, number: int, iteration: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of a snapshot, with nine digits."""
        row = {name: _number(value) for name, value in metrics.items()}
        self.rows.append([number, iteration, row])

    def text(self) -> str:
        """Return the part of a line about rows and files, which the tasks of a tar share."""
        return json_line({"rows": self.rows, "files": self.files})[1:-2]


def _number(value: float) -> float | str:
    rounded = float(f"{float(value):.9g}")
    return rounded if math.isfinite(rounded) else str(rounded)


def task_line(record: Record, run: str, text: str, contents: str) -> str:
    """Return the line of a finished task, given its record, also as JSON, and its :meth:`Contents.text`."""
    return signed(
        f'{{"index": {record.index}, "status": "{record.status}", "run": "{run}", "record": {text}, {contents}'
    )


def signed(text: str) -> str:
    """Return a line that ends with the digest of its text."""
    return f'{text}, "sha256": "{digest(text)}"}}\n'


def record_values(line: str) -> dict[str, Any]:
    """Return the values of the record in an intact line, without reading the rest; empty if it is none."""
    match = _START.match(line)
    if match is not None:
        with suppress(ValueError, RecursionError):  # of a forger
            values, _ = _DECODER.raw_decode(line, match.end())
            if isinstance(values, dict):
                return values
    return {}


def record_text(line: str) -> str:
    """Return the record of an intact line as it is written."""
    match = _START.match(line)
    return "{}" if match is None else line[match.end() : line.rfind(_ROWS)]


def with_record(line: str, record: Record) -> str:
    """Return an intact line with another record."""
    match = _START.match(line)
    assert match is not None
    contents = line[line.rfind(_ROWS) + 2 : -_END]
    return task_line(record, match[3], json_line(record.to_dict())[:-1], contents)


def of_run(line: str, run: str) -> str:
    """Return an intact line as that of another run."""
    match = _START.match(line)
    assert match is not None
    return signed(f"{line[: match.start(3)]}{run}{line[match.end(3) : -_END]}")


class TaskSegments:
    """The finished tasks of a run folder by index, as they were when the object was made.

    Lines are read when they are accessed. Those that are not as they were written are left out.

    Args:
        root: run folder.
        run: digest of the run, which its lines have.
        expected: number of tasks of each segment that counts, by name; None for any. Default: all segments.

    Attributes:
        lines: the lines.
        counts: number of tasks by the name of the segment, in the order of names.
        damaged: what is wrong with the segments that are not as they were written, by name.
    """

    def __init__(self, root: Path, run: str, expected: Mapping[str, int | None] | None = None) -> None:
        self._root, self._run = root, run
        paths = segment_files(root)
        if expected is not None:
            paths = [path for path in paths if path.name in expected]
        self.counts = dict.fromkeys((path.name for path in paths), 0)
        self.damaged: dict[str, str] = {}
        self.lines = IndexedLines(paths, self._entries(paths))
        for name, count in (self.counts if expected is None else expected).items():
            if name not in self.counts:
                self.damaged[name] = MISSING
            elif count not in (None, self.counts[name]) or self.counts[name] == 0:
                self.damaged.setdefault(name, CHANGED)
        self.values = lru_cache(64)(lambda index: self._parsed(self.lines[index]))  # of a task

    def extended(self, name: str) -> TaskSegments:
        """Return these tasks, and those of a segment that was written later; only this one is read."""
        segments = TaskSegments(self._root, self._run, {name: None})
        segments.counts, segments.damaged = self.counts | segments.counts, self.damaged | segments.damaged
        segments.lines = self.lines.extended(segments.lines)
        return segments

    def _entries(self, paths: list[Path]) -> Iterator[tuple[int, int, int, int]]:
        found: set[int] = set()
        for number, path in enumerate(paths):
            for offset, line in lines_with_offsets(path):
                match, reason = self._match(line)
                if match is None or int(match[1]) in found:  # a line that was copied
                    self.damaged.setdefault(path.name, reason or CHANGED)
                    continue
                found.add(int(match[1]))
                self.counts[path.name] += 1
                yield int(match[1]), number, offset, _STATUSES.index(match[2])

    def _match(self, line: str) -> tuple[re.Match[str] | None, str]:
        """Return the start of a line of the run; for any other line None, and what is wrong with it."""
        match = _START.match(line)
        if match is None or line[-_END:] != f', "sha256": "{digest(line[:-_END])}"}}\n':
            return None, CHANGED
        return (match, "") if match[3] == self._run else (None, OF_ANOTHER_RUN)

    def statuses(self) -> Iterator[tuple[int, str]]:
        """Yield index and status of each task, in task order; a dict of 100,000 ones takes 11 MB."""
        for index, code in zip(self.lines, self.lines.codes.tolist(), strict=True):
            yield index, _STATUSES[code]

    def all(self) -> Iterator[dict[str, Any]]:
        """Yield the values of all tasks, in task order."""
        for line in self.lines.lines():
            yield self._parsed(line)

    def _parsed(self, line: str) -> dict[str, Any]:
        values = parse_object(line)
        if values is None or not is_contents(values):  # of a forger
            raise LitVizError(f"{self._root / SEGMENTS} is damaged (a line is of no task): start another run")
        return values

    def rewrite(
        self,
        change: Callable[[int, str], str | None],
        indices: Collection[int],
        damaged: bool = False,
        before: Callable[[], None] | None = None,
    ) -> None:
        """Replace the segments of some tasks, when all new ones are on the disk: if it is full, nothing has changed.

        Args:
            change: returns the new line of a task, given its index and line; None to leave it out.
            indices: the tasks.
            damaged: whether damaged segments are replaced too, without the lines that are not as they were written.
            before: is called before the first is replaced.
        """
        affected = {self.lines.place(index)[0] for index in indices}
        if damaged:
            affected.update(self._root / SEGMENTS / name for name in self.damaged if name in self.counts)
        emptied: list[Path] = []
        with ExitStack() as replacements:
            for path in sorted(affected):
                lines: list[str] = []
                for offset, line in lines_with_offsets(path):
                    match, _ = self._match(line)
                    if match is None or self.lines.place(int(match[1])) != (path, offset):
                        continue
                    changed = change(int(match[1]), line)
                    if changed is not None:
                        lines.append(changed)
                if lines:
                    new = replacements.enter_context(atomic_write(path, sync=False))
                    with new.open("w", encoding="utf-8", newline="\n") as file:
                        file.writelines(lines)
                        file.flush()
                        os.fsync(file.fileno())
                else:
                    emptied.append(path)
            if before is not None:
                before()
        for path in emptied:
            with translate_write_errors(path):
                path.unlink()
        sync_filesystem(self._root)


def is_contents(values: Any) -> bool:
    """Return whether files and rows of a task have their types; a general check takes ten times as long."""
    if not isinstance(values, dict):
        return False
    files, rows = values.get("files"), values.get("rows")
    if not isinstance(files, dict) or not isinstance(rows, list):
        return False
    return all(isinstance(signature, dict) for signature in files.values()) and all(map(_is_row, rows))


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and [type(value) for value in row] == [int, int, dict]


def segment_files(root: Path) -> list[Path]:
    """Return the segments of a run folder."""
    return sorted(path for path in (root / SEGMENTS).glob("[!.]*.jsonl") if _NAME.fullmatch(path.name))
