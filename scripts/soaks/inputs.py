"""Trials of the input images: photographs that change before a resume, and one on which the network raises."""

from __future__ import annotations

import shutil
import time
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from lit_viz.runs.folder import FolderStorage

from .commands import contents, differences, execute, is_one_line, output, start, wait
from .disturbances import Case, wait_for_saves
from .material import COMMON, OFFLINE

#: Commands with several tasks per photograph.
SEVERAL = {
    "attack": ["--attack", "pgd", "--eps", "1/255,2/255,4/255", "--iterations", "20", "--target", "3"],
    "saliency": ["--method", "smoothgrad,rise", "--iterations", "24", "--captum", "none"],
}
_NAMES = ["a.png", "b.png", "c.png"]


def changed(case: Case) -> tuple[str, str]:
    """Kill a run, replace a photograph, and resume: it is named, or no task is of the other one."""
    command = case.draw.choice(list(SEVERAL))
    folder, words, undisturbed, seconds = _undisturbed(command, case.folder)
    shutil.rmtree(case.run, ignore_errors=True)
    process = start([*words, "--out", str(case.run)], case.run)
    wait_for_saves(case, process, 1)
    time.sleep(after := case.draw.uniform(0, 0.3) * seconds)
    process.kill()
    process.join()
    name = case.draw.choice(_NAMES)
    what = f"{command}, {name} replaced {after:.2f} s after the first checkpoint"
    _write(folder / name, seed=100)
    status = execute(case.run, "resume")
    is_named = f"{name} is another picture" in output(case.run)
    _write(folder / name, seed=_NAMES.index(name))
    if status == 1 and is_one_line(case.run) and is_named:
        status = execute(case.run, "resume")
        wrong = f"exit status {status} with the first photograph" if status != 0 else differences(undisturbed, case.run)
        return f"{what}: named", wrong
    if status != 0:
        return what, f"exit status {status}"
    return f"{what}: not read again", _mixed(case.run)


@cache
def _undisturbed(command: str, folder: Path) -> tuple[Path, list[str], dict[str, object], float]:
    """Return the photographs, the command, the contents of its undisturbed run, and the time that it took."""
    photographs = folder / f"photographs_of_{command}"
    photographs.mkdir()
    for seed, name in enumerate(_NAMES):
        _write(photographs / name, seed)
    words = [command, str(photographs), *SEVERAL[command], *COMMON, *OFFLINE, "--slots", "1"]
    run, started = folder / f"undisturbed_{command}", time.monotonic()
    status = wait(start([*words, "--out", str(run)], run), 600)
    assert status == 0, output(run)
    return photographs, words, contents(run), time.monotonic() - started


def _write(file: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def _mixed(run: Path) -> str:
    """Return the photographs of which tasks have different sources."""
    pictures: dict[str, set[bytes]] = {}
    for record in FolderStorage(run).records():
        source = run / "sources" / f"{record.key}.png"
        pictures.setdefault(str(record.source), set()).add(source.read_bytes())
    mixed = [Path(name).name for name, sources in pictures.items() if len(sources) > 1]
    return f"{', '.join(mixed)}: two pictures under one name" if mixed else ""


def raising(case: Case) -> tuple[str, str]:
    """Kill and resume a run of photographs of which the network raises on one: only this one fails."""
    command = case.draw.choice(list(SEVERAL))
    photographs = case.folder / "raising"
    shutil.rmtree(photographs, ignore_errors=True)
    shutil.rmtree(case.run, ignore_errors=True)
    photographs.mkdir()
    white = case.draw.randrange(4)
    for index in range(4):
        _write(photographs / f"{index}.png", index)
    Image.new("RGB", (40, 40), "white").save(photographs / f"{white}.png")
    words = [command, str(photographs), *SEVERAL[command], *COMMON, *OFFLINE]
    words += ["--network", "scripts.soaks.material:raising_network", "--slots", str(case.draw.choice([1, 3]))]
    process = start([*words, "--out", str(case.run)], case.run)
    time.sleep(after := case.draw.uniform(0, 2))
    process.kill()
    process.join()
    what = f"{command}, photograph {white}, killed after {after:.1f} s"
    status = wait(start([*words, "--out", str(case.run), "--resume"], case.run))
    run = FolderStorage(case.run)
    if status != 1 or "Traceback" in output(case.run) or len(run.records()) < len(run.queue()):
        return what, f"exit status {status}: {output(case.run)[-300:]}"
    for record in run.records():
        is_white = str(record.source).endswith(f"{white}.png")
        if (record.status == "failed") != is_white:
            return what, f"{record.key} of {record.source} is {record.status}: {record.error}"
    return what, ""
