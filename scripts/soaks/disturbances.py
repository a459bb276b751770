"""Disturbances of a run: each trial returns a description, and the failure (empty if the trial passed)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from PIL import Image

from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.runs.seal import Seal

from .commands import contents, differences, execute, is_one_line, output, start, wait, writing
from .material import CASES, COMMON, LARGE, OFFLINE


class Case:
    """A command, its undisturbed run, and the time that the run took.

    Attributes:
        hits: number of the kills while tasks were in progress, as the last checkpoint states.
    """

    def __init__(self, name: str, folder: Path, draw: random.Random, slots: int) -> None:
        self.name, self.draw, self.hits = name, draw, 0
        self.folder = folder / f"slots_{slots}"
        self.folder.mkdir()
        self.words = [*CASES[name], *COMMON, "--slots", str(slots)]
        if LARGE in self.words:
            pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.folder / "large.png")
            self.words[self.words.index(LARGE)] = str(self.folder / "large.png")
        self.undisturbed, self.run = self.folder / "undisturbed", self.folder / "run"
        begin = time.monotonic()
        if wait(start(self.commands(self.undisturbed), self.undisturbed), 600) != 0:
            sys.exit(f"soak: {name} failed without a disturbance: see {self.undisturbed.with_suffix('.err')}")
        self.seconds = time.monotonic() - begin
        self.expected = contents(self.undisturbed)

    def commands(self, out: Path, *words: str) -> list[str]:
        """Return the words that write a run folder; empty ones are left out."""
        return writing(self.name, [*self.words, *OFFLINE, *filter(None, words)], out)

    def start(self, *words: str, limit: int | None = None) -> BaseProcess:
        for path in self.folder.glob(f"{self.run.name}*"):
            shutil.rmtree(path, ignore_errors=True)
        return start(self.commands(self.run, *words), self.run, limit)

    def saves(self) -> dict[Path, int]:
        """Return the times of the checkpoints of the run, or of its shards."""
        return {path: path.stat().st_mtime_ns for path in self.folder.glob(f"{self.run.name}*/**/last.ckpt")}

    def progress(self) -> tuple[int, int] | None:
        """Return how many tasks are finished and in progress, as the last checkpoint states; None without one."""
        saves = self.saves()
        if not saves:
            return None
        checkpoint = AtomicCheckpointIO().load_checkpoint(max(saves, key=saves.__getitem__))
        return sum(checkpoint["store"]["segments"].values()), len(checkpoint["lit_viz"]["slots"])

    def resumed_difference(self) -> str:
        """Resume the run, or start it without a folder, and return its differences."""
        status = wait(start(self.commands(self.run, "--resume"), self.run))
        is_merged = self.name.startswith("merged") and Seal.read(self.run).is_complete
        if status != 0 and not (is_merged and "already holds a run" in output(self.run)):
            return f"the resumed run exited with {status}"
        return self.differences()

    def differences(self) -> str:
        """Return the names of contents that differ from the undisturbed run."""
        return differences(self.expected, self.run)


def kill(case: Case) -> tuple[str, str]:
    process = case.start()
    if case.draw.random() < 0.4 and LARGE not in CASES[case.name]:
        time.sleep(after := case.draw.uniform(0, 1) * case.seconds)
        moment = f"after {after:.1f} s"
    else:
        wait_for_saves(case, process, count := case.draw.randint(1, 8))
        moment = f"after checkpoint {count}"
    if LARGE in CASES[case.name]:
        wait_for_tasks(case, process)
    process.kill()
    process.join()
    progress = case.progress()
    if progress is None:
        return f"{moment}, no checkpoint", case.resumed_difference()
    finished, in_progress = progress
    case.hits += in_progress > 0
    return f"{moment}, {finished} finished, {in_progress} in progress", case.resumed_difference()


def wait_for_tasks(case: Case, process: BaseProcess) -> None:
    """Wait until the last checkpoint has tasks in progress: few checkpoints of a run by tiles have."""
    while process.exitcode is None:
        progress = case.progress()
        if progress is not None and progress[1]:
            return
        time.sleep(0.002)


def wait_for_saves(case: Case, process: BaseProcess, count: int) -> None:
    """Wait until a run has saved some checkpoints, and for a moment of up to the time between two."""
    seen: set[tuple[Path, int]] = set()
    while len(seen) < count and process.exitcode is None:
        with suppress(FileNotFoundError):
            seen.update(case.saves().items())
        time.sleep(0.002)
    time.sleep(case.draw.uniform(0, 0.05))


def stop(case: Case) -> tuple[str, str]:
    number = case.draw.choice([signal.SIGINT, signal.SIGTERM])
    process = case.start()
    time.sleep(after := case.draw.uniform(0.1, 1) * case.seconds)
    with suppress(ProcessLookupError):
        os.kill(process.pid or 0, number)
    status = wait(process, max(60, case.seconds))
    what = f"{number.name} after {after:.1f} s"
    return what, f"exit status {status}" if status not in (0, 128 + number) else case.resumed_difference()


def limit(case: Case) -> tuple[str, str]:
    size = case.draw.choice([1000, 4000, 16000])
    status = wait(case.start(limit=size))
    wrong = status not in (0, 1) or (status == 1 and not is_one_line(case.run))
    return f"{size} bytes", f"exit status {status}" if wrong else case.resumed_difference()


def damage(case: Case) -> tuple[str, str]:
    shutil.rmtree(case.run, ignore_errors=True)
    shutil.copytree(case.undisturbed, case.run)
    kept = ("*.jsonl", "*.csv", "config.yaml", "manifest.json", "checkpoints/*", "records/*", "tars/*", "images/*",
            "arrays/*", "frames/*/*", "sources/*")  # fmt: skip
    files: list[Path] = []
    for pattern in kept:
        files += case.run.glob(pattern)
    file = case.draw.choice(sorted(files))
    content = bytearray(file.read_bytes())
    how = case.draw.choice(["deleted", "cut", "changed"])
    if how == "deleted":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[case.draw.randrange(len(content))] ^= 4
        file.write_bytes(content)
    what = f"{file.relative_to(case.run)} {how}"
    status = execute(case.run, "resume")
    if status == 1 and is_one_line(case.run):
        return f"{what}: refused", ""
    if status != 0:
        return what, f"exit status {status}"
    return what, case.differences()


def hostile(case: Case) -> tuple[str, str]:
    shutil.rmtree(case.run, ignore_errors=True)
    photographs, outside = case.folder / "photographs", case.folder / "outside"
    for folder in (photographs, outside):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    (outside / "precious.txt").write_text("precious")
    Image.new("RGB", (40, 40), "red").save(photographs / "good.png")
    (photographs / "text.png").write_text("no image")
    (photographs / "empty.jpg").touch()
    os.mkfifo(photographs / "pipe.png")
    (photographs / "link.png").symlink_to(photographs / "missing")
    words = ["saliency", str(photographs), *COMMON, *OFFLINE, "--out", str(case.run)]
    status = wait(start(words, case.run))
    if status not in (0, 1) or "Traceback" in case.run.with_suffix(".err").read_text():
        return "photographs", f"exit status {status}"
    shutil.rmtree(case.run / "images")
    (case.run / "images").symlink_to(outside)
    shutil.rmtree(case.run / "records")
    status = execute(case.run, "resume")
    (case.run / "images").unlink()
    is_kept = [file.name for file in outside.iterdir()] == ["precious.txt"]
    wrong = "" if is_kept else "files outside of the run folder were changed"
    return "photographs and links", wrong or ("" if status == 1 and is_one_line(case.run) else f"exit status {status}")


def logger(case: Case) -> tuple[str, str]:
    process = case.start("--wandb", "offline")  # the last of two values counts
    stopped: list[int] = []
    while not stopped and process.exitcode is None:
        stopped = [pid for pid in _descendants(process.pid or 0) if "wandb" in _name(pid)]
        time.sleep(0.05)
    time.sleep(after := case.draw.uniform(0, 0.5) * case.seconds)
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    status = wait(process)
    seconds = time.monotonic() - begin
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    what = f"{len(stopped)} process(es) stopped after {after:.1f} s, exit after {seconds:.1f} s more"
    return what, f"exit status {status}" if status != 0 or not stopped else case.resumed_difference()


def _descendants(pid: int) -> list[int]:
    descendants: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):  # the service of W&B is a child of the thread that started it
        with suppress(OSError):
            descendants += map(int, (thread / "children").read_text().split())
    for child in list(descendants):
        descendants += _descendants(child)
    return descendants


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""
