"""How strong is APGD? Robust accuracy at 8 radii, twenty steps, the best of three seeds; nothing is timed.

Against torchattacks' APGD (untargeted, cross-entropy) and its PGD (64 image-target pairs), on four crops of each
photograph, as the module that was handed over sees the images.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from lit_viz.attacks import APGD, run_attack
from lit_viz.classifiers import Classifier

from .material import as_handed, photographs, prepared
from .running import Plan, Said, table

RADII = {
    "apgd": (0.02, 0.04, 0.06, 0.08, 0.11, 0.15, 0.2, 0.3),  # /255
    "pgd": (0.3, 0.5, 0.7, 0.9, 1.1, 1.4, 1.8, 2.4),
}
_BATCH = 16
#: Images, their classes, those that are wanted, radius and seed -> adversarial examples.
Attacked = Callable[[Tensor, Tensor, Tensor | None, float, int], Tensor]


def crops(net: Classifier) -> tuple[Tensor, Tensor]:
    """Return 64 images, four crops of each photograph, and the classes that are seen in them."""
    x, _ = photographs(net)
    large = torch.nn.functional.interpolate(x, 248, mode="bilinear", align_corners=False)
    images = torch.cat([large[..., i : i + 224, j : j + 224] for i in (0, 24) for j in (0, 24)])
    images = (images * 255).round() / 255
    return images, torch.cat([net.logits(some) for some in images.split(_BATCH)]).argmax(1)


def robust(tool: str, against: str, radii: list[float], seeds: int, steps: int) -> Said:
    """Return how many of the images resist at each radius, the best of the seeds."""
    net = prepared()
    x, y = crops(net)
    wanted = None if against == "apgd" else (y + 111 * (1 + torch.arange(len(y)) // _BATCH)) % 1000
    module = as_handed(net)
    attacked = _ours(net, steps) if tool == "ours" else _theirs(module, against, steps)
    left = []
    for radius in radii:
        resists = torch.ones(len(x), dtype=torch.bool)
        for seed in range(seeds):
            for rows in torch.arange(len(x)).split(_BATCH):
                goals = None if wanted is None else wanted[rows]
                images = attacked(x[rows], y[rows], goals, radius / 255, seed)
                with torch.no_grad():
                    seen = module(images).argmax(1)
                resists[rows] &= seen == y[rows] if goals is None else seen != goals
        left.append(int(resists.sum()))
    return {"left": left, "images": len(x)}


def _ours(net: Classifier, steps: int) -> Attacked:
    fast = net.fast()

    def attacked(x: Tensor, y: Tensor, goals: Tensor | None, eps: float, seed: int) -> Tensor:
        attack = APGD(eps=eps, norm="linf", loss="ce")
        seeds = [seed * len(x) + i for i in range(len(x))]
        wanted = None if goals is None else goals.tolist()
        return run_attack(attack, lambda images: fast(images)[0], x, y.tolist(), wanted, iterations=steps, seeds=seeds)[
            0
        ]

    return attacked


def _theirs(module: Any, against: str, steps: int) -> Attacked:
    torchattacks = import_module("torchattacks")

    def attacked(x: Tensor, y: Tensor, goals: Tensor | None, eps: float, seed: int) -> Tensor:
        if against == "apgd":
            return torchattacks.APGD(module, eps=eps, steps=steps, seed=seed)(x, y)
        torch.manual_seed(seed)
        attack = torchattacks.PGD(module, eps=eps, alpha=eps / 4, steps=steps)
        attack.set_mode_targeted_by_label(quiet=True)
        return attack(x, goals)

    return attacked


def compare(plan: Plan) -> str:
    """Return a table for each of the two attacks."""
    tables = []
    for against, radii in RADII.items():
        few = {"radii": radii[-1:], "seeds": 1, "steps": 1} if plan.quick else {"radii": radii, "seeds": 3, "steps": 20}
        told = {t: plan.side("strength.robust", tool=t, against=against, **few) for t in ("ours", "torchattacks")}
        names = {"ours": "APGD, lit_viz", "torchattacks": f"{against.upper()}, torchattacks"}
        rows = [[names[t], *(f"{left / said['images']:.0%}" for left in said["left"])] for t, said in told.items()]
        tables.append(table(["robust at a radius of", *(f"{radius}/255" for radius in few["radii"])], rows))
    return "\n\n".join(tables)
