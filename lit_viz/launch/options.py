"""Options of the classifier, and one-line messages for the errors of the parser."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from lit_viz.errors import LitVizError, did_you_mean

#: Exceptions of the parser for invalid arguments.
PARSER_ERRORS = (ArgumentError, argparse.ArgumentError, TypeError, ValueError)


@dataclass
class ClassifierOptions:
    """The classifier.

    Args:
        name: efficientnet_lite0, torchvision/NAME, timm/NAME, or package.module:factory.
        weights: DEFAULT (published weights), a file (.pth, .safetensors, .ckpt), or none.
        labels: text file with one class name per line; inferred unless given.
        mean: mean of the normalization, one number per channel; inferred unless given.
        std: standard deviation of the normalization, one number per channel; inferred unless given.
        size: input height and width; inferred unless given.
    """

    name: str = "efficientnet_lite0"
    weights: str | None = "DEFAULT"
    labels: str | None = None
    mean: float | list[float] | None = None
    std: float | list[float] | None = None
    size: int | tuple[int, int] | None = None


def parse_classifier_options(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Parse the options of a command that has no method.

    Returns:
        The options of the classifier, and the value of the option ``--bare``.

    Raises:
        LitVizError: an invalid argument.
    """
    parser = ArgumentParser(exit_on_error=False, prog="lit-viz")
    parser.add_argument("--bare", type=list[str], default=[])
    parser.add_class_arguments(ClassifierOptions, "classifier")
    try:
        config = parser.parse_args(list(arguments))
    except PARSER_ERRORS as error:
        raise parser_error(error, parser) from error
    return config.classifier.as_dict(), config.bare


#: Python types in messages of the parser, and their names here.
_TYPES = {
    "Sequence": "list such as [a,b]",
    "list": "list such as [a,b]",
    "tuple": "list such as [a,b]",
    "dict": "mapping",
    "bool": "true or false",
}


def parser_error(error: Exception, parser: ArgumentParser) -> LitVizError:
    """Return a one-line error for an exception of the parser, with the nearest name of a mistyped option or class."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LitVizError):
            return cause
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    # A union type hides the exception of a class constructor in its list of errors; all others begin as below.
    own_error = r"^\s*- (?!Expected|Not a|Does not|Problem|Parser|Option|Import|Invalid|Unexp|a )(.+)$"
    if "Union" in text and (match := re.search(own_error, text, re.MULTILINE)):
        return LitVizError(match[1])
    options = [name[2:] for action in parser._actions for name in action.option_strings if name[-1] != "+"]
    option = "--" + ".".join(dict.fromkeys(re.findall(r'Parser key "([\w.\-]+)"', text)))
    see = f": see {parser.prog} --help"
    if match := re.search(r"(?:nrecognized arguments:|ambiguous option:|^Option) '?-*([^\s']+)", text):
        return LitVizError(f"unrecognized option --{match[1]}{did_you_mean(match[1], options) or see}")
    if match := re.search(r"class_path '([\w.]+)':\s*Option '(\w+)' is not accepted", text):
        return LitVizError(_unknown_argument(match[1], match[2], f"{option}.help", parser.prog))
    if match := re.search(r"class_path '([\w.]+)':\s*(No module named .*|module .* has no attribute .*)", text):
        return LitVizError(f"{option}: cannot import {match[1]}: {match[2]}")
    if match := re.search(r"NestedArg\(key='([\w.]+)'", text):
        return LitVizError(f"unrecognized option {option}.{match[1]}; did you mean '{option[2:]}'?")
    names = re.findall(r"Expected an? <class '(?:\w+\.)*(\w+)'>", text)
    literals = [word for group in re.findall(r"Literal\[(.*?)\]", text) for word in re.findall(r"[^', ]+", group)]
    types = [_TYPES.get(name, name) for name in names if name != "NoneType" and not (literals and name == "int")]
    expected = [*types, *([f"one of {', '.join(dict.fromkeys(literals))}"] if literals else [])]
    given = re.search(r"(?:Got value|Given value): ?(.*)", text)
    value = given[1] if given else ""
    if not expected and (match := re.search(r"Expected a dot import path string: (\S+)", text)):
        return LitVizError(f"{option}: there is no class {match[1]}{did_you_mean(match[1], _classes()) or see}")
    if expected:
        return LitVizError(
            f"{option}: expected {' or '.join(dict.fromkeys(expected))}"
            + ("" if "Namespace(" in value or " object at 0x" in value else f", got '{value}'")
            + (did_you_mean(value, literals) or see)
        )
    return LitVizError(f"{' '.join(text.split())}{see}")


def _unknown_argument(class_path: str, name: str, help_option: str, prog: str) -> str:
    """Return the message for an argument that a class does not have."""
    from lit_viz import attacks  # imports torch

    module, _, class_name = class_path.rpartition(".")
    part = getattr(import_module(module), class_name)
    if name == "eps" and issubclass(part, attacks.Attack):
        return attacks.without_radius(part)
    near = did_you_mean(name, inspect.signature(part).parameters)
    return f"{class_name} has no option {name}{near or f': see {prog} {help_option} {class_name}'}"


def _classes() -> list[str]:
    """Return the names of the classes that options take."""
    from lit_viz import attacks, attributions, images, objectives, optim  # imports torch

    return [name for module in (attacks, attributions, images, objectives, optim) for name in module.__all__]
