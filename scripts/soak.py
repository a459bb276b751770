"""Reliability campaign: interrupt, damage and misuse runs, resume them, and compare them with an undisturbed run.

python scripts/soak.py                              # every trial once per case: some ten minutes on two cores
python scripts/soak.py --repeats 10                 # ten random moments per case
python scripts/soak.py --trials kill damage --cases square

A case is a step rule of each family on a small network. Images, arrays, frames, metrics and records, without their
seconds, must equal those of the undisturbed run byte by byte. Damage is tried on runs with one slot: a lost task is
computed again alone, and only an equal sequence of batches gives equal bits.

kill       SIGKILL at a random time; the resumed run is equal
signal     SIGINT or SIGTERM at a random time; exit status 130 or 143 within a minute, or the time of a run if
           longer; the resumed run is equal
limit      the file size limit is reached, as on a full disk; one line of error; the resumed run is equal
damage     a file of the folder is deleted, cut or changed; the resumed run is equal, or refused
hostile    unreadable photographs, pipes, links out of the folder; the run ends, and nothing outside is changed
logger     the process of W&B is stopped during the run; the run ends within two minutes

The table counts the trials, and those that passed. The exit status is 1 if a trial failed; its folder is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from lit_viz.cli import main as lit_viz

PHOTOGRAPHS = [
    "packaged:chelsea",
    "packaged:coffee",
    "packaged:rocket",
    "packaged:astronaut",
    "packaged:motorcycle_left",
]
ATTACK = ["attack", *PHOTOGRAPHS, "--target", "3", "--iterations", "40"]
SALIENCY = ["saliency", *PHOTOGRAPHS, "--iterations", "48", "--check", "none"]
CASES = {
    "adam": ["visualize", "0", "1", "2", "3", "4", "--iterations", "20", "--log-at", "every:10"],
    "normalized_ascent": [*ATTACK, "--attack", "normalized_ascent"],
    "apgd": [*ATTACK, "--attack", "apgd", "--eps", "1/255"],
    "ddn": [*ATTACK, "--attack", "ddn"],
    "square": [*ATTACK, "--attack", "square", "--eps", "2/255"],
    "smoothgrad": [*SALIENCY, "--method", "smoothgrad"],
    "rise": [*SALIENCY, "--method", "rise"],
    "extremal_perturbation": [*SALIENCY, "--method", "extremal_perturbation"],
}
COMMON = [
    "--classifier", "scripts.soak:network", "--classifier.weights", "none", "--classifier.size", "32",
    "--classifier.mean", "[0.5,0.5,0.5]", "--classifier.std", "[0.25,0.25,0.25]", "--checkpoint-every", "5",
    "--trainer.accelerator", "cpu",
]  # fmt: skip
OFFLINE = ["--wandb", "disabled"]


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Linear(12, 5)
        head.weight.data.mul_(8)
        layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.Softplus(), nn.Conv2d(8, 12, 3, 2, 1), nn.Tanh())
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


# -- processes


def start(words: Sequence[str], run: Path, limit: int | None = None) -> BaseProcess:
    """Run a command in a forked process, which has torch imported already; its stderr is the file ``<run>.err``."""
    process = get_context("fork").Process(target=_forked, args=(list(words), run.with_suffix(".err"), limit))
    process.start()
    return process


def _forked(words: list[str], errors: Path, limit: int | None) -> None:
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with errors.open("w") as stream, redirect_stderr(stream), redirect_stdout(stream):
        lit_viz(words)


def wait(process: BaseProcess, seconds: float = 120) -> int | None:
    """Return the exit status of a process, or None if it had to be killed."""
    process.join(seconds)
    status = process.exitcode
    if status is None:
        process.kill()
        process.join()
    return status


def resume(run: Path) -> int | None:
    return wait(start(["resume", str(run)], run))


def is_one_line(run: Path) -> bool:
    """Return whether the last command ended with a one-line error."""
    text = run.with_suffix(".err").read_text(errors="replace")
    return "Traceback" not in text and text.rstrip().rpartition("\n")[2].startswith("lit-viz: ")


def contents(run: Path) -> dict[str, Any]:
    """Return the contents that must not depend on an interruption, by name."""
    kept: dict[str, Any] = {}
    for folder in ("images", "arrays", "sources", "frames"):
        files = (file for file in (run / folder).rglob("*") if file.is_file())
        kept |= {str(file.relative_to(run)): file.read_bytes() for file in files}
    kept["metrics.csv"] = sorted((run / "metrics.csv").read_text().splitlines())
    records = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    kept["results.jsonl"] = [{key: value for key, value in record.items() if key != "seconds"} for record in records]
    return kept


# -- trials: each returns a description, and the failure (empty if the trial passed)


class Case:
    """A command, its undisturbed run, and the time that the run took."""

    def __init__(self, name: str, folder: Path, draw: random.Random, slots: int) -> None:
        self.words, self.draw = [*CASES[name], *COMMON, "--slots", str(slots)], draw
        self.folder = folder / f"slots_{slots}"
        self.folder.mkdir()
        self.undisturbed, self.run = self.folder / "undisturbed", self.folder / "run"
        begin = time.monotonic()
        if wait(start([*self.words, *OFFLINE, "--out", str(self.undisturbed)], self.undisturbed), 600) != 0:
            sys.exit(f"soak: {name} failed without a disturbance: see {self.undisturbed.with_suffix('.err')}")
        self.seconds = time.monotonic() - begin
        self.expected = contents(self.undisturbed)

    def start(self, *words: str, limit: int | None = None) -> BaseProcess:
        shutil.rmtree(self.run, ignore_errors=True)
        return start([*self.words, *(words or OFFLINE), "--out", str(self.run)], self.run, limit)

    def resumed_difference(self) -> str:
        """Resume the run, or start it without a folder, and return its differences."""
        process = start([*self.words, *OFFLINE, "--out", str(self.run), "--resume"], self.run)
        if (status := wait(process)) != 0:
            return f"the resumed run exited with {status}"
        return self.differences()

    def differences(self) -> str:
        """Return the names of at most five contents that differ from the undisturbed run."""
        actual = contents(self.run)
        keys = sorted(self.expected.keys() | actual.keys())
        return ", ".join([key for key in keys if self.expected.get(key) != actual.get(key)][:5])


def kill(case: Case) -> tuple[str, str]:
    process = case.start()
    time.sleep(after := case.draw.uniform(0, 1) * case.seconds)
    process.kill()
    process.join()
    return f"after {after:.1f} s", case.resumed_difference()


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
    kept = ("*.jsonl", "*.csv", "config.yaml", "checkpoints/*", "images/*", "arrays/*", "frames/*/*", "sources/*")
    file = case.draw.choice(sorted(file for pattern in kept for file in case.run.glob(pattern)))
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
    status = resume(case.run)
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
    (case.run / "results.jsonl").unlink()
    status = resume(case.run)
    (case.run / "images").unlink()
    is_kept = [file.name for file in outside.iterdir()] == ["precious.txt"]
    wrong = "" if is_kept else "files outside of the run folder were changed"
    return "photographs and links", wrong or ("" if status == 1 and is_one_line(case.run) else f"exit status {status}")


def logger(case: Case) -> tuple[str, str]:
    process = case.start("--wandb", "offline")
    stopped: list[int] = []
    while not stopped and process.exitcode is None:
        stopped = [pid for pid in _descendants(process.pid or 0) if "wandb" in _name(pid)]
        time.sleep(0.05)
    time.sleep(after := case.draw.uniform(0, 0.5) * case.seconds)
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    status = wait(process)
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    what = f"{len(stopped)} process(es) stopped after {after:.1f} s"
    return what, f"exit status {status}" if status != 0 or not stopped else case.resumed_difference()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):  # the service of W&B is a child of the thread that started it
        with suppress(OSError):
            found += map(int, (thread / "children").read_text().split())
    return [*found, *(pid for child in found for pid in _descendants(child))]


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


TRIALS: dict[str, Callable[[Case], tuple[str, str]]] = {
    "kill": kill, "signal": stop, "limit": limit, "damage": damage, "hostile": hostile, "logger": logger,
}  # fmt: skip


def campaign(cases: Sequence[str], trials: Sequence[str], repeats: int, seed: int) -> bool:
    """Execute the trials and print the table; return whether all passed."""
    draw = random.Random(seed)
    tried: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for name in cases:
        folder = Path(tempfile.mkdtemp(prefix=f"soak_{name}_"))
        case_with = cache(partial(Case, name, folder, draw))
        for trial in trials:
            case = case_with(1 if trial == "damage" else 2)
            for _ in range(repeats):
                what, wrong = TRIALS[trial](case)
                tried[trial] += 1
                passed[trial] += not wrong
                print(f"{name}: {trial}, {what}: {wrong or 'passed'}", flush=True)
                if wrong and case.run.exists():
                    shutil.copytree(case.run, folder / f"failed_{trial}_{tried[trial]}", symlinks=True)
        if passed == tried:
            shutil.rmtree(folder)
        else:
            print(f"see {folder}")
    print("\n| trial | tried | passed |\n|---|---|---|")
    for trial in trials:
        print(f"| {trial} | {tried[trial]} | {passed[trial]} |")
    return passed == tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--repeats", type=int, default=1, help="repetitions of each trial per case")
    parser.add_argument("--seed", type=int, default=0, help="seed of times and damages")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(0 if campaign(options.cases, options.trials, options.repeats, options.seed) else 1)


if __name__ == "__main__":
    main()
