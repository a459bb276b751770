"""From the words of the command line to the options that the parser knows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.utils.files import non_utf8_name_error

#: Short options, and the dotted ones that they stand for.
_SHORT = {
    "--classifier": "--classifier.name",
    "--views": "--model.views",
    "--size": "--model.size",
    "--devices": "--trainer.devices",
}
#: Options that may be given several times.
_REPEATED = ("--target",)
_FLAGS = (
    "--overwrite",
    "--resume",
    "--print_config",
    "--help",
    "-h",
    "--count",
    "--localize",
    "--explain",
    "--overlays",
)
_REFUSED = {"--trainer.max_steps": "--iterations", "--trainer.max_epochs": "--iterations"}


def rewrite(
    words: Sequence[str],
    positional: str,
    own: Callable[[str, str], tuple[str, str]] = lambda name, value: (name, value),
) -> list[str]:
    """Turn bare words and short options into the dotted options that the parser knows.

    Bare words become the list ``--<positional>``, dashes in option names underscores.

    Args:
        words: of the command line.
        positional: the option that bare words go to.
        own: turns the command's own short options, with their values, into the parser's.

    Raises:
        LitVizError: for an option that lit_viz has another name for, or that has no value, and a name that is no UTF-8.
    """
    options: list[str] = []
    bare: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-" or re.match(r"-\d", word):
            if error := non_utf8_name_error(word):
                raise LitVizError(error)
            bare.append(word)
            continue
        name, equals, value = word.partition("=")
        if name not in _FLAGS and not name.startswith("--"):
            raise LitVizError(f"there is no option {name}: options begin with two dashes, as --out does.")
        if name.startswith("--") and not name.startswith("--trainer."):
            name = name.replace("-", "_").replace("__", "--", 1)
        if name in _REFUSED:
            raise LitVizError(f"{name} would cut the run short: use {_REFUSED[name]}.")
        spelt, name = name, _SHORT.get(name, name)
        if name in _FLAGS and not equals:
            options.append(name)
            continue
        if not equals and (not rest or rest[0].startswith("--")):
            near = get_close_matches(name, _FLAGS, cutoff=0.85)
            raise LitVizError(f"{spelt} wants a value{did_you_mean(name, near) or '.'}")
        name, value = own(name, value if equals else rest.pop(0))
        # The parser takes -1,-1 for an option, but not behind an equals sign; -1 it knows to be a number.
        options += [f"{name}={value}"] if re.match(r"-(?![\d.e]*$)", value) else [name, value]
    if bare:
        options += [f"--{positional}", json.dumps(bare)]
    return _gathered(options)


def _gathered(options: list[str]) -> list[str]:
    """Turn options that are given several times, and may be, into one with a list."""
    for name in _REPEATED:
        places = [i for i, word in enumerate(options) if word == name]
        if len(places) > 1:
            values = [options[i + 1] for i in places]
            rest = [word for i, word in enumerate(options) if i not in places and i - 1 not in places]
            options = [*rest, name, json.dumps(values)]
    return options
