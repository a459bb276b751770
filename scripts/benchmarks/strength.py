"""Robust accuracy under APGD at 8 radii: 20 steps, best of three seeds, without times.

The references are torchattacks' APGD (untargeted, cross-entropy) and its PGD (targeted), on crops of 128 pixels,
four of each photograph. Both tools attack the same fast copy of the network. Success is measured with the original
module on the floating-point images. Both compute the same number of gradients: lit_viz has one iteration more, because
its random start counts as an iteration. Each new seed attacks the images that are still robust.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor, nn

from lit_viz.attacks import APGD, run_attack
from lit_viz.networks import Network

from .material import PHOTOGRAPHS, folder_files, photographs, plain_module, prepared
from .running import Plan, Result, table

RADII = {  # /255
    "apgd": (0.02, 0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3),
    "pgd": (0.7, 0.9, 1.1, 1.3, 1.6, 2.0, 2.5, 3.2),
}
BATCH = 16
#: Images, labels, targets, radius and seeds -> perturbed images.
Attack = Callable[[Tensor, Tensor, Tensor | None, float, list[int]], Tensor]


def crops(net: Network) -> tuple[Tensor, Tensor]:
    """Return images ``(4 N, 3, 128, 128)``, four crops of each photograph, and their predicted classes.

    Of 16 photographs, or of up to 100 of a given folder.
    """
    x, _ = photographs(net, min(100, len(folder_files())) or PHOTOGRAPHS)
    large = torch.nn.functional.interpolate(x, 160, mode="bilinear", align_corners=False, antialias=True)
    corners = []
    for i, j in ((0, 0), (0, 32), (32, 0), (32, 32)):
        corners.append(large[..., i : i + 128, j : j + 128])
    images = (torch.cat(corners).clamp(0, 1) * 255).round() / 255
    return images, torch.cat([net.scores(batch) for batch in images.split(BATCH)]).argmax(1)


def robust(tool: str, against: str, radii: list[float], seeds: int, steps: int) -> Result:
    """Return the number of robust images at each radius, and the number of images."""
    net = prepared()
    x, y = crops(net)
    targets = None if against == "apgd" else (y + 111 * (1 + torch.arange(len(y)) // BATCH)) % 1000
    module = plain_module(net)
    attack = _lit_viz(net, steps) if tool == "lit_viz" else _torchattacks(net, against, steps)
    counts = []
    for radius in radii:
        is_robust = torch.ones(len(x), dtype=torch.bool)
        for seed in range(seeds):
            for rows in is_robust.nonzero()[:, 0].split(BATCH):
                if not len(rows):  # a split of no rows is one empty batch
                    continue
                goals = None if targets is None else targets[rows]
                draws = [seed * len(x) + row for row in rows.tolist()]
                images = attack(x[rows], y[rows], goals, radius / 255, draws)
                with torch.no_grad():
                    predictions = module(images).argmax(1)
                is_robust[rows] = predictions == y[rows] if goals is None else predictions != goals
        counts.append(int(is_robust.sum()))
    return {"robust": counts, "images": len(x)}


def _lit_viz(net: Network, steps: int) -> Attack:
    fast = net.fast()

    def attack(x: Tensor, y: Tensor, targets: Tensor | None, eps: float, seeds: list[int]) -> Tensor:
        goals = None if targets is None else targets.tolist()
        network = lambda images: fast(images)[0]  # noqa: E731
        return run_attack(APGD(eps=eps), network, x, y.tolist(), goals, iterations=steps + 1, seeds=seeds)[0]

    return attack


def _torchattacks(net: Network, against: str, steps: int) -> Attack:
    torchattacks, module = import_module("torchattacks"), _Copy(net)

    def attack(x: Tensor, y: Tensor, targets: Tensor | None, eps: float, seeds: list[int]) -> Tensor:
        if against == "apgd":
            return torchattacks.APGD(module, eps=eps, steps=steps, seed=seeds[0])(x, y)
        torch.manual_seed(seeds[0])
        pgd = torchattacks.PGD(module, eps=eps, alpha=eps / 4, steps=steps)
        pgd.set_mode_targeted_by_label(quiet=True)
        return pgd(x, targets)

    return attack


class _Copy(nn.Module):
    """The fast copy as a module."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.fast = net.fast()
        self.device_parameter = nn.Parameter(torch.zeros(()))  # torchattacks reads the device of a parameter
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fast(x)[0]


def compare(plan: Plan) -> str:
    """Return a table for each of the two reference attacks."""
    tables = []
    for against, radii in RADII.items():
        options: Result = {"radii": radii, "seeds": 3, "steps": 20}
        if plan.quick:
            options = {"radii": radii[-1:], "seeds": 1, "steps": 1}
        rows = []
        for tool, attack in (("lit_viz", "APGD"), ("torchattacks", against.upper())):
            result = plan.side("strength.robust", tool=tool, against=against, **options)
            cells = [f"{count / result['images']:.0%} ({count})" for count in result["robust"]]
            rows.append([f"{attack}, {tool}", *cells])
        tables.append(table(["robust at a radius of", *(f"{radius}/255" for radius in options["radii"])], rows))
    return "\n\n".join(tables)
