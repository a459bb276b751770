"""Command-line arguments: short options, options of the classifier, and errors of the parser."""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.loggers.base import WandbMode
from lit_viz.utils.files import non_utf8_name_error

#: Exceptions of the parser for invalid arguments.
PARSER_ERRORS = (ArgumentError, argparse.ArgumentError, TypeError, ValueError, RecursionError)
#: Short options of all commands.
SHORT = {
    "--classifier": "--classifier.name",
    "--output": "--classifier.output",
    "--views": "--model.views",
    "--size": "--model.size",
    "--devices": "--trainer.devices",
}
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
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-") or argument == "-" or re.match(r"-\d", argument):
            if error := non_utf8_name_error(argument):
                raise LitVizError(error)
            positionals.append(argument)
            continue
        given, equals, value = argument.partition("=")
        if given not in flags and not given.startswith("--"):
            raise LitVizError(f"unrecognized option {given}: options begin with two dashes, such as --out")
        if given.startswith("--") and not given.startswith("--trainer."):
            given = given.replace("-", "_").replace("__", "--", 1)
        if given in flags and not equals:
            options.append([given])
            continue
        name = parser_option(given, command)
        if not equals and (not rest or rest[0].startswith("--")):
            near = get_close_matches(name, flags, cutoff=0.85)
            raise LitVizError(f"{given} expects a value{did_you_mean(name, near)}")
        value = value if equals else rest.pop(0)
        if command is not None:
            given, value = command.option(given, value)
            name = parser_option(given, command)
        if name == "--target":
            targets.append(value)
        elif re.match(r"-(?![\d.e]*$)", value):  # the parser reads "--neuron -1,-1" as two options
            options.append([f"{name}={value}"])
        else:
            options.append([name, value])
    if targets:
        options.append(["--target", targets[0] if len(targets) == 1 else json.dumps(targets)])
    if positionals:
        options.append([f"--{'bare' if command is None else command.positional}", json.dumps(positionals)])
    return [word for option in sorted(options, key=_rank) for word in option]


def _rank(option: Sequence[str]) -> int:
    if option[0] == "--config":
        return 0
    return 1 if re.fullmatch(r"--model\.\w+\+?", option[0]) else 2


@dataclass
class ClassifierOptions:
    """The classifier.

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


def parse_classifier_options(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the options of the classifier and the positional arguments of a command that has no method."""
    parser = ArgumentParser(exit_on_error=False, prog="lit-viz")
    parser.add_class_arguments(ClassifierOptions, "classifier")
    config = _parse(parser, arguments)
    options = config.classifier.as_dict()
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


def parser_error(error: Exception, parser: ArgumentParser, short: Mapping[str, str] | None = None) -> LitVizError:
    """Return an exception of the parser in one line, with the nearest name of a mistyped option, value or class.

    Options that have a short form (``short``: the option by its short form) are named by it.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LitVizError):
            return cause
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    lines = [line.strip(" -") for line in text.splitlines()]
    # A union type hides the exception of a class constructor in its list of errors; all others begin as below.
    own_error = r"^\s*- (?!Expected|Not a|Does not|Problem|Parser|Option|Import|Invalid|Unexp|a )(.+)$"
    if "Union" in text and (match := re.search(own_error, text, re.MULTILINE)):
        return LitVizError(match[1])
    option = "--" + ".".join(dict.fromkeys(re.findall(r'Parser key "([\w.\-]+)"', text)))
    short = {**SHORT, **(short or {})}
    option = {long: name for name, long in short.items()}.get(option, option)
    see = f": see {parser.prog} --help"
    if match := re.search(r"(?:nrecognized arguments:|ambiguous option:|^Option) '?-*([^\s']+)", text):
        options = [name[2:] for action in parser._actions for name in action.option_strings if name[-1] != "+"]
        options += [name[2:] for name in short]
        return LitVizError(f"unrecognized option --{match[1]}{did_you_mean(match[1], options) or see}")
    if match := re.search(r"class_path '([\w.]+)':\s*Option '(\w+)' is not accepted", text):
        return LitVizError(_unknown_argument(match[1], match[2], f"{parser.prog} {option}.help"))
    if match := re.search(r"Importing '([\w.]+)' is not allowed", text):
        return LitVizError(f"{option}: a class must not be of Python's standard library, got {match[1]}")
    begin = ("Expected", "No module", "module")
    reasons = [line.partition(". Got value")[0] for line in lines if line.startswith(begin)]
    reasons = [reason for reason in dict.fromkeys(reasons) if "NoneType" not in reason and " a path but" not in reason]
    if not reasons:
        return LitVizError(f"{' '.join(text.split())}{see}")
    given = re.search(r"(?:Got value:|Given value:|import path string:) ?(.*)", text)
    value = given[1] if given else ""
    is_readable = given and not re.search(r"Namespace\(|NestedArg\(| object at 0x", value)
    got = f", got {value!r}" if is_readable else ""
    expected = re.sub(r"Expected (?:an? )?", "", " or ".join(reasons))
    expected = expected.replace("Sequence", "list")
    expected = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[(.*?)\]", r"\1\2", expected)
    choices = re.findall(r"'([\w.-]+)'", expected)
    if "dot import path" in expected:
        from lit_viz import attacks, attributions, images, objectives, optim  # imports torch

        expected = re.sub(r"dot import path string: \S+", "class name", expected)
        choices = [name for parts in (attacks, attributions, images, objectives, optim) for name in parts.__all__]
    verb = "expected " if "Expected" in reasons[0] else ""
    near = "" if value in choices else did_you_mean(value, choices)  # a class of another option
    return LitVizError(f"{option}: {verb}{expected}{got}{near or see}")


def _unknown_argument(class_path: str, name: str, help_command: str) -> str:
    """Return the message for an argument that a class does not have."""
    from lit_viz import attacks  # imports torch

    module, _, class_name = class_path.rpartition(".")
    part = getattr(import_module(module), class_name)
    if name == "eps" and issubclass(part, attacks.Attack):
        return attacks.without_radius(part)
    near = did_you_mean("alpha" if name == "lr" else name, inspect.signature(part).parameters)
    return f"{class_name} has no option {name}{near or f': see {help_command} {class_name}'}"
