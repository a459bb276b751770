"""Sides in processes of their own, which take turns; and what is said of them."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

SCRIPT = Path(__file__).parents[1] / "benchmark.py"
PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
#: What a side told, by name.
Said = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is asked of a comparison.

    Attributes:
        rounds: turns that every side gets.
        quick: two images and steps, in this process, to see that everything works; the figures mean nothing.
        peers: folder of the peers.
        networks: names of ``material.NETWORKS``.
        methods: of the floor or the saliency maps, or all.
        judges: further held-out networks, as NETWORK=FILE.
        out: folder for pictures, or None.
    """

    rounds: int
    quick: bool
    peers: Path
    networks: Sequence[str]
    methods: Sequence[str]
    judges: Sequence[str]
    out: Path | None

    def chosen(self, known: Sequence[str]) -> list[str]:
        """Return the methods that are asked for, or all that are known."""
        if unknown := set(self.methods) - set(known):
            sys.exit(f"benchmark: --methods knows no {', '.join(sorted(unknown))}: take some of {', '.join(known)}.")
        return list(self.methods or known)

    def side(self, function: str, **arguments: Any) -> Said:
        """Run ``module.function(**arguments)`` of this folder and return what it tells: in a process of its own, but if
        it is quick, whose figures mean nothing."""
        told = answer(function, json.dumps(arguments)) if self.quick else self._apart(function, json.dumps(arguments))
        print(f"  {function} {json.dumps(arguments)}: {told}", file=sys.stderr, flush=True)
        said: Said = json.loads(told)
        return said

    def _apart(self, function: str, arguments: str) -> str:
        words = [sys.executable, str(SCRIPT), "--peers", str(self.peers), "--side", function, arguments]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"benchmark: {function} {arguments} failed:\n{done.stderr}")
        return done.stdout.strip().splitlines()[-1]

    def in_turns(self, sides: Mapping[str, tuple[str, Said]]) -> dict[str, list[Said]]:
        """Run every side once a round, so that a machine whose speed drifts is unjust to none."""
        told: dict[str, list[Said]] = {name: [] for name in sides}
        for _ in range(self.rounds):
            for name, (function, arguments) in sides.items():
                told[name].append(self.side(function, **arguments))
        return told

    def best_batch(self, batches: Sequence[int], function: str, **arguments: Any) -> int:
        """Return the batch size that a side is fastest with."""
        if self.quick:
            return batches[0]
        return min(batches, key=lambda batch: self.side(function, batch=batch, **arguments)["seconds"])


def answer(function: str, arguments: str) -> str:
    """Run ``module.function`` of this folder in this process; arguments and what it tells are JSON."""
    module, _, name = function.partition(".")
    return json.dumps(getattr(import_module(f"{__package__}.{module}"), name)(**json.loads(arguments)))


def ratios(above: Sequence[Said], below: Sequence[Said], *parts: str) -> str:
    """Return the ratio of the seconds of two sides; ``parts`` count below besides ``seconds``."""
    each = [a["seconds"] / sum(b[part] for part in ("seconds", *parts)) for a, b in zip(above, below, strict=True)]
    return spread(each)


def spread(values: Sequence[float]) -> str:
    """Return minimum, median and maximum."""
    return f"{min(values):.2f} / **{statistics.median(values):.2f}** / {max(values):.2f}"


def evidence(said: Sequence[Said]) -> str:
    """Return the median seconds of the evidence, and what part of the run's time that is; a dash if there is none."""
    seconds = statistics.median(one["evidence"] for one in said)
    if seconds < 0.01:
        return "-"
    return f"{seconds:.1f} s ({seconds / statistics.median(one['seconds'] for one in said):.0%})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(rounds: int, peers: Sequence[str]) -> str:
    """Return in a sentence what ran where."""
    python = platform.python_version()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("lit-viz", "torch", *peers))
    source = "Foolbox" if find_spec("foolbox") else "scikit-image"
    return (
        f"{_processor()} ({platform.machine()}), {torch.get_num_threads()} threads of {os.cpu_count()} processors, "
        f"Python {python}, {versions}; photographs of {source}; rounds: {rounds}; {date.today()}."
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    told = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return told[1].strip() if told else platform.processor() or platform.system()


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Put a table between its marks in the page on speed."""
    marks = f"<!-- benchmark: {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(marks[0])
    _, ended, after = rest.partition(marks[1])
    if not (found and ended):
        sys.exit(f"benchmark: {page.name} has no place for {name}: put {marks[0].strip()} and {marks[1]} there.")
    page.write_text(f"{before}{marks[0]}\n{text}\n\n{marks[1]}{after}", encoding="utf-8")
