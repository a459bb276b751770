"""Images of units by layer: units a second, against a bare loop up to the layer, and against lucent.

run     eight channels of a layer by the default recipe, 40 of its 120 iterations of two views, without logging
loop    as many forwards and backwards of the fast copy up to the layer, of random images
lucent  one channel, 512 steps of 224 pixels with its standard transforms; computed from 16 steps

The share of a layer is the time of its loop, of the time of the loop through the whole network. The layer `network`
is the whole network. A run's time would be the share if nothing but the network took time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import lit_viz as lv

from .classes import render_lucent
from .clock import evidence_apart, timed
from .material import WARM, loaded, plain_module, prepared
from .running import Plan, Result, evaluations_of, ratios, spread, table

LAYERS = ("blocks.0.0", "blocks.1.0", "blocks.2.1", "blocks.3.2", "classifier")
QUICK_LAYERS = (LAYERS[0], LAYERS[-1])
_SIZE, _VIEWS = 128, 2
_ITERATIONS, _LUCENT_STEPS = 120, 512  # of an image


@dataclass(frozen=True)
class Work:
    """What is timed: units at once, their iterations, and the steps of lucent's image."""

    units: int
    iterations: int
    steps: int


FULL, QUICK = Work(8, 40, 16), Work(2, 2, 2)


@dataclass
class Measured:
    """Results of a layer: of the runs and the loops by round, and of lucent once, since it takes long."""

    runs: list[Result] = field(default_factory=list)
    loops: list[Result] = field(default_factory=list)
    lucent: Result = field(default_factory=dict)


def run(layer: str, units: int, iterations: int) -> Result:
    """Time the images of some channels of a layer, and count their evaluations."""
    net = prepared()

    def start(images: int, iterations: int) -> Any:
        given: Result = {"log_at": "last", "curve_at": "last"}
        return lv.visualize(net, layer=layer, channel=f"0-{images - 1}", iterations=iterations, **given)

    result, made = evidence_apart(start, units, iterations)
    return {"seconds": result["seconds"], "evaluations": evaluations_of(made)["forwards"]}


def loop(layer: str, units: int, evaluations: int) -> Result:
    """Time a loop of forwards up to a layer, with the gradient of a channel's mean, two views of each image at once."""
    fast = prepared().fast()
    batch = _VIEWS * units
    images = torch.rand(batch, 3, _SIZE, _SIZE).contiguous(memory_format=torch.channels_last)

    def repeat(times: int) -> None:
        for _ in range(times):
            leaf = images.clone(memory_format=torch.channels_last).requires_grad_()
            activation = fast.activations(leaf, [layer])[layer]
            torch.autograd.grad(activation[:, 0].mean(), leaf)

    repeat(WARM)
    return {"seconds": timed(lambda: repeat(-(-evaluations // batch)))[0]}


def lucent(layer: str, steps: int) -> Result:
    """Time steps of lucent's image of one channel."""
    for set_seed in (random.seed, np.random.seed, torch.manual_seed):
        set_seed(0)
    module = plain_module(loaded())
    name = f"network_{layer.replace('.', '_')}:0"
    render_lucent(module, name, 2)  # imports, and the first calls of its transforms
    return {"seconds": timed(lambda: render_lucent(module, name, steps))[0]}


def compare(plan: Plan) -> str:
    """Return the table of the layers."""
    work, layers = FULL, LAYERS
    if plan.quick:
        work, layers = QUICK, QUICK_LAYERS
    measured = {layer: Measured() for layer in layers}
    for _ in range(plan.rounds):
        for layer, results in measured.items():
            made = plan.side("units.run", layer=layer, units=work.units, iterations=work.iterations)
            results.runs.append(made)
            counts = {"units": work.units, "evaluations": made["evaluations"]}
            results.loops.append(plan.side("units.loop", layer=layer, **counts))
    for layer, results in measured.items():
        results.lucent = plan.side("units.lucent", layer=layer, steps=work.steps)
    head = ["layer", "share", "run, as a share", "run / loop", "units a second", "lucent / run"]
    rows = []
    for layer, results in measured.items():
        rows.append(_row(layer, results, measured[layers[-1]], work))
    return table(head, rows)


def _row(layer: str, results: Measured, whole: Measured, work: Work) -> list[str]:
    """Return the line of a layer; ``whole`` are the results of the whole network."""
    speeds = []
    for result in results.runs:
        seconds = result["seconds"] * _ITERATIONS / work.iterations
        speeds.append(work.units / seconds)
    lucent_seconds = results.lucent["seconds"] * _LUCENT_STEPS / work.steps
    return [
        f"`{layer}`",
        ratios(results.loops, whole.loops),
        ratios(results.runs, whole.runs),
        ratios(results.runs, results.loops),
        spread(speeds),
        f"{lucent_seconds * max(speeds):.0f}",
    ]
