"""Tar files to which the files of tasks are appended, in the layout of WebDataset: the members of a task begin with its
key, and a dot."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from lit_viz.errors import LitVizError, first_line
from lit_viz.runs.layout import TARS
from lit_viz.runs.manifest import Signature
from lit_viz.utils.files import append_bytes, open_regular, read_regular

#: Number of tasks per tar.
TASKS_PER_TAR = 1000
#: Most bytes of a name in a header of a tar; longer ones take two headers.
_LONGEST_NAME = 100


def tar_name(number: int) -> str:
    """Return the tar with a number, from 0, relative to the run folder."""
    return f"{TARS}/{number:06d}.tar"


class LastTar:
    """The tar of a run folder that the next task is appended to. What is appended is buffered until :meth:`flush`.

    Args:
        root: run folder.
        number: number of the tar, from 0.
        tasks: number of the tasks in it, of which the hash is computed again.

    Attributes:
        name: the tar, relative to the run folder.
        path: the tar.
        tasks: number of the tasks in it, with those that are buffered.
    """

    def __init__(self, root: Path, number: int = 0, tasks: int = 0) -> None:
        self._root = root
        self._sha256, self._blocks = hashlib.sha256(), bytearray()
        self._start(number)
        self.tasks = tasks
        if tasks:
            content = read_regular(self.path)
            self._sha256.update(content)
            self._written = len(content)

    def _start(self, number: int) -> None:
        self.number, self.name = number, tar_name(number)
        self.path = self._root / self.name
        self.tasks = self._written = 0
        self._sha256 = hashlib.sha256()

    @property
    def is_full(self) -> bool:
        """Whether it has all of its tasks."""
        return self.tasks >= TASKS_PER_TAR

    @property
    def buffered(self) -> int:
        """Number of bytes that are not written yet."""
        return len(self._blocks)

    @property
    def size(self) -> int:
        """Number of bytes, with those that are buffered: the offset of the next task."""
        return self._written + self.buffered

    def append(self, members: Mapping[str, bytes]) -> None:
        """Append the files of a task, contents by name."""
        for name, content in members.items():
            self._blocks += _header(name, len(content))
            self._blocks += content
            self._blocks += bytes(-len(content) % tarfile.BLOCKSIZE)
        self.tasks += 1

    def flush(self) -> None:
        """Write what is buffered; after an error the tar is as before, and it remains buffered.

        Raises:
            WriteError: the disk is full, or the file can't be written.
        """
        if not self._blocks:
            return
        if not self._written:
            self.path.parent.mkdir(exist_ok=True)
        self._write(bytes(self._blocks))
        self._blocks.clear()

    def _write(self, blocks: bytes) -> None:
        append_bytes(self.path, blocks, sync=False)
        self._sha256.update(blocks)
        self._written += len(blocks)

    def end(self) -> Mapping[str, Signature]:
        """Append the two empty blocks that end a tar, and continue with the next one; return its signature by name."""
        self._blocks += bytes(2 * tarfile.BLOCKSIZE)
        self.flush()
        ended: Mapping[str, Signature] = {self.name: {"size": self._written, "sha256": self._sha256.hexdigest()}}
        self._start(self.number + 1)
        return ended


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
        LitVizError: the tar is missing, damaged, or cut.
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
    except (tarfile.TarError, ValueError) as error:
        raise LitVizError(f"{path} is damaged ({first_line(error)}): restore it, or start another run") from error
    return None
