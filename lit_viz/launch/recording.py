"""The configuration of a run as ``config.yaml`` states it, written from the objects of the run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from importlib import metadata
from typing import Any

import yaml
from pytorch_lightning.loggers import Logger

from lit_viz._version import __version__
from lit_viz.engine.lightning import TaskQueue
from lit_viz.engine.module import ImageTraining
from lit_viz.launch.commands import COMMANDS, SUMMARIES
from lit_viz.launch.commands.base import COMMON, Command
from lit_viz.launch.options import RunOptions
from lit_viz.networks import Network
from lit_viz.networks.network import GIVEN_WEIGHTS
from lit_viz.networks.outputs import Logits
from lit_viz.networks.summaries import scores_caption
from lit_viz.presentations import presentation_of, recorded_method
from lit_viz.utils.files import plain
from lit_viz.utils.parts import INSTANCE, plain_arguments

#: Arguments of modules that are options of the command, beside those of all methods.
_COMMAND_OPTIONS = (*COMMON, "init", "held_out")
#: Packages whose versions are recorded.
_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "captum", "timm", "wandb", "numpy")


def recorded_options(module: ImageTraining, tasks: TaskQueue, options: RunOptions) -> dict[str, Any]:
    """Return the options of a run, plain values by name, as a configuration of the command line.

    Parts are written as ``class_path`` and ``init_args``. A part that can't be imported again is named by its class and
    :data:`~lit_viz.utils.parts.INSTANCE`.
    """
    recorded: dict[str, Any] = {}
    for name, value in tasks.options.items():
        if value is not None and value != []:
            recorded[name] = plain_arguments(value)
    method_options: dict[str, Any] = {}
    for name, value in module.plain_arguments().items():
        if name in _COMMAND_OPTIONS:
            recorded[name] = value
        elif name == "picture":
            method_options |= value
        elif name != "network":
            method_options[name] = value
    recorded |= _run_options(options, presentation_of(type(module)).run_options)
    recorded["network"] = network_options(module.network)
    recorded["model"] = method_options
    recorded["trainer"] = plain(vars(options.trainer_arguments))
    return recorded


def _run_options(options: RunOptions, presented: Sequence[str]) -> dict[str, Any]:
    settings = options.logger_settings
    names = [logger for logger in options.logger if not isinstance(logger, Logger)]
    recorded: dict[str, Any] = {
        "out": None if options.out is None else str(options.out),
        "overwrite": False,
        "resume": False,
        "count": False,
        "logger": ",".join(names) or "none",
        **asdict(settings),
        "tags": list(settings.tags) or None,
        "figure": options.figure.format,
        "checkpoint_every": options.checkpoint_every,
    }
    for group in (options.figure, options.evidence):
        for option in fields(group):
            if option.name in presented:
                recorded[option.name] = plain_arguments(getattr(group, option.name))
    return recorded


def network_options(network: Network) -> dict[str, Any]:
    """Return the options by which a network is loaded again, or compared with a given module."""
    return {
        "name": network.name,
        "weights": network.weights,
        "mean": list(network.mean),
        "std": list(network.std),
        "size": list(network.size),
        "multi_label": network.multi_label,
        "output": None if isinstance(network.output, Logits) else plain_arguments(network.output),
    }


def command_of(method: type) -> Command | None:
    """Return the command of a method's class or of its nearest base; None for a method of its own."""
    for base in method.__mro__:
        for name in SUMMARIES:
            command = COMMANDS[name]
            if base in (command.module, *command.variants):
                return command
    return None


def provenance(method: type[Any], network: Network) -> dict[str, Any]:
    """Return what ``config.yaml`` records beside the options: method, versions, and the identity of the network."""
    command = command_of(method)
    is_own = command is None or method not in (command.module, *command.variants)
    recorded: dict[str, Any] = {
        "method": None if command is None else command.name,
        **recorded_method(method),
        "lit_viz": __version__,
        "python": sys.version.split()[0],
        **{package: metadata.version(package) for package in _PACKAGES},
        **network.identity(),
    }
    if is_own:
        recorded["module"] = f"{method.__module__}.{method.__qualname__}"
    if network.weights == GIVEN_WEIGHTS:
        recorded["labels"] = list(network.labels)
    recorded["multi_label"] = network.multi_label
    if not isinstance(network.output, Logits):
        recorded["scores"] = scores_caption(network.output, network.decision)
    return recorded


def to_yaml(options: Mapping[str, Any]) -> str:
    """Return options as YAML."""
    text: str = yaml.safe_dump(plain(options), sort_keys=False, allow_unicode=True)
    return text


def instances_in(options: Any) -> Iterator[str]:
    """Yield the class names of the objects that recorded options could not hold."""
    if isinstance(options, Mapping):
        values: Sequence[Any] = list(options.values())
    else:
        values = options if isinstance(options, list) else [options]
    for value in values:
        if isinstance(value, (Mapping, list)):
            yield from instances_in(value)
        elif isinstance(value, str) and value.endswith(INSTANCE):
            yield value.removesuffix(INSTANCE)
