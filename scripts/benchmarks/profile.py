"""Milliseconds of an evaluation by part, for a run of each method on EfficientNet-Lite0 without a folder.

The parts do not overlap: forward of the network; backward of network, views and parameterization; forward of views and
parameterization; snapshots; evidence (verification of files, judges); the rest of the step (rule, state, slots); and
the time outside the steps (start-up, Lightning, callbacks). The floor is the fast copy in a loop of equal batches.
"""

from __future__ import annotations

from typing import Any

import torch

import lit_viz as lv
from lit_viz.engine.evaluator import Evaluator
from lit_viz.engine.module import ImageTraining
from lit_viz.evidence.judges import held_out_judge
from lit_viz.networks import FrozenNetwork

from .clock import EVIDENCE, time_parts, timed
from .material import loop, photographs, prepared
from .running import Plan, Result, evaluations_of, table

SLOTS = 8
_PLACES = (
    (ImageTraining, "training_step", "rest of the step"),
    (ImageTraining, "_due_snapshots", "snapshots"),
    (Evaluator, "__call__", "views"),
    (FrozenNetwork, "forward", "forward"),
    (torch.autograd, "grad", "backward"),
    *EVIDENCE,
)
PARTS = ("forward", "backward", "views", "snapshots", "evidence", "rest of the step", "outside")
#: Command and options of each run.
RUNS: dict[str, tuple[str, Result]] = {
    "class images, 4 views": ("visualize", {"log_at": "every:20"}),
    "fooling": ("attack", {"target": 6}),
    "PGD, no stop": ("attack", {"attack": "pgd", "early_stop": False, "eps": 4 / 255}),
    "DDN": ("attack", {"attack": "ddn"}),
    "SmoothGrad": ("saliency", {"method": "smoothgrad"}),
    "integrated gradients": ("saliency", {"method": "integrated_gradients"}),
    "RISE (forwards)": ("saliency", {"method": "rise"}),
}


def run(name: str, iterations: int) -> Result:
    """Return counts, the floor, and the parts of a run, in milliseconds an evaluation."""
    net = prepared()
    x, labels = photographs(net, SLOTS)
    command, options = RUNS[name]
    given: dict[str, Any] = {"iterations": iterations, "slots": SLOTS, **options}
    if command == "visualize":
        held_out_judge(net)  # loads them
        started = lambda: lv.visualize(net, list(range(SLOTS)), **given)  # noqa: E731
    else:
        classes = {"target": labels, "captum": "none"} if command == "saliency" else {"label": labels}
        given |= {"log_at": "last", "curve_at": "last", **classes}
        started = lambda: getattr(lv, command)(net, x, **given)  # noqa: E731
    with time_parts(_PLACES) as clock:
        done = started()
    counts = evaluations_of(done)
    fast, batch = net.fast(), SLOTS * (4 if command == "visualize" else 1)
    least = timed(loop(lambda images: fast(images)[0], batch=batch, **counts))[0]
    parts = {part: 1000 * clock.seconds[part] / counts["forwards"] for part in PARTS}
    return {**counts, "floor": 1000 * least / counts["forwards"], "parts": parts}


def compare(plan: Plan) -> str:
    """Return the table of all runs; one round."""
    rows = []
    for name in RUNS:
        results = plan.side("profile.run", name=name, iterations=2 if plan.quick else 40)
        counts = f"{results['forwards']} F, {results['backwards']} B"
        cells = [f"{value:.2f}" for value in results["parts"].values()]
        rows.append([name, counts, f"{results['floor']:.1f}", f"{sum(results['parts'].values()):.1f}", *cells])
    return table(["run", "evaluations", "floor", "all", *PARTS], rows)
