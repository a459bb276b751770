"""Whole runs of EfficientNet-Lite0 against loops with as many forwards and backwards.

run     a run with default settings; evidence is timed separately, without the check against Captum. Class images log
        every 20th iteration and write a run folder, the others have no folder.
floor   the loop on the folded copy without fused activations, with the tuned allocator
bare    the loop on the frozen, channels-last network: not folded, default allocator; a quarter of the evaluations,
        from which the time of all is computed

The run is repeated without fused activations, to compare it with the floor. RISE, occlusion and Square, and their
loops, have no backwards. The four processes are kept for all methods.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lit_viz as lv
from lit_viz.attacks import ATTACKS
from lit_viz.networks import Network

from .clock import evidence_apart, timed
from .material import CLASSES, EPS, PHOTOGRAPHS, bare, loaded, loop, photographs, prepared
from .running import Plan, Result, evaluations_of, evidence, ratios, table


@dataclass(frozen=True)
class Work:
    """Input of a method: iterations an image, repeats of each photograph, and arguments of the attack."""

    iterations: int
    times: int = 1
    arguments: Result = field(default_factory=dict)


_BUDGET = {"norm": "linf", "eps": EPS, "early_stop": False}
#: About 500 evaluations each, more for class images. Methods of one evaluation get many photographs, to amortize the
#: start-up; attacks that stop at a success get four times as many as there are slots.
METHODS = {
    "class_images": Work(50),
    "normalized_ascent": Work(100, 4),
    "pgd": Work(40, arguments=_BUDGET),
    "apgd": Work(40, arguments=_BUDGET),
    "ddn": Work(40),
    "fmn": Work(40),
    "deepfool": Work(50, 4),
    "carlini_wagner": Work(40),
    "square": Work(100, arguments=_BUDGET),
    "gradient": Work(1, 16),
    "guided_backprop": Work(1, 16),
    "smoothgrad": Work(32),
    "integrated_gradients": Work(32),
    "extremal_perturbation": Work(40),
    "rise": Work(128),
    "occlusion": Work(170),
}
#: Views of a class image: four on the small network, one on the large.
_VIEWS = {"lite0": 4, "resnet50": 1}
#: Divisor of the evaluations of the bare loop.
_PART_OF_BARE = 4
#: Divisor of the work, for a network with five times slower evaluations.
_DIVISOR = {"lite0": 1, "resnet50": 4}


def run(network: str, method: str, fused: bool, quick: bool) -> Result:
    """Time a run, and count its evaluations."""
    net = prepared(network, fused=fused)
    if method == "class_images":
        result, done = _class_images(net, 2 if quick else METHODS[method].iterations, _VIEWS[network])
    else:
        result, done = _photographs(net, method, _DIVISOR[network], quick)
    return result | evaluations_of(done)


def _class_images(net: Network, iterations: int, views: int) -> tuple[Result, Any]:
    with tempfile.TemporaryDirectory() as folder:
        options: Result = {"views": views, "log_at": "every:20", "curve_at": "every:20", "wandb": "disabled"}

        def start(images: int, iterations: int) -> Any:
            out = f"{folder}/{iterations}"
            return lv.visualize(net, CLASSES[:images], iterations=iterations, out=out, overwrite=True, **options)

        return evidence_apart(start, len(CLASSES), iterations)


def _photographs(net: Network, method: str, divisor: int, quick: bool) -> tuple[Result, Any]:
    """Run a method on a part of its photographs, or of its iterations if each photograph is used once."""
    work = METHODS[method]
    times, iterations = (work.times // divisor, work.iterations) if work.times > 1 else (1, work.iterations // divisor)
    x, labels = photographs(net, 2 if quick else PHOTOGRAPHS * times)
    others = [(label + 111 * (1 + i // PHOTOGRAPHS)) % 1000 for i, label in enumerate(labels)]

    def start(images: int, iterations: int) -> Any:
        given: Result = {"iterations": iterations, "log_at": "last", "curve_at": "last"}
        if method not in ATTACKS:
            return lv.saliency(net, x[:images], target=labels[:images], method=method, captum="none", **given)
        target = others[:images] if method == "normalized_ascent" else None
        attack = ATTACKS[method](**work.arguments)
        return lv.attack(net, x[:images], label=labels[:images], target=target, attack=attack, **given)

    return evidence_apart(start, len(x), 2 if quick else iterations)


def network_alone(kind: str, network: str, forwards: int, backwards: int, batch: int) -> Result:
    """Time a loop: the ``floor``, or ``bare``."""
    if kind == "floor":
        fast = prepared(network, own_kernels=False).fast()
        return {"seconds": timed(loop(lambda x: fast(x)[0], forwards, backwards, batch))[0]}
    part = -(-forwards // _PART_OF_BARE)
    seconds = timed(loop(bare(loaded(network)), part, backwards * part // forwards, batch))[0]
    return {"seconds": seconds * forwards / part}


def compare(plan: Plan) -> str:
    """Return the table of all methods."""
    return compare_methods(plan, "lite0", list(METHODS))


def compare_methods(plan: Plan, network: str, methods: Sequence[str]) -> str:
    """Return the table of the methods of a network, or of the selected ones; of three for a test."""
    chosen = ["class_images", "pgd", "rise"] if plan.quick and not plan.methods else plan.chosen(methods)
    rows = [_row(plan, network, method) for method in chosen]
    head = ["run", "evaluations", "run / bare", "run / floor", "not fused / floor", "evidence (of the run's time)"]
    return table(head, rows)


def _row(plan: Plan, network: str, method: str) -> list[str]:
    given = {"network": network, "method": method, "quick": plan.quick}
    batch = len(CLASSES) * _VIEWS[network] if method == "class_images" else PHOTOGRAPHS
    results: dict[str, list[Result]] = defaultdict(list)
    for _ in range(plan.rounds):
        for name in ("run", "unfused"):
            results[name].append(plan.side("floor.run", name, fused=name == "run", **given))
        last = results["run"][-1]
        counts = {"forwards": last["forwards"], "backwards": last["backwards"]}
        for kind in ("floor", "bare"):
            alone = plan.side("floor.network_alone", kind, kind=kind, network=network, batch=batch, **counts)
            results[kind].append(alone)
    return [
        method,
        f"{counts['forwards']} F, {counts['backwards']} B",
        ratios(results["run"], results["bare"]),
        ratios(results["run"], results["floor"]),
        ratios(results["unfused"], results["floor"]),
        evidence(results["run"]),
    ]
