"""Class images by lucent, Horama and lit_viz: seconds an image, and predictions of held-out networks.

Each tool optimizes the same classes on the same network by its own recipe: lucent with its standard transforms, 512
steps and 224 pixels; Horama with a Fourier image of 512 pixels and 256 steps, for two classes only, since each takes
minutes; lit_viz with its default of 225 iterations, and with fewer. lucent needs two functions that kornia has moved,
and leaves hooks on the network, so that each image gets a copy. Each round has its own seeds.

The seconds exclude loading and the held-out networks, which classify the 8-bit files of all tools afterwards.
"""

from __future__ import annotations

import copy
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.classifiers import Classifier, load_classifier
from lit_viz.evidence.judges import installed_judges, load_judge
from lit_viz.figures.sheet import contact_sheet
from lit_viz.figures.style import save_figure
from lit_viz.images.reading import encode_png, read_photograph

from .clock import evidence_apart, timed
from .material import CLASSES, loaded, plain_module, prepared
from .running import Plan, Result, ratios, spread, table

#: Tool and number of steps.
Recipe = tuple[str, int]
#: In the order of their turns. The first is the reference of the ratios.
RECIPES: tuple[Recipe, ...] = (
    ("lucent", 512),
    ("lit_viz", 25),
    ("lit_viz", 50),
    ("lit_viz", 100),
    ("lit_viz", 225),
    ("horama", 256),
)
QUICK_RECIPES: tuple[Recipe, ...] = (("lucent", 2), ("lit_viz", 1), ("lit_viz", 2), ("horama", 2))
#: Number of classes of a tool that takes minutes for each.
MAX_CLASSES = {"horama": 2}


def made(tool: str, steps: int, classes: list[str], seed: int, folder: str) -> Result:
    """Write the images of a tool to a folder and return the seconds an image."""
    optimize = {"lucent": lucent, "horama": horama, "lit_viz": lit_viz}[tool]
    seconds, images = optimize(classes, steps, seed)
    Path(folder).mkdir(parents=True)
    for index, image in enumerate(images):
        Path(folder, f"{index}.png").write_bytes(encode_png(image))
    return {"seconds": seconds / len(classes)}


def lucent(classes: list[str], steps: int, seed: int) -> tuple[float, Sequence[Tensor]]:
    """Return the seconds and the images of lucent."""
    import kornia
    from kornia.geometry import transform

    kornia.get_rotation_matrix2d, kornia.warp_affine = transform.get_rotation_matrix2d, transform.warp_affine
    from lucent.optvis import param, render

    net = loaded()
    module = plain_module(net)

    def optimize(target: int) -> Tensor:
        options: Result = {"thresholds": (steps,), "show_image": False, "progress": False, "preprocess": False}
        (image,) = render.render_vis(copy.deepcopy(module), f"labels:{target}", lambda: param.image(224), **options)
        return torch.from_numpy(image[0]).permute(2, 0, 1)

    return _one_by_one(optimize, net, classes, seed)


def horama(classes: list[str], steps: int, seed: int) -> tuple[float, Sequence[Tensor]]:
    """Return the seconds and the images of Horama."""
    import horama as peer

    net = loaded()
    module = net.original
    (mean, *_), (std, *_) = net.mean, net.std  # equal for the three channels of this network
    limits = (-mean / std, (1 - mean) / std)

    def optimize(target: int) -> Tensor:
        objective = lambda images: module(images)[:, target].mean()  # noqa: E731
        options: Result = {"total_steps": steps, "image_size": 512, "values_range": limits, "device": "cpu"}
        image, _ = peer.fourier(objective, **options)
        return image.detach() * std + mean

    return _one_by_one(optimize, net, classes, seed)


def lit_viz(classes: list[str], steps: int, seed: int) -> tuple[float, Sequence[Tensor]]:
    """Return the seconds and the images of a run of lit_viz's default recipe."""
    net = prepared()
    result, run = evidence_apart(
        lambda n, k: lv.visualize(net, classes[:n], iterations=k, seed=seed), len(classes), steps
    )
    return result["seconds"], list(run.images)


def _one_by_one(
    optimize: Callable[[int], Tensor], net: Classifier, classes: list[str], seed: int
) -> tuple[float, Sequence[Tensor]]:
    for set_seed in (random.seed, np.random.seed, torch.manual_seed):
        set_seed(seed)
    return timed(lambda: [optimize(net.index_of(name)) for name in classes])


def judged(judges: list[str], classes: list[str], folders: list[str]) -> Result:
    """Return by folder and judge whether the judge predicts the class of each image."""
    networks = {name: load_judge(name) for name in installed_judges(loaded())}
    for given in judges:
        name, _, weights = given.partition("=")
        networks[name] = load_classifier(name, weights=weights or "DEFAULT")
    correct: dict[str, dict[str, list[bool]]] = {folder: {} for folder in folders}
    for name, judge in networks.items():
        for folder in folders:
            images = []
            for index in range(len(list(Path(folder).iterdir()))):
                images.append(read_photograph(Path(folder, f"{index}.png"), judge.size).pixels)
            predictions = judge.logits(torch.stack(images)).argmax(1).tolist()
            verdicts = []
            for prediction, label in zip(predictions, classes, strict=False):
                verdicts.append(prediction == judge.index_of(label))
            correct[folder][name.rpartition("/")[2]] = verdicts
    return correct


def compare(plan: Plan) -> str:
    """Return the table of all recipes, and write a sheet of the first round's images."""
    classes, recipes = (CLASSES[:2], QUICK_RECIPES) if plan.quick else (CLASSES, RECIPES)
    results: dict[Recipe, list[Result]] = {recipe: [] for recipe in recipes}
    folders: dict[Recipe, list[str]] = {recipe: [] for recipe in recipes}
    with tempfile.TemporaryDirectory() as root:
        for number in range(plan.rounds):
            for tool, steps in recipes:
                folder = f"{root}/{tool}-{steps}-{number}"
                arguments = {"tool": tool, "steps": steps, "classes": classes[: MAX_CLASSES.get(tool)]}
                folders[tool, steps].append(folder)
                results[tool, steps].append(plan.side("classes.made", folder=folder, seed=1000 * number, **arguments))
        all_folders: list[str] = []
        for rounds in folders.values():
            all_folders += rounds
        correct = plan.side("classes.judged", judges=list(plan.judges), classes=classes, folders=all_folders)
        if plan.out is not None:
            _sheet(plan.out, classes, {recipe: rounds[0] for recipe, rounds in folders.items()}, correct)
    predictions = {recipe: _of_rounds(correct, rounds) for recipe, rounds in folders.items()}
    return _report(results, predictions)


def _of_rounds(correct: Result, rounds: Sequence[str]) -> dict[str, list[bool]]:
    """Return by judge whether each image's class is predicted, of all rounds of a recipe."""
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for folder in rounds:
        for judge, values in correct[folder].items():
            verdicts[judge] += values
    return verdicts


def _report(results: dict[Recipe, list[Result]], predictions: dict[Recipe, dict[str, list[bool]]]) -> str:
    """Return the table, and the fewest iterations of lit_viz that match lucent for every judge.

    Args:
        results: seconds an image, by recipe and round.
        predictions: whether each image's class is predicted, by recipe and judge.
    """
    first = next(iter(results))
    head = ["recipe", "seconds an image", "its time / lucent's"]
    for judge in predictions[first]:
        head.append(f"predicted by {judge}")
    rows = []
    for (tool, steps), rounds in results.items():
        seconds = spread([result["seconds"] for result in rounds])
        row = [f"{tool}, {steps} steps", seconds, ratios(rounds, results[first])]
        for correct in predictions[tool, steps].values():
            row.append(f"{sum(correct)} of {len(correct)}")
        rows.append(row)
    conclusion = "Every number of lit_viz's iterations has a judge that predicts fewer classes than for lucent."
    for recipe, rounds in results.items():
        if recipe[0] == "lit_viz" and _is_no_worse(predictions[recipe], predictions[first]):
            ratio = ratios(rounds, results[first])
            when = f"after {recipe[1]} iterations, in {ratio} of lucent's time"
            conclusion = f"lit_viz matches lucent for every judge {when}."
            break
    return f"{table(head, rows)}\n\n{conclusion}"


def _is_no_worse(own: dict[str, list[bool]], other: dict[str, list[bool]]) -> bool:
    """Return whether each judge predicts at least as many classes."""
    return all(sum(own[judge]) >= sum(correct) for judge, correct in other.items())


def _sheet(out: Path, classes: Sequence[str], folders: dict[Recipe, str], correct: Result) -> None:
    """Write the images, a row for each recipe, with the number of judges that predict the class."""
    files, titles = [], []
    for (tool, steps), folder in folders.items():
        for index, name in enumerate(classes[: MAX_CLASSES.get(tool)]):
            files.append(Path(folder, f"{index}.png"))
            count = sum(values[index] for values in correct[folder].values())
            titles.append(f"{name}\n{tool}, {steps} steps\npredicted by {count} of {len(correct[folder])}")
    save_figure(contact_sheet(files, titles, columns=len(classes)), out / "class_images.png")
