"""Digests of the photographs of a queue, by which a file is found that was replaced before its task has read it."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from lit_viz.errors import ChangedInput
from lit_viz.types import Task, Tile
from lit_viz.utils.formatting import pluralize
from lit_viz.utils.limits import MOST_NAMES

_END = 1 << 16  # bytes at either end of a file that its digest covers
_DIGITS = 16  # hexadecimal


def source_digest(source: str | None) -> str | None:
    """Return ``<size>:<start of the SHA-256 of the first and last 64 kB>`` of a photograph.

    It has no time, so that copies of a file are equal. None of other sources, and of a file that can't be read.
    """
    if source is None or not Path(source).is_file():
        return None
    try:
        with Path(source).open("rb") as file:
            sha256 = hashlib.sha256(file.read(_END))
            size = file.seek(0, 2)
            file.seek(max(_END, size - _END))
            sha256.update(file.read(_END))
    except OSError:
        return None
    return f"{size}:{sha256.hexdigest()[:_DIGITS]}"


def with_source_digests(tasks: Iterable[Task]) -> Iterator[Task]:
    """Yield the tasks with the digests of their photographs, each of which is read once."""
    digest_of = cache(source_digest)
    for task in tasks:
        photographs = task.photographs
        if photographs is not None:
            rows = []
            for row in photographs:
                digest = digest_of(row.get("source"))
                rows.append(row if digest is None else {**row, "source_digest": digest})
            photographs = rows
        yield task.amend(source_digest=digest_of(task.source), photographs=photographs)


def is_replaced(task: Task) -> bool:
    """Return whether the photograph of a task is another file than when the queue was written; a missing one is not."""
    if task.source_digest is None:
        return False
    return source_digest(task.source) not in (None, task.source_digest)


def check_sources(tasks: Iterable[Task], finished: Container[int], read: Container[str]) -> None:
    """Check that no photograph was replaced before its task has read it.

    Args:
        tasks: the queue.
        finished: indices of the tasks that read no photograph any more.
        read: names of the images that were read, which are compared when they are read again: see :func:`input_name`
            and :func:`init_name`.

    Raises:
        ChangedInput: photographs were replaced.
    """
    replaced: dict[str, None] = {}
    for task in tasks:
        if task.index in finished:
            continue
        for photograph in (task, *(Task(**row) for row in task.photographs or ())):
            name = str(photograph.source)
            is_read = input_name(photograph) in read or init_name(name) in read
            if not is_read and is_replaced(photograph):
                replaced[name] = None
    if replaced:
        raise replaced_sources(list(replaced))


def replaced_sources(names: Sequence[str]) -> ChangedInput:
    """Return the error of photographs that were replaced before their tasks have read them."""
    if len(names) == 1:
        found, files = f"{names[0]} is another file", "the file"
    else:
        more = ""
        if len(names) > MOST_NAMES:
            more = f" and {len(names) - MOST_NAMES} more"
        listed = ", ".join(names[:MOST_NAMES])
        found, files = f"{pluralize(len(names), 'photograph')} are other files ({listed}{more})", "them"
    return ChangedInput(
        f"{found} than at the start of the run, and not read yet: restore {files} and resume the run, or start another "
        "run"
    )


def input_name(task: Task) -> str:
    """Return the name, in messages, of the image of a task, or of its tile."""
    name = f"image {task.image}" if task.source is None else task.source
    tile = tile_of(task)
    if tile is None:
        return name
    return f"the tile at row {tile.row} and column {tile.column} of {name}"


def init_name(source: str | None) -> str:
    """Return the name, in messages, of the initial image of class images."""
    return f"init {source}"


def tile_of(task: Task) -> Tile | None:
    """Return the part of a large image that a task is about; None for a whole image."""
    tile = task.tile
    if tile is None:
        return None
    return Tile.from_dict(tile)
