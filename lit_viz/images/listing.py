"""From what a user hands in to photographs, in order.

Nothing here opens an image: thousands of photographs are listed in a moment, and a broken one fails when it is read.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_viz.errors import LitVizError
from lit_viz.images.reading import PACKAGED_PREFIX, missing, packaged_photograph
from lit_viz.images.tables import read_table
from lit_viz.utils.files import non_utf8_name_error, utf8_name
from lit_viz.utils.formatting import pluralize

#: Of an image that is handed over from Python, with its place among them.
ARRAY_PREFIX = "array:"

#: Of what Pillow reads, the suffixes that photographs have.
SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)


def has_array_images(options: Mapping[str, Any]) -> bool:
    """Return whether images of a run came from Python: its photographs, or the one that class images start from."""
    given = [*(options.get("photographs") or ()), options.get("init")]
    files = (one.get("file") if isinstance(one, Mapping) else one for one in given)
    return any(str(file).startswith(ARRAY_PREFIX) for file in files)


@dataclass(frozen=True)
class Entry:
    """A photograph that was handed in.

    Attributes:
        path: of the file as it was given (below a folder: the folder and what follows), or ``packaged:NAME``.
        label, target: what the table that lists it says of it, as it stands there; from Python, a number is an index.
        listed_in: that table.
        error: why it can't be used, in one sentence.
    """

    path: str
    label: str | int | None = None
    target: str | int | None = None
    listed_in: str | None = None
    error: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called, in one line each: the file's name without its suffix, with it, and both after the name
        of its folder."""
        path = Path(self.path.removeprefix(PACKAGED_PREFIX))
        folder = f"{path.parent.name}/".lstrip("/")
        names = (path.stem, path.name, folder + path.stem, folder + path.name)
        return tuple(" ".join(name.split()) for name in names)


@dataclass(frozen=True)
class Listing:
    """Photographs in order, and sentences worth saying about what was passed over."""

    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return for each photograph the first of its names that tells all of those apart which share the shortest;
        the shortest where none does, as of one file that is listed twice."""
        alike: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)  # names by path
        for entry in self.entries:
            alike[entry.names[0]][os.path.normpath(entry.path)] = entry.names
        called: dict[str, str] = {}
        for files in alike.values():
            forms = zip(*files.values(), strict=True)
            told_apart = (n for n, form in enumerate(forms) if len(set(form)) == len(files))
            best = next(told_apart, 0)
            called |= {path: names[best] for path, names in files.items()}
        return [called[os.path.normpath(entry.path)] for entry in self.entries]


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
        if not isinstance(word, str):
            raise LitVizError(f"a photograph is named by a word, not by {word!r}: put quotes around a name of digits")
        path = Path(word)
        if word.startswith(ARRAY_PREFIX):
            entries.append(Entry(word))
        elif word.startswith(PACKAGED_PREFIX):
            packaged_photograph(word.removeprefix(PACKAGED_PREFIX))
            entries.append(Entry(word))
        elif not word.strip() or not path.exists():
            raise LitVizError(missing(word, "photograph or folder"))
        elif path.is_dir():
            pictures, rest = _pictures_in(path)
            entries += map(_entry, pictures)
            others += rest
        elif path.suffix.casefold() == ".csv":
            folder_entries, note = _listed(path)
            entries += folder_entries
            notes += note
        else:
            entries.append(_entry(path))
    if others:
        notes.append(f"{pluralize(len(others), 'other file')} passed over ({_some(others)})")
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
    return Entry(utf8_name(path), error=non_utf8_name_error(path))


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


# -- tables


def _row(row: Mapping[str, Any]) -> Entry:
    """Return the photograph that a mapping with the keys of a table names."""
    unknown = [key for key in row if key not in ("file", "label", "target")]
    if "file" not in row or unknown:
        raise LitVizError(f"a photograph is given as file, label and target, not as {dict(row)}")
    label, target = (_class_in(row.get(key)) for key in ("label", "target"))
    return Entry(str(row["file"]), label, target, "the list of photographs")


def _class_in(value: Any) -> str | int | None:
    """Return a class as it was given: a number is an index, also where classes are called by numbers."""
    return value if value is None or isinstance(value, int) else str(value)


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
