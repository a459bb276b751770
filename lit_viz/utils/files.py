"""Atomic writes, text files, and JSON content."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import math
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from lit_viz.errors import LitVizError, WriteError, did_you_mean

#: Format of the files of a run folder, which its ``config.yaml`` records, of a checkpoint and of a microscope.
FORMAT = 2
_TEMPORARY = ".part"
#: Sizes of files and lines of a run folder; metrics of 100,000 images have some 10 GB.
_MOST_BYTES, _MOST_CHARACTERS = 1 << 36, 1 << 26
# Windows has no FIFOs in folders, and none of these flags.
_NO_LINK, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
# Flushes a file system to disk, given a descriptor of one of its folders.
_SYNCFS: Callable[[int], int] | None = ctypes.CDLL(None, use_errno=True).syncfs if sys.platform == "linux" else None


@contextmanager
def atomic_write(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces ``path`` when the block is complete.

    Readers of ``path`` get the previous or the new file, never a partial one. If the block raises, the temporary file
    is removed. Missing folders are created. The temporary file has the suffix of ``path``. Without ``sync``,
    :func:`sync_filesystem` must flush the file to disk, which is faster for many files.
    """
    path = Path(path)
    temporary = temporary_path(path)
    sync = sync or _SYNCFS is None
    try:
        with translate_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if sync:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            temporary.replace(path)
            if sync:
                _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def temporary_path(path: Path) -> Path:
    """Return a temporary path in the folder of a file; :func:`remove_temporary_files` removes it after a crash."""
    return path.with_name(f".{path.stem}.{os.getpid()}{_TEMPORARY}{path.suffix}")


def allocate(path: Path) -> None:
    """Allocate the space of a sparse file, so that no later write through a memory map fails on a full disk.

    Raises:
        OSError: the disk is full.
    """
    with path.open("rb+") as file:
        size = os.fstat(file.fileno()).st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        while block := file.read(1 << 20):  # rewritten, since holes have no space
            file.seek(-len(block), os.SEEK_CUR)
            file.write(block)
            file.flush()


def write_bytes(path: str | Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file atomically; see :func:`atomic_write`."""
    with atomic_write(path, sync=sync) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file with ``\\n`` line breaks atomically; see :func:`atomic_write`."""
    write_bytes(path, text.encode())


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines to a UTF-8 file atomically, one after another; see :func:`atomic_write`."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def file_version(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written, its size and the time of it; None if it is missing."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def sync_filesystem(folder: str | Path) -> None:
    """Flush all files of a folder's file system to disk."""
    if _SYNCFS is None or not Path(folder).is_dir():
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with translate_write_errors(folder):
            if _SYNCFS(descriptor) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Flush the names of new files to disk. Windows can't open folders, and doesn't require it."""
    with suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def translate_write_errors(path: str | Path) -> Iterator[None]:
    """Convert errors of the system to a WriteError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WriteError(
                f"disk full while writing {path}; the previous file is kept: free some space and resume the run"
            ) from error
        if error.strerror is None:
            raise
        hint = ": lift the limit (ulimit -f) and resume the run" if error.errno == errno.EFBIG else ""
        raise WriteError(f"{path} can't be written ({error.strerror}){hint}") from error


def check_writable(path: Path) -> None:
    """Check that a file can be written, and create its folder.

    Raises:
        LitVizError: the path is a folder, or the system does not allow it.
    """
    if path.is_dir():
        raise LitVizError(f"{path} is a folder: give the path of a file")
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        temporary.touch()
        temporary.unlink()


def check_format(owner: str, found: object) -> None:
    """Check the format that files record.

    Raises:
        LitVizError: it is another one than :data:`FORMAT`.
    """
    is_scalar = found is None or isinstance(found, (int, float, str))
    if not is_scalar:  # of a damaged checkpoint: the comparison of a tensor has no truth value
        found = f"a value of type {type(found).__name__}"
    if found != FORMAT:
        raise LitVizError(f"{owner} must have format {FORMAT}, got {found}: use the release of lit_viz that wrote it")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 digest of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def open_regular(path: str | Path, most: int = _MOST_BYTES) -> BinaryIO:
    """Open a file of a run folder, which others may have made: a regular file, no link, of a bounded size.

    A FIFO does not block.

    Raises:
        LitVizError: the file is missing, a link, a folder, a FIFO, device or socket, or larger than ``most`` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_LINK | _NO_WAIT)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LitVizError(f"{path} must be a regular file, got a link") from error
        raise LitVizError(f"{path} can't be read ({error.strerror}): restore it, or give access to it") from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size <= most:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    check_regular(path)
    raise LitVizError(f"{path} must have at most {most:,} bytes, got {status.st_size:,}")


def read_regular(path: str | Path, most: int = _MOST_BYTES) -> bytes:
    """Return the content of a file of a run folder; see :func:`open_regular`."""
    with open_regular(path, most) as file:
        return file.read()


def read_regular_text(path: str | Path, most: int = _MOST_BYTES) -> str:
    """Return a UTF-8 file of a run folder; see :func:`open_regular`.

    Raises:
        LitVizError: it is no UTF-8 text, or can't be opened.
    """
    try:
        return read_regular(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise LitVizError(f"{path} must be UTF-8 text ({error.reason} at byte {error.start})") from error


def check_regular(path: str | Path) -> None:
    """Raise a LitVizError for a folder, and for a FIFO, device or socket: their content may be endless."""
    if Path(path).exists() and not Path(path).is_file():
        kind = "folder" if Path(path).is_dir() else "FIFO, device or socket"
        raise LitVizError(f"{path} must be a regular file, got a {kind}")


def utf8_name(path: str | Path) -> str:
    """Return a path with its invalid UTF-8 bytes replaced, so that records and configurations can store it."""
    return os.fsencode(path).decode("utf-8", "replace")


def non_utf8_name_error(path: str | Path) -> str | None:
    """Return an error message if a path is not valid UTF-8, else None."""
    name = utf8_name(path)
    if name == str(path):
        return None
    return f"the name of {name} is not UTF-8 text: rename the file"


def delete_entry(path: Path) -> None:
    """Delete a file, a link, a FIFO or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def remove_temporary_files(folder: str | Path) -> None:
    """Remove the temporary files of killed processes in a folder and its subfolders."""
    for path in Path(folder).rglob(f".*{_TEMPORARY}*"):
        path.unlink(missing_ok=True)


def lines_with_offsets(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file of a run folder, if it exists, each with the offset of its first byte.

    A line that is too long is divided.

    Raises:
        LitVizError: see :func:`open_regular`.
    """
    if not os.path.lexists(path):
        return
    offset = 0
    with open_regular(path) as file:
        while line := file.readline(_MOST_CHARACTERS):
            yield offset, line.decode("utf-8", "replace")
            offset += len(line)


#: Decoder of JSON with None in place of NaN and infinity.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def json_line(record: Mapping[str, Any]) -> str:
    """Encode a record as one line of strict JSON; see :func:`plain`."""
    try:
        return _ENCODER.encode(record) + "\n"
    except (TypeError, ValueError):  # a key that is no text, NaN or infinity
        return _ENCODER.encode(plain(record)) + "\n"


def parse_object(text: str) -> dict[str, Any] | None:
    """Return a JSON object; None if the text is anything else. See :func:`parse_json`."""
    value = parse_json(text)
    return value if isinstance(value, dict) else None


def parse_json(text: str) -> Any:
    """Return a JSON value, with None in place of NaN and infinity; None if the text is none."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def plain(value: Any) -> Any:
    """Convert a value to JSON types: rows to mappings, tensors to numbers and lists, NaN and infinity to None."""
    if value is None or type(value) in (str, int, bool):
        return value
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


#: Encoder of strict JSON.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=plain)


def missing_file_error(path: str | Path, what: str = "photograph") -> str:
    """Return the error message for a missing file, with similar names in its folder."""
    file = Path(path)
    if file.is_symlink():
        return f"{path} is a broken link"
    siblings = []
    if file.parent.is_dir():
        siblings = [entry.name for entry in file.parent.iterdir()]
    return f"there is no {what} {str(path)!r}{did_you_mean(file.name, siblings)}"


def missing_weights_error(path: str | Path, state: str = "doesn't exist") -> str:
    """Return the error message for a path that is no weights file."""
    return f"weights file {str(path)!r} {state}: give the path of a .pth, .safetensors or .ckpt file"


PACKAGED = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle_left": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
"""Photographs of scikit-image: chelsea is a tabby cat, coffee an espresso."""


def packaged_photograph(name: str) -> Path:
    """Return the path of a photograph of ``PACKAGED``."""
    if name not in PACKAGED:
        hint = did_you_mean(name, PACKAGED) or f": there are {', '.join(PACKAGED)}"
        raise LitVizError(f"no packaged photograph is called {name!r}{hint}")
    spec = find_spec("skimage")
    for folder in (spec and spec.submodule_search_locations) or []:
        path = Path(folder) / "data" / PACKAGED[name]
        if path.is_file():
            return path
    raise LitVizError(f"the packaged photograph {name!r} requires scikit-image, which is not installed")
