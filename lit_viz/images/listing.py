"""Listing of photographs from files, folders, CSV tables and mappings, without opening an image."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_viz.errors import LitVizError, printable
from lit_viz.images.reading import (
    NAMED_PREFIXES,
    PACKAGED_PREFIX,
    ZOO_PREFIX,
)
from lit_viz.utils.files import (
    check_regular,
    missing_file_error,
    non_utf8_name_error,
    packaged_photograph,
    utf8_name,
)
from lit_viz.utils.formatting import pluralize
from lit_viz.utils.sequences import as_list
from lit_viz.zoo import photograph_names

#: Prefix of images passed from Python as arrays, followed by their index.
ARRAY_PREFIX = "array:"

#: Suffixes of photographs among the formats that Pillow reads, and of arrays.
SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp", ".npy", ".npz"}
)
#: Source of labels that are given with the images.
LISTED = "the list of photographs"
_COLUMNS = ("file", "label", "target", "against")


def has_array_images(config: Mapping[str, Any]) -> bool:
    """Return whether photographs or the initial image of a run were passed from Python as arrays.

    Args:
        config: form of the run.
    """
    images = arguments_of(config, "tasks").get("images") or ()
    given = as_list(images)
    given.append(arguments_of(config, "module").get("init"))
    return any(str(item).startswith(ARRAY_PREFIX) for item in given)


def arguments_of(config: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """Return the arguments of the module or the tasks in the form of a run."""
    return (config.get(section) or {}).get("init_args") or {}


@dataclass(frozen=True, slots=True)
class Entry:
    """A listed photograph.

    The path is as given, in a folder the folder and the relative path. Label, target and the class that the target is
    contrasted with are cells of the table ``listed_in``; from Python, a number is an index. The error is that of a
    photograph that can't be used.
    """

    path: str
    label: str | int | None = None
    target: str | int | None = None
    against: str | int | None = None
    listed_in: str | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """Shortest display name: the file name without suffix."""
        return _displayed(self._file.stem)

    @property
    def names(self) -> tuple[str, ...]:
        """Display names from short to long: file name without and with suffix, then both with the folder's name."""
        path = self._file
        folder = f"{path.parent.name}/".lstrip("/")
        return tuple(map(_displayed, (path.stem, path.name, folder + path.stem, folder + path.name)))

    @property
    def _file(self) -> Path:
        return Path(self.path.removeprefix(PACKAGED_PREFIX).removeprefix(ZOO_PREFIX))


@dataclass(frozen=True)
class Listing:
    """Photographs in order, and notes about ignored files and columns."""

    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return the shortest display name of each photograph that is unique among all with the same short name.

        Photographs without a unique name, such as a file listed twice, have the shortest name.
        """
        names = [entry.name for entry in self.entries]
        counts = Counter(names)
        alike: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)  # names by path, by shortest name
        for entry, name in zip(self.entries, names, strict=True):
            if counts[name] > 1:
                alike[name][os.path.normpath(entry.path)] = entry.names
        chosen: dict[str, str] = {}
        for files in alike.values():
            chosen |= _shortest_unique(files)
        return [chosen.get(os.path.normpath(entry.path), name) for entry, name in zip(self.entries, names, strict=True)]


def _displayed(name: str) -> str:
    return printable(" ".join(name.split()))


def _shortest_unique(files: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return by path the shortest of the names, from short to long, by which all files differ, or else the first."""
    for names in zip(*files.values(), strict=True):
        if len(set(names)) == len(files):
            return dict(zip(files, names, strict=True))
    return {path: names[0] for path, names in files.items()}


def photographs(given: Sequence[str | Mapping[str, Any]]) -> Listing:
    """List photographs.

    Each item is a file of any suffix; a folder: its images at any depth are listed in natural order (``img2`` before
    ``img10``), without hidden files and links to folders; ``packaged:NAME``; ``zoo:fashion`` or ``zoo:planted`` for the
    images of the zoo, or one of them; a CSV file with the column ``file`` and optionally ``label``, ``target`` and
    ``against``, with paths relative to it; or a row as a mapping.
    """
    if not given:
        raise LitVizError("no photograph was given: give files, folders or a CSV file with a column file")
    entries: list[Entry] = []
    others: list[str] = []
    notes: list[str] = []
    for item in given:
        if isinstance(item, Mapping):
            entries.append(_entry_of_row(item))
            continue
        if not isinstance(item, str):
            raise LitVizError(f"photographs must be named by strings, got {item!r}: put quotes around a name of digits")
        path = Path(item)
        if item.startswith(ARRAY_PREFIX):
            entries.append(Entry(item))
        elif item.startswith(PACKAGED_PREFIX):
            packaged_photograph(item.removeprefix(PACKAGED_PREFIX))
            entries.append(Entry(item))
        elif item.startswith(ZOO_PREFIX):
            entries += [Entry(f"{ZOO_PREFIX}{name}") for name in photograph_names(item.removeprefix(ZOO_PREFIX))]
        elif not item.strip() or not path.exists():
            raise LitVizError(missing_file_error(item, "photograph or folder"))
        elif path.is_dir():
            files, ignored = _images_in(path)
            entries += map(_entry, files)
            others += ignored
        elif path.suffix.casefold() == ".csv":
            rows = read_table(path, ("file",))
            entries += [_entry_of_cells(row, path) for row in rows]
            unused = [column for column in rows[0] if column not in _COLUMNS]
            if unused:
                notes.append(f"columns of {path} that are not used: {_some(unused)}")
        else:
            entries.append(_entry(path))
    if others:
        notes.append(f"{pluralize(len(others), 'other file')} skipped ({_some(others)})")
    return Listing(tuple(entries), tuple(notes))


def _entry(path: Path) -> Entry:
    return Entry(utf8_name(path), error=non_utf8_name_error(path))


def _entry_of_cells(row: Mapping[str, str], table: Path) -> Entry:
    """Return the entry of a row of a CSV file; an empty cell is no class."""
    file = row["file"]
    if not file.startswith(NAMED_PREFIXES):
        file = str(table.parent / file)
    return Entry(file, row.get("label") or None, row.get("target") or None, row.get("against") or None, str(table))


def _entry_of_row(row: Mapping[str, Any]) -> Entry:
    if "file" not in row or not set(row).issubset(_COLUMNS):
        raise LitVizError(f"a photograph must be a mapping of file, label, target and against, got {dict(row)}")
    label, target, against = map(_class_of, (row.get("label"), row.get("target"), row.get("against")))
    return Entry(str(row["file"]), label, target, against, LISTED)


def _class_of(value: Any) -> str | int | None:
    # Numbers are indices, also if classes have numbers as names.
    if value is None or isinstance(value, int):
        return value
    return str(value)


def _images_in(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the images below a folder, and the names of the other files."""
    try:
        files = list(_files_below(folder))
    except OSError as error:
        place = error.filename or folder
        raise LitVizError(f"the folder {place} can't be read ({error.strerror}): give access to it") from error
    images: list[Path] = []
    others: list[str] = []
    for file in files:
        if file.suffix.casefold() in SUFFIXES and not file.is_dir():
            images.append(file)
        else:
            others.append(file.name)
    if not images:
        only = f", only {_some(others)}" if others else ""
        raise LitVizError(f"there is no picture in the folder {folder}{only}")
    return images, others


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, and the links to folders, which are not followed: they may lead anywhere."""
    for path in sorted(folder.iterdir(), key=lambda path: _natural_order(path.name)):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files_below(path)
        else:
            yield path


def _natural_order(name: str) -> tuple[list[str | int], str]:
    """Return a sort key with numbers as integers; texts and numbers alternate, so their types match."""
    parts: list[str | int] = [*re.split(r"(\d+)", name.casefold())]
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def _some(names: Sequence[str], limit: int = 3) -> str:
    if len(names) > limit:
        names = [*names[:limit], "..."]
    return ", ".join(names)


# -- tables


def read_table(file: str | Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a CSV file by column; column names are lower case, cells are stripped.

    The columns are required; the first (``file``) must be filled in every row.
    """
    rows: list[dict[str, str]] = []
    line = 0
    check_regular(file)
    try:
        with Path(file).open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            header = [name.strip().casefold() for name in next(reader, [])]
            _check_columns(file, header, columns)
            line = reader.line_num
            for cells in reader:
                line = reader.line_num
                cells = [cell.strip() for cell in cells]
                if not any(cells):  # spreadsheets append rows of empty cells
                    continue
                if any(cells[len(header) :]):
                    raise LitVizError(f"line {line} of {file} has too many cells: put quotes around names with a comma")
                rows.append(dict(zip(header, cells + [""] * len(header), strict=False)))
                if not rows[-1][columns[0]]:
                    raise LitVizError(f"line {line} of {file} has no {columns[0]}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = str(error)
        if isinstance(error, OSError):
            reason = error.strerror or reason
        elif isinstance(error, csv.Error):
            reason = f"the row at line {line + 1}: {error}"
        raise LitVizError(f"the table {file} can't be read ({reason}): give a CSV file in UTF-8") from error
    if not rows:
        raise LitVizError(f"the table {file} has no row below its first line")
    return rows


def _check_columns(file: str | Path, header: Sequence[str], columns: Sequence[str]) -> None:
    for column in columns:
        if column not in header:
            actual = f"its first line has {', '.join(header)}" if header else "it is empty"
            raise LitVizError(f"the table {file} has no column {column}: {actual}, but must name the columns")


def column_values(paths: Sequence[str], file: str, column: str) -> Mapping[str, str | LitVizError]:
    """Look up photographs in a CSV file; return the cell of a column, or the error, by path.

    A row belongs to the photograph at its path, relative to the CSV file, otherwise to the only photograph with a
    path that ends with it; a unique file name is therefore sufficient.
    """
    cells: dict[str, str] = {}
    for row in read_table(file, ("file", column)):
        name = os.path.normpath(row["file"])
        if cells.setdefault(name, row[column]) != row[column]:
            raise LitVizError(f"{file} gives {name} two values in the column {column}: keep one of its rows")
    exact = {_absolute(Path(file).parent / name): name for name in cells}
    names: dict[str, str | None] = {}  # by absolute path
    for path in map(_absolute, paths):
        names[path] = exact.get(path) or _longest_ending(path, cells)
    uses = Counter(names.values())
    values: dict[str, str | LitVizError] = {}
    for path in paths:
        absolute = _absolute(path)
        matched = names[absolute]
        if matched is None or not cells[matched]:
            values[path] = LitVizError(f"{path} has no {column} in {file}")
        elif uses[matched] > 1 and exact.get(absolute) != matched:
            count = uses[matched]
            values[path] = LitVizError(
                f"{matched} in {file} matches {count} photographs ({path}, ...): give its folder"
            )
        else:
            values[path] = cells[matched]
    return values


def _absolute(path: str | Path) -> str:
    return os.path.normpath(Path(path).absolute())


def _longest_ending(path: str, names: Mapping[str, str]) -> str | None:
    """Return the longest name that is an ending of the path."""
    parts = Path(path).parts
    for first in range(len(parts)):
        ending = os.path.join(*parts[first:])  # noqa: PTH118
        if ending in names:
            return ending
    return None
