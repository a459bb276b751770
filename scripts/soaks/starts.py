"""Trials of a folder in the making: kills, and a second start."""

from __future__ import annotations

import shutil
import time

from .commands import is_one_line, output, start, wait
from .disturbances import Case

#: Entries of a folder in the making, in their order.
_ENTRIES = [".lock", ".config.*", "config.yaml", "queue.jsonl"]
#: Seconds until the kill after an entry is seen.
_DELAY = 0.005


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
