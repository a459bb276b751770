"""``lit-viz visualize``: images of classes, layers and channels."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, ClassVar

from jsonargparse import ArgumentParser, Namespace

from lit_viz.engine.lightning import TaskQueue
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError
from lit_viz.images.reading import Fit
from lit_viz.launch.commands.base import COMMON, Command
from lit_viz.methods import ClassVisualization
from lit_viz.methods.class_visualization import PictureOptions
from lit_viz.methods.tasks import objective_tasks
from lit_viz.objectives.layers import Axis, Place, objective_of_layer


class VisualizeCommand(Command):
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

    def config_for(self, options: Collection[str]) -> str:
        return "channels" if "--layer" in options else self.default_config

    def implied(self, options: Collection[str]) -> list[str]:
        """Return no classes for an explicit layer, in place of those of the configuration."""
        return ["--targets", "[]"] if "--layer" in options and "--targets" not in options else []

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
        if config.iterations is None:
            raise LitVizError("--iterations of a class image must be a number, got null")

    def module_arguments(self, config: Namespace, parts: Mapping[str, Any]) -> dict[str, Any]:
        picture: dict[str, Any] = {}
        arguments: dict[str, Any] = {name: config[name] for name in (*COMMON, "init")}
        sizes = [option.name for option in fields(PictureOptions)]
        for name, part in parts.items():
            (picture if name in sizes else arguments)[name] = part
        if config.layer is not None:
            neuron = None if config.neuron is None else parse_place(config.neuron)
            has_channels = config.channel is not None
            objective = arguments["objective"]
            arguments["objective"] = objective_of_layer(objective, config.layer, has_channels, config.axis, neuron)
        return {**arguments, "picture": PictureOptions(**picture)}

    def tasks(self, config: Namespace, module: ImageTraining) -> TaskQueue:
        """Return a task per class or channel, and combination of varying values."""
        assert isinstance(module, ClassVisualization)
        return objective_tasks(
            module.network,
            module.objective,
            target=config.targets or None,
            against=config.against,
            channel=config.channel,
            vary=config.vary,
            seed=config.seed,
        )


def parse_place(words: str) -> Place:
    """Return row and column of ``3,4``; ``center`` for ``centre``."""
    if words in ("centre", "center"):
        return "center"
    if not re.fullmatch(r"\d+,\d+", words):
        raise LitVizError(f"neuron must be row,column such as 3,4, or centre, got {words}")
    row, column = words.split(",")
    return int(row), int(column)
