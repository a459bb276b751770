"""``records/*.jsonl`` of a run folder: the finished tasks, in immutable files that each appear by a rename.

A segment has the tasks that have finished between two commits, a line each::

    {"index": 0, "status": "done", "record": {...}, "rows": [...], "files": {...}, "sha256": "..."}

with the record, rows of metrics ``[number, iteration, {metric: value}]``, size and SHA-256 of each file, and the digest
of the text before it. A task is finished if it has such a line; nothing is appended to a segment or cut off. A segment
is replaced, by a rename, when evidence amends records and when tasks are to be computed again.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lit_viz.runs.layout import SEGMENTS
from lit_viz.runs.lines import IndexedLines
from lit_viz.types import Record
from lit_viz.utils.files import json_line, lines_with_offsets, parse_object, translate_write_errors, write_lines

#: Most tasks of a segment.
MOST_TASKS = 1000
_START = re.compile(r'\{"index": (\d{1,18}), "status": "(\w{1,20})", "record": ')
_END = len(', "sha256": ""}\n') + 64
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)

#: Size and SHA-256 of a file.
Signature = Mapping[str, Any]


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


def _number(value: float) -> float | str:
    rounded = float(f"{float(value):.9g}")
    return rounded if math.isfinite(rounded) else str(rounded)


def contents_text(rows: list[Any], files: Mapping[str, Signature]) -> str:
    """Return the part of a line about rows and files, which the tasks of a tar share."""
    return json_line({"rows": rows, "files": files})[1:-2]


def task_line(record: Record, text: str, contents: str) -> str:
    """Return the line of a finished task, given its record as JSON and its :func:`contents_text`."""
    line = f'{{"index": {record.index}, "status": "{record.status}", "record": {text}, {contents}'
    return f'{line}, "sha256": "{digest(line)}"}}\n'


def is_intact(line: str) -> bool:
    """Return whether a line is as it was written."""
    return line[-_END:] == f', "sha256": "{digest(line[:-_END])}"}}\n'


def record_values(line: str) -> dict[str, Any]:
    """Return the record of an intact line, without reading the rest."""
    match = _START.match(line)
    values = _DECODER.raw_decode(line, match.end())[0] if match is not None else None
    return values if isinstance(values, dict) else {}


def record_text(line: str) -> str:
    """Return the record of an intact line as it is written."""
    match = _START.match(line)
    return "{}" if match is None else line[match.end() : _DECODER.raw_decode(line, match.end())[1]]


class Segments:
    """The finished tasks of a run folder by index, as they were when the object was made.

    Lines are read when they are accessed; those that are not intact are left out.

    Args:
        root: run folder.
        names: names of the segments that count. Default: all.

    Attributes:
        names: the segments, in the order of their names.
        lines: the lines.
        finished: status of each task, by index.
        damaged: segments with a line that is not intact.
        records: records that were read, of some tasks.
    """

    def __init__(self, root: Path, names: Collection[str] | None = None) -> None:
        self._root = root
        paths = [path for path in segment_files(root) if names is None or path.name in names]
        self.names = [path.name for path in paths]
        self.finished: dict[int, str] = {}
        self.damaged: list[str] = []
        self.records: dict[int, Record] = {}
        self.lines = IndexedLines(paths, self._entries(paths))
        self.values = lru_cache(64)(self._values)

    def _entries(self, paths: list[Path]) -> Iterator[tuple[int, int, int]]:
        statuses: dict[str, str] = {}  # one text for each
        for number, path in enumerate(paths):
            for offset, line in lines_with_offsets(path):
                match = _START.match(line)
                if match is None or not is_intact(line):
                    self.damaged.append(f"{SEGMENTS}/{path.name}")
                    continue
                index, status = int(match[1]), match[2]
                self.finished[index] = statuses.setdefault(status, status)
                yield index, number, offset

    def _values(self, index: int) -> dict[str, Any]:
        """Return the values of a task."""
        return parse_object(self.lines[index]) or {}

    def all(self) -> Iterator[dict[str, Any]]:
        """Yield the values of all tasks, in task order."""
        for line in self.lines.lines():
            yield parse_object(line) or {}

    def rewrite(self, change: Callable[[int, str], str | None], indices: Iterable[int], names: Iterable[str] = ()) -> None:
        """Replace the segments of some tasks, one after another, by ones with changed lines, or without them.

        Args:
            change: returns the new line of a task, given its index and line; None to leave it out.
            indices: the tasks.
            names: other segments that are replaced, without the lines that are not intact.
        """
        positions = np.searchsorted(self.lines.indices, sorted(indices))
        affected = {self.lines.paths[number] for number in set(self.lines.files[positions].tolist())}
        for path in sorted({*affected, *(self._root / name for name in names)}):
            kept: list[str] = []
            for _, line in lines_with_offsets(path):
                match = _START.match(line)
                changed = change(int(match[1]), line) if match is not None and is_intact(line) else None
                if changed is not None:
                    kept.append(changed)
            with translate_write_errors(path):
                write_lines(path, kept) if kept else path.unlink()


def segment_files(root: Path) -> list[Path]:
    """Return the segments of a run folder."""
    return sorted((root / SEGMENTS).glob("[!.]*.jsonl"))
