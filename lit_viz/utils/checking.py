"""Check of values by annotations: arguments of calls, and JSON values that were read from files."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import re
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from lit_viz.errors import ArgumentError, did_you_mean, value_text
from lit_viz.types import items_of
from lit_viz.utils.sequences import as_list

P = ParamSpec("P")
T = TypeVar("T")
#: Returns whether a value has a type.
Check = Callable[[Any], bool]

#: Names of types in messages about arguments, and in those about JSON values.
_NAMES: dict[Any, str] = {
    type(None): "None",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}
_JSON_NAMES: dict[Any, str] = {**_NAMES, type(None): "null", bool: "true or false"}
#: Classes of numbers, also of NumPy, and of those in JSON values.
_NUMBERS: dict[Any, Any] = {int: numbers.Integral, float: numbers.Real}
_JSON_NUMBERS: dict[Any, Any] = {int: int, float: (int, float)}
_LISTS = (list, tuple, Sequence)
#: Elements of a list that are checked; a long list is of one type.
_MOST_ELEMENTS = 100
#: Largest whole number of a JSON value: arrays, tensors and dates hold 64 bits.
_MOST = 2**63 - 1
_MOST_CHARACTERS = 60  # characters of a value in a message


# -- calls


def checked_types(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that raises a LitVizError for an argument of another type than annotated.

    Numbers, texts, paths, choices, classes, and lists of these are checked; other annotations admit any value.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        check_types(function, args, kwargs)
        return function(*args, **kwargs)

    return wrapper


def check_fields(value: Any) -> None:
    """Check the fields of a dataclass by their annotations, in its ``__post_init__``."""
    check_types(type(value).__init__, (), vars(value))


def check_types(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check the arguments of a call, of which Python itself reports missing ones.

    Raises:
        LitVizError: an argument is unknown, or has another type than annotated.
    """
    names, known = _parameters(function)
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    check_values(function.__qualname__.removesuffix(".__init__"), given, hints_of_function(function), known)


def check_values(owner: str, given: Mapping[str, Any], hints: Mapping[str, Any], known: Collection[str] | None) -> None:
    """Check values by name: their names, if all are known, and their types; errors of :func:`check_types`."""
    for name, value in given.items():
        if known is not None and name not in known:
            raise ArgumentError(name, f"is not an argument of {owner}{did_you_mean(name, known)}")
        if name in hints and not matches(value, hints[name]):
            near = did_you_mean(value, choices_of(hints[name])) if isinstance(value, str) else ""
            problem = f"must be {described(hints[name])}, got {value_text(value)}{near}"
            raise ArgumentError(name, problem, value=value)


@functools.cache
def _parameters(function: Callable[..., Any]) -> tuple[list[str], list[str] | None]:
    """Return the names of positional parameters, and those of all; None in place of these if it takes any."""
    positional: list[str] = []
    names: list[str] = []
    takes_any = False
    for parameter in inspect.signature(function).parameters.values():
        names.append(parameter.name)
        takes_any = takes_any or parameter.kind is parameter.VAR_KEYWORD
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            positional.append(parameter.name)
    return positional, None if takes_any else names


@functools.cache
def hints_of_function(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotated type of each named parameter. Types that are imported for type checkers only are omitted."""
    annotations = inspect.get_annotations(inspect.unwrap(function))
    hints: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        hint = _evaluated(annotations.get(name), function)
        if hint is not None:
            hints[name] = hint
    return hints


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))  # of the function's own source
    except (NameError, TypeError, AttributeError):
        return None


# -- JSON


def wrong_value(values: Any, kind: type) -> str | None:
    """Return the first value of a JSON object that a class can't hold, as ``seed must be a whole number, got 'x'``.

    Args:
        values: the object as it was read.
        kind: a dataclass, or a typed dictionary.

    Returns:
        The sentence; None if all keys are valid, all values have the annotated types, and no required key is missing.
        Numbers must be finite and have at most 64 bits.
    """
    try:
        return _wrong_value(values, kind)
    except RecursionError:
        return "it is nested too deeply"


def _wrong_value(values: Any, kind: type) -> str | None:
    if not isinstance(values, Mapping):
        return f"it must be an object, got {shortened(values)}"
    checks = _checks_of_fields(kind)
    for key in _required(kind):
        if key not in values:
            return f"{key} is missing"
    for key, value in values.items():
        if key not in checks and is_dataclass(kind):
            hints = hints_of_fields(kind)
            return f"{key} is not a key of {kind.__name__}{did_you_mean(str(key), hints)}"
        if not checks.get(key, _is_bounded)(value):
            hint = hints_of_fields(kind).get(key, Any)
            return f"{key} must be {described(hint, json=True)}, got {shortened(value)}"
    for name, (home, check) in _checks_of_items(kind).items():
        value = (values.get(home) or {}).get(name)
        if value is not None and not check(value):
            hint = items_of(kind)[name].hint
            return f"{name} must be {described(hint, json=True)}, got {shortened(value)}"
    return None


@functools.cache
def _checks_of_fields(kind: type) -> dict[str, Check]:
    """Return the checks of the fields of a class, by name."""
    return {name: _check_of(hint, True) for name, hint in hints_of_fields(kind).items()}


@functools.cache
def _checks_of_items(kind: type) -> dict[str, tuple[str, Check]]:
    """Return the checks of the items in mappings of a class, with the name of the mapping, by name."""
    return {name: (item.home, _check_of(item.hint, True)) for name, item in items_of(kind).items()}


@functools.cache
def hints_of_fields(kind: type) -> dict[str, Any]:
    """Return the type of each field of a dataclass, or of each key of a typed dictionary."""
    hints = get_type_hints(kind)
    if not is_dataclass(kind):
        return hints
    return {part.name: hints[part.name] for part in fields(kind)}


@functools.cache
def _required(kind: type) -> Sequence[str]:
    if is_typeddict(kind):
        return sorted(kind.__required_keys__)  # type: ignore[attr-defined]
    required: list[str] = []
    for part in fields(kind):
        if part.default is MISSING and part.default_factory is MISSING:
            required.append(part.name)
    return required


# -- types


def matches(value: Any, hint: Any, json: bool = False) -> bool:
    """Return whether a value has an annotated type; what can't be checked matches."""
    return _check_of(hint, json)(value)


def types_of(hint: Any) -> list[Any]:
    """Return the types of a union; of another annotation itself."""
    if get_origin(hint) in (Union, types.UnionType):
        return list(get_args(hint))
    return [hint]


@functools.cache
def _check_of(hint: Any, json: bool) -> Check:
    """Return the check of values by an annotation, which is taken apart once."""
    checks = [_check_of_one(kind, json) for kind in types_of(hint)]
    if len(checks) == 1:
        return checks[0]

    def check_any(value: Any) -> bool:
        for check in checks:
            if check(value):
                return True
        return False

    return check_any


def _check_of_one(hint: Any, json: bool) -> Check:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return _is_bounded if json else lambda value: True
    if hint is bool:
        return lambda value: isinstance(value, bool)
    if origin is Literal:
        return lambda value: any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin in _LISTS:
        return _check_of_list(origin, arguments, json)
    if origin in (Mapping, dict):
        return _check_of_mapping(arguments, json)
    if json and isinstance(hint, type) and (is_dataclass(hint) or is_typeddict(hint)):
        return lambda value: _is_bounded(value) and _wrong_value(value, hint) is None
    # In Python 3.10, a generic class with parameters is an instance of type.
    is_checked = isinstance(hint, type) and origin is None and not getattr(hint, "_is_protocol", False)
    if is_checked and hint not in _NUMBERS:
        return lambda value: isinstance(value, hint)
    kind = (_JSON_NUMBERS if json else _NUMBERS)[hint] if is_checked else object

    def check(value: Any) -> bool:
        return isinstance(value, kind) and not isinstance(value, bool) and (not json or _is_bounded(value))

    return check


def _check_of_mapping(arguments: Sequence[Any], json: bool) -> Check:
    check_key = _check_of(Any if json else arguments[0], False)
    check_item = _check_of(arguments[1], json)

    def check(value: Any) -> bool:
        if not isinstance(value, Mapping):
            return False
        return all(check_key(key) and check_item(item) for key, item in value.items())

    return check


def _check_of_list(origin: Any, arguments: Sequence[Any], json: bool) -> Check:
    checks = [_check_of(argument, json) for argument in arguments if argument is not Ellipsis]
    has_length = origin is tuple and Ellipsis not in arguments

    def check(value: Any) -> bool:
        elements = _elements(value, json)
        if elements is None:
            return False
        if has_length:
            return len(elements) == len(checks) and all(
                check(element) for check, element in zip(checks, elements, strict=True)
            )
        return all(map(checks[0], elements if json else elements[:_MOST_ELEMENTS]))

    return check


def _elements(value: Any, json: bool) -> Sequence[Any] | None:
    """Return the elements of a list, array or tensor; None of another value."""
    if json:
        return value if isinstance(value, list) else None
    if isinstance(value, (list, tuple, range)):
        return value
    if not hasattr(value, "tolist"):
        return None
    first = value[:_MOST_ELEMENTS] if getattr(value, "ndim", 0) else value  # of an array or tensor
    return as_list(first.tolist())


def _is_bounded(value: Any) -> bool:
    """Return whether all numbers in a JSON value are finite and have at most 64 bits."""
    if isinstance(value, dict):
        return all(map(_is_bounded, value.values()))
    if isinstance(value, list):
        return all(map(_is_bounded, value))
    if isinstance(value, int):
        return abs(value) <= _MOST
    return not isinstance(value, float) or math.isfinite(value)


# -- words


def choices_of(hint: Any) -> list[str]:
    """Return the texts that an annotation with choices admits."""
    choices: list[str] = []
    for kind in types_of(hint):
        if get_origin(kind) is Literal:
            choices += [choice for choice in get_args(kind) if isinstance(choice, str)]
    return choices


def shortened(value: Any) -> str:
    """Return a value in a message, shortened."""
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def described(hint: Any, json: bool = False) -> str:
    """Return an annotation in words; for arguments, None is omitted if there are other types.

    A list of what the annotation also admits alone is "a list of them".
    """
    if json:
        return " or ".join(_described_one(kind, json) for kind in types_of(hint))
    kinds = [kind for kind in types_of(hint) if kind is not type(None)] or [type(None)]
    if Path in kinds and str in kinds:
        kinds.remove(str)
    # In Python 3.10, a list with a type of its elements is an instance of type.
    has_instance = any(isinstance(kind, type) and get_origin(kind) is None and kind not in _NAMES for kind in kinds)
    single: list[str] = []
    lists: list[str] = []
    elements: set[Any] = set()
    for kind in kinds:
        if get_origin(kind) in _LISTS:
            lists.append(_described_one(kind, json))
            elements |= set(types_of(get_args(kind)[0]))
        elif kind is str and has_instance:
            single.append("a name")
        else:
            single.append(_described_one(kind, json))
    if single and elements == {kind for kind in kinds if get_origin(kind) not in _LISTS}:
        lists = ["a list of them"]
    return " or ".join(dict.fromkeys([*single, *lists]))


def _described_one(kind: Any, json: bool) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in _LISTS and arguments and arguments[0] is Any and not json:
        return "a list"
    if origin in _LISTS:
        elements = [described(argument, json) for argument in arguments if argument is not Ellipsis]
        if json:
            return "a list of " + " and ".join(dict.fromkeys(elements))
        text = f"a list of {' or '.join(dict.fromkeys(elements))}".replace("list of a ", "list of ")
        return re.sub(r"list of (whole )?number\b", r"list of \1numbers", text)
    if origin in (Mapping, dict) and not json:
        if Any in arguments:
            return "a mapping"
        key, item = (described(argument) for argument in arguments)
        return f"a mapping from {key} to {item}"
    if json:
        return "of finite numbers of 64 bits" if kind is Any else _JSON_NAMES.get(kind, "an object")
    return _NAMES.get(kind) or f"an instance of {getattr(kind, '__name__', kind)}"
