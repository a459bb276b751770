"""``lit-viz visualize``: images of classes, layers and channels."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.classifiers.layers import layer_of
from lit_viz.engine.method import LogSchedule
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError
from lit_viz.evidence.judges import held_out_judge
from lit_viz.images.canvas import make_canvas
from lit_viz.images.reading import fitted, read_photograph
from lit_viz.launch.commands.base import Command
from lit_viz.methods import ClassVisualization
from lit_viz.methods.class_visualization import PictureOptions
from lit_viz.objectives import Channel, Layer, Logit, LogProbability, Neuron, Objective, Probability
from lit_viz.objectives.layers import Axis, check_channel
from lit_viz.presentations.base import Presentation
from lit_viz.presentations.class_visualization import ClassVisualizationPresentation
from lit_viz.types import Task

#: Task options that may vary between the images of a run (``--vary``).
VARYING = ("iterations", "lr")


class Visualize(Command):
    """Images of classes, or of a layer's channels, from noise or from a photograph."""

    name: ClassVar[str] = "visualize"
    module: ClassVar[type[ImageTraining]] = ClassVisualization
    default_config: ClassVar[str] = "tarantula"
    positional: ClassVar[str] = "targets"
    shorts: ClassVar[str] = "--views N sets the views of an image per evaluation, --size N its side."
    example: ClassVar[str] = "lit-viz visualize tarantula goldfish --iterations 200"
    demo: ClassVar[tuple[str, ...]] = ("tarantula", "goldfish", "hay", "zebra", "--slots", "4")
    own: ClassVar[frozenset[str]] = frozenset(
        {"classifier", "iterations", "slots", "log_at", "curve_at", "init", "picture"}
    )
    flat: ClassVar[tuple[type, ...]] = (PictureOptions,)

    def __init__(self, init: Tensor | None = None) -> None:
        """Take an initial image ``(C, H, W)`` in [0, 1] instead of a file."""
        self.init = init

    def config_for(self, options: Collection[str]) -> str:
        """Return the configuration for channels if a layer is named."""
        return "channels" if "--layer" in options else self.default_config

    def add_arguments(self, parser: LightningArgumentParser) -> None:
        """Add targets, layer and channels, and the initial photograph."""
        add = parser.add_argument
        add("--targets", type=list[str | int], default=[], help="class names or indices")
        add(
            "--layer",
            type=str | None,
            default=None,
            help="layer to visualize instead of classes; default channels: 0-7",
        )
        add("--channel", type=str | int | None, default=None, help="3,14-20, or all; null: the whole layer")
        add("--neuron", type=str | None, default=None, help="one place of the channel: row,column or centre")
        add("--axis", type=Axis | None, default=None, help="what a channel is in a layer of tokens")
        add("--init", type=str | None, default=None, help="photograph to start from, or packaged:NAME [noise]")
        add("--vary", type=dict[str, list[int | float]], default={}, help="values of iterations and lr, an image each")
        add("--fit", type=Literal["crop", "squash", "pad"], default="crop", help="how the photograph is fitted")

    def settle(self, config: Namespace) -> None:
        """Give the layer to an objective that reads one; in the place of one of classes make what the layer's options
        stand for."""
        if config.layer is None:
            return
        given = config.model.objective
        readers = list(_readers(given))
        if not readers and not _is_one_of(given.class_path, Logit, LogProbability, Probability):
            name = given.class_path.rpartition(".")[2]
            raise LitVizError(
                f"--layer {config.layer} is for an objective that reads a layer, and {name} takes none: leave out "
                "--layer, or --model.objective."
            )
        if not readers:
            kind = Layer if config.channel is None else Channel
            init_args = Namespace(**({} if kind is Layer else {"channel": None, "axis": None}), layer=config.layer)  # type: ignore[no-untyped-call]
            readers = [Namespace(class_path=_path_of(kind), init_args=init_args)]  # type: ignore[no-untyped-call]
            config.model.objective = readers[0]
        for part in readers:
            part.init_args.layer = config.layer
            if config.axis is not None and "axis" in part.init_args:
                part.init_args.axis = config.axis
            if config.neuron is not None and _is_one_of(part.class_path, Channel, Neuron):
                part.class_path, part.init_args.place = _path_of(Neuron), place(config.neuron)
        of_channel = config.neuron is not None and config.channel is not None
        if of_channel and not any(_is_one_of(part.class_path, Neuron) for part in readers):
            raise LitVizError(f"--neuron {config.neuron} is one place of a channel, and the objective has no Channel.")

    def check(self, config: Namespace) -> None:
        """Refuse a run of nothing, or of classes and a layer at once."""
        if config.layer is not None and config.targets:
            raise LitVizError(
                f"a run shows classes or a layer: name no class beside --layer {config.layer} (--targets [] takes back "
                "those of a configuration), or no layer (--layer null --channel null)."
            )
        if config.layer is None and (config.neuron or config.axis):
            raise LitVizError("--neuron and --axis are of a layer: name it by --layer (lit-viz layers lists them).")
        if config.neuron is not None and config.channel is None:
            raise LitVizError("--neuron is one place of a channel: name it by --channel.")
        for name, values in config.vary.items():
            if name not in VARYING or not values or not all(v > 0 for v in values):
                raise LitVizError(f"--vary takes numbers above 0 of {' and '.join(VARYING)}, not {name}: {values}.")
            if len(set(values)) < len(values):
                raise LitVizError(f"--vary makes an image of each value, and {name} has one of them twice: {values}.")
        if any(value % 1 for value in config.vary.get("iterations", ())):
            raise LitVizError(f"--vary has iterations that are no whole numbers: {config.vary['iterations']}.")
        if config.iterations is None:
            raise LitVizError("a class image has no number of iterations of its own: give --iterations.")

    def tasks(
        self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier
    ) -> tuple[list[Task], list[str]]:
        """Return the tasks of :meth:`_unvaried`, each once for every combination of what varies, from the same seed."""
        if "lr" in config.vary and not hasattr(parts["step_rule"], "lr"):
            rule = type(parts["step_rule"]).__name__
            raise LitVizError(
                f"--vary lr: {rule} has no learning rate, so give another --model.step_rule or vary iterations."
            )
        unasked = config.targets and "target" not in parts["objective"].task_fields
        notes = [f"the objective asks for no class: {', '.join(map(str, config.targets))} left out"] if unasked else []
        last = max([int(n) for n in config.vary.get("iterations", ())], default=config.iterations)
        for name in ("log_at", "curve_at"):
            late = sorted(k for k in LogSchedule.parse(getattr(config, name)).iterations if k > last)
            if late:
                iterations = ", ".join(map(str, late))
                notes.append(f"--{name.replace('_', '-')} {iterations} is not reached: the last iteration is {last}")
        return varied(self._unvaried(config, parts, classifier), config.vary), notes

    def _unvaried(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> list[Task]:
        """Return one task a class, or one a channel, or one of what the objective is; whatever is named twice gets two
        seeds."""
        objective: Objective = parts["objective"]
        if config.channel is not None and "channel" not in objective.task_fields:
            if objective.layers:
                raise LitVizError(
                    f"--channel {config.channel}: {type(objective).__name__} takes no channel from it; give --channel "
                    "null, or an objective that does, such as Channel."
                )
            raise LitVizError("--channel names channels of a layer: name it by --layer (lit-viz layers lists them).")
        if "target" in objective.task_fields:
            if not config.targets:
                raise LitVizError(f"no class was named: try {self.example}")
            return [self._of_class(i, wanted, config, classifier) for i, wanted in enumerate(config.targets)]
        layer = config.layer or next((layer_of(name) for name in objective.layers), None)
        if "channel" not in objective.task_fields:
            name = layer or type(objective).__name__
            return [Task(0, name, config.seed, source=config.init, options={} if layer is None else {"layer": layer})]
        if config.channel is None:
            raise LitVizError(f"no channel of layer {layer!r} was named: give --channel, such as --channel 3,14-20.")
        axes = (part.init_args.get("axis") for part in _readers(config.model.objective))
        axis = next((axis for axis in axes if axis is not None), None)
        tasks = []
        for index, channel in enumerate(channels(config.channel, objective.channels or 0)):
            check_channel(channel, objective.channels or 0, str(layer))
            options = {"layer": layer, "channel": channel, **({} if axis is None else {"axis": axis})}
            name = f"{layer}_{axis or 'ch'}{channel}"
            tasks.append(Task(index, name, config.seed + index, source=config.init, options=options))
        return tasks

    @staticmethod
    def _of_class(index: int, wanted: str | int, config: Namespace, classifier: Classifier) -> Task:
        target = classifier.index_of(wanted)
        name = classifier.labels[target]
        return Task(index, name, config.seed + index, target=target, target_name=name, source=config.init)

    def build(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> ClassVisualization:
        """Return the module; a damaged initial photograph raises here, before the run starts."""
        picture = {option.name: parts[option.name] for option in fields(PictureOptions)}
        module = ClassVisualization(
            classifier,
            **{name: part for name, part in parts.items() if name not in picture},
            picture=PictureOptions(**picture),
            init=self._photograph(config, parts, classifier),
            iterations=config.iterations,
            slots=config.slots,
            log_at=config.log_at,
            curve_at=config.curve_at,
        )
        module.judges = held_out_judge(classifier)
        return module

    def presentation(self, config: Namespace) -> Presentation:
        """Return the presentation of class visualizations."""
        return ClassVisualizationPresentation()

    def _photograph(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> Tensor | None:
        if config.init is None:
            return None
        _, canvas = make_canvas(classifier, parts["size"], parts["oversample"])
        if self.init is not None:
            return fitted(self.init, (canvas.height, canvas.width), config.fit)
        try:
            return read_photograph(config.init, (canvas.height, canvas.width), canvas.channels, config.fit).pixels
        except LitVizError:
            if config.out is None or not config.resume or not Path(config.out, "queue.jsonl").exists():
                raise
            return None  # what has ended needs it no more; what has not is refused by the module


def _path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def _is_one_of(path: str, *kinds: type) -> bool:
    """Return whether a class path, which may leave out the file in ``objectives/``, is that of one of the classes."""
    package, _, name = path.rpartition(".")
    return any(name == kind.__name__ and kind.__module__.startswith(package) for kind in kinds)


def _readers(part: Any) -> Iterator[Any]:
    """Yield the parts of an objective, as it is configured, that take a layer."""
    if isinstance(part, list):
        for one in part:
            yield from _readers(one)
    elif "layer" in (arguments := getattr(part, "init_args", None) or {}):
        yield part
    else:
        yield from _readers(list(vars(arguments).values()) if arguments else [])


def varied(tasks: Sequence[Task], values: Mapping[str, Sequence[int | float]]) -> list[Task]:
    """Return each task once for every combination of the values of its options, in their order."""
    each = [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]
    many = [(task, options) for task in tasks for options in each]
    return [replace(task, index=i, options={**task.options, **own}) for i, (task, own) in enumerate(many)]


def channels(words: str | int, count: int) -> list[int]:
    """Return the channels of ``3,14-20``; ``all`` are ``count``.

    Raises:
        LitVizError: other words, or a range that runs backwards.
    """
    text = str(words).replace(" ", "")
    if text == "all":
        return list(range(count))
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise LitVizError(f"--channel {words} names no channels: give numbers and ranges such as 3,14-20, or all.")
    ranges = [(int(first), int(last or first)) for first, _, last in (part.partition("-") for part in text.split(","))]
    for first, last in ranges:
        if last < first:
            raise LitVizError(f"--channel {first}-{last} runs backwards: write {last}-{first}.")
    # One missing channel suffices for the error: a mistyped range may be huge.
    return [channel for first, last in ranges for channel in range(first, min(last, max(first, count)) + 1)]


def place(words: str) -> list[int] | None:
    """Return row and column of ``3,4``; None for ``centre``.

    Raises:
        LitVizError: other words.
    """
    if words in ("centre", "center"):
        return None
    if not re.fullmatch(r"\d+,\d+", words):
        raise LitVizError(f"--neuron {words} is no place: give row,column such as 3,4, or centre.")
    return [int(number) for number in words.split(",")]
