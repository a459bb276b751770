"""Class images by lucent, Horama and lit_viz: seconds and evaluations an image, and probabilities of held-out networks.

Each tool optimizes the same classes on the same network by its own recipe: lucent with its standard transforms, up to
512 steps and 224 pixels; Horama with a Fourier image of 512 pixels and up to 256 steps, for two classes only, since
each takes minutes; lit_viz with its configurations, at their number of iterations and at fewer. lucent needs two
functions that kornia has moved, and leaves hooks on the network, so that each image gets a copy. Each round has its own
seeds.

The seconds exclude loading and the held-out networks, which classify the 8-bit files of all tools afterwards. An
evaluation is a forward, and its gradient, of as many pixels as an image of 224 x 224. Recipes are ranked by the
evaluations at which the probability of the class, the mean over images and held-out networks, reaches one half.
"""

from __future__ import annotations

import copy
import random
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.evidence.judges import installed_judges, load_judge
from lit_viz.figures.sheet import contact_sheet
from lit_viz.figures.style import COLORS, save_figure, style
from lit_viz.images.reading import encode_png, read_photograph
from lit_viz.networks import Network
from lit_viz.networks.fast.frozen import FrozenNetwork
from lit_viz.outputs import load_network
from tests.support import environment

from .clock import evidence_apart, timed
from .material import CLASSES, loaded, plain_module, prepared
from .running import Plan, Result, ratios, spread, table


@dataclass(frozen=True)
class Recipe:
    """Steps of a tool.

    Attributes:
        config: configuration of lit_viz.
    """

    tool: str
    steps: int
    config: str = ""

    @property
    def name(self) -> str:
        """The tool, and the configuration."""
        return f"{self.tool} {self.config}".strip()

    @property
    def title(self) -> str:
        """The name, and the steps."""
        return f"{self.name}, {self.steps} steps"


def _recipes(tool: str, *steps: int, config: str = "") -> list[Recipe]:
    return [Recipe(tool, number, config) for number in steps]


#: In the order of their turns. The first is the reference of the ratios.
RECIPES: tuple[Recipe, ...] = (
    *_recipes("lucent", 512, 64),
    *_recipes("lit_viz", 28, 57, 114, 228, config="tarantula"),
    *_recipes("lit_viz", 25, 50, 100, 225, config="thorough"),
    *_recipes("lit_viz", 64, 128, 256, 512, config="plain_fourier"),
    *_recipes("lit_viz", 18, 36, 72, config="maco"),
    *_recipes("horama", 64, 256),
)
QUICK_RECIPES = (Recipe("lucent", 2), *_recipes("lit_viz", 1, 2, config="tarantula"), Recipe("horama", 2))
#: Number of classes of a tool that takes minutes for each.
MAX_CLASSES = {"horama": 2}
_PIXELS = 224 * 224  # of an evaluation
_REACHED = 0.5  # probability that ranks the recipes


def made(tool: str, steps: int, config: str, classes: list[str], seed: int, folder: str) -> Result:
    """Write the images of a tool to a folder; return the seconds and the evaluations an image."""
    if tool == "lit_viz":
        seconds, evaluations, images = lit_viz(classes, steps, config, seed)
    else:
        seconds, evaluations, images = {"lucent": lucent, "horama": horama}[tool](classes, steps, seed)
    Path(folder).mkdir(parents=True)
    for index, image in enumerate(images):
        Path(folder, f"{index}.png").write_bytes(encode_png(image))
    return {"seconds": seconds / len(classes), "evaluations": evaluations / len(classes)}


class EvaluationCounter:
    """Counts evaluations of a module, or of all fast copies in the context, in images of 224 x 224 pixels."""

    def __init__(self, module: nn.Module | None = None) -> None:
        self.evaluations = 0.0
        if module is not None:
            module.register_forward_pre_hook(lambda _, arguments: self.count(arguments[0]))

    def count(self, images: Tensor) -> None:
        """Add a forward of images ``(N, C, H, W)``."""
        self.evaluations += len(images) * images.shape[-2] * images.shape[-1] / _PIXELS

    @contextmanager
    def of_fast_copies(self) -> Iterator[None]:
        """Count the forwards of fast copies within the context."""
        normalized = FrozenNetwork._normalized

        def counted(network: FrozenNetwork, images: Tensor, dtype: torch.dtype) -> Tensor:
            if not network.is_original:
                self.count(images)
            return normalized(network, images, dtype)

        with patch.object(FrozenNetwork, "_normalized", counted):
            yield


def render_lucent(module: nn.Module, objective: str, steps: int) -> Tensor:
    """Return lucent's image ``(C, H, W)`` of an objective, on a copy of the module, on which it leaves hooks."""
    environment.patch_kornia()
    from lucent.optvis import param, render

    options: Result = {"thresholds": (steps,), "show_image": False, "progress": False, "preprocess": False}
    (image,) = render.render_vis(copy.deepcopy(module), objective, lambda: param.image(224), **options)
    return torch.from_numpy(image[0]).permute(2, 0, 1)


def lucent(classes: list[str], steps: int, seed: int) -> tuple[float, float, Sequence[Tensor]]:
    """Return the seconds, the evaluations and the images of lucent."""
    net = loaded()
    module = plain_module(net)
    counter = EvaluationCounter(module)
    seconds, images = _one_by_one(lambda target: render_lucent(module, f"labels:{target}", steps), net, classes, seed)
    return seconds, counter.evaluations, images


def horama(classes: list[str], steps: int, seed: int) -> tuple[float, float, Sequence[Tensor]]:
    """Return the seconds, the evaluations and the images of Horama."""
    import horama as peer

    net = loaded()
    module = net.original
    counter = EvaluationCounter(module)
    (mean, *_), (std, *_) = net.mean, net.std  # equal for the three channels of this network
    limits = (-mean / std, (1 - mean) / std)

    def optimize(target: int) -> Tensor:
        objective = lambda images: module(images)[:, target].mean()  # noqa: E731
        options: Result = {"total_steps": steps, "image_size": 512, "values_range": limits, "device": "cpu"}
        image, _ = peer.fourier(objective, **options)
        return image.detach() * std + mean

    seconds, images = _one_by_one(optimize, net, classes, seed)
    return seconds, counter.evaluations, images


def lit_viz(classes: list[str], steps: int, config: str, seed: int) -> tuple[float, float, Sequence[Tensor]]:
    """Return the seconds, the evaluations and the images of a run of lit_viz."""
    net = prepared()
    counter = EvaluationCounter()

    def start(images: int, iterations: int) -> Any:
        counter.evaluations = 0.0  # of the warm-up
        return lv.visualize(net, classes[:images], config=config, iterations=iterations, seed=seed)

    with counter.of_fast_copies():
        result, run = evidence_apart(start, len(classes), steps)
    return result["seconds"], counter.evaluations, list(run.images)


def _one_by_one(
    optimize: Callable[[int], Tensor], net: Network, classes: list[str], seed: int
) -> tuple[float, Sequence[Tensor]]:
    for set_seed in (random.seed, np.random.seed, torch.manual_seed):
        set_seed(seed)
    return timed(lambda: [optimize(net.index_of(name)) for name in classes])


def judged(judges: list[str], classes: list[str], folders: list[str]) -> Result:
    """Return by folder and judge the probability of the class of each image, and whether it is predicted."""
    networks: dict[str, Network] = {}
    for name in installed_judges(loaded()):
        networks[name] = load_judge(name)
    for given in judges:
        name, _, weights = given.partition("=")
        networks[name] = load_network(name, weights=weights or "DEFAULT")
    verdicts: dict[str, dict[str, list[tuple[float, bool]]]] = defaultdict(dict)
    for name, judge in networks.items():
        for folder in folders:
            images = []
            for index in range(len(list(Path(folder).iterdir()))):
                images.append(read_photograph(Path(folder, f"{index}.png"), judge.size).pixels)
            probabilities = judge.scores(torch.stack(images)).softmax(1)
            own = []
            for row, label in zip(probabilities, classes, strict=False):
                index = judge.index_of(label)
                own.append((float(row[index]), int(row.argmax()) == index))
            verdicts[folder][name.rpartition("/")[2]] = own
    return verdicts


@dataclass
class Measured:
    """Images of a recipe in all rounds.

    Attributes:
        rounds: seconds and evaluations an image.
        folders: of the images, by round.
        predicted: by judge, whether each image's class is predicted.
        probability: of the class, the mean over images and judges.
    """

    rounds: list[Result] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    predicted: dict[str, list[bool]] = field(default_factory=dict)
    probability: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds an image, the median over the rounds."""
        return statistics.median(result["seconds"] for result in self.rounds)

    @property
    def evaluations(self) -> float:
        """Evaluations an image."""
        evaluations: float = self.rounds[0]["evaluations"]
        return evaluations

    def judge(self, verdicts: Result) -> None:
        """Read the verdicts of :func:`judged`."""
        probabilities: list[float] = []
        for folder in self.folders:
            for judge, values in verdicts[folder].items():
                for probability, is_predicted in values:
                    probabilities.append(probability)
                    self.predicted.setdefault(judge, []).append(is_predicted)
        self.probability = statistics.mean(probabilities)


def compare(plan: Plan) -> str:
    """Return the table of all recipes; write a sheet of the first round's images, and curves."""
    classes, recipes = (CLASSES[:2], QUICK_RECIPES) if plan.quick else (CLASSES, RECIPES)
    measured = {recipe: Measured() for recipe in recipes}
    with tempfile.TemporaryDirectory() as root:
        for number in range(plan.rounds):
            for recipe in recipes:
                folder = f"{root}/{recipe.title}-{number}"
                given: Result = {"tool": recipe.tool, "steps": recipe.steps, "config": recipe.config}
                given["classes"] = classes[: MAX_CLASSES.get(recipe.tool)]
                side = plan.side("classes.made", folder=folder, seed=1000 * number, **given)
                measured[recipe].folders.append(folder)
                measured[recipe].rounds.append(side)
        folders: list[str] = []
        for images in measured.values():
            folders += images.folders
        verdicts = plan.side("classes.judged", judges=list(plan.judges), classes=classes, folders=folders)
        for images in measured.values():
            images.judge(verdicts)
        for pictures in (plan.out, plan.images):
            if pictures is not None:
                save_figure(curves(measured), pictures / "class_image_curves.png")
        if plan.out is not None:
            _sheet(plan.out, classes, measured)
    return _report(measured)


def _report(measured: dict[Recipe, Measured]) -> str:
    """Return the table, the ranking, and the fewest iterations of lit_viz that match lucent for every judge."""
    reference = measured[next(iter(measured))]
    head = ["recipe", "evaluations an image", "seconds an image", "its time / lucent's", "mean held-out probability"]
    for judge in reference.predicted:
        head.append(f"predicted by {judge}")
    rows = []
    for recipe, images in measured.items():
        seconds = spread([result["seconds"] for result in images.rounds])
        row = [recipe.title, f"{images.evaluations:.0f}", seconds, ratios(images.rounds, reference.rounds)]
        row.append(f"{images.probability:.2f}")
        for correct in images.predicted.values():
            row.append(f"{sum(correct)} of {len(correct)}")
        rows.append(row)
    return f"{table(head, rows)}\n\n{ranking(measured)}\n\n{_matching(measured, reference)}"


def ranking(measured: dict[Recipe, Measured]) -> str:
    """Return a sentence that ranks the recipes by the evaluations at which their probability reaches one half."""
    reached: dict[str, tuple[float, float]] = {}
    best: dict[str, float] = {}
    for recipe, images in measured.items():
        best[recipe.name] = max(best.get(recipe.name, 0.0), images.probability)
        if images.probability >= _REACHED:
            cost = images.evaluations, images.seconds
            reached[recipe.name] = min(cost, reached.get(recipe.name, cost))
    places = []
    for name, (evaluations, seconds) in sorted(reached.items(), key=lambda item: item[1]):
        places.append(f"{name} ({evaluations:.0f} evaluations, {seconds:.1f} s)")
    for name, probability in sorted(best.items(), key=lambda item: -item[1]):
        if name not in reached:
            places.append(f"{name} (never; at most {probability:.2f})")
    return f"A mean held-out probability of {_REACHED} is reached first by {', then '.join(places)}."


def _matching(measured: dict[Recipe, Measured], reference: Measured) -> str:
    for recipe, images in measured.items():
        if recipe.tool == "lit_viz" and _is_no_worse(images.predicted, reference.predicted):
            ratio = ratios(images.rounds, reference.rounds)
            return (
                f"{recipe.name} matches lucent for every judge after {recipe.steps} iterations, in {ratio} of its time."
            )
    return "Every recipe of lit_viz has a judge that predicts fewer classes than for lucent."


def _is_no_worse(own: dict[str, list[bool]], other: dict[str, list[bool]]) -> bool:
    """Return whether each judge predicts at least as many classes."""
    return all(sum(own[judge]) >= sum(correct) for judge, correct in other.items())


def curves(measured: dict[Recipe, Measured]) -> Figure:
    """Return the mean held-out probability by evaluations and by seconds, a curve a recipe."""
    by_name: dict[str, list[Measured]] = defaultdict(list)
    for recipe, images in measured.items():
        by_name[recipe.name].append(images)
    with style():
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for number, (name, points) in enumerate(by_name.items()):
            evaluations, seconds, probabilities = [], [], []
            for images in sorted(points, key=lambda images: images.evaluations):
                evaluations.append(images.evaluations)
                seconds.append(images.seconds)
                probabilities.append(images.probability)
            line: Result = {"marker": "o", "markersize": 4, "color": COLORS[number % len(COLORS)]}
            axes[0].plot(evaluations, probabilities, label=name, **line)
            axes[1].plot(seconds, probabilities, label=name, **line)
        for place in axes:
            place.set(xscale="log", ylim=(0, 1))
            place.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            place.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            place.xaxis.set_minor_formatter(NullFormatter())
        axes[0].set(xlabel="evaluations of 224 x 224 pixels an image", ylabel="mean held-out probability")
        axes[1].set(xlabel="seconds an image")
        axes[1].legend()
    return figure


def _sheet(out: Path, classes: Sequence[str], measured: dict[Recipe, Measured]) -> None:
    """Write the images of the first round, a row for each recipe, with the number of judges that predict the class."""
    files, titles = [], []
    for recipe, images in measured.items():
        for index, name in enumerate(classes[: MAX_CLASSES.get(recipe.tool)]):
            files.append(Path(images.folders[0], f"{index}.png"))
            count = sum(verdicts[index] for verdicts in images.predicted.values())
            titles.append(f"{name}\n{recipe.title}\npredicted by {count} of {len(images.predicted)}")
    save_figure(contact_sheet(files, titles, columns=len(classes)), out / "class_images.png")
