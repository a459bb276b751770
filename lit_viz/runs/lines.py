"""Lines of files about tasks, read when they are accessed, so that the memory does not hold them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lit_viz.utils.files import open_regular

_MOST = 2**62  # of a task index, which is stored in 64 bits
_MOST_OPEN = 64  # files at a time: those of a merged run alternate
_MOST_CHARACTERS = 1 << 26


class IndexedLines(Mapping[int, str]):
    """Lines of files by task index, in task order; of several about a task, the last one.

    A line takes 24 bytes of memory.

    Args:
        paths: the files. Their lines must keep their places.
        entries: task index, number of the file and offset of each line.

    Attributes:
        indices: task index of each line, int64 ``(N,)``, ascending.
        files: number of the file of each line, ``(N,)``.
    """

    def __init__(self, paths: Sequence[Path], entries: Iterable[tuple[int, int, int]]) -> None:
        values = array("q")
        for entry in entries:
            values.extend(entry)
        self.paths = paths
        self.indices, self.files, self._offsets = np.array(values, np.int64).reshape(-1, 3).T.copy()
        if np.all(self.indices[:-1] < self.indices[1:]):
            return
        order = np.argsort(self.indices, kind="stable")
        is_last = np.append(np.diff(self.indices[order]) > 0, True)
        order = order[is_last]
        self.indices, self.files, self._offsets = self.indices[order], self.files[order], self._offsets[order]

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

    def place(self, index: int) -> tuple[Path, int]:
        """Return the file of a line, and its offset."""
        position = int(np.searchsorted(self.indices, index))
        return self.paths[int(self.files[position])], int(self._offsets[position])

    def at(self, position: int) -> str:
        """Return the line at a position in task order.

        Raises:
            IndexError: there is none.
        """
        with open_regular(self.paths[int(self.files[position])]) as file:
            return _line(file, int(self._offsets[position]))

    def items(self) -> Any:
        """Yield the task index and the line of each, in task order."""
        return zip(self, self.lines(), strict=True)

    def lines(self) -> Iterator[str]:
        """Yield the lines in task order."""
        opened: dict[int, BinaryIO] = {}
        with ExitStack() as stack:
            for number, offset in zip(self.files.tolist(), self._offsets.tolist(), strict=True):
                if number not in opened:
                    if len(opened) >= _MOST_OPEN:
                        stack.close()
                        opened.clear()
                    opened[number] = stack.enter_context(open_regular(self.paths[number]))
                yield _line(opened[number], offset)


def _line(file: BinaryIO, offset: int) -> str:
    file.seek(offset)
    return file.readline(_MOST_CHARACTERS).decode("utf-8", "replace")


def index_in(values: Mapping[str, Any], name: str = "index") -> int | None:
    """Return the task index in a line; None if it has none."""
    index = values.get(name)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < _MOST:
        return None
    return index
