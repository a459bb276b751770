"""The run folder, the record of truth of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from lit_viz.errors import LitVizError
from lit_viz.runs.access import check_entries, check_new, creation_errors, entries_to_delete, is_empty, is_run
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.layout import EVIDENCE, MANIFEST, RESULTS
from lit_viz.runs.lines import record_lines
from lit_viz.runs.manifest import TaskContents, append, digest, end_line, is_derived, is_evidence
from lit_viz.runs.reader import FolderReader
from lit_viz.runs.results import Outcome
from lit_viz.runs.trimming import KeptTasks, measure, trim
from lit_viz.runs.writer import FolderWriter
from lit_viz.types import Record
from lit_viz.utils.files import delete_entry, json_line, plain, translate_write_errors, write_lines, write_text


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
        if not is_run(path):
            raise LitVizError(f"{path} is not a lit_viz run: give the folder that a run was written to")
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

    def outcomes(self) -> Sequence[Outcome]:
        self._curves.clear()  # there may be further rows
        return super().outcomes()

    def measure(self, kept: KeptTasks) -> dict[int, TaskContents]:
        """Return the contents of the kept tasks, by index; see :func:`~lit_viz.runs.trimming.measure`."""
        return measure(self.path, kept)

    def trim(self, kept: KeptTasks, checkpoint: Mapping[str, Any]) -> None:
        """Delete what is later than a checkpoint, of which the tasks are kept; see
        :func:`~lit_viz.runs.trimming.trim`."""
        trim(self.path, kept)

    def finish(self) -> None:
        """Flush, and sort ``results.jsonl`` by task, keeping the last record of each."""
        self.flush()
        path = self.path / RESULTS
        if path.exists():
            write_lines(path, record_lines(path).lines())

    def amend(self, records: Iterable[Record]) -> None:
        """Replace the records of finished tasks by these, in the manifest first: each digest in it is valid until the
        run is complete."""
        path = self.path / RESULTS
        stored = record_lines(path)
        amended: dict[int, str] = {}
        for record in records:
            line = json_line(record.to_dict())
            if stored.get(record.index, line) != line:
                amended[record.index] = line
        append(self.path / MANIFEST, ({"task": index, "record": digest(line)} for index, line in amended.items()))
        write_lines(path, (amended.get(index, line) for index, line in stored.items()))

    def merge_evidence(self, evidence: Evidence) -> None:
        """Replace these parts of ``evidence.json``; the other parts remain."""
        merged = self.evidence().to_dict()
        merged |= evidence.to_dict()
        write_text(self.path / EVIDENCE, json.dumps(plain(merged), indent=2) + "\n")

    def seal(self) -> None:
        """Append the line of a complete run to the manifest, with the files as they are on the disk.

        Call it only when the contents of all tasks are verified or newly written.
        """
        append(self.path / MANIFEST, [end_line(self.path)])

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
