"""The run folder, the record of truth of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from lit_viz.runs.access import (
    check_entries,
    check_is_run,
    check_new,
    creation_errors,
    entries_to_delete,
    is_empty,
)
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.layout import EVIDENCE, METRICS, RESULTS, SEGMENTS, TARS, TASK_FOLDERS
from lit_viz.runs.metrics import HEADER
from lit_viz.runs.reader import FolderReader
from lit_viz.runs.seal import NOT_OF_THE_RUN, Mismatch, Seal, is_derived, is_evidence, signatures
from lit_viz.runs.segments import (
    CHANGED,
    MISSING,
    Contents,
    Signature,
    record_text,
    record_values,
    segment_files,
    task_line,
)
from lit_viz.runs.stored import check_inside
from lit_viz.runs.writer import FolderWriter
from lit_viz.types import Record, index_of
from lit_viz.utils.files import (
    delete_entry,
    json_line,
    parse_object,
    plain,
    translate_write_errors,
    write_lines,
    write_text,
)


class FolderStorage(FolderReader, FolderWriter):
    """A run folder, from :meth:`create` or :meth:`open`.

    Args:
        path: the folder.
    """

    is_slow: ClassVar[bool] = True

    def __init__(self, path: str | Path) -> None:
        FolderReader.__init__(self, path)
        FolderWriter.__init__(self, path)

    @classmethod
    def open(cls, path: str | Path) -> FolderStorage:
        """Open an existing run.

        Raises:
            LitVizError: ``path`` is not a run, has another format, or its configuration or queue was changed.
        """
        check_is_run(path)
        folder = cls(path)
        check_entries(folder.path)
        folder.check()
        return folder

    @classmethod
    def create(cls, path: str | Path, overwrite: bool = False, extra_files: Sequence[str] = ()) -> FolderStorage:
        """Create a run folder and its parents. The files of a run that is replaced remain until :meth:`clear`.

        Args:
            path, overwrite, extra_files: see :func:`~lit_viz.runs.access.check_new`.

        Raises:
            LitVizError: the path is a file, or the folder is not empty or cannot be created.
        """
        path = Path(path)
        check_new(path, overwrite, extra_files)
        with creation_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def clear(self, extra_files: Sequence[str] = ()) -> None:
        """Delete the files of an existing run.

        Raises:
            LitVizError: the folder contains other files, or cannot be deleted.
        """
        with translate_write_errors(self.path):
            if is_empty(self.path):
                return
            for entry in entries_to_delete(self.path, extra_files):
                delete_entry(entry)

    def mismatches(self) -> Iterator[tuple[int, Mismatch]]:
        """Yield the files of finished tasks that are not as written, with the index of the task."""
        tars: dict[str, Mismatch | None] = {}  # each is of many tasks, and read once
        for values in self.segments.all():
            for name, signature in values["files"].items():
                if name in tars:
                    found = tars[name]
                else:
                    found = file_mismatch(self.path, name, signature)
                if name.startswith(f"{TARS}/"):
                    tars[name] = found
                if found is not None:
                    yield int(values["index"]), found

    def damaged_segments(self) -> list[Mismatch]:
        """Return the segments that are not as written; those of a complete run are compared with its seal too."""
        found = [Mismatch(f"{SEGMENTS}/{name}", reason) for name, reason in self.segments.damaged.items()]
        seal = self.seal_on_disk()
        if seal.is_complete:
            names = {mismatch.name for mismatch in found}
            found += [mismatch for mismatch in seal.mismatches(self.path, SEGMENTS) if mismatch.name not in names]
        return found

    def foreign_files(self) -> list[Mismatch]:
        """Return the files in the folders of tasks that are of no task."""
        count, tars = 0, set()
        for values in self.segments.all():
            for name in values["files"]:
                if name.startswith(f"{TARS}/"):
                    tars.add(name)
                else:
                    count += 1
        foreign = [name for name in tar_files(self.path) if name not in tars]
        # Of many tasks, the names are only compared if a name is missing or of no task.
        if count != sum(1 for _ in task_files(self.path)):
            listed = {name for values in self.segments.all() for name in values["files"]}
            foreign += [name for _, name in task_files(self.path) if name not in listed]
        return [Mismatch(name, NOT_OF_THE_RUN) for name in foreign]

    def restore(self, in_progress: Mapping[int, Contents], snapshots: int, damaged: Collection[int]) -> None:
        """Continue the run from the loaded segments.

        Args:
            in_progress: contents of the tasks that continue; all other files of unfinished tasks are deleted.
            snapshots: number of the snapshots with metrics.
            damaged: finished tasks that are computed again.
        """
        segments = self.segments
        with translate_write_errors(self.path):
            for path in segment_files(self.path):
                if path.name not in segments.counts:
                    path.unlink()
            if damaged or segments.damaged:
                segments.rewrite(lambda index, line: None if index in damaged else line, damaged, damaged=True)
                segments = self.load()
            stems = {Path(name).stem for name in segments.counts}
            for name in tar_files(self.path):
                if Path(name).stem not in stems:
                    (self.path / name).unlink()
            for index, name in list(task_files(self.path)):
                continues = index in in_progress and name in in_progress[index].files
                if index not in segments.finished and not continues:
                    self._delete_task_file(name)
        self._pending.clear()
        self.in_progress, self._snapshots = dict(in_progress), snapshots

    def _delete_task_file(self, name: str) -> None:
        """Delete a file of a task, and the folder of its task if it is empty then."""
        path = self.path / name
        path.unlink()
        if path.parent.parent != self.path:
            with suppress(OSError):  # it has other files
                path.parent.rmdir()

    def amend(self, records: Iterable[Record]) -> None:
        """Replace the records of finished tasks by these. A sealed run is not complete until it is sealed again."""
        amended: dict[int, Record] = {}
        for record in records:
            if record.to_dict() != record_values(self.segments.lines[record.index]):
                amended[record.index] = record
        if not amended:
            return

        def change(index: int, line: str) -> str:
            if index not in amended:
                return line
            values = parse_object(line) or {}
            contents = Contents(values["files"], values["rows"]).text()
            record = amended[index]
            return task_line(record, self.digest, json_line(record.to_dict())[:-1], contents)

        self.segments.rewrite(change, amended, before=self._unseal)
        self._segments = None

    def _unseal(self) -> None:
        if self.seal_on_disk().is_complete:
            Seal.write(self.path, complete=False)

    def merge_evidence(self, evidence: Evidence) -> None:
        """Replace these parts of ``evidence.json``; the other parts remain."""
        merged = self.evidence().to_dict()
        merged |= evidence.to_dict()
        write_text(self.path / EVIDENCE, json.dumps(plain(merged), indent=2) + "\n")

    def seal(self) -> None:
        """Write ``results.jsonl`` and ``metrics.csv``, and state that the run is complete, with the files as they are
        on the disk.

        Call it only when the contents of all tasks are verified or newly written.
        """
        write_exports([self], self.path)
        Seal.write(self.path, complete=True)

    def discard(self, names: Iterable[str]) -> None:
        """Delete those of some files that are drawn or computed from the others, so that they are made again."""
        with translate_write_errors(self.path):
            for name in names:
                if is_derived(name) or is_evidence(name):
                    (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def files(self) -> Iterator[FolderStorage]:
        """Yield the run folder."""
        yield self

    def save(self, path: str | Path) -> FolderStorage:
        """Copy the run to a new run folder; return it."""
        copy = FolderStorage.create(path)
        with translate_write_errors(copy.path):
            shutil.copytree(self.path, copy.path, dirs_exist_ok=True)
        return copy


def write_exports(folders: Sequence[FolderStorage], root: Path) -> None:
    """Write ``results.jsonl`` and ``metrics.csv`` with the finished tasks of run folders, one folder after another."""
    write_lines(root / RESULTS, _result_lines(folders))
    write_lines(root / METRICS, _metric_lines(folders))


def _result_lines(folders: Sequence[FolderStorage]) -> Iterator[str]:
    for folder in folders:
        for line in folder.segments.lines.lines():
            yield f"{record_text(line)}\n"


def _metric_lines(folders: Sequence[FolderStorage]) -> Iterator[str]:
    """Yield the header and the lines of ``metrics.csv``; none without rows."""
    header = HEADER
    for folder in folders:
        for line in filter(None, folder.metrics.lines()):
            yield header + line
            header = ""


def task_files(root: Path) -> Iterator[tuple[int, str]]:
    """Yield the files in the folders of tasks, with the index at the start of the name; others are of no task."""
    for folder in TASK_FOLDERS:
        for path in (root / folder).rglob("*"):
            name = path.relative_to(root)
            index = index_of(name.parts[1])
            if index >= 0 and path.is_file():
                yield index, name.as_posix()


def tar_files(root: Path) -> list[str]:
    """Return the tars of a run folder."""
    return sorted(path.relative_to(root).as_posix() for path in (root / TARS).glob("[!.]*"))


def file_mismatch(root: Path, name: str, signature: Signature) -> Mismatch | None:
    """Return what is wrong with a file; None if it is as written."""
    check_inside(name)
    if not (root / name).exists():
        return Mismatch(name, MISSING)
    return None if signatures(root, [name])[name] == signature else Mismatch(name, CHANGED)
