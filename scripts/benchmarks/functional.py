"""lv.functional.saliency of a batch against the bare estimator: the attribution on the frozen network in a plain loop.

Both sides take turns in one process, and the least time of each counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

import lit_viz as lv
from lit_viz.attributions import ATTRIBUTIONS, attribute

from .material import PHOTOGRAPHS, photographs, prepared
from .running import Plan, Result, table

#: Evaluations a map, and turns, by method.
METHODS = {"gradient": (1, 20), "smoothgrad": (16, 4), "integrated_gradients": (16, 4)}


def run(method: str, count: int, turns: int) -> Result:
    """Return the milliseconds an image of both sides, and their ratio."""
    net = prepared()
    x, labels = photographs(net, count)
    evaluations, _ = METHODS[method]
    estimator = ATTRIBUTIONS[method]()
    estimator.bind(net)
    frozen = net.fast()

    def bare() -> object:
        with torch.no_grad():
            return attribute(estimator, frozen, x, labels, evaluations=evaluations)

    def functional() -> object:
        return lv.functional.saliency(net, x, target=labels, method=method, iterations=evaluations)

    sides: dict[str, Callable[[], Any]] = {"bare": bare, "functional": functional}
    least: dict[str, float] = {}
    for turn in range(turns + 1):  # the first one is a warm-up
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds = time.perf_counter() - start
            if turn > 0:
                least[name] = min(seconds, least.get(name, seconds))
    ratio = least["functional"] / least["bare"]
    return {**{name: 1000 * seconds / count for name, seconds in least.items()}, "ratio": ratio}


def compare(plan: Plan) -> str:
    """Return the table of the methods, with a ratio per round."""
    rows = []
    for method in plan.chosen([*METHODS]):
        evaluations, turns = METHODS[method]
        given = {"method": method, "count": 2 if plan.quick else PHOTOGRAPHS, "turns": 1 if plan.quick else turns}
        results = [plan.side("functional.run", **given) for _ in range(plan.rounds)]
        best = min(results, key=lambda result: result["ratio"])
        ratios = " / ".join(f"{ratio:.3f}" for ratio in sorted(result["ratio"] for result in results))
        rows.append([f"{method}, {evaluations}", f"{best['bare']:.1f} ms", f"{best['functional']:.1f} ms", ratios])
    return table(["method, evaluations", "bare estimator, an image", "lv.functional, an image", "ratio"], rows)
