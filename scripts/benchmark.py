"""How much of a run is the network? Whole runs against bare loops of as many evaluations, in turns.

python scripts/benchmark.py                       # EfficientNet-Lite0 and ResNet-50, 3 rounds each, about 20 minutes
python scripts/benchmark.py --network lite0 --rounds 2 --iterations 50

Every side runs in a process of its own, for the allocator's setting belongs to the process; the sides take turns, so
that a machine whose speed drifts is unjust to none. Loading is not timed; files and figures of a run are.

  bare    the network frozen and channels-last, as users write the loop: not folded, default allocator
  floor   the same loop on the folded copy (activations not fused) with the allocator's setting
  run     `lit-viz visualize` of 200 iterations in 8 slots, looking every 20th, with its run folder

At last the peak memory of a run of 200 images in 8 slots is held against that of 8 images.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

CLASSES = ["tarantula", "goldfish", "hay", "zebra", "brown bear", "quail", "daisy", "stingray"]
# Views a step: the default recipe's on the small network, one on the large, whose rounds would take an hour otherwise.
NETWORKS = {
    "lite0": {"name": "efficientnet_lite0", "weights": "DEFAULT", "views": 4},
    "resnet50": {"name": "torchvision/resnet50", "weights": "none", "views": 1},
}


def loop(network: Callable[[Any], Any], batch: int, both: int, forwards: int) -> float:
    """Return the seconds of ``both`` forward-and-backwards and ``forwards`` forwards, counted in images."""
    import torch

    x = torch.rand(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    target = torch.arange(batch) % 1000

    def step() -> None:
        leaf = x.clone(memory_format=torch.channels_last).requires_grad_()
        score = network(leaf).gather(1, target[:, None]).sum()
        torch.autograd.grad(score, leaf)

    step()
    began = time.perf_counter()
    for _ in range(both // batch):
        step()
    with torch.no_grad():
        for _ in range(forwards // batch):
            network(x)
    return time.perf_counter() - began


def bare(spec: dict[str, Any], both: int, forwards: int) -> float:
    """Time the bare loop."""
    import torch

    from lit_viz.classifiers import load_classifier

    classifier = load_classifier(spec["name"], weights=spec["weights"])
    network = classifier.original.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return loop(lambda x: network(classifier.normalize(x)), 8 * spec["views"], both, forwards)


def floor(spec: dict[str, Any], both: int, forwards: int) -> float:
    """Time the floor."""
    from lit_viz.allocator import tune_allocator
    from lit_viz.classifiers import copying, load_classifier

    tune_allocator()
    copying.can_fuse = lambda: False
    network = load_classifier(spec["name"], weights=spec["weights"]).fast()
    return loop(lambda x: network(x)[0], 8 * spec["views"], both, forwards)


def run(spec: dict[str, Any], iterations: int) -> dict[str, float]:
    """Time a whole run, and return its evaluations too."""
    from lit_viz.allocator import tune_allocator
    from lit_viz.classifiers import load_classifier

    tune_allocator()
    import lit_viz as lv
    from lit_viz.commands import visualize

    visualize.judges_of = lambda classifier: None  # evidence is timed apart
    classifier = load_classifier(spec["name"], weights=spec["weights"])
    classifier.fast()
    with tempfile.TemporaryDirectory() as folder:
        options = {"model__views": spec["views"], "log_at": "every:20", "curve_at": "every:20", "wandb": "disabled"}
        began = time.perf_counter()
        done = lv.visualize(classifier, CLASSES, iterations=iterations, out=f"{folder}/run", **options)
        seconds = time.perf_counter() - began
    both = sum(record["backwards"] for record in done.results)
    forwards = sum(record["forwards"] for record in done.results) - both
    return {"seconds": seconds, "both": both, "forwards": forwards}


def memory(spec: dict[str, Any], images: int) -> float:
    """Return the peak memory, in MiB, of a run of so many images in 8 slots."""
    import resource

    import lit_viz as lv
    from lit_viz.commands import visualize

    visualize.judges_of = lambda classifier: None
    with tempfile.TemporaryDirectory() as folder:
        options = {"slots": 8, "wandb": "disabled", "log_at": "every:1"}
        lv.visualize(spec["name"], [*range(images)], iterations=2, out=f"{folder}/run", **options)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(side: str, network: str, **arguments: int) -> dict[str, float]:
    """Run a side in a process of its own."""
    words = [sys.executable, __file__, "--side", side, "--network", network, "--arguments", json.dumps(arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def compare(network: str, rounds: int, iterations: int) -> None:
    """Print the ratios of a run to the bare loop and to the floor."""
    ratios: dict[str, list[float]] = {"bare": [], "floor": []}
    for number in range(rounds):
        ours = in_process("run", network, iterations=iterations)
        counts = {"both": int(ours["both"]), "forwards": int(ours["forwards"])}
        line = [f"round {number + 1}: run {ours['seconds']:.1f} s"]
        for side in ("bare", "floor"):
            seconds = in_process(side, network, **counts)["seconds"]
            ratios[side].append(ours["seconds"] / seconds)
            line.append(f"{side} {seconds:.1f} s (ratio {ratios[side][-1]:.3f})")
        print("  " + ", ".join(line), flush=True)
    print(f"| {network} | {counts['both']} FB + {counts['forwards']} F | ", end="")
    cells = [f"{min(r):.2f} / **{statistics.median(r):.2f}** / {max(r):.2f}" for r in ratios.values()]
    print(" | ".join(cells), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, help="one network; all unless given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--side", choices=("bare", "floor", "run", "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--arguments", type=json.loads, default={}, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        spec = NETWORKS[options.network]
        if options.side == "run":
            print(json.dumps(run(spec, **options.arguments)))
        elif options.side == "memory":
            print(json.dumps({"MiB": memory(spec, **options.arguments)}))
        else:
            print(json.dumps({"seconds": {"bare": bare, "floor": floor}[options.side](spec, **options.arguments)}))
        return
    import torch

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    print("| network | evaluations | run / bare: min, median, max | run / floor |\n|---|---|---|---|")
    for network in [options.network] if options.network else NETWORKS:
        compare(network, options.rounds, options.iterations)
    few, many = (in_process("memory", "lite0", images=images)["MiB"] for images in (8, 200))
    print(f"peak memory, lite0: {few:.0f} MiB with 8 images, {many:.0f} MiB with 200 (ratio {many / few:.3f})")


if __name__ == "__main__":
    main()
