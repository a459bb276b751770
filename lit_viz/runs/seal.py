"""``manifest.json`` of a run folder: size and SHA-256 of the files that are not of a task.

It is written at the start, with configuration and queue, and at the end of the run, of a check or of a resume, with the
segments, the evidence and what is drawn. It finds accidents. It is no protection against forgers, who can change it
too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from lit_viz.runs.layout import CONFIG, MANIFEST, METRICS, QUEUE, REPORT, RESULTS, SEGMENTS
from lit_viz.runs.segments import CHANGED, MISSING, Signature
from lit_viz.utils.files import open_regular, parse_object, read_regular_text, write_text

_MASKS = "masks/*"  # results that are computed with the evidence
_FACTS = (CONFIG, QUEUE, f"{SEGMENTS}/*.jsonl", _MASKS)
_DRAWINGS = ("figure.*", "figure_*", "evolution.*", "maps/*")
_EVIDENCE = ("evidence.*", "localization.*", "explained.*", "comparison.*")
_EXPORTS = (RESULTS, METRICS)
_DERIVED = (*_DRAWINGS, *_EVIDENCE, *_EXPORTS, REPORT)

_BLOCK = 1 << 20
#: Reason of a mismatch by a file that is not listed.
NOT_OF_THE_RUN = "is not of the run"


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


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


#: Whether a file of a run can be drawn or computed again from the others.
is_derived = partial(_matches, _DERIVED)
#: Whether a file of a run is its figure or animation, or a map that is stitched from tiles.
is_drawing = partial(_matches, _DRAWINGS)
#: Whether a file of a run is computed with its evidence.
is_evidence = partial(_matches, (*_EVIDENCE, _MASKS))


@dataclass(frozen=True)
class Mismatch:
    """A file that is not as it was written.

    Attributes:
        name: the file, relative to the run folder.
        reason: what is wrong with it.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Seal:
    """Content of ``manifest.json``.

    Attributes:
        files: signatures by name.
        is_complete: whether the run is complete.
        is_damaged: whether the file is none.
    """

    files: Mapping[str, Signature]
    is_complete: bool = False
    is_damaged: bool = False

    @classmethod
    def read(cls, root: Path) -> Seal:
        """Return the seal of a run folder as it is on the disk."""
        path = root / MANIFEST
        if not path.exists():
            return cls({})
        values = parse_object(read_regular_text(path)) or {}
        files = values.get("files")
        if not isinstance(files, dict) or not all(isinstance(value, dict) for value in files.values()):
            return cls({}, is_damaged=True)
        return cls(files, values.get("complete") is True)

    @property
    def segments(self) -> dict[str, None]:
        """The listed segments, each with any number of tasks."""
        listed = sorted(name for name in self.files if name.startswith(f"{SEGMENTS}/"))
        return dict.fromkeys(name.partition("/")[2] for name in listed)

    @staticmethod
    def write(root: Path, complete: bool) -> None:
        """Write the seal with the files as they are on the disk."""
        files = signatures(root, _run_files(root) if complete else [CONFIG, QUEUE])
        write_text(root / MANIFEST, json.dumps({"complete": complete, "files": files}, indent=0) + "\n")

    @staticmethod
    def withdraw(root: Path) -> None:
        """State that a run is not complete, if it was."""
        if Seal.read(root).is_complete:
            Seal.write(root, complete=False)

    def mismatches(self, root: Path, start: str = "") -> Iterator[Mismatch]:
        """Yield the files of a complete run, except those of its tasks, that are not as listed; none of another run.
        Only names with this start are compared."""
        if not self.is_complete:
            return
        present = signatures(root, (name for name in _run_files(root) if name.startswith(start)))
        for name, expected in self.files.items():
            if not name.startswith(start):
                continue
            if name not in present:
                yield Mismatch(name, MISSING)
            elif present[name] != expected:
                yield Mismatch(name, CHANGED)
        for name in present:
            if name not in self.files and not is_derived(name):  # such as a figure in another format
                yield Mismatch(name, NOT_OF_THE_RUN)


def _run_files(root: Path) -> Iterator[str]:
    """Yield the names of the files that are listed for the whole run."""
    for pattern in (*_FACTS, *_DERIVED):
        for path in sorted(root.glob(pattern)):
            if path.is_file():
                yield path.relative_to(root).as_posix()
