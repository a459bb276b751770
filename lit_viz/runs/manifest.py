"""``manifest.jsonl`` of a run folder: size and SHA-256 of its files, and digests of its records and metrics.

Lines are appended. A later line about the same task or file replaces an earlier one. The kinds of lines::

    {"files": {...}}                                                        start of the run: configuration and queue
    {"task": 0, "files": {...}, "record": "...", "rows": 8, "metrics": "..."}    a finished task
    {"task": 0, "record": "..."}                                            its record was amended by evidence
    {"files": {...}, "complete": true}                                      end of the run, of a check or of a resume

A run is complete if the last line says so. The manifest finds accidents. It is no protection against forgers, who can
change it too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lit_viz.runs.layout import CONFIG, MANIFEST, METRICS, QUEUE, REPORT, RESULTS, TARS
from lit_viz.runs.lines import IndexedLines, index_in
from lit_viz.utils.files import (
    append_bytes,
    file_size,
    json_line,
    lines_with_offsets,
    open_regular,
    parse_object,
    write_lines,
)

#: Files of a run beside those of its tasks. Loggers' files and checkpoints are not listed.
_MASKS = "masks/*"  # results that are computed with the evidence
_FACTS = (CONFIG, QUEUE, RESULTS, METRICS, f"{TARS}/*.tar", _MASKS)
_DRAWINGS = ("figure.*", "evolution.*", "maps/*")
_EVIDENCE = ("evidence.*", "localization.*", "explained.*")
_DERIVED = (*_DRAWINGS, *_EVIDENCE, REPORT)

#: Entry of a checkpoint for the files and rows of the tasks that are not finished.
IN_PROGRESS = "in_progress"

_BLOCK = 1 << 20
#: Reason of a mismatch by a file that is not listed.
NOT_OF_THE_RUN = "is not of the run"
#: Size and SHA-256 of a file, as the manifest states them.
Signature = Mapping[str, Any]


def signatures(root: Path, names: Iterable[str]) -> dict[str, Signature]:
    """Return size and SHA-256 of some files of a run folder, by name; they are read in blocks."""
    by_name: dict[str, Signature] = {}
    for name in names:
        sha256 = hashlib.sha256()
        with open_regular(root / name) as file:
            while block := file.read(_BLOCK):
                sha256.update(block)
            by_name[name] = {"size": file.tell(), "sha256": sha256.hexdigest()}
    return by_name


def digest(text: str) -> str:
    """Return the SHA-256 of a text as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_derived(name: str) -> bool:
    """Return whether a file of a run can be drawn or computed again from the others."""
    return _matches(name, _DERIVED)


def is_drawing(name: str) -> bool:
    """Return whether a file of a run is its figure or animation, or a map that is stitched from tiles."""
    return _matches(name, _DRAWINGS)


def is_evidence(name: str) -> bool:
    """Return whether a file of a run is computed with its evidence."""
    return _matches(name, (*_EVIDENCE, _MASKS))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


class TaskContents:
    """Files, rows of ``metrics.csv`` and record of a task, as they are written or read.

    Attributes:
        files: signatures by name.
        rows: number of rows.
        record: digest of the line in ``results.jsonl``; None before the task is finished.
    """

    def __init__(self) -> None:
        self.files: dict[str, Signature] = {}
        self.rows = 0
        self.record: str | None = None
        self._metrics = hashlib.sha256()

    def add_file(self, name: str, content: bytes) -> None:
        """Add a file of the task."""
        self.files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def add_row(self, line: str) -> None:
        """Add a line of ``metrics.csv``."""
        self.rows += 1
        self._metrics.update(line.encode())

    def to_dict(self) -> dict[str, Any]:
        """Return the contents as the manifest and checkpoints state them."""
        return {
            "files": dict(sorted(self.files.items())),
            "record": self.record,
            "rows": self.rows,
            "metrics": self._metrics.hexdigest(),
        }


def contents_in_progress(in_progress: Mapping[int, TaskContents]) -> dict[int, dict[str, Any]]:
    """Return the contents of unfinished tasks as a checkpoint stores them."""
    return {index: contents.to_dict() for index, contents in in_progress.items()}


@dataclass(frozen=True)
class Mismatch:
    """A file that is not as the manifest states.

    Attributes:
        name: the file, relative to the run folder.
        reason: what is wrong with it.
    """

    name: str
    reason: str


class Manifest:
    """The lines of a manifest. A last line without a line end is ignored.

    Args:
        path: ``manifest.jsonl``.

    Attributes:
        tasks: lines about finished tasks, by index; they are read when they are accessed.
        amended: later digests of records, by task index. A process that is killed while it amends records leaves an
            earlier record.
        files: signatures of the other files.
        is_complete: whether the last line is that of a complete run.
        is_damaged: whether there are lines that are none of a manifest.
    """

    def __init__(self, path: Path) -> None:
        self.amended: dict[int, list[str]] = {}
        self.files: dict[str, Signature] = {}
        self.is_complete = self.is_damaged = False
        self.tasks = IndexedLines(path, self._task_lines(path))
        self.is_damaged |= any(index not in self.tasks for index in self.amended)
        self.is_complete &= not self.is_damaged

    def _task_lines(self, path: Path) -> Iterator[tuple[int, int]]:
        """Yield task index and offset of each line about a finished task, and take over the other lines."""
        for offset, line in lines_with_offsets(path):
            values = parse_object(line)
            if values is None or not _are_signatures(values.get("files", {})):
                self.is_damaged = True
            elif "task" in values:
                self.is_complete = False
                index, record = index_in(values, "task"), values.get("record")
                if index is None or not isinstance(record, str):
                    self.is_damaged = True
                elif "files" in values:
                    self.amended.pop(index, None)
                    yield index, offset
                else:
                    self.amended.setdefault(index, []).append(record)
            elif "files" in values:
                self._add_files(values)
            else:
                self.is_damaged = True

    def _add_files(self, values: dict[str, Any]) -> None:
        self.is_complete = values.get("complete") is True
        if self.is_complete:
            self.files.clear()
        self.files.update(values["files"])

    def task_mismatches(self, index: int, present: TaskContents) -> list[Mismatch]:
        """Return the files of a task that are not as listed."""
        if index not in self.tasks:
            return [Mismatch(MANIFEST, f"has no line about task {index}")]
        listed = parse_object(self.tasks[index]) or {}
        mismatches = list(_file_mismatches(listed["files"], present.files))
        if present.record not in (listed["record"], *self.amended.get(index, ())):
            mismatches.append(Mismatch(RESULTS, f"has another record of task {index}"))
        if (present.rows, present.to_dict()["metrics"]) != (listed.get("rows"), listed.get("metrics")):
            mismatches.append(Mismatch(METRICS, f"has other metrics of task {index}"))
        return mismatches

    @property
    def tars(self) -> dict[str, Signature]:
        """Signatures of the tars that have ended, by name."""
        return {name: signature for name, signature in self.files.items() if name.startswith(f"{TARS}/")}

    def run_mismatches(self, root: Path, *, reads_tars: bool = True) -> list[Mismatch]:
        """Return the other files of a complete run that are not as listed.

        Args:
            root: run folder.
            reads_tars: whether tars of the listed size are read.
        """
        known: dict[str, Signature] = {}
        for name, signature in self.tars.items():
            if not reads_tars and file_size(root / name) == signature["size"]:
                known[name] = signature
        return list(_file_mismatches(self.files, _run_signatures(root, known)))


def start_line(root: Path) -> dict[str, Any]:
    """Return the line of the start of a run, with its configuration and queue as they are on the disk."""
    return {"files": signatures(root, [CONFIG, QUEUE])}


def end_line(root: Path, known: Mapping[str, Signature] | None = None) -> dict[str, Any]:
    """Return the line of a complete run, with its files as they are on the disk; ``known`` ones are not read again."""
    return {"files": _run_signatures(root, known or {}), "complete": True}


def append(path: Path, lines: Iterable[Mapping[str, Any]], *, sync: bool = True) -> None:
    """Append lines to a manifest."""
    text = "".join(map(json_line, lines))
    if text:
        append_bytes(path, text.encode(), sync=sync)


def rewrite(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace the lines of a manifest."""
    write_lines(path, map(json_line, lines))


def _run_signatures(root: Path, known: Mapping[str, Signature]) -> dict[str, Signature]:
    names = [name for name in _run_files(root) if name not in known]
    return {**known, **signatures(root, names)}


def _run_files(root: Path) -> Iterator[str]:
    """Yield the names of the files that are listed for the whole run."""
    for pattern in (*_FACTS, *_DERIVED):
        for path in sorted(root.glob(pattern)):
            if path.is_file():
                yield path.relative_to(root).as_posix()


def _file_mismatches(listed: Mapping[str, Signature], present: Mapping[str, Signature]) -> Iterator[Mismatch]:
    for name, expected in listed.items():
        if name not in present:
            yield Mismatch(name, "is missing")
        elif present[name] != expected:
            yield Mismatch(name, "was changed after it was written")
    for name in present:
        if name not in listed and not is_derived(name):  # such as a figure in another format
            yield Mismatch(name, NOT_OF_THE_RUN)


def _are_signatures(files: Any) -> bool:
    return isinstance(files, dict) and all(isinstance(value, dict) for value in files.values())
