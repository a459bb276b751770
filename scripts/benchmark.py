"""Measure the speed of lit_viz: whole runs against the bare network, and against other tools.

python scripts/benchmark.py floor                        # against loops of as many evaluations
python scripts/benchmark.py floor --methods pgd rise --rounds 2
python scripts/benchmark.py saliency --methods smoothgrad integrated_gradients
python scripts/benchmark.py peers                        # saliency, attacks, classes and units
python scripts/benchmark.py classes --judge torchvision/squeezenet1_0=squeezenet1_0.pth --out pictures
python scripts/benchmark.py all --write                  # write all tables into the documentation
python scripts/benchmark.py all --quick                  # a test: two images and steps, without meaningful times

  floor           every method against a loop of as many forwards and backwards
  floor_resnet50  the same for ResNet-50
  saliency        Captum
  attacks         torchattacks and Foolbox
  classes         class images by lucent and Horama, judged by held-out networks, with curves
  units           images of units by layer, and lucent's
  strength        robust accuracy under APGD, of lit_viz and torchattacks
  memory          peak memory with few and many images
  profile         time of an evaluation by part
  devices         two and more processes of one thread against one
  functional      a batch of lv.functional against the bare estimator
  scale           time, disk space and memory of up to 100 thousand tasks, and of two shards
  paper           the claims of docs/paper.md, in at most ten minutes; its figures into the folder --out

``--write`` replaces a table when it is complete, and omits those that this machine has written for this commit: a
stopped call is repeated to continue. A table takes at most 40 minutes on two idle cores by default. Estimates of the
time left are printed.

Each side runs in its own process, because the allocator's setting belongs to the process; the processes of
``floor`` and ``saliency`` are kept for all methods. All end with this one. The sides take turns, so that a drift of
the machine's speed affects all of them. Loading is not timed. The other tools get the module as users pass it:
contiguous, not frozen, default allocator. Ratios are minimum, median and maximum over the rounds, or one number of one
round. Evidence is timed separately. The other tools are installed at first use into a folder of the user's cache
(tests/support/environment.py). Results of single sides are printed to stderr, and the tables at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path

from benchmarks import COMPARISONS, FOLDER, GROUPS, running

from lit_viz.cli import errors_reported

sys.path.append(str(Path(__file__).parents[1]))
from tests.support import environment


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join([*COMPARISONS, *GROUPS])}")
    parser.add_argument("--rounds", type=int, help="rounds of every side; by default one, two of functional")
    parser.add_argument(
        "--quick", action="store_true", help="test with two images and steps; the times are meaningless"
    )
    parser.add_argument("--write", action="store_true", help="write the tables into the pages in docs")
    parser.add_argument("--peers", type=Path, help="folder of the other tools; missing ones are installed")
    parser.add_argument("--methods", nargs="+", default=[], help="methods of a comparison; all by default")
    parser.add_argument(
        "--judge", action="append", default=[], help="additional held-out network, as NAME or NAME=FILE"
    )
    parser.add_argument("--out", type=Path, help="folder for a sheet of the class images, or the paper's figures")
    parser.add_argument("--photographs", metavar="FOLDER", help="photographs, by default Foolbox's")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.serve and (not options.what or set(options.what) - {*COMPARISONS, *GROUPS}):
        parser.error(f"WHAT must be of {', '.join([*COMPARISONS, *GROUPS])}, got {options.what}")
    if options.quick and options.write:
        parser.error("--write is not available with --quick")
    if options.write and options.methods:
        parser.error("--write replaces whole tables: leave out --methods")
    return options


def main() -> None:
    options = parsed()
    warnings.simplefilter("ignore")
    peers = options.peers or environment.default_folder()
    environment.use(peers)
    if options.photographs:
        os.environ[FOLDER] = options.photographs
    if options.serve:
        running.serve()
        return
    names: list[str] = []
    for what in options.what:
        names += GROUPS.get(what, (what,))
    names = list(dict.fromkeys(names))
    if any(COMPARISONS[name].peers for name in names):
        environment.make(peers)
    pending = names
    if options.write:
        pending = [name for name in names if not running.is_written(name, page_of(name))]
        for name in names:
            if name not in pending:
                print(f"{name}: is in {COMPARISONS[name].page}", file=sys.stderr)
    for number, name in enumerate(pending):
        compare(name, pending[number + 1 :], options, peers)


def rounds_of(name: str, options: argparse.Namespace) -> int:
    """Return the number of rounds of a comparison; what is measured once has one."""
    if options.quick or not COMPARISONS[name].round:
        return 1
    return options.rounds or COMPARISONS[name].rounds


def minutes_of(name: str, options: argparse.Namespace) -> float:
    """Return the estimated minutes of a comparison."""
    return COMPARISONS[name].minutes(rounds_of(name, options))


def page_of(name: str) -> Path:
    """Return the page with the table of a comparison."""
    return running.PAGE.parent / COMPARISONS[name].page


def compare(name: str, later: list[str], options: argparse.Namespace, peers: Path) -> None:
    """Print the table of a comparison, and write it.

    Args:
        name: of the comparison.
        later: names of those after it.
        options: of the command line.
        peers: folder of the other tools.
    """
    plan = running.Plan(
        rounds=rounds_of(name, options),
        quick=options.quick,
        peers=peers,
        methods=options.methods,
        judges=options.judge,
        out=options.out,
        images=running.PAGE.parent / "images" if options.write else None,
        minutes=minutes_of(name, options),
        later=sum(minutes_of(other, options) for other in later),
    )
    print(f"{name}: about {plan.minutes:.0f} min; then {', '.join(later) or 'nothing'}", file=sys.stderr, flush=True)
    table = import_module(f"benchmarks.{name}").compare(plan)
    plan.close()
    comparison = COMPARISONS[name]
    text = f"{table}\n\n{running.conditions(plan.rounds, comparison.peers, comparison.photographs)}"
    print(f"\n{name}\n\n{text}", flush=True)
    if options.write:
        running.write(name, text, page_of(name))


if __name__ == "__main__":
    with errors_reported("benchmark"):
        main()
