"""Trials of a folder in the making, kills and a second start; and of two processes, of which one is stopped."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support import ranks

from .commands import contents, differences, is_one_line, output, start, wait
from .disturbances import Case
from .material import COMMON, OFFLINE

#: Entries of a folder in the making, in their order.
_ENTRIES = [".lock", ".config.*", "config.yaml", "queue.jsonl"]
#: Seconds until the kill after an entry is seen.
_DELAY = 0.005
#: A run that takes long enough to be stopped in the middle.
_WORDS = [
    "visualize", "0", "1", "2", "3", "4", *COMMON, *OFFLINE, "--slots", "2", "--iterations", "150",
    "--checkpoint-every", "20", "--log-at", "every:50",
]  # fmt: skip


def creation(case: Case) -> tuple[str, str]:
    """Kill a run while its folder is made, and start it again: it is refused only if it is a run to resume."""
    entry = case.draw.choice(_ENTRIES)
    process = case.start()
    while not any(case.run.glob(entry)) and process.exitcode is None:
        time.sleep(0.0002)
    time.sleep(case.draw.choice([0, case.draw.uniform(0, _DELAY)]))
    process.kill()
    process.join()
    names = "nothing"
    if case.run.exists():
        names = ", ".join(sorted(path.name for path in case.run.iterdir()))
    option = case.draw.choice(["", "--resume", "--overwrite"])
    what = f"killed when the folder had {names}; then {option or 'no option'}"
    has_run = (case.run / "config.yaml").exists()
    status = wait(start(case.commands(case.run, option), case.run))
    if has_run and not option:
        is_refused = status == 1 and is_one_line(case.run) and "already holds a run" in output(case.run)
        return what, case.resumed_difference() if is_refused else f"exit status {status}: {output(case.run)[-300:]}"
    return what, case.differences() if status == 0 else f"exit status {status}: {output(case.run)[-300:]}"


def starts(case: Case) -> tuple[str, str]:
    """Start two runs in one folder: each exits with status 0 or an error about the other, and the run is equal."""
    shutil.rmtree(case.run, ignore_errors=True)
    second = case.folder / "second"
    option = case.draw.choice(["", "--resume", "--overwrite"])
    delay = case.draw.choice([0, case.draw.uniform(0, 0.1), case.draw.uniform(0, 1) * case.seconds])
    what = f"{option or 'no option'} after {delay:.2f} s"
    first_process = start(case.commands(case.run), case.run)
    time.sleep(delay)
    second_process = start(case.commands(case.run, option), second)
    statuses = {"first": wait(first_process), "second": wait(second_process)}
    for name, run in (("first", case.run), ("second", second)):
        is_refused = is_one_line(run) and any(text in output(run) for text in ("is in use", "already holds a run"))
        if statuses[name] != 0 and not (statuses[name] == 1 and is_refused):
            return what, f"exit status {statuses[name]} of the {name}: {output(run)[-300:]}"
    if 0 not in statuses.values():
        return what, "both were refused"
    return f"{what}: {statuses['first']} and {statuses['second']}", case.differences()


def frozen(folder: Path) -> Iterator[tuple[str, str]]:
    """Stop one of two ranks in several ways; yield a description, and the failure (empty if the trial passed)."""
    run = folder / "undisturbed"
    process = ranks.start([sys.executable, "-m", "lit_viz", *_WORDS, *ranks.TWO, "--out", str(run)])
    message = ranks.finish(process)
    if process.returncode != 0:
        sys.exit(f"soak: the run of two processes failed: {message}")
    expected = contents(run)
    for launcher, target in ranks.FROZEN:
        run = folder / f"{launcher}_{target}"
        failure = ranks.freeze(launcher, target, run, _WORDS)
        yield f"rank {target} of {launcher}", failure or differences(expected, run)
