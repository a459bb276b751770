"""Class images: how long until networks that took no part see the class, with lucent, Horama and lit_viz?

Every tool makes the same classes on the same network by its own recipe: lucent's standard transforms and 512 steps at
224 pixels; Horama's Fourier image of 512 pixels, 256 steps, of two of the classes only, for each takes minutes;
lit_viz's default, 250 iterations, and fewer. lucent looks for two functions where kornia no longer has them: they are
put there; and it leaves its hooks on the network, so that each image gets a copy. Each round has seeds of its own.

Seconds an image are without loading, and without asking judges: the held-out networks look at the pictures of all tools
afterwards, as they are read from their 8-bit files.
"""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.classifiers import load_classifier
from lit_viz.evidence.judges import installed_judges
from lit_viz.figures.sheet import contact_sheet
from lit_viz.figures.style import save_figure
from lit_viz.images.reading import encode_png, read_photograph

from .clock import evidence_apart, timed
from .material import CLASSES, as_handed, loaded, prepared
from .running import Plan, Result, ratios, spread, table

#: Tool and steps, in the order of their turns.
RECIPES = (("lucent", 512), ("lit_viz", 25), ("lit_viz", 50), ("lit_viz", 100), ("lit_viz", 250), ("horama", 256))
#: Of how many classes a tool makes pictures that takes minutes for each.
_FEWER = {"horama": 2}
_QUICK = (("lucent", 2), ("lit_viz", 1), ("lit_viz", 2), ("horama", 2))


def made(tool: str, steps: int, classes: list[str], seed: int, folder: str) -> Result:
    """Make the pictures of a tool in a folder, and return the seconds an image."""
    make = {"lucent": lucent, "horama": horama, "lit_viz": ours}[tool]
    seconds, pictures = make(classes, steps, seed)
    Path(folder).mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Path(folder, f"{number}.png").write_bytes(encode_png(picture))
    return {"seconds": seconds / len(classes)}


def lucent(classes: list[str], steps: int, seed: int) -> tuple[float, Sequence[Tensor]]:
    """Return the seconds of lucent, and its pictures."""
    import kornia
    from kornia.geometry import transform

    kornia.get_rotation_matrix2d, kornia.warp_affine = transform.get_rotation_matrix2d, transform.warp_affine
    from lucent.optvis import param, render

    net = loaded()
    module = as_handed(net)

    def make(target: int) -> Tensor:
        options: Result = {"thresholds": (steps,), "show_image": False, "progress": False, "preprocess": False}
        (picture,) = render.render_vis(copy.deepcopy(module), f"labels:{target}", lambda: param.image(224), **options)
        return torch.from_numpy(picture[0]).permute(2, 0, 1)

    return _one_by_one(make, net, classes, seed)


def horama(classes: list[str], steps: int, seed: int) -> tuple[float, Sequence[Tensor]]:
    """Return the seconds of Horama, and its pictures."""
    import horama as peer

    net = loaded()
    module = net.original
    (mean, *_), (std, *_) = net.mean, net.std  # equal for the three channels of this network
    span = (-mean / std, (1 - mean) / std)

    def make(target: int) -> Tensor:
        objective = lambda images: module(images)[:, target].mean()  # noqa: E731
        options: Result = {"total_steps": steps, "image_size": 512, "values_range": span, "device": "cpu"}
        picture, _ = peer.fourier(objective, **options)
        return picture.detach() * std + mean

    return _one_by_one(make, net, classes, seed)


def ours(classes: list[str], steps: int, seed: int) -> tuple[float, Sequence[Tensor]]:
    """Return the seconds of a run of the default recipe, and its pictures."""
    net = prepared()
    result, run = evidence_apart(
        lambda n, k: lv.visualize(net, classes[:n], iterations=k, seed=seed), len(classes), steps
    )
    return result["seconds"], list(run.images)


def _one_by_one(
    make: Callable[[int], Tensor], net: Any, classes: list[str], seed: int
) -> tuple[float, Sequence[Tensor]]:
    for draw in (random.seed, np.random.seed, torch.manual_seed):
        draw(seed)
    return timed(lambda: [make(net.index_of(name)) for name in classes])


def judged(judges: list[str], classes: list[str], folders: list[str]) -> Result:
    """Return for each folder by judge which of its pictures are seen as their classes."""
    networks = dict.fromkeys(installed_judges(loaded()), "DEFAULT")
    networks |= {name: weights or "DEFAULT" for name, _, weights in (judge.partition("=") for judge in judges)}
    seen: dict[str, dict[str, list[bool]]] = {folder: {} for folder in folders}
    for name, weights in networks.items():
        judge = load_classifier(name, weights=weights)
        targets = [judge.index_of(one) for one in classes]
        for folder in folders:
            files = [Path(folder, f"{number}.png") for number in range(len(list(Path(folder).iterdir())))]
            pictures = torch.stack([read_photograph(file, judge.size).pixels for file in files])
            found = judge.logits(pictures).argmax(1).tolist()
            seen[folder][name.rpartition("/")[2]] = [a == b for a, b in zip(found, targets, strict=False)]
    return seen


def compare(plan: Plan) -> str:
    """Return the table of all tools, and write a sheet of the first round's pictures."""
    classes, recipes = (CLASSES[:2], _QUICK) if plan.quick else (CLASSES, RECIPES)
    results: dict[tuple[str, int], list[Result]] = {recipe: [] for recipe in recipes}
    with tempfile.TemporaryDirectory() as pictures:
        folders = {
            recipe: [f"{pictures}/{recipe[0]}-{recipe[1]}-{k}" for k in range(plan.rounds)] for recipe in recipes
        }
        for number in range(plan.rounds):
            for tool, steps in recipes:
                mine = classes[: _FEWER.get(tool)]
                given = {"tool": tool, "steps": steps, "classes": mine, "seed": 1000 * number}
                results[tool, steps].append(plan.side("classes.made", folder=folders[tool, steps][number], **given))
        every = [folder for some in folders.values() for folder in some]
        seen = plan.side("classes.judged", judges=list(plan.judges), classes=classes, folders=every)
        if plan.out is not None:
            _sheet(plan.out, classes, {recipe: some[0] for recipe, some in folders.items()}, seen)
    right = {
        recipe: {judge: sum(sum(seen[folder][judge]) for folder in some) for judge in seen[some[0]]}
        for recipe, some in folders.items()
    }
    pictures = {
        recipe: sum(len(next(iter(seen[folder].values()))) for folder in some) for recipe, some in folders.items()
    }
    return _said(results, right, pictures)


def _said(
    results: dict[tuple[str, int], list[Result]],
    right: dict[tuple[str, int], dict[str, int]],
    pictures: dict[tuple[str, int], int],
) -> str:
    first = next(iter(results))
    rows = [
        [
            f"{tool}, {steps} steps",
            spread([one["seconds"] for one in sides]),
            ratios(sides, results[first]),
            *(f"{count} of {pictures[tool, steps]}" for count in right[tool, steps].values()),
        ]
        for (tool, steps), sides in results.items()
    ]
    head = ["recipe", "seconds an image", "its time / lucent's", *(f"seen by {judge}" for judge in right[first])]
    return f"{table(head, rows)}\n\n{_reached(results, right, first)}"


def _reached(
    results: dict[tuple[str, int], list[Result]], right: dict[tuple[str, int], dict[str, int]], first: tuple[str, int]
) -> str:
    """Return after how many iterations no judge sees fewer of lit_viz's pictures than of lucent's."""
    for recipe, sides in results.items():
        if recipe[0] == "lit_viz" and all(right[recipe][judge] >= least for judge, least in right[first].items()):
            when = f"after {recipe[1]} of lit_viz's iterations, in {ratios(sides, results[first])} of lucent's time"
            return f"No judge sees fewer of the pictures than of lucent's {when}."
    return "Each of lit_viz's numbers of iterations has a judge who sees fewer than of lucent's."


def _sheet(out: Path, classes: Sequence[str], folders: dict[tuple[str, int], str], seen: Result) -> None:
    """Draw the pictures, a row a recipe, and who sees the class."""
    pictures, titles = [], []
    for (tool, steps), folder in folders.items():
        for number, name in enumerate(classes[: _FEWER.get(tool)]):
            pictures.append(Path(folder, f"{number}.png"))
            by = [judge for judge, those in seen[folder].items() if those[number]]
            titles.append(f"{name}\n{tool}, {steps} steps\nseen by {len(by)} of {len(seen[folder])}")
    save_figure(contact_sheet(pictures, titles, columns=len(classes)), out / "class_images.png")
