"""Commands in forked processes, and the contents of the run folders that they write."""

from __future__ import annotations

import json
import resource
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import lit_viz.evidence.saliency.cross_check
import lit_viz.figures.agreement
import lit_viz.launch.execute
import lit_viz.loggers.csv  # noqa: F401 - so that forked processes need no imports
from lit_viz.cli import main as run_command
from lit_viz.runs.folder import FolderStorage

#: Between the words of two commands that a process executes one after the other.
THEN = "then"
#: Relative difference of numbers that were computed in batches of other sizes.
TOLERANCE = 1e-6


def start(words: Sequence[str], run: Path, limit: int | None = None) -> BaseProcess:
    """Run a command in a forked process, which has torch imported already; its output is the file ``<run>.err``."""
    process = get_context("fork").Process(target=_forked, args=(list(words), run.with_suffix(".err"), limit))
    process.start()
    return process


def _forked(words: list[str], errors: Path, limit: int | None) -> None:
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with errors.open("w") as stream, redirect_stderr(stream), redirect_stdout(stream):
        for command in commands_of(words):
            run_command(command)


def commands_of(words: Sequence[str]) -> list[list[str]]:
    """Return the commands of words with :data:`THEN` between two of them."""
    commands: list[list[str]] = [[]]
    for word in words:
        if word == THEN:
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def writing(name: str, words: Sequence[str], out: Path) -> list[str]:
    """Return the words that write a run folder; if the name begins with ``merged``, of two shards that are merged."""
    if not name.startswith("merged"):
        return [*words, "--out", str(out)]
    shards = f"{out}_shards"
    listed: list[str] = []
    for shard in ("0/2", "1/2"):
        listed += [*words, "--shard", shard, "--out", shards, THEN]
    return [*listed, "merge", shards, "--out", str(out)]


def wait(process: BaseProcess, seconds: float = 120) -> int | None:
    """Return the exit status of a process, or None if it had to be killed."""
    process.join(seconds)
    status = process.exitcode
    if status is None:
        process.kill()
        process.join()
    return status


def execute(run: Path, *words: str) -> int | None:
    """Return the exit status of a command about a run."""
    return wait(start([*words, str(run)], run))


def output(run: Path) -> str:
    """Return what the last command about a run has printed."""
    return run.with_suffix(".err").read_text(errors="replace")


def is_one_line(run: Path) -> bool:
    """Return whether the last command has printed a one-line error."""
    text = output(run)
    return "Traceback" not in text and text.rstrip().rpartition("\n")[2].startswith("lit-viz: ")


def contents(run: Path) -> dict[str, Any]:
    """Return the contents that must not depend on an interruption, by name."""
    kept: dict[str, Any] = {}
    for folder in ("images", "arrays", "sources", "frames", "photographs", "masks", "maps"):
        for file in (run / folder).rglob("*"):
            if file.is_file():
                kept[str(file.relative_to(run))] = file.read_bytes()
    for path in (run / "tars").glob("*"):
        kept |= _members(path)
    exported = []
    for values in FolderStorage(run).segments.all():
        exported.append(values["record"])
        rows = [row[1:] for row in values["rows"]]  # without the number in the run
        kept[f"task {values['index']}"] = _lasting(values["record"]), rows
    lines = (run / "results.jsonl").read_text().splitlines()
    kept["results.jsonl"] = [json.loads(line) for line in lines] == exported
    kept["metrics.csv"] = sorted((run / "metrics.csv").read_text().splitlines())
    return kept


def _members(tar: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the members of a tar, except records, which have seconds."""
    with tarfile.open(tar) as members:
        for member in members:
            file = members.extractfile(member)
            if file is not None and not member.name.endswith(".json"):
                yield member.name, file.read()


def _lasting(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without seconds, and without its place in a tar, which depends on their digits."""
    lasting = {name: value for name, value in record.items() if name not in ("seconds", "offset")}
    for name in ("file", "array"):
        if name in lasting:
            lasting[name] = str(lasting[name]).rpartition("/")[2]
    return lasting


def differences(expected: dict[str, Any], run: Path) -> str:
    """Return the names of at most five contents of a run that are not as expected."""
    actual = contents(run)
    keys = [key for key in sorted(expected.keys() | actual.keys()) if expected.get(key) != actual.get(key)]
    return ", ".join(keys[:5])
