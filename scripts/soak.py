"""Reliability campaign: interrupt, damage and misuse runs, resume them, and compare them with an undisturbed run.

python scripts/soak.py                              # every trial once per case, and all edits and crafted folders
python scripts/soak.py --repeats 10                 # ten repetitions per case
python scripts/soak.py --trials kill damage --cases square
python scripts/soak.py --trials edits crafted --most 40

A case is a step rule of each family on a small network. Images, arrays, frames, metrics and records, without their
seconds, must equal the undisturbed run byte by byte. Damage is tried on runs with one slot: a missing task is computed
again alone, and only an equal sequence of batches gives equal bits.

kill       SIGKILL at a random time, of tiles while some are in progress; the resumed run is equal
signal     SIGINT or SIGTERM at a random time; exit status 130 or 143 within a minute, or the time of a run if
           longer; the resumed run is equal
limit      the file size limit is reached, as on a full disk; one line of error; the resumed run is equal
damage     a file of the folder is deleted, cut or changed; the resumed run is equal, or refused
hostile    unreadable photographs, pipes, links out of the folder; the run exits, and nothing outside is changed
creation   SIGKILL while the folder is made; the same command starts the run, unless it is one to resume
starts     two runs are started in one folder; each exits with status 0 or an error about the other, the run is equal
changed    a photograph is replaced between a kill and the resume; it is named, or no task reads the other one
raising    the network raises on one photograph; only this one fails, also after a kill and a resume
microscope a microscope's folder has other content, or it is killed; nothing that is not its own is changed
logger     the process of W&B is stopped during the run; the run exits within two minutes
frozen     one of two ranks is stopped; the other one names it and exits, and the resumed run is equal
edits      a user edits a finished run; check and log state nothing from it, or make the file again; the resumed run
           is equal
memory     the peak of 3,000 tasks is at most 60 MB above that of 300, with figure, report and two loggers, in files,
           in tars, and of two shards in tars that are merged
crafted    folders that no version has written, confirmed by their manifests, FIFOs, devices and links in place of
           files, and command lines of enormous numbers; each command exits with status 0, or one line of error

The table counts the trials and the passed trials. The exit status is 1 if a trial failed; its folder is kept.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # also of forked processes, which import the network

from scripts.soaks.crafted import crafted
from scripts.soaks.disturbances import Case, damage, hostile, kill, limit, logger, stop
from scripts.soaks.edits import edits
from scripts.soaks.folders import Edit, try_edits
from scripts.soaks.inputs import changed, raising
from scripts.soaks.material import CASES
from scripts.soaks.memory import memory
from scripts.soaks.microscope import microscope
from scripts.soaks.starts import creation, frozen, starts

TRIALS: dict[str, Callable[[Case], tuple[str, str]]] = {
    "kill": kill, "signal": stop, "limit": limit, "damage": damage, "hostile": hostile, "logger": logger,
    "creation": creation, "starts": starts, "changed": changed, "raising": raising, "microscope": microscope,
}  # fmt: skip
#: Trials that depend on no case: each yields descriptions and failures.
SINGLE: dict[str, Callable[[Path], Iterable[tuple[str, str]]]] = {"frozen": frozen, "memory": memory}
#: Trials on copies of finished runs, which depend on no case.
FOLDERS: dict[str, Callable[[], list[Edit]]] = {"edits": edits, "crafted": crafted}


class Counts:
    """Trials and passed trials by name."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()

    def add(self, trial: str, tried: int, passed: int) -> None:
        """Add the results of trials."""
        self.tried[trial] += tried
        self.passed[trial] += passed

    @property
    def are_passed(self) -> bool:
        """Whether all trials have passed."""
        return self.tried == self.passed


def campaign(
    cases: Sequence[str], trials: Sequence[str], repeats: int = 1, seed: int = 0, most: int | None = None
) -> bool:
    """Execute the trials and print the table; return whether all passed.

    Args:
        cases: names of cases.
        trials: names of trials.
        repeats: repetitions of each disturbance per case.
        seed: seed of times, damages and selections.
        most: maximum number of edits and crafted folders, chosen at random.
    """
    counts = Counts()
    disturbances = [trial for trial in trials if trial in TRIALS]
    for name in cases if disturbances else ():
        _disturb(name, disturbances, repeats, random.Random(seed), counts)
    for trial in trials:
        if trial in SINGLE:
            with tempfile.TemporaryDirectory(prefix=f"soak_{trial}_") as folder:
                for what, wrong in SINGLE[trial](Path(folder)):
                    print(f"{trial}: {what}: {wrong or 'passed'}", flush=True)
                    counts.add(trial, 1, int(not wrong))
        if trial in FOLDERS:
            with tempfile.TemporaryDirectory(prefix=f"soak_{trial}_") as folder:
                results = try_edits(FOLDERS[trial](), Path(folder), most, random.Random(seed))
            print(f"{trial}: {dict(results)}", flush=True)
            counts.add(trial, results.total(), results["passed"])
    print("\n| trial | tried | passed |\n|---|---|---|")
    for trial in trials:
        print(f"| {trial} | {counts.tried[trial]} | {counts.passed[trial]} |")
    return counts.are_passed


def _disturb(name: str, trials: Sequence[str], repeats: int, draw: random.Random, counts: Counts) -> None:
    """Execute the trials of a case; the folders of failed trials are kept."""
    folder = Path(tempfile.mkdtemp(prefix=f"soak_{name}_"))
    case_with = cache(partial(Case, name, folder, draw))
    failures = 0
    for trial in trials:
        case = case_with(1 if trial == "damage" else 2)
        for _ in range(repeats):
            what, wrong = TRIALS[trial](case)
            counts.add(trial, 1, int(not wrong))
            print(f"{name}: {trial}, {what}: {wrong or 'passed'}", flush=True)
            if wrong:
                failures += 1
                if case.run.exists():
                    shutil.copytree(case.run, folder / f"failed_{trial}_{failures}", symlinks=True)
        if trial == "kill":
            print(f"{name}: {case.hits} of {repeats} kills hit tasks in progress", flush=True)
    if failures:
        print(f"see {folder}")
    else:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*TRIALS, *SINGLE, *FOLDERS]
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--trials", nargs="+", choices=names, default=names)
    parser.add_argument("--repeats", type=int, default=1, help="repetitions of each disturbance per case")
    parser.add_argument("--seed", type=int, default=0, help="seed of times, damages and selections")
    parser.add_argument("--most", type=int, default=None, help="maximum number of edits, and of crafted folders")
    options = parser.parse_args()
    passed = campaign(options.cases, options.trials, options.repeats, options.seed, options.most)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
