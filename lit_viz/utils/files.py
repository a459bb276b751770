"""Files that are written whole or not at all, and what it is called where they can't be."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from lit_viz.errors import LitVizError

# What torch's zip writer says when the disk is full: it swallows the OSError.
_TORCH_DISK_FULL = ("unexpected pos", "PytorchStreamWriter failed")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_TEMPORARY = ".part"


def _find_syncfs() -> Callable[[int], int] | None:
    """Return the system's call that flushes a file system, or None where there is none (it is Linux's)."""
    with suppress(OSError, AttributeError):
        call = ctypes.CDLL(None, use_errno=True).syncfs
        call.argtypes, call.restype = (ctypes.c_int,), ctypes.c_int
        found: Callable[[int], int] = call
        return found
    return None


_SYNCFS = _find_syncfs()


@contextmanager
def atomic_write(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Give the path of a temporary file beside ``path``; it takes the place of ``path`` when the block ends well.

    Whoever reads ``path`` sees the previous file or the new one, never a part: the temporary is flushed to the disk and
    renamed. If the block raises, it is removed and the previous file is kept. The folder is made if it is missing. The
    temporary has the suffix of ``path``, for writers that choose the format by it.

    Args:
        path: of the file.
        sync: whether it is on the disk at the end of the block, so that it outlives a power failure, too. Otherwise
            it is after :func:`sync_filesystem`, which is cheaper for many files than waiting for the disk at each.

    Raises:
        LitVizError: it can't be written: the disk is full (also where torch hides that in a RuntimeError), ...
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{_TEMPORARY}{path.suffix}")
    try:
        with translate_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if sync or _SYNCFS is None:
                _sync_file(temporary)
            temporary.replace(path)
            if sync or _SYNCFS is None:
                _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: str | Path, data: bytes, *, sync: bool = True) -> None:
    """Write a whole file atomically; arguments and errors as :func:`atomic_write`."""
    with atomic_write(path, sync=sync) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole file atomically as UTF-8 with ``\\n`` line ends; errors as :func:`atomic_write`."""
    write_bytes(path, text.encode())


def append_bytes(path: str | Path, data: bytes, *, sync: bool = True) -> None:
    """Append to a file; what was appended by half is cut off again. Arguments as :func:`atomic_write`.

    Raises:
        LitVizError: it can't be written.
    """
    path = Path(path)
    with translate_write_errors(path), path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            _write_all(file.fileno(), data)
            if sync or _SYNCFS is None:
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(before)
            raise
        if before == 0 and (sync or _SYNCFS is None):
            _sync_folder(path.parent)


def sync_filesystem(folder: str | Path) -> None:
    """Return when everything that was written to the file system of a folder is on the disk.

    Raises:
        LitVizError: the disk is full, or gone.
    """
    if _SYNCFS is None or not Path(folder).is_dir():
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with translate_write_errors(folder):
            if _SYNCFS(descriptor) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)


@contextmanager
def translate_write_errors(path: str | Path) -> Iterator[None]:
    """Turn what the system says against writing, also through torch, into one sentence that names the file.

    Raises:
        LitVizError: the disk is full, read-only or not the user's; the name is too long; ...
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if is_disk_full(error):
            raise LitVizError(
                f"disk full while writing {path}; the previous file is kept: free some space and resume the run"
            ) from error
        if not isinstance(error, OSError) or error.strerror is None:
            raise
        limited = ": lift the limit (ulimit -f) and resume the run" if error.errno == errno.EFBIG else ""
        raise LitVizError(f"{path} can't be written ({error.strerror}){limited}") from error


def is_disk_full(error: BaseException) -> bool:
    """Return whether ``error`` says that the disk, or the user's quota, is full."""
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _TORCH_DISK_FULL)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def utf8_name(path: str | Path) -> str:
    """Return a file's name as it can be written down: what is no UTF-8 in it becomes question marks."""
    return os.fsencode(path).decode("utf-8", "replace")


def non_utf8_name_error(path: str | Path) -> str | None:
    """Return the sentence that says that a file's name is no UTF-8, or None where it is: records and configurations,
    which are, could not keep it."""
    shown = utf8_name(path)
    return None if shown == str(path) else f"the name of {shown} is not UTF-8 text: rename the file"


# -- folders and lines


def remove_temporary_files(folder: str | Path) -> None:
    """Remove from a folder what a killed process left half written."""
    for path, is_folder in _entries(folder):
        if not is_folder and _is_temporary(path):
            path.unlink(missing_ok=True)


def list_files(folder: str | Path) -> list[Path]:
    """Return the files of a folder (empty if it is missing), after :func:`remove_temporary_files`."""
    remove_temporary_files(folder)
    return [path for path, is_folder in _entries(folder) if not is_folder]


def list_folders(folder: str | Path) -> list[Path]:
    """Return the folders of a folder; empty if it is missing."""
    return [path for path, is_folder in _entries(folder) if is_folder]


def _entries(folder: str | Path) -> list[tuple[Path, bool]]:
    """Return what a folder (empty if it is missing) holds, and whether it is a folder, without a look at each."""
    if not Path(folder).is_dir():
        return []
    with os.scandir(folder) as entries:
        return [(Path(entry.path), entry.is_dir()) for entry in entries]


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and _TEMPORARY in path.name


def complete_lines(path: str | Path) -> Iterator[str]:
    """Yield the lines of a text file, if there is one; what a kill left without a line end is passed over."""
    if Path(path).exists():
        with Path(path).open(encoding="utf-8", errors="replace", newline="\n") as file:
            yield from (line for line in file if line.endswith("\n"))


def truncate_after(path: str | Path, keeps: Callable[[str], bool]) -> None:
    """Cut a text file, if there is one, after its last whole line that ``keeps`` accepts; no line before is looked at.

    It costs what is cut, however long the file is.
    """
    path = Path(path)
    if not path.exists() or path.stat().st_size == 0:  # which can't be mapped
        return
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as held:
        end = held.rfind(b"\n") + 1
        while end:
            begin = held.rfind(b"\n", 0, end - 1) + 1
            if keeps(held[begin:end].decode(errors="replace")):
                break
            end = begin
    os.truncate(path, end)


def json_line(record: Mapping[str, Any]) -> str:
    """Return a record as one line of strict JSON: tensors as numbers and lists, NaN and infinity as null."""
    return json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Return what JSON knows: tensors as numbers and lists, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file without running anything in it.

    Raises:
        LitVizError: when it is missing, no YAML, or no mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise LitVizError(f"the configuration {path} can't be read ({reason}): it has to be a YAML file.") from error
    if not isinstance(content, dict):
        raise LitVizError(f"the configuration {path} holds no options: see configs/ for examples.")
    return content


# -- the system


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    # Only then has the *name* of a new file reached the disk. Windows doesn't open folders, and needs no such thing.
    with suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
