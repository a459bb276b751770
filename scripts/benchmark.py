"""Measure the speed of lit_viz: whole runs against the bare network, and against other tools.

python scripts/benchmark.py floor                        # against loops of as many evaluations, lite0 and ResNet-50
python scripts/benchmark.py floor --network lite0 --methods pgd rise --rounds 2
python scripts/benchmark.py saliency --methods smoothgrad integrated_gradients
python scripts/benchmark.py peers                        # saliency, attacks and classes
python scripts/benchmark.py classes --judge torchvision/squeezenet1_0=squeezenet1_0.pth --out pictures
python scripts/benchmark.py floor peers memory --write   # and write the tables into docs/speed.md
python scripts/benchmark.py all --quick                  # a test: two images and steps, without meaningful times

  floor     every method against a loop of as many forwards and backwards
  saliency  Captum
  attacks   torchattacks and Foolbox
  classes   class images by lucent and Horama, judged by held-out networks, with curves
  units     images of units by layer, and lucent's
  strength  robust accuracy under APGD, of lit_viz and torchattacks
  memory    peak memory with few and many images
  profile   time of an evaluation by part
  devices   two and more processes of one thread against one
  functional a batch of lv.functional against the bare estimator

Each side runs in its own process, because the allocator's setting belongs to the process; the processes of
``saliency`` are kept for all methods. The sides take turns, so that a drift of the machine's speed affects all of them.
Loading is not timed. The other tools get the module as users pass it: contiguous, not frozen, default allocator. Ratios
are minimum, median and maximum over the rounds. Evidence is timed separately. The other tools are installed at first
use into a folder of the user's cache (benchmarks/environment.py). Results of single sides are printed to stderr, and
the tables at the end.
"""

from __future__ import annotations

import argparse
import os
import warnings
from importlib import import_module
from pathlib import Path

from benchmarks import COMPARISONS, FOLDER, GROUPS, environment, running

from lit_viz.cli import errors_reported


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join([*COMPARISONS, *GROUPS])}")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every side")
    parser.add_argument(
        "--quick", action="store_true", help="test with two images and steps; the times are meaningless"
    )
    parser.add_argument("--write", action="store_true", help="write the tables into docs/speed.md")
    parser.add_argument("--peers", type=Path, help="folder of the other tools; missing ones are installed")
    parser.add_argument("--network", choices=("lite0", "resnet50"), help="network of the floor; both by default")
    parser.add_argument("--methods", nargs="+", default=[], help="methods of a comparison; all by default")
    parser.add_argument(
        "--judge", action="append", default=[], help="additional held-out network, as NAME or NAME=FILE"
    )
    parser.add_argument("--out", type=Path, help="folder for a sheet of the class images")
    parser.add_argument("--photographs", metavar="FOLDER", help="photographs, by default Foolbox's")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.serve and (not options.what or set(options.what) - {*COMPARISONS, *GROUPS}):
        parser.error(f"WHAT must be of {', '.join([*COMPARISONS, *GROUPS])}, got {options.what}")
    if options.quick and options.write:
        parser.error("--write is not available with --quick")
    if options.write and (options.network or options.methods):
        parser.error("--write replaces whole tables: leave out --network and --methods")
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
    if any(COMPARISONS[name] for name in names):
        environment.make(peers)
    plan = running.Plan(
        rounds=1 if options.quick else options.rounds,
        quick=options.quick,
        peers=peers,
        networks=[options.network] if options.network else ["lite0"] if options.quick else ["lite0", "resnet50"],
        methods=options.methods,
        judges=options.judge,
        out=options.out,
    )
    for name in dict.fromkeys(names):
        text = import_module(f"benchmarks.{name}").compare(plan)
        text += f"\n\n{running.machine(plan.rounds, COMPARISONS[name])}"
        print(f"\n{name}\n\n{text}", flush=True)
        if options.write:
            running.write(name, text)


if __name__ == "__main__":
    with errors_reported("benchmark"):
        main()
