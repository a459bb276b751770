"""Errors of the parser as one sentence, with the nearest name of a mistyped option, value or class."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module

from jsonargparse import ArgumentError, ArgumentParser

from lit_viz.errors import LitVizError, did_you_mean

#: Exceptions of the parser for invalid arguments.
PARSER_ERRORS = (ArgumentError, argparse.ArgumentError, TypeError, ValueError, RecursionError)
#: Short options of all commands.
SHORT = {
    "--network": "--network.name",
    "--output": "--network.output",
    "--views": "--model.views",
    "--size": "--model.size",
    "--devices": "--trainer.devices",
}
# A union type hides the exception of a class constructor in its list of errors; all others begin as below.
_OF_CONSTRUCTOR = r"^\s*- (?!Expected|Not a|Does not|Problem|Parser|Option|Import|Invalid|Unexp|a )(.+)$"
_UNRECOGNIZED = r"(?:nrecognized arguments:|ambiguous option:|^Option) '?-*([^\s']+)"
_NOT_ACCEPTED = r"class_path '([\w.]+)':\s*Option '(\w+)' is not accepted"
_FORBIDDEN = r"Importing '([\w.]+)' is not allowed"


def parser_error(error: Exception, parser: ArgumentParser, short: Mapping[str, str] | None = None) -> LitVizError:
    """Return an exception of the parser in one line.

    Args:
        error: the exception.
        parser: the parser that raised it.
        short: options by their short forms, by which they are named, in addition to :data:`SHORT`.
    """
    own = _own_error(error)
    if own is not None:
        return own
    text = str(error)
    if "Union" in text and (match := re.search(_OF_CONSTRUCTOR, text, re.MULTILINE)):
        return LitVizError(match[1])
    short = SHORT | dict(short or {})
    option = _option_in(text, short)
    see = f": see {parser.prog} --help"
    if match := re.search(_UNRECOGNIZED, text):
        option = f"--{match[1]}"
        return LitVizError(f"unrecognized option {option}{did_you_mean(option, _options(parser, short)) or see}")
    if match := re.search(_NOT_ACCEPTED, text):
        return LitVizError(_unknown_argument(match[1], match[2], f"{parser.prog} {option}.help"))
    if match := re.search(_FORBIDDEN, text):
        return LitVizError(f"{option}: a class must not be of Python's standard library, got {match[1]}")
    reasons = _reasons(text)
    if not reasons:
        return LitVizError(f"{' '.join(text.split())}{see}")
    value, got = _given(text)
    expected, choices = _expected(reasons)
    near = ""
    if value not in choices:  # else it is a class of another option
        near = did_you_mean(value, choices)
    return LitVizError(f"{option}: {expected}{got}{near or see}")


def _own_error(error: Exception) -> LitVizError | None:
    """Return the error of lit_viz that has caused an exception."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LitVizError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _option_in(text: str, short: Mapping[str, str]) -> str:
    """Return the option that an exception is about, by its short form if it has one."""
    option = "--" + ".".join(dict.fromkeys(re.findall(r'Parser key "([\w.\-]+)"', text)))
    for name, long in short.items():
        if long == option:
            return name
    return option


def _options(parser: ArgumentParser, short: Mapping[str, str]) -> list[str]:
    """Return the names of all options."""
    names: list[str] = []
    for action in parser._actions:
        names += [name for name in action.option_strings if name.startswith("--") and name[-1] != "+"]
    return [*names, *short]


def _reasons(text: str) -> list[str]:
    """Return the lines of an exception that state what is expected."""
    reasons: dict[str, None] = {}
    for line in text.splitlines():
        reason = line.strip(" -").partition(". Got value")[0]
        is_reason = reason.startswith(("Expected", "No module", "module"))
        if is_reason and "NoneType" not in reason and " a path but" not in reason:
            reasons[reason] = None
    return list(reasons)


def _given(text: str) -> tuple[str, str]:
    """Return the value that an exception is about, and its statement in a message; empty if it is no text."""
    given = re.search(r"(?:Got value:|Given value:|import path string:) ?(.*)", text)
    if given is None:
        return "", ""
    if re.search(r"Namespace\(|NestedArg\(| object at 0x", given[1]):
        return given[1], ""
    return given[1], f", got {given[1]!r}"


def _expected(reasons: Sequence[str]) -> tuple[str, Collection[str]]:
    """Return the expected types and values in words, and the values or classes to choose from."""
    expected = re.sub(r"Expected (?:an? )?", "", " or ".join(reasons)).replace("Sequence", "list")
    expected = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[(.*?)\]", r"\1\2", expected)
    choices = re.findall(r"'([\w.-]+)'", expected)
    if "dot import path" in expected:
        expected = re.sub(r"dot import path string: \S+", "class name", expected)
        choices = _class_names()
    if "Expected" in reasons[0]:
        expected = f"expected {expected}"
    return expected, choices


def _class_names() -> list[str]:
    """Return the names of all parts."""
    from lit_viz import attacks, attributions, images, objectives, optim  # imports torch

    names: list[str] = []
    for package in (attacks, attributions, images, objectives, optim):
        names += package.__all__
    return names


def _unknown_argument(class_path: str, name: str, help_command: str) -> str:
    """Return the message for an argument that a class does not have."""
    from lit_viz import attacks  # imports torch

    module, _, class_name = class_path.rpartition(".")
    part = getattr(import_module(module), class_name)
    if name == "eps" and issubclass(part, attacks.Attack):
        return attacks.without_radius(part)
    near = did_you_mean("alpha" if name == "lr" else name, inspect.signature(part).parameters)
    return f"{class_name} has no option {name}{near or f': see {help_command} {class_name}'}"
