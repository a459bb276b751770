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
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from lit_viz.errors import LitVizError
from lit_viz.runs.layout import SEGMENTS
from lit_viz.runs.lines import IndexedLines
from lit_viz.types import Record
from lit_viz.utils.files import (
    atomic_write,
    json_line,
    lines_with_offsets,
    parse_object,
    sync_filesystem,
    translate_write_errors,
)

#: Most tasks of a segment.
MOST_TASKS = 1000
_START = re.compile(r'\{"index": (\d{1,18}), "status": "(\w{1,20})", "run": "(\w{64})", "record": ')
_ROWS = ', "rows": '
_NAME = re.compile(r"(\d+of\d+-)?\d{6,}\.jsonl")  # of a shard, with its name
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
    """Return the line of a finished task.

    Args:
        record: its record.
        run: digest of the run.
        text: the record as JSON.
        contents: :meth:`Contents.text`.
    """
    return signed(
        f'{{"index": {record.index}, "status": "{record.status}", "run": "{run}", "record": {text}, {contents}'
    )


def signed(text: str) -> str:
    """Return a line that ends with the digest of its text."""
    return f'{text}, "sha256": "{digest(text)}"}}\n'


def record_values(line: str) -> dict[str, Any]:
    """Return the record of an intact line, without reading the rest; empty if it is none."""
    match = _START.match(line)
    if match is not None:
        with suppress(ValueError, RecursionError):  # of a forger
            values, _ = _DECODER.raw_decode(line, match.end())
            if isinstance(values, dict):
                return values
    return {}


def record_text(line: str) -> str:
    """Return the record of an intact line as it is written."""
    match, end = _START.match(line), line.rfind(_ROWS)  # in JSON, no text has quotation marks like these
    return "{}" if match is None or end < 0 else line[match.end() : end]


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
        finished: status of each task, by index.
        counts: number of tasks by the name of the segment, in the order of names.
        damaged: what is wrong with the segments that are not as they were written, by name.
        records: records that were read, of some tasks.
    """

    def __init__(self, root: Path, run: str, expected: Mapping[str, int | None] | None = None) -> None:
        self._root, self._run = root, run
        paths = segment_files(root)
        if expected is not None:
            paths = [path for path in paths if path.name in expected]
        self.counts = dict.fromkeys((path.name for path in paths), 0)
        self.finished: dict[int, str] = {}
        self.damaged: dict[str, str] = {}
        self.records: dict[int, Record] = {}
        self.lines = IndexedLines(paths, self._entries(paths))
        for name, count in (self.counts if expected is None else expected).items():
            if name not in self.counts:
                self.damaged[name] = MISSING
            elif count not in (None, self.counts[name]) or self.counts[name] == 0:
                self.damaged.setdefault(name, CHANGED)
        self.values = lru_cache(64)(self._values)

    def _entries(self, paths: list[Path]) -> Iterator[tuple[int, int, int]]:
        statuses: dict[str, str] = {}  # one text for each
        for number, path in enumerate(paths):
            for offset, line in lines_with_offsets(path):
                match, reason = self._match(line)
                if match is None or int(match[1]) in self.finished:  # a line that was copied
                    self.damaged.setdefault(path.name, reason or CHANGED)
                    continue
                index, status = int(match[1]), match[2]
                self.finished[index] = statuses.setdefault(status, status)
                self.counts[path.name] += 1
                yield index, number, offset

    def _match(self, line: str) -> tuple[re.Match[str] | None, str]:
        """Return the start of a line of the run; for any other line None, and what is wrong with it."""
        match = _START.match(line)
        if match is None or line[-_END:] != f', "sha256": "{digest(line[:-_END])}"}}\n':
            return None, CHANGED
        return (match, "") if match[3] == self._run else (None, OF_ANOTHER_RUN)

    def _values(self, index: int) -> dict[str, Any]:
        """Return the values of a task."""
        return self._parsed(self.lines[index])

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
