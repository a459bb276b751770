"""Tar files to which the files of tasks are appended, in the layout of WebDataset: the members of a task begin with its
key, and a dot."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from lit_viz.errors import LitVizError, first_line
from lit_viz.runs.layout import TARS
from lit_viz.runs.manifest import Signature
from lit_viz.utils.files import append_bytes, file_size, open_regular, read_regular

#: Number of tasks per tar.
TASKS_PER_TAR = 1000
_OPEN_TARS = 4  # whose members are kept in memory
#: Position and size of the members of a tar, by name.
Members = Mapping[str, tuple[int, int]]


def tar_name(number: int) -> str:
    """Return the tar with a number, from 0, relative to the run folder."""
    return f"{TARS}/{number:06d}.tar"


class LastTar:
    """The tar of a run folder that the next task is appended to.

    Args:
        root: run folder.
        number: number of the tar, from 0.
        tasks: number of the tasks in it, of which the hash is computed again.

    Attributes:
        name: the tar, relative to the run folder.
        path: the tar.
    """

    def __init__(self, root: Path, number: int = 0, tasks: int = 0) -> None:
        self._root = root
        self.tasks = tasks
        self._start(number)
        if tasks:
            self._sha256.update(read_regular(self.path))

    def _start(self, number: int) -> None:
        self.number, self.name = number, tar_name(number)
        self.path = self._root / self.name
        self._sha256 = hashlib.sha256()

    @property
    def is_full(self) -> bool:
        """Whether it has all of its tasks."""
        return self.tasks >= TASKS_PER_TAR

    def append(self, members: Mapping[str, bytes]) -> None:
        """Append the files of a task, contents by name; after an error the tar is as before.

        Raises:
            WriteError: the disk is full, or the file can't be written.
        """
        blocks = io.BytesIO()
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(content), 0o644
            blocks.write(header.tobuf(tarfile.PAX_FORMAT))
            blocks.write(content)
            blocks.write(bytes(-len(content) % tarfile.BLOCKSIZE))
        self._write(blocks.getvalue())
        self.tasks += 1

    def end(self) -> Mapping[str, Signature]:
        """Append the two empty blocks that end a tar, and continue with the next one; return its signature by name."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        signature = {"size": file_size(self.path), "sha256": self._sha256.hexdigest()}
        ended: Mapping[str, Signature] = {self.name: signature}
        self._start(self.number + 1)
        self.tasks = 0
        return ended

    def _write(self, blocks: bytes) -> None:
        if not self.tasks:
            self.path.parent.mkdir(exist_ok=True)
        append_bytes(self.path, blocks, sync=False)
        self._sha256.update(blocks)


def read_member(root: Path, name: str) -> bytes | None:
    """Return the content of a member, ``tars/000000.tar/0000_cat.png``; None if the tar has no such member.

    Args:
        root: run folder.
        name: tar and member, relative to the run folder.

    Raises:
        LitVizError: the tar is missing, damaged, or cut.
    """
    tar, _, member = name.rpartition("/")
    path = root / tar
    with open_regular(path) as file:
        size = file.seek(0, io.SEEK_END)
        place = _members(path, size).get(member)
        if place is None:
            return None
        position, length = place
        file.seek(position)
        content = file.read(length)
    if len(content) < length:
        raise LitVizError(f"{path} is cut in {member}: restore it, or start another run")
    return content


@lru_cache(_OPEN_TARS)
def _members(path: Path, size: int) -> Members:
    """Return the members of a tar of this size; of two with one name the later one."""
    members = {}
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                members[member.name] = (member.offset_data, member.size)
    except (tarfile.TarError, ValueError) as error:
        raise LitVizError(f"{path} is damaged ({first_line(error)}): restore it, or start another run") from error
    return members
