"""Translation of command-line arguments into the options of the parser."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Protocol

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.utils.files import non_utf8_name_error

#: Short options of all commands.
_SHORT = {
    "--classifier": "--classifier.name",
    "--views": "--model.views",
    "--size": "--model.size",
    "--devices": "--trainer.devices",
}
#: Options whose repetitions become one list.
_REPEATABLE = ("--target",)
#: Options without a value that all commands have.
_FLAGS = ("--overwrite", "--resume", "--print_config", "--help", "-h", "--count")
_REPLACED = {"--trainer.max_steps": "--iterations", "--trainer.max_epochs": "--iterations"}


class OptionNames(Protocol):
    """What a command defines about its options (see :class:`~lit_viz.launch.commands.base.Command`)."""

    @property
    def positional(self) -> str: ...  # noqa: D102

    @property
    def flags(self) -> tuple[str, ...]: ...  # noqa: D102

    def option(self, name: str, value: str) -> tuple[str, str]: ...  # noqa: D102


def rewrite_arguments(arguments: Sequence[str], command: OptionNames | None = None) -> list[str]:
    """Translate short options and positional arguments into options of the parser.

    Args:
        arguments: command-line arguments. Dashes in option names become underscores.
        command: the method; None for commands without a method, whose positional arguments become ``--bare``.

    Raises:
        LitVizError: an option without a value or with a single dash, or a name that is not UTF-8.
    """
    flags = _FLAGS if command is None else (*_FLAGS, *command.flags)
    options: list[str] = []
    repeated: dict[str, list[str]] = {}
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
        if given in _REPLACED:
            raise LitVizError(f"{given} is not available: use {_REPLACED[given]}")
        if given in flags and not equals:
            options.append(given)
            continue
        name = _SHORT.get(given, given)
        if not equals and (not rest or rest[0].startswith("--")):
            near = get_close_matches(name, flags, cutoff=0.85)
            raise LitVizError(f"{given} expects a value{did_you_mean(name, near)}")
        value = value if equals else rest.pop(0)
        if command is not None:
            name, value = command.option(name, value)
        if name in _REPEATABLE:
            repeated.setdefault(name, []).append(value)
        elif re.match(r"-(?![\d.e]*$)", value):  # the parser reads "--neuron -1,-1" as two options
            options.append(f"{name}={value}")
        else:
            options += [name, value]
    for name, values in repeated.items():
        options += [name, values[0] if len(values) == 1 else json.dumps(values)]
    if positionals:
        options += [f"--{'bare' if command is None else command.positional}", json.dumps(positionals)]
    return options
