"""From what a user hands in to photographs, in order; and what a table or a wish says of each of them.

Nothing here opens an image: thousands of photographs are listed in a moment, and a broken one fails when it is read.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_viz.engine.tasks import Task
from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.images.reading import packaged_photograph
from lit_viz.randomness import Draws, Key

PACKAGED_PREFIX = "packaged:"
#: Of an image that is handed over from Python, with its place among them.
ARRAY_PREFIX = "array:"

#: Of what Pillow reads, the suffixes that photographs have.
SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)

#: Targets that follow from the label or from what the network says of the photograph.
WISHES = ("label", "predicted", "random", "least-likely")


@dataclass(frozen=True)
class Entry:
    """A photograph that was handed in.

    Attributes:
        path: of the file as it was given (below a folder: the folder and what follows), or ``packaged:NAME``.
        label, target: what the table that lists it says of it, as it stands there.
        listed_in: that table.
        error: why it can't be used, in one sentence.
    """

    path: str
    label: str | None = None
    target: str | None = None
    listed_in: str | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """The file's name without its suffix; several photographs may have the same."""
        return Path(self.path.removeprefix(PACKAGED_PREFIX)).stem


@dataclass(frozen=True)
class Listing:
    """Photographs in order, and sentences worth saying about what was passed over."""

    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()


def photographs(given: Sequence[str | Mapping[str, Any]]) -> Listing:
    """List the photographs that were handed in.

    Args:
        given: each is a file, taken whatever its suffix; a folder, whose pictures at any depth are taken in natural
            order (``img2`` before ``img10``), but hidden ones and other files are passed over; ``packaged:NAME``; or a
            CSV file with the columns ``file`` and, if wanted, ``label`` and ``target``; its paths start at its folder;
            or such a row as a mapping.

    Raises:
        LitVizError: there is no such file, a folder holds no picture or can't be read, or a CSV file is broken.
    """
    if not given:
        raise LitVizError("no photograph was given: name files, folders or a CSV file with a column file")
    entries: list[Entry] = []
    others: list[str] = []
    notes: list[str] = []
    for word in given:
        if isinstance(word, Mapping):
            entries.append(_row(word))
            continue
        path = Path(word)
        if word.startswith(ARRAY_PREFIX):
            entries.append(Entry(word))
        elif word.startswith(PACKAGED_PREFIX):
            packaged_photograph(word.removeprefix(PACKAGED_PREFIX))
            entries.append(Entry(word))
        elif not word.strip() or not path.exists():
            raise LitVizError(f"there is no photograph or folder {word!r}{did_you_mean(path.name, _siblings(path))}")
        elif path.is_dir():
            pictures, rest = _pictures_in(path)
            entries += map(_entry, pictures)
            others += rest
        elif path.suffix.casefold() == ".csv":
            listed, note = _listed(path)
            entries += listed
            notes += note
        else:
            entries.append(_entry(path))
    if others:
        notes.append(f"{len(others)} other {'file' if len(others) == 1 else 'files'} passed over ({_some(others)})")
    return Listing(tuple(entries), tuple(notes))


# -- folders


def _pictures_in(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the pictures below a folder, and the names of the other files."""
    try:
        files = list(_files_below(folder, set()))
    except OSError as error:
        raise LitVizError(f"the folder {error.filename or folder} can't be read ({error.strerror})") from error
    pictures = [file for file in files if file.suffix.casefold() in SUFFIXES]
    others = [file.name for file in files if file.suffix.casefold() not in SUFFIXES]
    if not pictures:
        found = f", only {_some(others)}" if others else ""
        raise LitVizError(f"there is no picture in the folder {folder}{found}")
    return pictures, others


def _files_below(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield the files; each folder is entered once, so links may lead in circles."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for path in sorted(folder.iterdir(), key=lambda path: _natural(path.name)):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files_below(path, seen)
        else:
            yield path


def _natural(name: str) -> tuple[list[str | int], str]:
    """Return a key by which numbers count as numbers; texts and numbers alternate, so they never meet."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _entry(path: Path) -> Entry:
    # Records and configurations are UTF-8; a name of other bytes could be opened but never be written down.
    shown = os.fsencode(path).decode("utf-8", "replace")
    broken = shown != str(path)
    return Entry(shown, error=f"the name of {shown} is not UTF-8 text: rename the file" if broken else None)


def _siblings(path: Path) -> list[str]:
    return [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


# -- tables


def _row(row: Mapping[str, Any]) -> Entry:
    """Return the photograph that a mapping with the keys of a table names."""
    unknown = [key for key in row if key not in ("file", "label", "target")]
    if "file" not in row or unknown:
        raise LitVizError(f"a photograph is given as file, label and target, not as {dict(row)}")
    label, target = (None if row.get(key) is None else str(row[key]) for key in ("label", "target"))
    return Entry(str(row["file"]), label, target, "the list of photographs")


def _listed(file: Path) -> tuple[list[Entry], list[str]]:
    """Return the photographs that a CSV file lists, and a note of the columns that mean nothing here."""
    rows = read_table(file, ("file",))
    unused = [column for column in rows[0] if column not in ("file", "label", "target")]
    entries = []
    for row in rows:
        name = row["file"]
        path = name if name.startswith(PACKAGED_PREFIX) else str(file.parent / name)
        entries.append(Entry(path, row.get("label") or None, row.get("target") or None, str(file)))
    return entries, [f"columns of {file} that are not used: {_some(unused)}"] if unused else []


def read_table(file: str | Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file by column, names of columns in small letters, without the spaces around cells.

    Args:
        file: UTF-8, with or without a byte-order mark; its first line names the columns.
        columns: that it has to have; ``file``, the first, has to be filled in every row.

    Raises:
        LitVizError: the file can't be read, lacks a column, holds no row, or has a row that is broken.
    """
    try:
        with Path(file).open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            header = [name.strip().casefold() for name in next(reader, [])]
            # Spreadsheets end a table with rows of empty cells.
            numbered = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        raise LitVizError(f"the table {file} can't be read ({reason}): give a CSV file in UTF-8") from error
    missing = [column for column in columns if column not in header]
    if missing:
        found = f"its first line has {', '.join(header)}" if header else "it is empty"
        raise LitVizError(f"the table {file} has no column {missing[0]}: {found}, but it has to name the columns")
    if not numbered:
        raise LitVizError(f"the table {file} has no row below its first line")
    rows = []
    for number, cells in numbered:
        if any(cells[len(header) :]):
            raise LitVizError(f"line {number} of {file} has too many cells: put names that hold a comma into quotes")
        row = dict(zip(header, cells + [""] * len(header), strict=False))
        if not row[columns[0]]:
            raise LitVizError(f"line {number} of {file} names no {columns[0]}")
        rows.append(row)
    return rows


def column_for(paths: Sequence[str], file: str, column: str) -> Mapping[str, str | LitVizError]:
    """Return by path what a CSV file says of each photograph in a column, or the error that it says nothing sure.

    A row holds for the photograph at its path, which starts at the folder of the CSV file; otherwise for the one
    photograph whose path ends in it, so that a file name is enough where it is the only one.

    Raises:
        LitVizError: as :func:`read_table`, or where a file is named twice with different values.
    """
    cells: dict[str, str] = {}
    for row in read_table(file, ("file", column)):
        name = os.path.normpath(row["file"])
        if cells.setdefault(name, row[column]) != row[column]:
            raise LitVizError(f"{file} gives {name} two values in the column {column}: keep one of its rows")
    exact = {_absolute(Path(file).parent / name): name for name in cells}
    places = {path: _absolute(path) for path in paths}
    names = {place: exact.get(place) or _ending(place, cells) for place in places.values()}
    used = Counter(names.values())

    def said(path: str) -> str | LitVizError:
        place = places[path]
        name = names[place]
        if name is None or not cells[name]:
            return LitVizError(f"{path} has no {column} in {file}")
        if used[name] > 1 and exact.get(place) != name:
            return LitVizError(f"{path} is one of {used[name]} that {name} in {file} may mean: give its folder too")
        return cells[name]

    return {path: said(path) for path in paths}


def _absolute(path: str | Path) -> str:
    return os.path.normpath(Path(path).absolute())


def _ending(path: str, names: Mapping[str, str]) -> str | None:
    """Return the longest of the names that the path ends in."""
    parts = Path(path).parts
    endings = (os.path.join(*parts[first:]) for first in range(len(parts)))  # noqa: PTH118
    return next((ending for ending in endings if ending in names), None)


# -- what is known once the network has seen the photograph


def needs_logits(task: Task) -> bool:
    """Return whether label or target of the task can't be told before the network has seen its photograph."""
    return (task.label is None and task.label_source == "predicted") or (
        task.target is None and task.options.get("target") in WISHES
    )


def resolve(task: Task, logits: Tensor | None, labels: Sequence[str]) -> Task:
    """Return the task with label, target and the target's name, as far as they can be told.

    Args:
        task: its ``label_source`` may be ``"predicted"``, its option ``target`` one of ``WISHES``: the label; the class
            predicted; a class drawn by the task's seed, uniform over all but the label; the least likely class.
        logits: of its photograph ``(K,)``; None where they are not known yet.
        labels: K class names.

    Raises:
        LitVizError: another class is wanted at random, but there is only one.
    """
    label = task.label
    if label is None and task.label_source == "predicted" and logits is not None:
        label = int(logits.argmax())
    target = task.target
    if target is None:
        target = _wished(replace(task, label=label), logits, len(labels))
    return replace(task, label=label, target=target, target_name=None if target is None else labels[target])


def _wished(task: Task, logits: Tensor | None, classes: int) -> int | None:
    wish, label = task.options.get("target"), task.label
    if wish == "random" and label is not None:
        if classes < 2:
            raise LitVizError(f"{task.name} can't get a random target: the classifier has no second class")
        drawn = int(Draws([Key(task.seed, 0)]).integers("random target", 0, classes - 2))
        return drawn + (drawn >= label)
    if wish in ("predicted", "least-likely") and logits is not None:
        return int(logits.argmax() if wish == "predicted" else logits.argmin())
    return label if wish == "label" else None
