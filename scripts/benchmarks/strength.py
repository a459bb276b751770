"""How strong is APGD? Robust accuracy at 8 radii, twenty steps, the best of three seeds; nothing is timed.

Against torchattacks' APGD (untargeted, cross-entropy) and its PGD (64 image-target pairs), on four crops of 128 pixels
of each photograph. Both attack the same copy of the network, and the module that was handed over sees whether its
images, as floats, fool. Both climb as often: ours has an iteration more, as its random start is one. Another seed is
given to the images that still resist.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor, nn

from lit_viz.attacks import APGD, run_attack
from lit_viz.classifiers import Classifier

from .material import as_handed, photographs, prepared
from .running import Plan, Result, table

RADII = {  # /255
    "apgd": (0.02, 0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3),
    "pgd": (0.7, 0.9, 1.1, 1.3, 1.6, 2.0, 2.5, 3.2),
}
_BATCH = 16
#: Images, their classes, those that are wanted, radius and seeds -> adversarial examples.
Attacked = Callable[[Tensor, Tensor, Tensor | None, float, list[int]], Tensor]


def crops(net: Classifier) -> tuple[Tensor, Tensor]:
    """Return 64 images, four crops of each photograph, and the classes that are seen in them."""
    x, _ = photographs(net)
    large = torch.nn.functional.interpolate(x, 160, mode="bilinear", align_corners=False, antialias=True)
    images = torch.cat([large[..., i : i + 128, j : j + 128] for i in (0, 32) for j in (0, 32)])
    images = (images.clamp(0, 1) * 255).round() / 255
    return images, torch.cat([net.logits(some) for some in images.split(_BATCH)]).argmax(1)


def robust(tool: str, against: str, radii: list[float], seeds: int, steps: int) -> Result:
    """Return how many of the images resist at each radius, the best of the seeds."""
    net = prepared()
    x, y = crops(net)
    wanted = None if against == "apgd" else (y + 111 * (1 + torch.arange(len(y)) // _BATCH)) % 1000
    module = as_handed(net)
    attacked = _ours(net, steps) if tool == "ours" else _theirs(net, against, steps)
    left = []
    for radius in radii:
        resists = torch.ones(len(x), dtype=torch.bool)
        for seed in range(seeds):
            still = resists.nonzero()[:, 0]
            for rows in (still[first : first + _BATCH] for first in range(0, len(still), _BATCH)):
                goals = None if wanted is None else wanted[rows]
                draws = [seed * len(x) + row for row in rows.tolist()]
                images = attacked(x[rows], y[rows], goals, radius / 255, draws)
                with torch.no_grad():
                    seen = module(images).argmax(1)
                resists[rows] = seen == y[rows] if goals is None else seen != goals
        left.append(int(resists.sum()))
    return {"left": left, "images": len(x)}


def _ours(net: Classifier, steps: int) -> Attacked:
    fast = net.fast()

    def attacked(x: Tensor, y: Tensor, goals: Tensor | None, eps: float, seeds: list[int]) -> Tensor:
        wanted = None if goals is None else goals.tolist()
        network = lambda images: fast(images)[0]  # noqa: E731
        return run_attack(APGD(eps=eps), network, x, y.tolist(), wanted, iterations=steps + 1, seeds=seeds)[0]

    return attacked


def _theirs(net: Classifier, against: str, steps: int) -> Attacked:
    torchattacks, module = import_module("torchattacks"), _Copy(net)

    def attacked(x: Tensor, y: Tensor, goals: Tensor | None, eps: float, seeds: list[int]) -> Tensor:
        if against == "apgd":
            return torchattacks.APGD(module, eps=eps, steps=steps, seed=seeds[0])(x, y)
        torch.manual_seed(seeds[0])
        attack = torchattacks.PGD(module, eps=eps, alpha=eps / 4, steps=steps)
        attack.set_mode_targeted_by_label(quiet=True)
        return attack(x, goals)

    return attacked


class _Copy(nn.Module):
    def __init__(self, net: Classifier) -> None:
        super().__init__()
        self.fast = net.fast()
        self.place = nn.Parameter(torch.zeros(()))  # by which a peer knows the device
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fast(x)[0]


def compare(plan: Plan) -> str:
    """Return a table for each of the two attacks."""
    tables = []
    for against, radii in RADII.items():
        few = {"radii": radii[-1:], "seeds": 1, "steps": 1} if plan.quick else {"radii": radii, "seeds": 3, "steps": 20}
        results = {t: plan.side("strength.robust", tool=t, against=against, **few) for t in ("ours", "torchattacks")}
        names = {"ours": "APGD, lit_viz", "torchattacks": f"{against.upper()}, torchattacks"}
        rows = [
            [names[t], *(f"{left / result['images']:.0%}" for left in result["left"])] for t, result in results.items()
        ]
        tables.append(table(["robust at a radius of", *(f"{radius}/255" for radius in few["radii"])], rows))
    return "\n\n".join(tables)
