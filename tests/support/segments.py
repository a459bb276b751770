"""Edits of the segments of run folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import SEGMENTS
from lit_viz.runs.segments import Contents, segment_files, signed


def change_lines(run: Path, change: Callable[[list[str]], Iterable[str]]) -> None:
    """Change the lines of the first segment of a run."""
    path = segment_files(run)[0]
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def change_text(run: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text in the segments of a run."""
    path = next(path for path in segment_files(run) if old in path.read_text())
    path.write_text(path.read_text().replace(old, new, 1))


def lose(run: Path, *indices: int) -> None:
    """Delete the lines of tasks."""
    for path in segment_files(run):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)["index"] not in indices))


def forge(run: Path, index: int, **values: Any) -> None:
    """Change values of a record, among its fields or metrics, with the digests that a forger would write."""
    for path in segment_files(run):
        lines = []
        for line in path.read_text().splitlines(keepends=True):
            task = json.loads(line)
            if task["index"] == index:
                record = task["record"]
                for name, value in values.items():
                    (record["metrics"] if name in record.get("metrics", {}) else record)[name] = value
                line = _line(task)
            lines.append(line)
        path.write_text("".join(lines))


def write_records(folder: FolderStorage, records: Iterable[dict[str, Any]], contents: Iterable[Contents] = ()) -> None:
    """Write a segment with records, which need not be valid, and with the rows and files of each."""
    given = list(contents)
    lines = []
    for number, record in enumerate(records):
        of_task = given[number] if given else Contents()
        task = {
            "index": record.get("index", number),
            "status": record.get("status", "done"),
            "run": folder.digest,
            "record": record,
            "rows": of_task.rows,
            "files": of_task.files,
        }
        lines.append(_line(task))
    path = folder.path / SEGMENTS / "000000.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines))


def _line(task: dict[str, Any]) -> str:
    task.pop("sha256", None)
    return signed(json.dumps(task)[:-1])
