"""Images of units by layer: units a second, against a bare loop up to the layer, and against lucent.

run     eight channels of a layer by the default recipe, 40 of its 120 iterations of two views, without logging
loop    as many forwards and backwards of the fast copy up to the layer, of random images
lucent  one channel, 512 steps of 224 pixels with its standard transforms; computed from 16 steps

The share of a layer is the time of its loop, of the time of the loop through the whole network. The layer `classifier`
is the whole network. A run's time would be the share if nothing but the network took time.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

import lit_viz as lv

from .classes import render_lucent
from .clock import evidence_apart, timed
from .material import WARM, loaded, plain_module, prepared
from .running import Plan, Result, ratios, spread, table

LAYERS = ("blocks.0.0", "blocks.1.0", "blocks.2.1", "blocks.3.2", "classifier")
_UNITS, _SIZE, _ITERATIONS = 8, 128, 40
_RECIPE = 120  # iterations
_STEPS, _TIMED_STEPS = 512, 16  # of lucent


def run(layer: str, quick: bool) -> Result:
    """Time the images of some channels of a layer, and count their evaluations."""
    net = prepared()

    def start(images: int, iterations: int) -> Any:
        given: Result = {"log_at": "last", "curve_at": "last"}
        return lv.visualize(net, layer=layer, channels=f"0-{images - 1}", iterations=iterations, **given)

    result, made = evidence_apart(start, 2 if quick else _UNITS, 2 if quick else _ITERATIONS)
    return {"seconds": result["seconds"], "evaluations": sum(record["forwards"] for record in made.results)}


def loop(layer: str, evaluations: int) -> Result:
    """Time a loop of forwards up to a layer, with the gradient of a channel's mean, two views of eight images at
    once."""
    fast = prepared().fast()
    batch = 2 * _UNITS
    images = torch.rand(batch, 3, _SIZE, _SIZE).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        leaf = images.clone(memory_format=torch.channels_last).requires_grad_()
        activation = fast.activations(leaf, [layer])[layer]
        torch.autograd.grad(activation[:, 0].mean(), leaf)

    for _ in range(WARM):
        step()
    return {"seconds": timed(lambda: [step() for _ in range(-(-evaluations // batch))])[0]}


def lucent(layer: str, quick: bool) -> Result:
    """Time lucent's image of one channel."""
    for set_seed in (random.seed, np.random.seed, torch.manual_seed):
        set_seed(0)
    net = loaded()
    module = plain_module(net)
    name = f"network_{layer.replace('.', '_')}"
    render_lucent(module, f"{name}:0", 2)  # imports, and the first calls of its transforms
    steps = 2 if quick else _TIMED_STEPS
    return {"seconds": timed(lambda: render_lucent(module, f"{name}:0", steps))[0] * _STEPS / steps}


def compare(plan: Plan) -> str:
    """Return the table of the layers."""
    layers = (LAYERS[0], LAYERS[-1]) if plan.quick else LAYERS
    runs: dict[str, list[Result]] = {layer: [] for layer in layers}
    loops: dict[str, list[Result]] = {layer: [] for layer in layers}
    peers: dict[str, list[Result]] = {layer: [] for layer in layers}
    for number in range(plan.rounds):
        for layer in layers:
            runs[layer].append(plan.side("units.run", layer=layer, quick=plan.quick))
            evaluations = runs[layer][-1]["evaluations"]
            loops[layer].append(plan.side("units.loop", layer=layer, evaluations=evaluations))
            if number == 0:  # each takes many seconds
                peers[layer].append(plan.side("units.lucent", layer=layer, quick=plan.quick))
    units = 2 if plan.quick else _UNITS
    head = ["layer", "share", "run, as a share", "run / loop", "units a second", "lucent / run"]
    rows = []
    for layer in layers:
        scale = 1 if plan.quick else _RECIPE / _ITERATIONS
        seconds = [scale * result["seconds"] / units for result in runs[layer]]
        rows.append(
            [
                f"`{layer}`",
                ratios(loops[layer], loops[layers[-1]]),
                ratios(runs[layer], runs[layers[-1]]),
                ratios(runs[layer], loops[layer]),
                spread([1 / value for value in seconds]),
                f"{peers[layer][0]['seconds'] / min(seconds):.0f}",
            ]
        )
    return table(head, rows)
