"""Runs the sides of a comparison in turns, each in its own process, and formats the results."""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from datetime import date
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

SCRIPT = Path(__file__).parents[1] / "benchmark.py"
PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
#: Values of a side, by name.
Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Options of a comparison.

    Attributes:
        rounds: turns of every side.
        quick: two images and steps, in this process: a test, without meaningful times.
        peers: folder of the compared packages.
        networks: names of ``material.NETWORKS``.
        methods: methods of the floor or the saliency comparison; all if empty.
        judges: additional held-out networks, as NAME or NAME=FILE.
        out: folder for pictures, or None.
        processes: kept processes by name.
    """

    rounds: int
    quick: bool
    peers: Path
    networks: Sequence[str]
    methods: Sequence[str]
    judges: Sequence[str]
    out: Path | None
    processes: dict[str, Process] = field(default_factory=dict)

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Return the selected methods of ``names``, or all of them."""
        if invalid := set(self.methods) - set(names):
            sys.exit(f"benchmark: --methods must be of {', '.join(names)}, got {', '.join(sorted(invalid))}")
        return list(self.methods or names)

    def side(self, function: str, process: str | None = None, **arguments: Any) -> Result:
        """Run ``module.function(**arguments)`` of this folder in a new process, or in the named one, which is kept; in
        this one if ``quick``."""
        text = json.dumps(arguments)
        if self.quick:
            output = call(function, text)
        elif process is None:
            single = Process(self.peers)
            output = single.run(function, text)
            single.close()
        else:
            if process not in self.processes:
                self.processes[process] = Process(self.peers)
            output = self.processes[process].run(function, text)
        print(f"  {function} {text}: {output}", file=sys.stderr, flush=True)
        result: Result = json.loads(output)
        return result

    def in_turns(self, sides: Mapping[str, tuple[str, Result]], *, keep: bool = False) -> dict[str, list[Result]]:
        """Run every side once a round, so that a drift of the machine's speed affects all sides; in new processes, or
        in one that is kept by the name of the side."""
        results: dict[str, list[Result]] = {name: [] for name in sides}
        for _ in range(self.rounds):
            for name, (function, arguments) in sides.items():
                results[name].append(self.side(function, name if keep else None, **arguments))
        return results

    def best_batch(self, batches: Sequence[int], function: str, process: str | None = None, **arguments: Any) -> int:
        """Return the fastest batch size of a side."""
        if self.quick:
            return batches[0]
        return min(batches, key=lambda batch: self.side(function, process, batch=batch, **arguments)["seconds"])


class Process:
    """A process that runs functions of this folder, one after another, until it is closed or this process exits."""

    def __init__(self, peers: Path) -> None:
        words = [sys.executable, str(SCRIPT), "--peers", str(peers), "--serve"]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def run(self, function: str, arguments: str) -> str:
        """Return the result of ``module.function`` as JSON; exit if it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(function, arguments, file=self._process.stdin, flush=True)
        output = self._process.stdout.readline()
        if not output:
            sys.exit(f"benchmark: {function} {arguments} failed:\n{self.close()}")
        return output.strip()

    def close(self) -> str:
        """End the process, and return its errors."""
        self._process.communicate()
        self._errors.seek(0)
        with self._errors:
            return self._errors.read()


def serve() -> None:
    """Run the functions in the lines of the standard input, and print their results."""
    for line in sys.stdin:
        with redirect_stdout(sys.stderr):
            output = call(*line.split(maxsplit=1))
        gc.collect()  # networks and runs are parts of reference cycles
        print(output, flush=True)


def call(function: str, arguments: str) -> str:
    """Run ``module.function`` of this folder in this process; arguments and result are JSON."""
    module, _, name = function.partition(".")
    return json.dumps(getattr(import_module(f"{__package__}.{module}"), name)(**json.loads(arguments)))


def ratios(above: Sequence[Result], below: Sequence[Result], *parts: str) -> str:
    """Return the ratio of the seconds of two sides by round; ``parts`` are added to the seconds below."""
    each = []
    for first, second in zip(above, below, strict=True):
        seconds = second["seconds"]
        for part in parts:
            seconds += second[part]
        each.append(first["seconds"] / seconds)
    return spread(each)


def evaluations_of(run: Any) -> Result:
    """Return the numbers of forwards and backwards of the records of a run."""
    counts = {"forwards": 0, "backwards": 0}
    for record in run.records:
        for name in counts:
            counts[name] += record[name]
    return counts


def spread(values: Sequence[float]) -> str:
    """Return minimum, median and maximum."""
    return f"{min(values):.2f} / **{statistics.median(values):.2f}** / {max(values):.2f}"


def evidence(results: Sequence[Result]) -> str:
    """Return the median seconds of the evidence, and its fraction of the run's time; a dash without evidence."""
    seconds = statistics.median(result["evidence"] for result in results)
    if seconds < 0.01:
        return "-"
    return f"{seconds:.1f} s ({seconds / statistics.median(result['seconds'] for result in results):.0%})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(rounds: int, peers: Sequence[str]) -> str:
    """Return a sentence on the machine, the versions and the rounds."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("lit-viz", "torch", *peers))
    source = "Foolbox" if find_spec("foolbox") else "scikit-image"
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    processor = model[1].strip() if model else platform.processor() or platform.system()
    return (
        f"{processor} ({platform.machine()}), {torch.get_num_threads()} threads of {os.cpu_count()} processors, "
        f"Python {platform.python_version()}, {versions}; photographs of {source}; rounds: {rounds}; {date.today()}."
    )


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Replace the table between its marks in docs/speed.md."""
    marks = f"<!-- benchmark: {name} -->\n", f"<!-- end of {name} -->"
    before, start, rest = page.read_text(encoding="utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (start and end):
        sys.exit(f"benchmark: {page.name} has no place for {name}: add {marks[0].strip()} and {marks[1]}.")
    page.write_text(f"{before}{marks[0]}\n{text}\n\n{marks[1]}{after}", encoding="utf-8")
