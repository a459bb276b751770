"""The methods as commands, which the command line, the scripts and the Python functions launch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_viz.launch.commands.base import Command

#: Arguments and summary of each method in ``lit-viz --help``. The module ``name`` defines the class ``NameCommand``.
SUMMARIES = {
    "visualize": ("tarantula goldfish", "class images; --layer NAME --channel 3,14-20: channels"),
    "saliency": ("PHOTO_OR_FOLDER ...", "saliency maps, cross-checked with Captum"),
    "attack": ("PHOTO --target stingray", "adversarial examples, verified in the saved file"),
}


class _Commands(dict[str, "Command"]):
    """The commands by name; a command is imported on first access, because it imports torch."""

    def __missing__(self, name: str) -> Command:
        if name not in SUMMARIES:
            raise KeyError(name)
        self[name] = getattr(import_module(f"{__name__}.{name}"), f"{name.capitalize()}Command")()
        return self[name]


COMMANDS: Mapping[str, Command] = _Commands()


def extra_files() -> tuple[str, ...]:
    """Return the patterns of the files that only runs of some methods or with some loggers contain."""
    from lit_viz.loggers import LOGGERS

    patterns: list[str] = []
    for name in SUMMARIES:
        patterns += COMMANDS[name].presented("files")
    return (*patterns, *LOGGERS)
