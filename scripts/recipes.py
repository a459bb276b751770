"""Compare recipes for class images: a table of held-out predictions, and a contact sheet.

python scripts/recipes.py --recipes tarantula,plain_fourier,maco --classes 50 --seed 7 --count
python scripts/recipes.py --recipes tarantula,simonyan_squeezenet --classes 50 --seed 7 --out runs/recipes \\
    --judges efficientnet_lite1 efficientnet_lite2 torchvision/squeezenet1_0=squeezenet1_0.pth
python scripts/recipes.py --recipes tarantula --classes 4 --seeds 4 --out runs/seeds

The seed selects the classes, which are the same for every recipe. Recipes are configurations of `lit-viz visualize`;
its other options apply to all. Counts have 95 % Wilson intervals; a network does not judge its own images. Results in
the folder are reused. With --seeds N each class has N images: a grid of them, and their mean distance.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lit_viz.cli import errors_reported
from lit_viz.commands import parse_method
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks.robustness import wilson_interval
from lit_viz.evidence.judges import MOBILENET, mobilenet_weights
from lit_viz.figures.layout import Cell, pixels
from lit_viz.figures.sheet import sweep_figure
from lit_viz.figures.style import save_figure
from lit_viz.images.reading import read_photograph
from lit_viz.launch.cost import format_cost, run_cost
from lit_viz.launch.execute import execute
from lit_viz.launch.methods import METHODS, method_form
from lit_viz.launch.options import RunOptions, utc_now
from lit_viz.networks import Network
from lit_viz.objectives.base import Outputs
from lit_viz.objectives.classes import Margin
from lit_viz.outputs import load_network
from lit_viz.outputs.loading import load_recorded
from lit_viz.runs.folder import FolderStorage
from lit_viz.types import Record
from lit_viz.utils.formatting import notify

COMMAND = METHODS["visualize"]
Judges = dict[str, Network]


@dataclass(frozen=True)
class Made:
    """The run of a recipe.

    Attributes:
        records: in the order of the classes.
        margins: by judge, the class's logit minus the highest other logit ``(N,)``; without the run's own network.
    """

    recipe: str
    folder: Path
    records: Sequence[Record]
    margins: dict[str, Tensor]

    def row(self, judges: Sequence[str]) -> list[str]:
        """Return the line of the table."""
        seconds = sum(record.seconds for record in self.records) / len(self.records)
        line = [self.recipe, f"{seconds:.1f}"]
        for name in judges:
            line += self._judged(name)
        return line

    def _judged(self, name: str) -> tuple[str, str]:
        if name not in self.margins:
            return "its own network", "-"
        right, n = int((self.margins[name] > 0).sum()), len(self.records)
        low, high = wilson_interval(right, n)
        return f"{right} of {n} ({100 * low:.0f}-{100 * high:.0f} %)", f"{float(self.margins[name].mean()):+.1f}"

    def cell(self, place: int) -> Cell:
        """Return the image with the number of judges that predict its class."""
        notes = []
        if self.margins:
            right = sum(bool(margins[place] > 0) for margins in self.margins.values())
            notes.append(f"judges {right}/{len(self.margins)}")
        return Cell(pixels(self.folder / self.records[place].file), notes)


def title_of(recipe: str) -> str:
    """Return the name of a recipe that is given by its name or as a file."""
    return Path(recipe).stem


def planned(recipe: str, targets: Sequence[int], options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of a recipe's run, which resumes an interrupted one."""
    out = options.out / (f"{title_of(recipe)}_seeds" if options.seeds else title_of(recipe))
    values = parse_method(COMMAND, ["--config", recipe, *options.rest])
    values |= {"target": list(targets), "seed": options.seed, "out": str(out), "resume": True}
    weights = weights_of(options.judges)[network_name(values)]
    if weights:
        values["network.weights"] = weights
    return values


def network_name(values: Mapping[str, Any]) -> str:
    """Return the name of the network of a run."""
    return str(method_form(COMMAND, values).network.get("name", "efficientnet_lite0"))


def built(values: Mapping[str, Any]) -> tuple[ImageTraining, TaskQueue, RunOptions]:
    """Return the module, the tasks and the options of a run."""
    form = method_form(COMMAND, values)
    module, tasks = form.build(load_recorded(form.network))
    return module, tasks, form.options()


def weights_of(judges: Sequence[str]) -> dict[str, str]:
    """Return the file of the weights by network, of names with ``=FILE``; empty without one."""
    files: dict[str, str] = defaultdict(str)
    for judge in judges:
        name, _, file = judge.partition("=")
        files[name] = file
    return files


def made(recipe: str, values: Mapping[str, Any], judges: Judges) -> Made:
    """Run or resume a recipe, and evaluate the judges."""
    notify(f"{recipe}: {values['out']}")
    module, tasks, options = built(values)
    execute(module, tasks, options, moves_network=True, notify=notify)
    folder, records = Path(values["out"]), FolderStorage.open(values["out"]).records()
    if failed := [record.name for record in records if not record.file]:
        raise LitVizError(f"{recipe} has no image of {', '.join(failed)}: see {folder}/results.jsonl")
    targets = torch.tensor([record.target for record in records])
    margins: dict[str, Tensor] = {}
    for name, judge in judges.items():
        if name != network_name(values):
            margins[name] = Margin()(Outputs(scores(folder, records, judge), targets))
    return Made(title_of(recipe), folder, records, margins)


def scores(folder: Path, records: Sequence[Record], judge: Network) -> Tensor:
    """Return a judge's scores ``(N, K)`` of the images of a run."""
    rows: list[Tensor] = []
    for record in records:
        picture = read_photograph(folder / record.file, judge.size).pixels
        rows.append(judge.scores(picture[None]))
    return torch.cat(rows)


def compare(options: argparse.Namespace, classes: Sequence[int], judges: Judges) -> None:
    """Write ``table.md`` and ``sheet.png`` with a row for each recipe."""
    runs = [made(recipe, planned(recipe, classes, options), judges) for recipe in options.recipes]
    header = ["recipe", "seconds an image"]
    for name in judges:
        header += [f"right by {name}", "mean margin"]
    table = ""
    for line in [header, ["---"] * len(header), *(run.row(list(judges)) for run in runs)]:
        table += f"| {' | '.join(line)} |\n"
    (options.out / "table.md").write_text(table, encoding="utf-8")
    places = range(min(options.shown, len(classes)))
    caption = f"{len(places)} of {len(classes)} classes drawn by seed {options.seed}. Judges are held-out networks."
    names = [runs[0].records[place].target_name for place in places]
    labels, cells = [], []
    for run in runs:
        labels.append([run.recipe])
        cells.append([run.cell(place) for place in places])
    save_figure(sweep_figure(labels, names, cells, caption), options.out / "sheet.png")
    print(f"{table}\ntable    {options.out / 'table.md'}\nsheet    {options.out / 'sheet.png'}")


def seeds(options: argparse.Namespace, classes: Sequence[int], judges: Judges) -> None:
    """Write a grid for each recipe, with a row for each class and a column for each seed."""
    count, measure = options.seeds, next(iter(judges.values()))
    for recipe in options.recipes:
        run = made(recipe, planned(recipe, classes, options), judges)
        within, between = spread(features(run, measure), count)
        rows, cells = [], []
        for place, apart in enumerate(within):
            first = place * count
            rows.append([run.records[first].target_name, f"distance {apart:.2f}"])
            cells.append([run.cell(index) for index in range(first, first + count)])
        caption = f"Distance: 1 - cosine of the features of {measure.name}, mean over pairs. "
        caption += f"Between classes: {between:.2f}."
        figure = sweep_figure(rows, [f"seed {k + 1}" for k in range(count)], cells, caption)
        path = save_figure(figure, options.out / f"{run.recipe}_seeds.png")
        mean = sum(within) / len(within)
        print(f"{recipe}: mean distance {mean:.2f} within a class, {between:.2f} between classes: {path}")


def features(run: Made, judge: Network) -> Tensor:
    """Return the inputs of a judge's final linear layer ``(N, D)``."""
    linear = [layer for layer in judge.original.modules() if isinstance(layer, torch.nn.Linear)]
    if not linear:
        raise LitVizError(f"{judge.name} has no linear layer: name another judge first.")
    given: list[Tensor] = []
    hook = linear[-1].register_forward_pre_hook(lambda _, x: given.append(x[0].clone()))
    scores(run.folder, run.records, judge)
    hook.remove()
    return torch.cat(given)


def spread(features: Tensor, count: int) -> tuple[list[float], float]:
    """Return the mean ``1 - cosine`` within each class, and between classes.

    Args:
        features: ``(classes * count, D)``, grouped by class.
        count: images of each class, at least 2.
    """
    unit = normalize(features.double(), dim=1)
    apart = (1 - unit @ unit.T).unflatten(0, (-1, count)).unflatten(2, (-1, count)).transpose(1, 2).sum((2, 3))
    own = apart.diagonal()
    others = (apart.sum() - own.sum()) / (count**2 * len(own) * (len(own) - 1))
    return (own / (count * (count - 1))).tolist(), float(others)


def count(options: argparse.Namespace, classes: Sequence[int]) -> None:
    """Print the cost of the runs, finished or not."""
    costs = []
    for recipe in options.recipes:
        module, tasks, _ = built(planned(recipe, classes, options))
        costs.append(run_cost(module, tasks))
        print(f"{recipe}: {format_cost(costs[-1:])}")
    if len(costs) > 1:
        print(format_cost(costs))


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=lambda names: names.split(","), required=True, help="configurations")
    parser.add_argument("--classes", type=int, default=20, help="number of classes [20]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the classes; image i has seed + i [0]")
    judges = ["efficientnet_lite1", "efficientnet_lite2"]
    if (weights := mobilenet_weights()) is not None:
        judges.append(f"{MOBILENET}={weights}")
    parser.add_argument(
        "--judges", nargs="+", default=judges, help="names of networks, each with =FILE for its weights"
    )
    parser.add_argument("--shown", type=int, default=8, help="classes on the sheet [8]")
    parser.add_argument("--seeds", type=int, default=0, help="images of each class, at least 2")
    parser.add_argument("--out", type=Path, default=Path("runs", "recipes", utc_now()))
    parser.add_argument("--count", action="store_true", help="print the cost and exit")
    options, options.rest = parser.parse_known_args(words)
    return options


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    with errors_reported("recipes"):
        judges: Judges = {}
        for name, weights in weights_of(options.judges).items():
            judges[name] = load_network(name, weights=weights or "DEFAULT")
        num_classes = min(judge.num_classes for judge in judges.values())
        if options.seeds < 0 or options.seeds == 1:
            raise LitVizError(f"--seeds must be at least 2, got {options.seeds}")
        least = 2 if options.seeds else 1  # distances between classes require two
        if not least <= options.classes <= num_classes:
            raise LitVizError(f"--classes must be between {least} and {num_classes}, got {options.classes}")
        drawn = random.Random(options.seed).sample(range(num_classes), options.classes)
        classes: list[int] = []
        for index in drawn:
            classes += [index] * max(1, options.seeds)
        if options.count:
            count(options, classes)
        else:
            (seeds if options.seeds else compare)(options, classes, judges)


if __name__ == "__main__":
    main()
