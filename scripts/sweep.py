"""Sweep options of class visualizations: a grid of images over their values, and a table.

python scripts/sweep.py tarantula --sweep lr=0.02,0.05 --sweep iterations=50,100,200
python scripts/sweep.py tarantula goldfish --sweep lr=0.02,0.05 --sweep 'priors=[],[TotalVariation]'

Other options are passed to `lit-viz visualize` (--config, --network, --seed ...). Values of iterations and lr share
the slots of one run; any other option has a run for each value, in folders below --out. The final option has the
columns; classes and other options have the rows. All images of a class start from the same noise. --count prints
evaluations and minutes and exits; --resume continues an interrupted sweep.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from lit_viz.cli import errors_reported
from lit_viz.commands import parse_method
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.errors import LitVizError
from lit_viz.figures.layout import Cell, pixels
from lit_viz.figures.sheet import sweep_figure
from lit_viz.figures.style import save_figure
from lit_viz.launch.cost import format_cost, run_cost
from lit_viz.launch.execute import execute
from lit_viz.launch.methods import METHODS, method_form
from lit_viz.launch.options import RunOptions, check_folder_is_new, utc_now
from lit_viz.networks import Network
from lit_viz.presentations import format_value
from lit_viz.presentations.class_visualization import grid_caption, image_caption
from lit_viz.runs.folder import FolderStorage
from lit_viz.types import Record, slug
from lit_viz.utils.files import atomic_write
from lit_viz.utils.formatting import notify

COMMAND = METHODS["visualize"]
#: Options whose values share a run, by their names on the command line.
OF_TASK = {"iterations": "iterations", "lr": "lr", "step_rule.lr": "lr"}


@dataclass(frozen=True)
class Axis:
    """An option and its values."""

    option: str
    values: Sequence[Any]

    @classmethod
    def parse(cls, words: str) -> Axis:
        """Read ``iterations=50,100``; a value may be YAML with its own commas inside brackets."""
        option, _, values = words.partition("=")
        usage = f"--sweep must be OPTION=VALUES, got {words!r}: for example iterations=50,100,200"
        try:
            read = list(map(number, yaml.safe_load(f"[{values}]")))
        except yaml.YAMLError as error:
            raise LitVizError(usage) from error
        if not option or not read:
            raise LitVizError(usage)
        if len(set(map(repr, read))) < len(read):
            raise LitVizError(f"values of --sweep must be distinct, got {words}")
        name = option.removeprefix("--").replace("-", "_")
        return cls(OF_TASK.get(name, name), read)

    @property
    def name(self) -> str:
        """Name of the option in the grid."""
        return self.option.rpartition(".")[2]


def number(value: Any) -> Any:
    """Convert numbers that YAML reads as strings, such as 1e-2."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def label_of(value: Any) -> str:
    """Return the label of a value."""
    if isinstance(value, dict) and "class_path" in value:
        label = value["class_path"].rpartition(".")[2]
        arguments = value.get("init_args") or {}
        if arguments:
            label += f" {labels_of(arguments)}"
        return label
    if isinstance(value, list):
        return " + ".join(map(label_of, value)) or "none"
    return str(value)


def labels_of(values: Mapping[str, Any]) -> str:
    """Return the names of options with the labels of their values."""
    return ", ".join(f"{name} {label_of(value)}" for name, value in values.items())


def parse_arguments(words: Sequence[str]) -> tuple[list[Axis], str | None, list[str]]:
    """Return the axes, the output folder and the arguments of `lit-viz visualize`."""
    axes, out, rest, queue = [], None, [], list(words)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        if name not in ("--sweep", "--out"):
            rest.append(word)
            continue
        if not equals and not queue:
            raise LitVizError(f"{name} requires a value")
        if not equals:
            value = queue.pop(0)
        if name == "--out":
            out = value
        else:
            axes.append(Axis.parse(value))
    if not axes:
        raise LitVizError("--sweep is required: for example --sweep iterations=50,100,200")
    options: set[str] = set()
    for axis in axes:
        if axis.option in options:
            raise LitVizError(
                f"an option must be in one --sweep, got {axis.option} twice: use --sweep {axis.option}=A,B,C"
            )
        options.add(axis.option)
    return axes, out, rest


def runs(axes: Sequence[Axis], words: Sequence[str], out: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each combination of the options that are not task options, with the arguments of its run."""
    inside: dict[str, list[Any]] = {}
    outside: list[Axis] = []
    for axis in axes:
        if axis.option in OF_TASK.values():
            inside[axis.option] = list(axis.values)
        else:
            outside.append(axis)
    given = parse_method(COMMAND, words)
    if any(name.partition(".")[0] == "vary" for name in given):
        raise LitVizError("--vary must not be combined with --sweep: use --sweep for iterations and lr, too")
    planned = []
    for values in product(*(axis.values for axis in outside)):
        chosen: dict[str, Any] = {}
        names: list[str] = []
        for axis, value in zip(outside, values, strict=True):
            chosen[axis.option] = value
            names.append(f"{axis.name}_{label_of(value)}")
        path = Path(out, "run")
        if outside:
            path = Path(out, f"{len(planned):02d}_{slug('_'.join(names))}")
        planned.append((chosen, {**given, **chosen, "vary": inside, "out": str(path)}))
    return planned


def built(
    values: Mapping[str, Any], loaded: dict[str, Network] | None = None
) -> tuple[ImageTraining, TaskQueue, RunOptions]:
    """Return the module, the tasks and the options of a run; ``loaded`` are the networks so far, by their arguments."""
    form = method_form(COMMAND, {name: value for name, value in values.items() if name != "count"})
    networks = {} if loaded is None else loaded
    key = repr(form.network)
    if key not in networks:
        networks[key] = form.load_network()
    module, tasks = form.build(networks[key])
    return module, tasks, form.options()


def validate(planned: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Build the modules and queues of all runs, so that invalid values are rejected before training."""
    loaded: dict[str, Network] = {}
    for chosen, values in planned:
        try:
            module, tasks, options = built(values, loaded)
            check_folder_is_new(options)
            module.validate_tasks(module.expand_tasks(tasks.tasks))
        except LitVizError as error:
            message = error.as_option
            if chosen:
                message = f"{labels_of(chosen)}: {message}"
            raise LitVizError(message) from error


@dataclass(frozen=True)
class SweptImage:
    """One image of the sweep.

    Attributes:
        image: index of its class.
        values: index of its value on each axis.
        record: its record.
        file: the image; None if it failed.
    """

    image: int
    values: tuple[int, ...]
    record: Record
    file: Path | None

    @property
    def name(self) -> str:
        """Name of its class or layer."""
        return self.record.title

    @property
    def judges(self) -> dict[str, Any]:
        """Predictions of held-out networks."""
        return getattr(self.record, "judges", {})


def read_images(folder: Path, axes: Sequence[Axis], chosen: dict[str, Any]) -> list[SweptImage]:
    """Return the images of a run with these option values."""
    run = FolderStorage.open(folder)
    options = {task.index: task.to_dict() | chosen for task in run.queue()}
    variants = prod(len(axis.values) for axis in axes if axis.option not in chosen)
    images = []
    for record in run.records():
        values = [axis.values.index(options[record.index][axis.option]) for axis in axes]
        file = folder / record.file if record.file else None
        images.append(SweptImage(record.index // variants, tuple(values), record, file))
    return images


def draw(axes: Sequence[Axis], pictures: Sequence[SweptImage], out: Path) -> None:
    """Write the grid: a row for each class and combination of the other options."""
    *others, across = axes
    labels: dict[Any, list[str]] = {}
    rows: dict[Any, list[Cell | None]] = {}
    for picture in pictures:
        *places, column = picture.values
        row = picture.image, tuple(places)
        if row not in rows:
            rows[row] = [None] * len(across.values)
            labels[row] = [picture.name]
            for axis, place in zip(others, places, strict=True):
                labels[row].append(f"{axis.name} {label_of(axis.values[place])}")
        if picture.file is not None:
            rows[row][column] = Cell(pixels(picture.file), [image_caption(picture.record)])
    titles = [f"{across.name} {label_of(value)}" for value in across.values]
    caption = grid_caption(picture.record for picture in pictures)
    save_figure(sweep_figure(list(labels.values()), titles, list(rows.values()), caption), out / "figure.png")


def write_table(axes: Sequence[Axis], pictures: Sequence[SweptImage], out: Path) -> None:
    """Print the table, and write it in full precision to ``sweep.csv``."""
    judges: set[str] = set()
    for picture in pictures:
        judges |= picture.judges.keys()
    names = sorted(judges)
    metric = "objective_file" if pictures[0].record.target is None else "probability"
    header = ["image", *(axis.name for axis in axes), "status", metric, "rank", *names]
    table = Table(box=None, header_style="bold")
    for column in header:
        table.add_column(column)
    lines = []
    for picture in pictures:
        record = picture.record
        first = [picture.name]
        for axis, place in zip(axes, picture.values, strict=True):
            first.append(label_of(axis.values[place]))
        first.append(record.status)
        value, rank = record.metrics.get(metric), record.metrics.get("rank")
        line = [*first, value, rank]
        cells = [*first, format_value(value), format_value(rank, "{}")]
        for name in names:
            verdict = picture.judges.get(name)
            line.append(verdict and verdict["probability"])
            cells.append("-" if verdict is None else f"{verdict['probability']:.2f} ({verdict['rank']})")
        lines.append(line)
        table.add_row(*cells)
    Console(width=140).print(table)
    with atomic_write(out / "sweep.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])


def sweep(words: Sequence[str]) -> None:
    """Run or resume the sweep, then write the grid and the table."""
    axes, out, rest = parse_arguments(words)
    planned = runs(axes, rest, out or f"runs/sweep/{utc_now()}")
    if planned[0][1].get("count"):
        costs = []
        for _, values in planned:
            module, tasks, _ = built(values)
            costs.append(run_cost(module, tasks))
        print(format_cost(costs))
        return
    validate(planned)
    os.environ.setdefault("WANDB_RUN_GROUP", Path(planned[0][1]["out"]).parent.name)  # groups the runs
    pictures: list[SweptImage] = []
    for chosen, values in planned:
        folder = Path(values["out"])
        notify(str(folder))
        module, tasks, options = built(values)
        execute(module, tasks, options, moves_network=True, notify=notify)
        pictures += read_images(folder, axes, chosen)
    pictures.sort(key=lambda picture: (picture.image, picture.values))
    draw(axes, pictures, folder.parent)
    write_table(axes, pictures, folder.parent)
    print(f"\nfigure   {folder.parent / 'figure.png'}\ntable    {folder.parent / 'sweep.csv'}")


def main() -> None:
    words = sys.argv[1:]
    if not words or {"--help", "-h"} & set(words):
        print(__doc__)
        return
    with errors_reported("sweep"):
        sweep(words)


if __name__ == "__main__":
    main()
