"""The folder of a microscope: which folders may become one, its lock, and the network that it belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lit_viz.errors import LitVizError
from lit_viz.launch.resume import compare_identity
from lit_viz.networks import Network
from lit_viz.runs.access import creation_errors, folder_lock, is_empty
from lit_viz.utils.files import FORMAT, check_format, json_line, parse_object, read_regular_text, write_text
from lit_viz.utils.process import is_rank_zero

#: File that marks the folder of a microscope, with the identity of its network.
MARK = "microscope.json"


@contextmanager
def microscope_folder(networks: Mapping[Path, Network]) -> Iterator[None]:
    """Lock the folder of a microscope while the block is executed, and mark it with its network.

    Args:
        networks: network by folder: the folder of the microscope, and in it that of a compared network.

    Raises:
        LitVizError: a folder is neither empty nor a microscope, or that of another network; another process has locked
            it, it contains links to other places, or it cannot be written. Nothing has been written then.
    """
    if not is_rank_zero():
        yield
        return
    for path in networks:
        check_usable(path)
    folder, *_ = networks
    with creation_errors(folder):
        is_writable = not folder.exists() or os.access(folder, os.W_OK)
    if not is_writable:
        raise LitVizError(f"{folder} can't be written: choose another folder")
    with folder_lock(folder):
        for path, network in networks.items():
            network.refresh()
            if (path / MARK).exists():
                compare_identity(path, read_mark(path), network)
        for path, network in networks.items():
            if not (path / MARK).exists():
                write_text(path / MARK, json_line({"format": FORMAT, "network": network.name, **network.identity()}))
        yield


def check_usable(path: Path) -> None:
    """Check that a path is missing, an empty folder or that of a microscope.

    Raises:
        LitVizError: it is a file, or a folder with other content.
    """
    with creation_errors(path):
        if not path.exists():
            return
        if not path.is_dir():
            raise LitVizError(f"{path} is a file: give a folder for the microscope by out=")
        is_marked = (path / MARK).is_file()
        is_usable = is_marked or is_empty(path)
    if not is_usable:
        raise LitVizError(f"{path} is not empty and not a microscope: choose another folder")


def read_mark(path: Path) -> dict[str, Any]:
    """Return the identity of the network of a microscope.

    Raises:
        LitVizError: the file is damaged, or states another format.
    """
    recorded = parse_object(read_regular_text(path / MARK))
    if recorded is not None:
        check_format(str(path), recorded.get("format"))
    if recorded is None or not isinstance(recorded.get("weights_sha256"), str):
        raise LitVizError(f"{path / MARK} is damaged: choose another folder")
    return recorded
