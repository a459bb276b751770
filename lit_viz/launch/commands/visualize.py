"""``lit-viz visualize``: images of classes, layers and channels."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.classifiers.layers import layer_of
from lit_viz.classifiers.resizing import Resizing
from lit_viz.engine.method import LogSchedule
from lit_viz.errors import LitVizError
from lit_viz.evidence.judges import held_out_judge
from lit_viz.images.canvas import make_canvas
from lit_viz.images.reading import Fit, read_photograph
from lit_viz.launch.commands.base import Command
from lit_viz.methods import ClassVisualization
from lit_viz.methods.class_visualization import PictureOptions
from lit_viz.methods.photographs import class_tasks
from lit_viz.objectives import Channel, Layer, Logit, LogProbability, Neuron, Objective, Probability
from lit_viz.objectives.layers import Axis, check_channel
from lit_viz.types import Task

#: Task options that may vary between the images of a run (``--vary``).
VARYING = ("iterations", "lr")


class Visualize(Command):
    """Images of classes, or of a layer's channels, from noise or from a photograph."""

    name = "visualize"
    module = ClassVisualization
    default_config = "tarantula"
    positional = "targets"
    shorts = "--views N sets the views of an image per evaluation, --size N its side, --lr the learning rate."
    example = "lit-viz visualize tarantula goldfish --iterations 200"
    demo = ("tarantula", "goldfish", "hay", "zebra", "--slots", "4")
    flat = (PictureOptions,)
    short: ClassVar = {"--lr": "--model.step_rule.lr", "--gamma": "--model.objective.gamma"}

    def __init__(self, init: Tensor | None = None) -> None:
        self.init = init  # (C, H, W), from Python

    def config_for(self, options: Collection[str]) -> str:
        return "channels" if "--layer" in options else self.default_config

    def add_arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--targets", type=list[str | int], default=[], help="class names or indices")
        against_help = "class that the target is contrasted with, one for all targets or one per target"
        add("--against", type=list[str | int] | str | int | None, default=None, help=against_help)
        layer_help = "layer to visualize instead of classes; default channels: 0-7"
        add("--layer", type=str | None, default=None, help=layer_help)
        add("--channel", type=str | int | None, default=None, help="3,14-20, or all; null: the whole layer")
        add("--neuron", type=str | None, default=None, help="position in the channel: row,column or centre")
        add("--axis", type=Axis | None, default=None, help="meaning of a channel in a layer of tokens")
        add("--init", type=str | None, default=None, help="initial photograph, or packaged:NAME [noise]")
        add("--vary", type=dict[str, list[int | float]], default={}, help="values of iterations and lr, an image each")
        add(
            "--fit", type=Fit | None, default=None, help="crop, squash or pad with gray; default: as published, or crop"
        )

    def settle(self, config: Namespace) -> None:
        """Pass the layer to the objective; an objective of classes is replaced by one of the layer's channels."""
        if config.layer is None:
            return
        given = config.model.objective
        readers = list(_layer_readers(given))
        if not readers and not _is_one_of(given.class_path, Logit, LogProbability, Probability):
            name = given.class_path.rpartition(".")[2]
            raise LitVizError(f"--layer requires an objective that reads a layer, got {name}: leave one of them out")
        if not readers:
            kind = Layer if config.channel is None else Channel
            init_args = Namespace(**({} if kind is Layer else {"channel": None, "axis": None}))  # type: ignore[no-untyped-call]
            readers = [Namespace(class_path=f"{kind.__module__}.{kind.__name__}", init_args=init_args)]  # type: ignore[no-untyped-call]
            config.model.objective = readers[0]
        for part in readers:
            part.init_args.layer = config.layer
            if config.axis is not None and "axis" in part.init_args:
                part.init_args.axis = config.axis
            if config.neuron is not None and _is_one_of(part.class_path, Channel, Neuron):
                part.class_path, part.init_args.place = f"{Neuron.__module__}.Neuron", place(config.neuron)
        is_neuron = config.neuron is not None and config.channel is not None
        if is_neuron and not any(_is_one_of(part.class_path, Neuron) for part in readers):
            raise LitVizError(f"--neuron {config.neuron} requires an objective with a Channel")

    def check(self, config: Namespace) -> None:
        if config.layer is not None and config.targets:
            raise LitVizError(
                f"a run must have classes or a layer, got {', '.join(map(str, config.targets))} and --layer "
                f"{config.layer}: use --targets [], or --layer null --channel null"
            )
        if config.layer is None and (config.neuron or config.axis):
            raise LitVizError("--neuron and --axis require --layer (see lit-viz layers)")
        if config.neuron is not None and config.channel is None:
            raise LitVizError("--neuron requires --channel")
        for name, values in config.vary.items():
            if name not in VARYING or not values or not all(v > 0 for v in values):
                raise LitVizError(f"--vary takes positive values of {' and '.join(VARYING)}, got {name}: {values}")
            if len(set(values)) < len(values):
                raise LitVizError(f"the values of --vary must differ, got {name}: {values}")
        if any(value % 1 for value in config.vary.get("iterations", ())):
            raise LitVizError(f"iterations of --vary must be whole numbers, got {config.vary['iterations']}")
        if config.iterations is None:
            raise LitVizError("--iterations of a class image must be a number, got null")

    def tasks(
        self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier
    ) -> tuple[list[Task], list[str]]:
        """Return a task per class or channel and combination of varying values, and notes for the user."""
        if "lr" in config.vary and not hasattr(parts["step_rule"], "lr"):
            raise LitVizError(
                f"--vary lr requires a step rule with a learning rate, got {type(parts['step_rule']).__name__}"
            )
        is_ignored = config.targets and "target" not in parts["objective"].task_fields
        notes = [f"the objective has no class: {', '.join(map(str, config.targets))} ignored"] if is_ignored else []
        last = max([int(n) for n in config.vary.get("iterations", ())], default=config.iterations)
        for name in ("log_at", "curve_at"):
            late = sorted(k for k in LogSchedule.parse(getattr(config, name)).iterations if k > last)
            if late:
                iterations = ", ".join(map(str, late))
                notes.append(f"--{name.replace('_', '-')} {iterations} is not reached: the last iteration is {last}")
        return varied(self._tasks(config, parts["objective"], classifier), config.vary), notes

    def _tasks(self, config: Namespace, objective: Objective, classifier: Classifier) -> list[Task]:
        """Return a task per class or per channel, or one for an objective with neither."""
        if config.channel is not None and "channel" not in objective.task_fields:
            if objective.layers:
                raise LitVizError(
                    f"--channel requires an objective such as Channel, got {type(objective).__name__}: use --channel "
                    "null"
                )
            raise LitVizError("--channel requires --layer (see lit-viz layers)")
        if config.against is not None and "against" not in objective.task_fields:
            raise LitVizError(f"--against requires a score of a class, such as Logit, got {type(objective).__name__}")
        if "target" in objective.task_fields:
            if not config.targets:
                raise LitVizError(f"no class was given: try {self.example}")
            return class_tasks(classifier, config.targets, config.against, config.seed, config.init)
        layer = config.layer or next((layer_of(name) for name in objective.layers), None)
        if "channel" not in objective.task_fields:
            name = layer or type(objective).__name__
            return [Task(0, name, config.seed, source=config.init, options={} if layer is None else {"layer": layer})]
        if config.channel is None:
            raise LitVizError(f"the objective of layer {layer!r} requires --channel, such as --channel 3,14-20")
        axes = (part.init_args.get("axis") for part in _layer_readers(config.model.objective))
        axis = next((axis for axis in axes if axis is not None), None)
        tasks = []
        for index, channel in enumerate(channels(config.channel, objective.channels or 0)):
            check_channel(channel, objective.channels or 0, str(layer))
            options = {"layer": layer, "channel": channel, **({} if axis is None else {"axis": axis})}
            name = f"{layer}_{axis or 'ch'}{channel}"
            tasks.append(Task(index, name, config.seed + index, source=config.init, options=options))
        return tasks

    def build(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> ClassVisualization:
        """Return the method; an unreadable initial photograph raises here, before the run starts."""
        picture = {option.name: parts[option.name] for option in fields(PictureOptions)}
        module = ClassVisualization(
            classifier,
            **{name: part for name, part in parts.items() if name not in picture},
            picture=PictureOptions(**picture),
            init=self._photograph(config, parts, classifier),
            **{name: config[name] for name in ("iterations", "slots", "log_at", "curve_at")},
        )
        module.judges = held_out_judge(classifier)
        return module

    def _photograph(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> Tensor | None:
        if config.init is None:
            return None
        _, canvas = make_canvas(classifier, parts["size"], parts["oversample"])
        source = config.init if self.init is None else self.init
        try:
            fit: Fit | Resizing = config.fit or classifier.resizing or "crop"
            return read_photograph(source, (canvas.height, canvas.width), canvas.channels, fit).pixels
        except LitVizError:
            if config.out is None or not config.resume or not Path(config.out, "queue.jsonl").exists():
                raise
            return None  # finished tasks do not need it; the method rejects unfinished ones


def _is_one_of(path: str, *kinds: type) -> bool:
    """Return whether a class path, which may omit the file in ``objectives/``, is that of one of the classes."""
    package, _, name = path.rpartition(".")
    return any(name == kind.__name__ and kind.__module__.startswith(package) for kind in kinds)


def _layer_readers(part: Any) -> Iterator[Any]:
    """Yield the parts of a configured objective that have an argument ``layer``."""
    if isinstance(part, list):
        for item in part:
            yield from _layer_readers(item)
    elif "layer" in (arguments := getattr(part, "init_args", None) or {}):
        yield part
    else:
        yield from _layer_readers(list(vars(arguments).values()) if arguments else [])


def varied(tasks: Sequence[Task], values: Mapping[str, Sequence[int | float]]) -> list[Task]:
    """Return each task once per combination of the values of its options, in their order."""
    combinations = [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]
    pairs = [(task, options) for task in tasks for options in combinations]
    return [replace(task, index=i, options={**task.options, **options}) for i, (task, options) in enumerate(pairs)]


def channels(words: str | int, count: int) -> list[int]:
    """Return the channels of ``3,14-20``; ``all`` of a layer with ``count`` channels."""
    text = str(words).replace(" ", "")
    if text == "all":
        return list(range(count))
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise LitVizError(f"--channel must be numbers and ranges such as 3,14-20, or all, got {words}")
    ranges = [(int(first), int(last or first)) for first, _, last in (part.partition("-") for part in text.split(","))]
    for first, last in ranges:
        if last < first:
            raise LitVizError(f"a range of --channel must ascend, got {first}-{last}: write {last}-{first}")
    # One missing channel suffices for the error: a mistyped range may be huge.
    return [channel for first, last in ranges for channel in range(first, min(last, max(first, count)) + 1)]


def place(words: str) -> list[int] | None:
    """Return row and column of ``3,4``; None for ``centre``."""
    if words in ("centre", "center"):
        return None
    if not re.fullmatch(r"\d+,\d+", words):
        raise LitVizError(f"--neuron must be row,column such as 3,4, or centre, got {words}")
    return [int(number) for number in words.split(",")]
