"""Names of options in messages of the library, which name arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lit_viz.errors import LitVizError
from lit_viz.launch.arguments import SHORT
from lit_viz.launch.commands import COMMANDS, SUMMARIES
from lit_viz.launch.config import build_parser
from lit_viz.utils.formatting import Notify


@contextmanager
def options_named(command: Any = None) -> Iterator[None]:
    """Name options in the messages of errors: those of the library name arguments.

    ``iterations must be ...`` becomes ``--iterations must be ...``, and ``give size=`` becomes ``give --size``. Without
    a command, the options are those of all methods.
    """
    try:
        yield
    except LitVizError as error:
        error.args = (_with_options(str(error), _option_names(command)),)
        raise


def naming_options(notify: Notify, command: Any) -> Notify:
    """Return a receiver of messages that names options in them; see :func:`options_named`."""

    def notify_with_options(message: str) -> None:
        notify(_with_options(message, _option_names(command)))

    return notify_with_options


def _option_names(command: Any) -> dict[str, str]:
    """Return the shortest option of each argument, of a command or of all."""
    commands: list[Any] = [COMMANDS[name] for name in SUMMARIES] if command is None else [command]
    options: dict[str, str] = {}
    for described in commands:
        kind: Any = type(described)
        for action in build_parser(kind)._actions:
            dest = action.dest.removesuffix("+")
            options.setdefault(dest.rpartition(".")[2], f"--{dest}")
        for short, option in {**SHORT, **described.short}.items():
            options[option.rpartition(".")[2]] = short
            options[short[2:]] = short
    options |= {"targets": "--targets" if "targets" in options else "--target", "channels": "--channel"}
    # Dotted options are written as in configurations.
    return {name: option if "." in option else option.replace("_", "-") for name, option in options.items()}


def _with_options(message: str, options: Mapping[str, str]) -> str:
    """Return a message with options in place of its first word, and of ``name=value``."""

    def assignment(match: re.Match[str]) -> str:
        option = options.get(match[1])
        if option is None:
            return match[0]
        value = match[2].strip("\"'")
        if value == "True" or not value:
            return option
        return f"{option} {value.lower() if value == 'False' else value}"

    named = re.sub(r"(?<![\w.{-])(\w+)=([^\s,;:)]*)", assignment, message)
    first, space, rest = named.partition(" ")
    if not re.match(r"(must|requires?|takes?|can't|has|have|of|does|and|or|on|only|with|applies) ", rest):
        return named
    is_dotted = re.match(r"(model|trainer|classifier)\.", first)
    option = f"--{first}" if is_dotted else options.get(first, first)
    if first.endswith("s") and not option.endswith("s"):  # --channel for channels
        rest = re.sub(r"^(require|take) ", r"\1s ", rest)
    return f"{option}{space}{rest}"
