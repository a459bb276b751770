"""Throughput of several processes of one thread each, relative to one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile

from .material import CLASSES
from .running import Plan, Result, ratios, table

#: In the last line of a run: ``16 of 16 images done: 48.1 s, 66.5 it/s``.
_RATE = re.compile(r"images? done: .*, ([\d.]+(?:e\+\d+)?) it/s")


def run(processes: int, images: int, iterations: int) -> Result:
    """Return the seconds of a run's updates, without loading and connecting."""
    with tempfile.TemporaryDirectory() as folder:
        classes = (CLASSES * (1 + images // len(CLASSES)))[:images]
        words = [sys.executable, "-m", "lit_viz", "visualize", *classes, "--iterations", str(iterations)]
        words += ["--slots", "4", "--log-at", "last", "--wandb", "disabled", "--out", f"{folder}/run"]
        words += ["--trainer.accelerator", "cpu", "--devices", str(processes)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        results = subprocess.run(words, env=one_thread, capture_output=True, text=True, check=True).stderr
    rate = _RATE.search(results)
    assert rate is not None, results
    return {"seconds": images * iterations / float(rate[1])}


def compare(plan: Plan) -> str:
    """Return the table, for at most as many processes as processors."""
    most = 2 if plan.quick else os.cpu_count() or 1
    images, iterations = (4, 2) if plan.quick else (16, 50)
    sides: dict[str, tuple[str, Result]] = {}
    for count in (1, 2, 4, 8):
        if count <= most:
            sides[str(count)] = "devices.run", {"processes": count, "images": images, "iterations": iterations}
    results = plan.in_turns(sides)
    one = results.pop("1")
    rows = []
    for name, several in results.items():
        rows.append([f"class images, {name} processes", ratios(one, several)])
    return table(["run of EfficientNet-Lite0, a thread each", "images a second, relative to one process"], rows)
