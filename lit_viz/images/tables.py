"""What a CSV file says of photographs."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_viz.errors import LitVizError


def read_table(file: str | Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file by column, names of columns in small letters, without the spaces around cells.

    Args:
        file: UTF-8, with or without a byte-order mark; its first line names the columns.
        columns: that it has to have; ``file``, the first, has to be filled in every row.

    Raises:
        LitVizError: the file can't be read, lacks a column, holds no row, or has a row that is broken.
    """
    numbered: list[tuple[int, list[str]]] = []
    read = 0  # lines
    try:
        with Path(file).open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            header = [name.strip().casefold() for name in next(reader, [])]
            read = reader.line_num
            for row in reader:
                read = reader.line_num
                if any(map(str.strip, row)):  # spreadsheets end a table with rows of empty cells
                    numbered.append((read, [cell.strip() for cell in row]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        reason = f"the row that begins in line {read + 1}: {error}" if isinstance(error, csv.Error) else reason
        raise LitVizError(f"the table {file} can't be read ({reason}): give a CSV file in UTF-8") from error
    missing = [column for column in columns if column not in header]
    if missing:
        found = f"its first line has {', '.join(header)}" if header else "it is empty"
        raise LitVizError(f"the table {file} has no column {missing[0]}: {found}, but it has to name the columns")
    twice = [column for column, count in Counter(header).items() if count > 1 and column]
    if twice:
        raise LitVizError(f"the table {file} has two columns {twice[0]}: keep one of them")
    if not numbered:
        raise LitVizError(f"the table {file} has no row below its first line")
    rows = []
    for number, cells in numbered:
        if any(cells[len(header) :]):
            raise LitVizError(f"line {number} of {file} has too many cells: put names that hold a comma into quotes")
        cell_of = dict(zip(header, cells + [""] * len(header), strict=False))
        if not cell_of[columns[0]]:
            raise LitVizError(f"line {number} of {file} names no {columns[0]}")
        rows.append(cell_of)
    return rows


def column_values(paths: Sequence[str], file: str, column: str) -> Mapping[str, str | LitVizError]:
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
