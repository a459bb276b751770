"""Names of options in messages of the library, which name arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lit_viz.errors import LitVizError
from lit_viz.launch.commands import COMMANDS, SUMMARIES
from lit_viz.launch.parser_errors import SHORT
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
        error.args = (_Options(command).named_in(str(error)),)
        raise


def naming_options(notify: Notify, command: Any) -> Notify:
    """Return a receiver of messages that names options in them; see :func:`options_named`."""

    def notify_with_options(message: str) -> None:
        notify(_Options(command).named_in(message))

    return notify_with_options


#: Words that follow the name of an argument at the beginning of a message.
_VERBS = r"(must|requires?|takes?|can't|has|have|of|does|and|or|on|only|with|applies) "


class _Options:
    """The shortest option of each argument, of a command or of all.

    Args:
        command: the command; None for all.
    """

    def __init__(self, command: Any) -> None:
        from lit_viz.launch.config import build_parser  # imports the Trainer, and is needed for errors alone

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
        self._by_name = {
            name: option if "." in option else option.replace("_", "-") for name, option in options.items()
        }
        self._positional = None if command is None else command.positional

    def named_in(self, message: str) -> str:
        """Return a message with options in place of its first word, of ``name=value`` and of ``name=[value, value]``.

        ``name= of the network`` is an option of the network.
        """
        named = re.sub(r"(\w+)= of the network", r"--network.\1", message)
        named = re.sub(r"(?<![\w.{-])(\w+)=\[([^\]]*)\]", self._repeated, named)
        named = re.sub(r"(?<![\w.{-])(\w+)=([^\s,;:)]*)", self._assigned, named)
        first, space, rest = named.partition(" ")
        if not re.match(_VERBS, rest):
            return named
        is_dotted = re.match(r"(model|trainer|network)\.", first)
        option = f"--{first}" if is_dotted else self._by_name.get(first, first)
        if first.endswith("s") and not option.endswith("s"):  # --channel for channels
            rest = re.sub(r"^(require|take) ", r"\1s ", rest)
        return f"{option}{space}{rest}"

    def _assigned(self, match: re.Match[str]) -> str:
        """Return ``--name value`` for ``name=value``; a flag has no value."""
        option = self._by_name.get(match[1])
        if option is None:
            return match[0]
        value = match[2].strip("\"'")
        if value == "True" or not value:
            return option
        return f"{option} {value.lower() if value == 'False' else value}"

    def _repeated(self, match: re.Match[str]) -> str:
        """Return ``--name value --name value`` for ``name=[value, value]``, the values alone if they are positional."""
        option = self._by_name.get(match[1])
        if option is None:
            return match[0]
        values = [shlex.quote(value.strip(" \"'")) for value in match[2].split(",")]
        if match[1] == self._positional:
            return " ".join(values)
        return " ".join(f"{option} {value}" for value in values)
