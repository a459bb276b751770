"""Runs the sides of a comparison in turns, each in its own process, and formats the results."""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from datetime import date
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import lit_viz

from . import FOLDER

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "benchmark.py"
PAGE = ROOT / "docs" / "speed.md"
#: What determines the times; the commit of a table is the last one that changed these.
_MEASURED = ("lit_viz", "configs", "scripts/benchmark.py", "scripts/benchmarks")
#: Values of a side, by name.
Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Options of a comparison.

    Attributes:
        rounds: turns of every side.
        quick: two images and steps, in this process: a test, without meaningful times.
        peers: folder of the compared packages.
        methods: methods of the floor or the saliency comparison; all if empty.
        judges: additional held-out networks, as NAME or NAME=FILE.
        out: folder for pictures, or None.
        images: folder of the pictures of the documentation, if they are written.
        minutes: estimate for this comparison.
        later: estimate for the comparisons after it, in minutes.
        processes: kept processes by name.
        start: of the comparison, in seconds of the monotonic clock.
    """

    rounds: int
    quick: bool
    peers: Path
    methods: Sequence[str] = ()
    judges: Sequence[str] = ()
    out: Path | None = None
    images: Path | None = None
    minutes: float = 0
    later: float = 0
    processes: dict[str, Process] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

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
        print(f"  {self.progress()} {function} {text}: {output}", file=sys.stderr, flush=True)
        result: Result = json.loads(output)
        return result

    def progress(self) -> str:
        """Return the minutes since the start, and the estimated minutes left, of all comparisons."""
        past = (time.monotonic() - self.start) / 60
        left = max(0.0, self.minutes - past) + self.later
        return f"[{past:.0f} min, about {left:.0f} min left]"

    def close(self) -> None:
        """End the kept processes."""
        for process in self.processes.values():
            process.close()
        self.processes.clear()

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
    """A process that runs functions of this folder, one after another, until it is closed or this process ends."""

    def __init__(self, peers: Path) -> None:
        words = [sys.executable, str(SCRIPT), "--peers", str(peers), "--serve"]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
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
        """End the process, and return its errors; nothing the second time."""
        if self._errors.closed:
            return ""
        self._process.communicate()
        self._errors.seek(0)
        with self._errors:
            return self._errors.read()


def serve() -> None:
    """Run the functions in the lines of the standard input, and print their results; end when the input is closed."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    for line in sys.stdin:
        with redirect_stdout(sys.stderr):
            output = call(*line.split(maxsplit=1))
        gc.collect()  # networks and runs are parts of reference cycles
        print(output, flush=True)


def _end_with_input() -> None:
    """Kill this process and its children when the standard input is closed, which happens however its writer ends."""
    watched = select.poll()
    watched.register(sys.stdin, 0)  # no event but the end
    watched.poll()
    os.killpg(0, signal.SIGKILL)


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
    """Return minimum, median and maximum; of one value, the value."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
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


def commit() -> str:
    """Return the last commit that changed what is measured, with a remark if there are changes without a commit."""
    log = _git("log", "-1", "--format=%h", "--abbrev=10", "--", *_MEASURED)
    if not log:
        return "Without a commit"
    return f"Commit {log} with changes" if _git("status", "--porcelain", "--", *_MEASURED) else f"Commit {log}"


def _git(*words: str) -> str:
    """Return the output of git; nothing without git or a repository."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def place() -> str:
    """Return the commit and the machine."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    processor = model[1].strip() if model else platform.processor() or platform.system()
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} processors"
    return f"{commit()}; {processor} ({platform.machine()}), {threads};"


def conditions(rounds: int, peers: Sequence[str], photographs: bool) -> str:
    """Return a sentence on the commit, the machine, the versions, the photographs if any were read, the rounds and the
    date."""
    versions = f"lit-viz {lit_viz.__version__}, "
    versions += ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", *peers))
    measured = [f"{place()} Python {platform.python_version()}, {versions}"]
    if photographs:
        measured.append(f"photographs of {_source_of_photographs()}")
    return "; ".join([*measured, f"rounds: {rounds}", f"{date.today()}."])


def _source_of_photographs() -> str:
    if FOLDER in os.environ:
        return "a folder"
    return "Foolbox" if find_spec("foolbox") else "scikit-image"


def is_written(name: str, page: Path = PAGE) -> bool:
    """Return whether the table of the page is of this commit, without changes, and of this machine."""
    _, table, _ = _parts(name, page)
    here = place()
    return here.startswith("Commit") and "with changes" not in here and here in table


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Replace the table between its marks in a page."""
    before, _, after = _parts(name, page)
    page.write_text(f"{before}\n{text}\n\n{after}", encoding="utf-8")


def _parts(name: str, page: Path) -> tuple[str, str, str]:
    """Return the text of a page before and after a table, with its marks, and the table."""
    first, last = f"<!-- benchmark: {name} -->\n", f"<!-- end of {name} -->"
    before, start, rest = page.read_text(encoding="utf-8").partition(first)
    table, end, after = rest.partition(last)
    if not (start and end):
        sys.exit(f"benchmark: {page.name} has no place for {name}: add {first.strip()} and {last}.")
    return before + start, table, end + after
