"""Tar files to which the files of tasks are appended, in the layout of WebDataset: the members of a task begin with its
key, and a dot."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from io import FileIO
from pathlib import Path

from lit_viz.errors import LitVizError, first_line
from lit_viz.runs.layout import TARS
from lit_viz.runs.segments import Signature
from lit_viz.utils.files import open_regular, temporary_path, translate_write_errors

#: Bytes that are buffered: a write takes as long as several small maps.
_BUFFER = 1 << 20

#: Most bytes of a name in a header of a tar; longer ones take two headers.
_LONGEST_NAME = 100


class DamagedTar(LitVizError):
    """A task in a tar can't be read; the text has no remedy."""


class NewTar:
    """The tar of the tasks that have finished since the last commit: a temporary file until :meth:`end`.

    Args:
        root: run folder.

    Attributes:
        tasks: number of the tasks in it.
        size: number of bytes: the offset of the next task.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._part = temporary_path(root / TARS / "new.tar")
        self._start()

    def _start(self) -> None:
        self.tasks = self.size = self._written = 0
        self._sha256, self._blocks = hashlib.sha256(), bytearray()
        self._file: FileIO | None = None

    def append(self, members: Mapping[str, bytes]) -> None:
        """Append the files of a task, contents by name."""
        before = len(self._blocks)
        for name, content in members.items():
            self._blocks += _header(name, len(content))
            self._blocks += content
            self._blocks += bytes(-len(content) % tarfile.BLOCKSIZE)
        self.size += len(self._blocks) - before
        self.tasks += 1
        if len(self._blocks) > _BUFFER:
            self._write()

    def _write(self) -> None:
        content = bytes(self._blocks)
        with translate_write_errors(self._part):
            if self._file is None:
                self._part.parent.mkdir(exist_ok=True)
                self._file = self._part.open("wb", buffering=0)
            self._file.seek(self._written)  # after a failed write, which may have left a part
            rest = memoryview(content)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._written += len(content)
        self._sha256.update(content)
        self._blocks.clear()

    def end(self, name: str) -> Signature:
        """End the tar by two empty blocks, give it its name and start another one; return its signature."""
        self._blocks += bytes(2 * tarfile.BLOCKSIZE)
        self.size += 2 * tarfile.BLOCKSIZE
        self._write()
        assert self._file is not None
        with translate_write_errors(self._part):
            self._file.close()
            self._part.rename(self._root / TARS / name)
        signature = {"size": self.size, "sha256": self._sha256.hexdigest()}
        self._start()
        return signature


def _header(name: str, size: int) -> bytes:
    """Return the header of a member."""
    if not name.isascii() or len(name) > _LONGEST_NAME:
        return _header_of_tarfile(name, size)
    # One of another name differs in the name and in the sum of its bytes: tarfile takes five times as long.
    template = _header_of_tarfile("", size)
    encoded = name.encode()
    total = int(template[148:154], 8) + sum(encoded)
    return encoded.ljust(_LONGEST_NAME, b"\0") + template[100:148] + b"%06o" % total + template[154:]


@lru_cache(1024)
def _header_of_tarfile(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o644
    return header.tobuf(tarfile.PAX_FORMAT)


def read_member(root: Path, name: str, offset: int) -> bytes | None:
    """Return the content of a member, ``tars/000000.tar/0000_cat.png``; None if its task has no such member.

    Args:
        root: run folder.
        name: tar and member, relative to the run folder.
        offset: position of the first member of the task.

    Raises:
        DamagedTar: the tar is missing, damaged, or cut, or has no task at this position.
    """
    tar, _, member = name.rpartition("/")
    path = root / tar
    task = f"{member.partition('.')[0]}."
    try:
        with open_regular(path) as file:
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as members:
                for found in members:
                    if found.name == member:
                        content = members.extractfile(found)
                        return None if content is None else content.read()
                    if not found.name.startswith(task):
                        break
    except (tarfile.TarError, ValueError, OSError, OverflowError) as error:  # the offset may be of a forger
        raise DamagedTar(f"{path} is damaged ({first_line(error)})") from error
    return None
