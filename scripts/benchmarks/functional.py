"""lv.functional.saliency of a batch against the bare estimator: the attribution on the frozen network in a plain loop,
reduced over the channels. Both return the same maps.

Both sides take turns in one process, and the ratio is the median of those of the turns: the speed of a machine drifts
by more than the sides differ.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.attributions import ATTRIBUTIONS, attribute
from lit_viz.attributions.reducers import reduce_channels

from .material import PHOTOGRAPHS, photographs, prepared
from .running import Plan, Result, table

#: Evaluations a map, and turns, by method.
METHODS = {"gradient": (1, 60), "smoothgrad": (16, 7), "integrated_gradients": (16, 7)}


def run(method: str, count: int, turns: int) -> Result:
    """Return the milliseconds an image of both sides, and their ratio."""
    net = prepared()
    x, labels = photographs(net, count)
    evaluations, _ = METHODS[method]
    estimator = ATTRIBUTIONS[method]()
    estimator.bind(net)
    frozen = net.fast()

    def bare() -> Tensor:
        with torch.no_grad():
            maps, *_ = attribute(estimator, frozen, x, labels, evaluations=evaluations)
            return reduce_channels(maps, estimator.reducer)

    def functional() -> Tensor:
        return lv.functional.saliency(net, x, target=labels, method=method, iterations=evaluations)[0]

    sides: dict[str, Callable[[], Any]] = {"bare": bare, "functional": functional}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):  # the first one is a warm-up
        names = list(sides) if turn % 2 else list(reversed(sides))
        for name in names:
            start = time.perf_counter()
            sides[name]()
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    ratios = [own / other for own, other in zip(seconds["functional"], seconds["bare"], strict=True)]
    medians = {name: 1000 * statistics.median(values) / count for name, values in seconds.items()}
    return {**medians, "ratio": statistics.median(ratios)}


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
