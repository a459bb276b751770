"""Command-line arguments: short options, and options of the network and the loggers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from jsonargparse import ArgumentParser

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.launch.parser_errors import PARSER_ERRORS, SHORT, parser_error
from lit_viz.loggers.base import WandbMode
from lit_viz.utils.files import non_utf8_name_error

#: Options without a value of all commands.
_FLAGS = ("--overwrite", "--resume", "--print_config", "--count")
#: Names in other tools, and the option to use.
_REPLACED = {
    **dict.fromkeys(("--trainer.max_steps", "--trainer.max_epochs", "--steps"), "--iterations"),
    "--epsilon": "--eps",
    "--batch_size": "--slots",
}


def parser_option(name: str, command: Any = None, dashes: str = "--") -> str:
    """Return the option of the parser for a short option; other options are unchanged.

    Raises:
        LitVizError: the option has another name here; ``dashes`` precede names in the message.
    """
    if name in _REPLACED:
        raise LitVizError(f"{name} is not available: use {_REPLACED[name]}".replace("--", dashes))
    for short, option in ({} if command is None else command.short).items():
        if name == short or name.startswith(f"{short}."):
            return f"{option}{name.removeprefix(short)}"
    return SHORT.get(name, name)


def rewrite_arguments(arguments: Sequence[str], command: Any = None) -> list[str]:
    """Translate short options and positional arguments into options of the parser.

    ``--config`` comes first, then the parts of the method, so that options override them wherever they stand. Without a
    :class:`~lit_viz.launch.commands.base.Command`, positional arguments become ``--bare``.
    """
    flags = _FLAGS if command is None else (*_FLAGS, *command.flags)
    options: list[list[str]] = []
    targets: list[str] = []
    positionals: list[str] = []
    _check_radii(arguments)
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if _is_positional(argument):
            if error := non_utf8_name_error(argument):
                raise LitVizError(error)
            positionals.append(argument)
            continue
        name, *value = _option(argument, rest, flags, command)
        if name == "--target":
            targets += value
        elif value and re.match(r"-(?![\d.e]*$)", value[0]):  # the parser reads "--neuron -1,-1" as two options
            options.append([f"{name}={value[0]}"])
        else:
            options.append([name, *value])
    if targets:
        options.append(["--target", targets[0] if len(targets) == 1 else json.dumps(targets)])
    if positionals:
        options.append([f"--{'bare' if command is None else command.positional}", json.dumps(positionals)])
    words: list[str] = []
    for option in sorted(options, key=_rank):
        words += option
    return words


def _check_radii(arguments: Sequence[str]) -> None:
    """Reject several ``--eps``, of which the last one would win."""
    given = [word for word in arguments if word.partition("=")[0] == "--eps"]
    if len(given) > 1:
        raise LitVizError("--eps must be given once: several radii are a list, such as --eps 1/255,2/255")


def _is_positional(argument: str) -> bool:
    return not argument.startswith("-") or argument == "-" or re.match(r"-\d", argument) is not None


def _option(argument: str, rest: list[str], flags: Collection[str], command: Any) -> list[str]:
    """Return an option of the parser with its value, which is taken from the rest of the arguments unless it follows an
    equals sign; a flag has none.

    Raises:
        LitVizError: it has one dash, or no value.
    """
    given, equals, value = argument.partition("=")
    if given not in flags and not given.startswith("--"):
        raise LitVizError(f"unrecognized option {given}: options begin with two dashes, such as --out")
    if given.startswith("--") and not given.startswith("--trainer."):
        given = given.replace("-", "_").replace("__", "--", 1)
    if given in flags and not equals:
        return [given]
    name = parser_option(given, command)
    if not equals:
        if not rest or rest[0].startswith("--"):
            near = get_close_matches(name, flags, cutoff=0.85)
            raise LitVizError(f"{given} expects a value{did_you_mean(name, near)}")
        value = rest.pop(0)
    if command is None:
        return [name, value]
    given, value = command.option(given, value)
    return [parser_option(given, command), value]


def _rank(option: Sequence[str]) -> int:
    """Return the sort key of an option: the configuration, the parts of the method, and all others."""
    if option[0] == "--config":
        return 0
    return 1 if re.fullmatch(r"--model\.\w+\+?", option[0]) else 2


@dataclass
class NetworkOptions:
    """The network.

    Args:
        name: efficientnet_lite0, torchvision/NAME, timm/NAME, transformers/ORG/NAME or timm/hf-hub:ORG/NAME of the
            Hugging Face Hub, a folder saved as there, or package.module:factory.
        weights: DEFAULT (published weights), a file (.pth, .safetensors, .ckpt), or none.
        labels: text file with one class name per line; inferred unless given.
        mean: mean of the normalization, one number per channel; inferred unless given.
        std: standard deviation of the normalization, one number per channel; inferred unless given.
        size: input height and width; inferred unless given.
        multi_label: whether labels do not exclude each other: a probability is a sigmoid; inferred unless given.
        output: what of the network's return value is scored: region, detection, zero_shot, regression, keypoint,
            module:function or a key, or class_path and init_args of an output; the logits unless given.
    """

    name: str = "efficientnet_lite0"
    weights: str | None = "DEFAULT"
    labels: str | None = None
    mean: float | list[float] | None = None
    std: float | list[float] | None = None
    size: int | tuple[int, int] | None = None
    multi_label: bool | None = None
    output: dict[str, Any] | str | None = None


def add_logger_options(add: Callable[..., Any]) -> None:
    """Add the options of loggers."""
    add("--wandb", type=WandbMode, default="auto", help="W&B mode; auto is online if there is an API key, else offline")
    project_help = "W&B project or MLflow experiment; null: WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME, else lit_viz"
    add("--project", type=str | None, default=None, help=project_help)
    add("--tags", type=list[str] | str | None, default=None, help="tags in W&B and MLflow: a,b; null: WANDB_TAGS")
    add("--group", type=str | None, default=None, help="W&B group; null: WANDB_RUN_GROUP")
    add("--job_type", type=str | None, default=None, help="W&B job type; null: WANDB_JOB_TYPE")


def parse_network_options(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the options of the network and the positional arguments of a command that has no method."""
    parser = ArgumentParser(exit_on_error=False, prog="lit-viz")
    parser.add_class_arguments(NetworkOptions, "network")
    config = _parse(parser, arguments)
    options = config.network.as_dict()
    if options["output"] is None:
        del options["output"]
    else:
        from lit_viz.outputs import configured_output  # imports torch

        options["output"] = configured_output(options["output"])
    return options, config.bare


def parse_logger_options(arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the options of ``lit-viz log``, and its positional arguments."""
    parser = ArgumentParser(exit_on_error=False, prog="lit-viz log")
    parser.add_argument("--to", type=str | None, default=None)
    add_logger_options(parser.add_argument)
    config = _parse(parser, arguments)
    return config, config.bare


def _parse(parser: ArgumentParser, arguments: Sequence[str]) -> Any:
    parser.add_argument("--bare", type=list[str], default=[])
    try:
        return parser.parse_args(rewrite_arguments(arguments))
    except PARSER_ERRORS as error:
        raise parser_error(error, parser) from error
