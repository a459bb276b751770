"""Trials of the folder of a microscope: what is not its own stays as it is."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from PIL import Image

from .commands import is_one_line, output, start, wait
from .disturbances import Case
from .material import NETWORK_OPTIONS

_OPTIONS = [
    *NETWORK_OPTIONS, "--layers", "0,2", "--channel", "0,1", "--iterations", "2", "--config", "small",
]  # fmt: skip
#: Seconds within which a microscope of the small network is killed.
_SECONDS = 4


def microscope(case: Case) -> tuple[str, str]:
    """Make pages in a folder with other content: status 1 and one sentence, and the content is as before."""
    name = case.draw.choice([*_CONTENTS, "another network", "a kill"])
    out, outside = case.folder / "microscope", case.folder / "outside"
    for folder in (out, outside):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    (outside / "index.html").write_text("precious")
    if name == "a kill":
        return name, _kill(case, out)
    if name == "another network":
        status = wait(_start(case, out))
        if status != 0:
            return name, f"the first one exited with {status}: {output(out)[-300:]}"
    else:
        _CONTENTS[name](out, outside)
    before = _files(out) | _files(outside)
    status = wait(_start(case, out, "other_network"))
    after = _files(out) | _files(outside)
    changed = [str(path) for path in before if after.get(path) != before[path]]
    if changed:
        return name, f"status {status}, and changed: {', '.join(changed[:3])}"
    return name, "" if status == 1 and is_one_line(out) else f"exit status {status}: {output(out)[-300:]}"


def _page(out: Path, outside: Path) -> None:
    (out / "site").mkdir()
    (out / "site" / "index.html").write_text("the page of a user")


def _activations(out: Path, outside: Path) -> None:
    (out / "activations").mkdir()
    np.save(out / "activations" / "2.npy", np.arange(4.0))


def _link(out: Path, outside: Path) -> None:
    (out / "site").symlink_to(outside)


def _notes(out: Path, outside: Path) -> None:
    (out / "notes.txt").write_text("observations")
    (out / "layers").mkdir()


#: Other content of a folder, by description.
_CONTENTS: dict[str, Callable[[Path, Path], None]] = {
    "a page": _page,
    "activations": _activations,
    "a link to another folder": _link,
    "notes": _notes,
}


def _start(case: Case, out: Path, factory: str = "network") -> BaseProcess:
    photographs = case.folder / "photographs_of_microscope"
    if not photographs.exists():
        photographs.mkdir()
        for seed in range(6):
            pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(photographs / f"{seed}.png")
    words = ["microscope", f"scripts.soaks.material:{factory}", "--images", str(photographs), *_OPTIONS]
    return start([*words, "--out", str(out)], out)


def _kill(case: Case, out: Path) -> str:
    """Kill a microscope, and start it again; return the failure."""
    process = _start(case, out)
    time.sleep(case.draw.uniform(0, 1) * _SECONDS)
    process.kill()
    process.join()
    status = wait(_start(case, out))
    if status != 0:
        return f"exit status {status}: {output(out)[-300:]}"
    return "" if (out / "site" / "index.html").exists() else "there is no page"


def _files(folder: Path) -> dict[Path, bytes]:
    """Return the contents of the files of a folder, and the targets of its links."""
    contents: dict[Path, bytes] = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            contents[path] = bytes(path.readlink())
        elif path.is_file():
            contents[path] = path.read_bytes()
    return contents
