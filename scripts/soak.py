"""Kill runs at random times, resume them, and compare every bit with an uninterrupted run.

python scripts/soak.py                                  # every case, 3 kills each: some 20 minutes on two cores
python scripts/soak.py --kills 50 --cases square ddn    # many on two cases
python scripts/soak.py --processes 2                    # also kills one of two processes only

A case is one step rule of each family, on EfficientNet-Lite0 at 64 pixels. Each runs once without interruption. Then it
is started repeatedly, interrupted by SIGKILL or SIGTERM after a random fraction of that time (with several processes,
by a SIGKILL of a random one), and resumed until it finishes. Images, arrays, frames, metrics and records, without their
seconds, must equal those of the first run. The exit status is 1 at the first difference, whose folder is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lit_viz.cli import errors_reported

NETWORK = ["--classifier.size", "64", "--wandb", "disabled", "--checkpoint-every", "5", "--trainer.accelerator", "cpu"]
PHOTOGRAPHS = [
    "packaged:chelsea",
    "packaged:coffee",
    "packaged:rocket",
    "packaged:astronaut",
    "packaged:motorcycle_left",
]
ATTACK = ["attack", *PHOTOGRAPHS, "--target", "stingray", "--slots", "2", "--iterations", "40"]
SALIENCY = ["saliency", *PHOTOGRAPHS, "--slots", "2", "--iterations", "48", "--check", "none"]
CASES = {
    "adam": ["visualize", "1", "2", "3", "4", "5", "--slots", "2", "--iterations", "30"],
    "normalized_ascent": [*ATTACK, "--attack", "normalized_ascent"],
    "apgd": [*ATTACK, "--attack", "apgd", "--eps", "1/255"],
    "ddn": [*ATTACK, "--attack", "ddn"],
    "square": [*ATTACK, "--attack", "square", "--eps", "2/255"],
    "smoothgrad": [*SALIENCY, "--method", "smoothgrad"],
    "rise": [*SALIENCY, "--method", "rise"],
    "extremal_perturbation": [*SALIENCY, "--method", "extremal_perturbation"],
}


def start(words: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lit_viz", *words]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(words: list[str]) -> float:
    """Run to completion and return the seconds."""
    start_time = time.monotonic()
    process = start(words)
    _, errors = process.communicate()
    if process.returncode != 0:
        sys.exit(f"soak: {' '.join(words)} exited with {process.returncode}:\n{errors}")
    return time.monotonic() - start_time


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


def interrupt(process: subprocess.Popen[str], draw: random.Random) -> str:
    """Interrupt a run and return a description."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    others = [int(child) for child in children.read_text().split()] if children.exists() else []
    number = draw.choice([signal.SIGKILL, signal.SIGTERM])
    victim = draw.choice([process.pid, *others]) if number == signal.SIGKILL else process.pid
    os.kill(victim, number)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        sys.exit("soak: the run did not exit within a minute after a process was killed")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # orphans of the first process
    return f"{number.name} to {'the first' if victim == process.pid else 'another'} process"


def soak(case: str, words: list[str], kills: int, folder: Path, draw: random.Random) -> None:
    """Run a case without interruption, then with kills."""
    seconds = finish([*words, "--out", str(folder / "uninterrupted")])
    expected = contents(folder / "uninterrupted")
    run = folder / "interrupted"
    for kill in range(kills):
        shutil.rmtree(run, ignore_errors=True)
        after = draw.uniform(0.2, 1.0) * seconds
        process = start([*words, "--out", str(run)])
        time.sleep(after)
        how = interrupt(process, draw) if process.poll() is None else "not interrupted: already finished"
        finish([*words, "--out", str(run), "--resume"])
        actual = contents(run)
        if actual != expected:
            names = sorted(k for k in expected.keys() | actual.keys() if expected.get(k) != actual.get(k))
            sys.exit(f"soak: {case}, {how} after {after:.1f} s: {', '.join(names[:5])} differ: see {folder}")
        print(f"{case}: kill {kill + 1} of {kills}: equal ({how} after {after:.1f} of {seconds:.1f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--kills", type=int, default=3, help="kills of each case")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="seed of the times")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with errors_reported("soak"):
        for case in options.cases:
            folder = Path(tempfile.mkdtemp(prefix=f"soak_{case}_"))
            words = [*CASES[case], *NETWORK, "--trainer.devices", str(options.processes)]
            soak(case, words, options.kills, folder, draw)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
