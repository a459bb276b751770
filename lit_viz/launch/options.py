"""The options that name a network, and the parser's complaints in plain words: what commands without a run need."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from lit_viz.errors import LitVizError, did_you_mean

#: What the parser raises where words make no sense.
REFUSALS = (ArgumentError, argparse.ArgumentError, TypeError, ValueError)


@dataclass
class ClassifierOptions:
    """The network that is looked into.

    Args:
        name: efficientnet_lite0, torchvision/NAME, timm/NAME, or package.module:factory.
        weights: DEFAULT (the published ones), a file (.pth, .safetensors, .ckpt), or none.
        labels: a text file with one class name a line; inferred unless given.
        mean: of the normalization, a number a channel; inferred unless given.
        std: of the normalization, a number a channel; inferred unless given.
        size: input height and width; inferred unless given.
    """

    name: str = "efficientnet_lite0"
    weights: str | None = "DEFAULT"
    labels: str | None = None
    mean: float | list[float] | None = None
    std: float | list[float] | None = None
    size: int | tuple[int, int] | None = None


def network_options(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the network's options among dotted ones, and the words of the option ``--bare``.

    Raises:
        LitVizError: in one sentence, for whatever the parser refuses.
    """
    parser = ArgumentParser(exit_on_error=False, prog="lit-viz")
    parser.add_argument("--bare", type=list[str], default=[])
    parser.add_class_arguments(ClassifierOptions, "classifier")
    try:
        config = parser.parse_args(list(words))
    except REFUSALS as error:
        raise one_sentence(error, parser) from error
    return config.classifier.as_dict(), config.bare


#: Types as the parser calls them, and as users do.
_TYPES = {"dict": "a mapping", "Sequence": "a list", "list": "a list", "tuple": "a list", "bool": "true or false"}


def _expected(found: re.Match[str]) -> str:
    """Return in plain words what the parser expected, of one type or several, instead of what it got."""
    expected, got = found.groups()
    types = re.findall(r"Expected an? <class '(?:\w+\.)*(\w+)'>", expected)
    words = [word for choices in re.findall(r"Literal\[(.*?)\]", expected) for word in re.findall(r"[^', ]+", choices)]
    kinds = [_TYPES.get(kind, kind) for kind in types if kind != "NoneType" and not (words and kind == "int")]
    choices = [f"one of {', '.join(dict.fromkeys(words))}"] if words else []
    if "a list" in kinds and re.fullmatch(r"\w+(\.\w+)+|\d+([,x]\d+)+", got):
        return f"expected a list: write '[{got.replace('x', ',') if got[0].isdigit() else got}]'"
    what = " or ".join([*dict.fromkeys(kinds), *choices])
    if not what and got.isidentifier():
        return f"there is no {got} among the installed parts"
    what = what or "something else"
    if re.search(r"Namespace\(| object at 0x", got):  # it was made in part: nobody wrote that
        return f"expected {what}"
    return f"expected {what}, got '{got}'{did_you_mean(got, words)}"


#: What the parser says, and how it is said here.
_PLAIN = (
    (r"unrecognized arguments: (\S+).*", r"there is no option \1"),
    (r"^Option '([\w.]+)' is not accepted", r"there is no option \1"),
    (r", --[\w.]+\+", ""),  # for lists, and never what a user has begun to write
    (r"ambiguous option: (\S+) could match --([\w.]+)$", r"there is no option \1; did you mean '\2'?"),
    (r"argument (--[\w.]+)(/\S+)?: expected one argument", r"\1 wants a value"),
    (r"Parser key \"([\w.\-]+)\":", r"--\1:"),
    (r"Problem with given class_path '[\w.]*?(\w+)':", r"\1:"),
    (r"Expected a path but .*? either not accessible or invalid ", ""),
    (r"(Does not validate.*?)?(\w+): Option '(\w+)' is not accepted.*", r"\2 has no option \3"),
    (r"--([\w.]+): .* NestedArg\(key='([\w.]+)'.*", r"there is no option --\1.\2; did you mean '\1'?"),
    (r"Does not validate against any of the Union.*? Errors:(.*) Given value type:.* Given value:\s*(.*)", _expected),
    (r"Expected a dot import path string: (\S+)", r"there is no \1 among the installed parts"),
    (r"(Expected an? .*?)\. Got value:\s*(.*)", _expected),
)


def _near_part(words: str) -> str:
    """Return the near names where a part, or an option of one, has none of that name."""
    nameless = re.search(r"there is no (\w+) among the installed parts|(\w+) has no option (\w+)", words)
    if nameless is None:
        return ""
    from lit_viz import attacks, attributions, images, objectives, optim  # which only a complaint waits for

    parts = {
        name: getattr(room, name)
        for room in (attacks, attributions, images, objectives, optim)
        for name in room.__all__
    }
    name, owner, option = nameless.groups()
    if name is not None:
        return did_you_mean(name, parts)
    return did_you_mean(option, inspect.signature(parts[owner]).parameters) if owner in parts else ""


#: How the parser begins, where it says itself why a value is of none of several types.
_OWN = (
    "Not a valid",
    "Expected",
    "Does not",
    "Problem with",
    "Parser key",
    "Option",
    "Import path",
    "Invalid",
    "Unexp",
)


def _refusal_of_a_part(message: str) -> str | None:
    """Return what a part says against its arguments, where the parser went on to try other types."""
    reasons = re.findall(r"^\s*- (\S.*)$", message, re.MULTILINE) if "any of the Union" in message else []
    return next((one for one in reasons if one.endswith(".") and not one.startswith(_OWN)), None)


def _without_radius(words: str) -> str | None:
    """Return the sentence on an attack that was given a radius, and has none."""
    found = re.search(r"(\w+) has no option eps\b", words)
    if found is None:
        return None
    from lit_viz import attacks

    attack = getattr(attacks, found[1], None)
    return attacks.without_radius(attack) if isinstance(attack, type) and issubclass(attack, attacks.Attack) else None


def one_sentence(error: Exception, parser: ArgumentParser) -> LitVizError:
    """Turn what the parser raised into one sentence, with the near names of a mistyped option."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LitVizError):
            return cause
        cause = cause.__cause__ or cause.__context__
    message = str(error)
    if refusal := _refusal_of_a_part(message):
        return LitVizError(refusal)
    missing = re.search(r"given class_path '([\w.]+)':\s*(No module named .*|module .* has no attribute .*)", message)
    if missing:  # a union's other branches say nothing then
        key = re.search(r'Parser key "([\w.\-]+)"', message)
        return LitVizError(f"{f'--{key[1]}: ' if key else ''}{missing[1]} can't be found: {missing[2].rstrip('.')}.")
    unknown = re.search(r"(?:[Uu]nrecognized arguments:|^Option) '?-{0,2}([\w.\-]+)", message)
    words = " ".join(line.strip(" -") for line in message.strip().splitlines() if line.strip(" -"))
    for pattern, plain in _PLAIN:
        words = re.sub(pattern, plain, words)
    if radius := _without_radius(words):
        return LitVizError(radius)
    known = [word[2:] for action in parser._actions for word in action.option_strings if re.fullmatch(r"--[^+]+", word)]
    hint = did_you_mean(unknown[1], known) if unknown else _near_part(words)
    part = re.search(r"(--[\w.]+): (\w+) has no option", words)
    help_option = f"{part[1]}.help {part[2]}" if part and f"{part[1][2:]}.help" in known else "--help"
    help_ = "" if words.endswith("?") else f": see {parser.prog} {help_option}."
    return LitVizError(f"{words.rstrip('.')}{hint or help_}")
