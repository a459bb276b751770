"""Sweep options of class visualizations: a grid of images over their values, and a table.

python scripts/sweep.py tarantula --sweep lr=0.02,0.05 --sweep iterations=50,100,200
python scripts/sweep.py tarantula goldfish --sweep lr=0.02,0.05 --sweep 'model.priors=[],[{class_path: TotalVariation}]'

Other options are those of `lit-viz visualize` (--config, --classifier, --seed ...). Values of iterations and lr share
the slots of one run; any other option has a run for each value, in folders below --out. The final option has the
columns; classes and other options have the rows. All images of a class start from the same noise. --count prints
evaluations and minutes and exits; --resume continues an interrupted sweep.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from lit_viz.classifiers import Classifier
from lit_viz.cli import errors_reported
from lit_viz.errors import LitVizError
from lit_viz.figures.layout import Cell, pixels
from lit_viz.figures.sheet import sweep_figure
from lit_viz.figures.style import save_figure
from lit_viz.launch.arguments import rewrite_arguments
from lit_viz.launch.commands import COMMANDS
from lit_viz.launch.config import ConfiguredMethod, with_config
from lit_viz.launch.cost import format_cost, run_cost
from lit_viz.launch.execute import execute
from lit_viz.launch.messages import options_named
from lit_viz.launch.options import utc_now
from lit_viz.presentations import format_value
from lit_viz.presentations.class_visualization import grid_caption, image_caption
from lit_viz.runs.folder import FolderStorage
from lit_viz.types import Record, slug
from lit_viz.utils.files import atomic_write
from lit_viz.utils.formatting import notify

COMMAND = COMMANDS["visualize"]
#: Task options, by their command-line names.
OF_TASK = {"iterations": "iterations"} | dict.fromkeys(
    ("lr", "model.step_rule.lr", "model.step_rule.init_args.lr"), "lr"
)


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
            read = [number(value) for value in yaml.safe_load(f"[{values}]")]
        except yaml.YAMLError as error:
            raise LitVizError(usage) from error
        if not option or not read:
            raise LitVizError(usage)
        if len({repr(value) for value in read}) < len(read):
            raise LitVizError(f"values of --sweep must be distinct, got {words}")
        return cls(OF_TASK.get(option, option.removeprefix("--")), read)

    @property
    def name(self) -> str:
        """Name of the option in the grid."""
        return self.option.removesuffix(".init_args").rpartition(".")[2]


def number(value: Any) -> Any:
    """Convert numbers that YAML reads as strings, such as 1e-2."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def label_of(value: Any) -> str:
    """Return the label of a value."""
    if isinstance(value, dict) and "class_path" in value:
        arguments = ", ".join(f"{k} {label_of(v)}" for k, v in (value.get("init_args") or {}).items())
        return value["class_path"].rpartition(".")[2] + (f" {arguments}" if arguments else "")
    if isinstance(value, list):
        return " + ".join(map(label_of, value)) or "none"
    return str(value)


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
        value = value if equals else queue.pop(0)
        if name == "--out":
            out = value
        else:
            axes.append(Axis.parse(value))
    if not axes:
        raise LitVizError("--sweep is required: for example --sweep iterations=50,100,200")
    options = [axis.option for axis in axes]
    repeated = next((option for option in options if options.count(option) > 1), None)
    if repeated is not None:
        raise LitVizError(f"an option must be in one --sweep, got {repeated} twice: use --sweep {repeated}=A,B,C")
    return axes, out, rest


def runs(axes: Sequence[Axis], words: Sequence[str], out: str) -> list[tuple[dict[str, Any], ConfiguredMethod]]:
    """Return one run for each combination of the options that are not task options, with that combination."""
    inside = {axis.option: list(axis.values) for axis in axes if axis.option in OF_TASK.values()}
    outside = [axis for axis in axes if axis.option not in inside]
    words = with_config(COMMAND, rewrite_arguments(words, COMMAND))
    if "--vary" in words:
        raise LitVizError("--vary must not be combined with --sweep: use --sweep for iterations and lr, too")
    planned = []
    for values in product(*(axis.values for axis in outside)):
        chosen = {axis.option: value for axis, value in zip(outside, values, strict=True)}
        options = [w for k, v in chosen.items() for w in (f"--{k}", v if isinstance(v, str) else json.dumps(v))]
        folder = slug("_".join(f"{axis.name}_{label_of(value)}" for axis, value in zip(outside, values, strict=True)))
        path = Path(out, f"{len(planned):02d}_{folder}") if outside else Path(out, "run")
        own = ["--vary", json.dumps(inside), "--out", str(path)]
        planned.append((chosen, ConfiguredMethod(COMMAND, [*words, *options, *own])))
    return planned


def validate(planned: Sequence[tuple[dict[str, Any], ConfiguredMethod]]) -> None:
    """Build the modules and queues of all runs, so that invalid values are rejected before training."""
    loaded: dict[str, Classifier] = {}
    for chosen, configured in planned:
        config = configured.config
        try:
            COMMAND.check(config)
            key = repr(config.classifier.as_dict())
            if key not in loaded:
                loaded[key] = configured.load_classifier()
            with options_named(COMMAND):
                module = configured.build(loaded[key])
                module.validate_tasks(module.expand_tasks(configured.tasks(module).tasks))
        except LitVizError as error:
            label = ", ".join(f"{option} {label_of(value)}" for option, value in chosen.items())
            raise LitVizError(f"{label}: {error}" if label else str(error)) from error


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
    options = {task.index: {**task.options, **chosen} for task in run.queue()}
    variants = prod(len(axis.values) for axis in axes if axis.option not in chosen)
    images = []
    for record in run.records():
        values = tuple(axis.values.index(options[record.index][axis.option]) for axis in axes)
        file = folder / record.file if record.file else None
        images.append(SweptImage(record.index // variants, values, record, file))
    return images


def draw(axes: Sequence[Axis], pictures: Sequence[SweptImage], out: Path) -> None:
    """Write the grid: a row for each class and combination of the other options."""
    *others, across = axes
    by_place = {(picture.image, picture.values): picture for picture in pictures}
    names = {picture.image: picture.name for picture in pictures}
    rows = [(image, values) for image in names for values in product(*(range(len(a.values)) for a in others))]
    grid = [[by_place.get((image, (*values, n))) for n in range(len(across.values))] for image, values in rows]
    cells = [
        [Cell(pixels(cell.file), [image_caption(cell.record)]) if cell and cell.file else None for cell in row]
        for row in grid
    ]
    labels = [
        [names[image], *(f"{axis.name} {label_of(axis.values[n])}" for axis, n in zip(others, values, strict=True))]
        for image, values in rows
    ]
    caption = grid_caption(picture.record for picture in pictures)
    figure = sweep_figure(labels, [f"{across.name} {label_of(value)}" for value in across.values], cells, caption)
    save_figure(figure, out / "figure.png")


def write_table(axes: Sequence[Axis], pictures: Sequence[SweptImage], out: Path) -> None:
    """Print the table, and write it in full precision to ``sweep.csv``."""
    names = sorted({name for picture in pictures for name in picture.judges})
    metric = "objective_file" if pictures[0].record.target is None else "probability"
    header = ["image", *(axis.name for axis in axes), "status", metric, "rank", *names]
    table = Table(box=None, header_style="bold")
    for column in header:
        table.add_column(column)
    lines = []
    for picture in pictures:
        record, judges = picture.record, picture.judges
        values = [label_of(axis.values[n]) for axis, n in zip(axes, picture.values, strict=True)]
        first = [picture.name, *values, record.status]
        probabilities = [judges[n]["probability"] if n in judges else None for n in names]
        lines.append([*first, record.metrics.get(metric), record.metrics.get("rank"), *probabilities])
        cells = [f"{judges[n]['probability']:.2f} ({judges[n]['rank']})" if n in judges else "-" for n in names]
        table.add_row(*first, format_value(record.metrics.get(metric)), str(record.metrics.get("rank", "-")), *cells)
    Console(width=140).print(table)
    with atomic_write(out / "sweep.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])


def sweep(words: Sequence[str]) -> None:
    """Run or resume the sweep, then write the grid and the table."""
    axes, out, rest = parse_arguments(words)
    planned = runs(axes, rest, out or f"runs/sweep/{utc_now()}")
    if planned[0][1].config.count:
        print(format_cost([run_cost(*configured.module_and_tasks()) for _, configured in planned]))
        return
    validate(planned)
    os.environ.setdefault("WANDB_RUN_GROUP", Path(planned[0][1].config.out).parent.name)  # groups the runs
    pictures: list[SweptImage] = []
    for chosen, configured in planned:
        folder = Path(configured.config.out)
        notify(str(folder))
        with options_named(COMMAND):
            module, tasks = configured.module_and_tasks()
            execute(module, tasks, configured.options(), notify=notify)
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
