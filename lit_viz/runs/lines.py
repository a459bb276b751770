"""Lines of a file about tasks, read when they are accessed, so that the memory does not hold them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_viz.utils.files import lines_at, lines_with_offsets, parse_object

_MOST = 2**62  # of a task index, which is stored in 64 bits


class IndexedLines(Mapping[int, str]):
    """Lines of a file by task index, in task order; of several about a task, the last one.

    A line takes 16 bytes of memory.

    Args:
        path: the file. Its lines must keep their places.
        entries: task index and offset of each line, in the order of the file.

    Attributes:
        indices: task index of each line, int64 ``(N,)``, ascending.
    """

    def __init__(self, path: Path, entries: Iterable[tuple[int, int]]) -> None:
        indices, offsets = array("q"), array("q")
        for index, offset in entries:
            indices.append(index)
            offsets.append(offset)
        self._path = path
        self.indices = np.array(indices, np.int64)
        self._offsets = np.array(offsets, np.int64)
        if np.all(self.indices[:-1] < self.indices[1:]):
            return
        order = np.argsort(self.indices, kind="stable")
        self.indices = self.indices[order]
        is_last = np.append(self.indices[:-1] != self.indices[1:], True)
        self.indices, self._offsets = self.indices[is_last], self._offsets[order][is_last]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return map(int, self.indices)

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and self._position(index) is not None

    def __getitem__(self, index: int) -> str:
        position = self._position(index)
        if position is None:
            raise KeyError(index)
        return self.at(position)

    def _position(self, index: int) -> int | None:
        position = int(np.searchsorted(self.indices, index))
        return position if position < len(self) and self.indices[position] == index else None

    def at(self, position: int) -> str:
        """Return the line at a position in task order.

        Raises:
            IndexError: there is none.
        """
        (line,) = lines_at(self._path, [int(self._offsets[position])])
        return line

    def items(self) -> Any:
        """Yield the task index and the line of each, in task order."""
        return zip(self, self.lines(), strict=True)

    def lines(self) -> Iterator[str]:
        """Yield the lines in task order."""
        if len(self):
            yield from lines_at(self._path, map(int, self._offsets))


def record_lines(path: Path) -> IndexedLines:
    """Return the lines of ``results.jsonl`` as they are; lines that are no records are left out."""

    def entries() -> Iterator[tuple[int, int]]:
        for offset, line in lines_with_offsets(path):
            index = index_in(parse_object(line) or {})
            if index is not None:
                yield index, offset

    return IndexedLines(path, entries())


def index_in(values: Mapping[str, Any], name: str = "index") -> int | None:
    """Return the task index in a line; None if it has none."""
    index = values.get(name)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < _MOST:
        return None
    return index
