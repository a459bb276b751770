"""Run folders that are edited or crafted, and what the commands make of them."""

from __future__ import annotations

import os
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lit_viz.errors import LitVizError
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.seal import Seal
from lit_viz.runs.segments import digest, segment_files, signed

from .commands import contents, differences, execute, is_one_line, output, start, wait, writing
from .material import COMMON, OFFLINE, PHOTOGRAPHS

#: Time limit of a command in seconds; a run of the campaign takes about one.
LIMIT = 90
#: Small runs, made once and copied: each kind of file is in one of them.
SAMPLES = {
    "images": ["visualize", "0", "1", "2", "--iterations", "4", "--log-at", "every:1"],
    "files": ["attack", *PHOTOGRAPHS[:3], "--attack", "pgd", "--eps", "24/255", "--iterations", "6"],
    "maps": ["saliency", *PHOTOGRAPHS[:2], "--method", "smoothgrad", "--iterations", "8", "--localize"],
    "universal": ["attack", *PHOTOGRAPHS[:3], "--attack", "universal", "--eps", "24/255", "--iterations", "4"],
}
SAMPLES |= {"merged": SAMPLES["files"], "tar": [*SAMPLES["files"], "--store", "tar"]}
SAMPLES["merged_tars"] = ["saliency", *PHOTOGRAPHS[:3], "--method", "smoothgrad", "--iterations", "8", "--store", "tar"]

#: Digest of the run, and signature of a file, in a line of a segment.
_RUN = re.compile(r'"run": "\w{64}"')
_FILE = re.compile(r'"([^"]+)": \{"size": \d+, "sha256": "\w{64}"\}')

#: Changes a run folder.
Change = Callable[[Path], None]


@dataclass(frozen=True)
class Edit:
    """A change of a run folder.

    Attributes:
        name: what is changed.
        sample: the run that is changed.
        change: makes the change.
        kind: ``fact`` if nothing may be stated from the folder, ``fixed`` if it can't be resumed either, ``added`` if a
            resume leaves the file and names it, ``derived`` if the file is made again, ``free`` if it may be of no
            effect, or ``crafted`` if any sentence is right.
    """

    name: str
    sample: str
    change: Change
    kind: str


def make_samples(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Run the samples, and check them, so that they have all evidence."""
    samples = {}
    for name in names:
        run = folder / name
        words = writing(name, [*SAMPLES[name], *COMMON, *OFFLINE, "--slots", "1"], run)
        if wait(start(words, run), 600) != 0 or execute(run, "check") != 0:
            sys.exit(f"soak: {name} failed without a change: see {run.with_suffix('.err')}")
        samples[name] = run
    return samples


def reseal(run: Path) -> None:
    """Let all digests confirm what is in a folder, as a forger would: of files, of lines of segments and of the run."""
    with suppress(LitVizError):  # a folder whose configuration can't be read
        digest_of_run = FolderStorage(run).digest
        for path in segment_files(run):
            lines = path.read_text().splitlines()
            path.write_text("".join(_signed_again(line, run, digest_of_run) for line in lines))
        Seal.write(run, complete=True)


def _signed_again(line: str, run: Path, digest_of_run: str) -> str:
    """Return a line with the digests of the files as they are; its record need not be JSON that can be read."""

    def signature(match: re.Match[str]) -> str:
        path = run / match[1]
        if not path.is_file():
            return match[0]
        content = path.read_bytes()
        return f'"{match[1]}": {{"size": {len(content)}, "sha256": "{digest(content)}"}}'

    text = line.rpartition(', "sha256": "')[0]
    text = _RUN.sub(f'"run": "{digest_of_run}"', text, count=1)
    return signed(_FILE.sub(signature, text))


def try_edit(edit: Edit, sample: Path, run: Path) -> str:
    """Return the failure of the commands after an edit; empty if all of them are right."""
    for command in ("log", "check"):
        copy(sample, run)
        edit.change(run)
        status = _status(command, run)
        failure = _broken(edit, command, run, status) or _unnoticed(edit, command, run, status)
        if failure:
            return f"{command}: {failure}"
    if edit.sample == "images":
        failure = _try_epochs(edit, sample, run)
        if failure:
            return f"epochs: {failure}"
    copy(sample, run)
    edit.change(run)
    status = _status("resume", run)
    failure = _broken(edit, "resume", run, status)
    if failure or edit.kind == "crafted":
        return failure and f"resume: {failure}"
    if edit.kind == "fixed":
        return "" if status == 1 else "resume: status 0"
    if status != 0:
        return "" if edit.kind == "free" else f"resume: {output(run)[-300:]}"
    if edit.kind == "added":
        return "" if "move it away" in output(run) else "resume: unnoticed"
    different = differences(contents(sample), run)
    if different:
        return f"resume: unnoticed, {different} differ"
    return "" if _status("check", run) == 0 else f"check after resume: {output(run)[-300:]}"


def _try_epochs(edit: Edit, sample: Path, run: Path) -> str:
    """Return the failure of ``epochs`` on a probe of two epochs, of which the first one is edited."""
    probe = run.with_name("probe")
    delete(probe)
    probe.mkdir()
    for epoch in (1, 2):
        copy(sample, probe / f"epoch_000{epoch}")
    edit.change(probe / "epoch_0001")
    status = _status("epochs", probe)
    is_named = "epoch 1 is left out" in output(probe)
    if edit.kind in ("fact", "fixed", "added") and not is_named:
        return "unnoticed"
    return _broken(edit, "epochs", probe, status)


def copy(sample: Path, run: Path) -> None:
    """Copy a run in place of an earlier copy."""
    delete(run)
    shutil.copytree(sample, run, symlinks=True)


def delete(run: Path) -> None:
    """Delete a copy; links and FIFOs in it are not opened."""
    if run.is_symlink() or run.is_file():
        run.unlink()
    for folder, folders, files in os.walk(run, topdown=False):
        for name in files:
            Path(folder, name).unlink()
        for name in folders:
            entry = Path(folder, name)
            entry.unlink() if entry.is_symlink() else entry.rmdir()
    if run.exists():
        run.rmdir()


def _status(command: str, run: Path) -> int | None:
    words = [command, str(run)]
    if command == "log":
        words += ["--to", "csv"]
    return wait(start(words, run), LIMIT)


def _broken(edit: Edit, command: str, run: Path, status: int | None) -> str:
    """Return why a command did not exit as specified: a hang, a traceback, or status 1 without a sentence."""
    text = output(run)
    if status is None:
        return "hang"
    if "Traceback" in text or status not in (0, 1):
        return f"traceback (status {status}): {text[-600:]}"
    if status == 0 or is_one_line(run):
        return ""
    is_left_out = command == "epochs" and " is left out " in text
    # The manifest confirms crafted values: check computes evidence of them, which may fail.
    is_verdict = command != "log" and edit.kind == "crafted" and "\nevidence: " in text
    return "" if is_left_out or is_verdict else f"no sentence: {text[-300:]}"


def _unnoticed(edit: Edit, command: str, run: Path, status: int | None) -> str:
    """Return why a command states something that it must not."""
    if edit.kind in ("fact", "fixed", "added") and status == 0:
        return "unnoticed"
    if edit.kind == "derived" and command == "check":
        if status != 0:
            return f"not made again: {output(run)[-300:]}"
        return "" if _status("log", run) == 0 else f"log after check: {output(run)[-300:]}"
    if edit.kind == "derived" and status == 0:
        return "unnoticed"
    return ""


def try_edits(edits: list[Edit], folder: Path, most: int | None, draw: random.Random) -> Counter[str]:
    """Try edits, all or a random selection; print each failure, and return the number of trials by their result."""
    chosen = edits
    if most is not None and most < len(edits):
        chosen = draw.sample(edits, most)
    samples = make_samples(folder, sorted({edit.sample for edit in chosen}))
    results: Counter[str] = Counter()
    run = folder / "run"
    for number, edit in enumerate(chosen, start=1):
        failure = try_edit(edit, samples[edit.sample], run)
        if number % 50 == 0:
            print(f"{number} of {len(chosen)}", flush=True)
        results["passed" if not failure else _kind_of(failure)] += 1
        if failure:
            print(f"{edit.sample}: {edit.name}: {failure}", flush=True)
    delete(run)
    delete(run.with_name("probe"))
    return results


def _kind_of(failure: str) -> str:
    for kind in ("hang", "traceback", "unnoticed"):
        if f": {kind}" in failure:
            return kind
    return "other"
