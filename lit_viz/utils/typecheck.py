"""Check of the types of arguments by the annotations of a function."""

from __future__ import annotations

import functools
import inspect
import numbers
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from lit_viz.errors import LitVizError, did_you_mean

P = ParamSpec("P")
T = TypeVar("T")

#: Names of types in messages.
_NAMES: dict[Any, str] = {
    type(None): "None",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}
#: Elements of a list that are checked; a long list is of one type.
_MOST_ELEMENTS = 100


def checked_types(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that raises a LitVizError for an argument of another type than annotated.

    Checked are numbers, texts, paths, choices, and lists of these; arguments with other annotations are not.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        check_types(function, args, kwargs)
        return function(*args, **kwargs)

    return wrapper


def check_types(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check the arguments of a call, of which Python itself reports missing and unknown ones.

    Raises:
        LitVizError: an argument has another type than annotated.
    """
    names, annotations = _annotations(function)
    given = [*zip(names, args, strict=False), *kwargs.items()]
    for name, value in given:
        if name in annotations and not _matches(value, annotations[name]):
            raise LitVizError(_message(name, value, annotations[name]))


@functools.cache
def _annotations(function: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the names of positional parameters, and the annotations that can be checked."""
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    named -= {parameter.name for parameter in parameters if parameter.kind is parameter.VAR_POSITIONAL}
    checkable: dict[str, Any] = {}
    for name, annotation in inspect.get_annotations(inspect.unwrap(function)).items():
        hint = _evaluated(annotation, function)
        if name in named and _is_checkable(hint):
            checkable[name] = hint
    return names, checkable


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    """Return the type of an annotation; None if its names are only imported for type checkers."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))  # of this package's source
    except (NameError, TypeError, AttributeError):
        return None


def _is_checkable(hint: Any) -> bool:
    if isinstance(hint, Hashable) and hint in _NAMES:
        return True
    origin = get_origin(hint)
    if origin is Literal:
        return True
    if origin in (Union, types.UnionType) or _is_list(hint):
        return all(_is_checkable(option) for option in get_args(hint) if option is not Ellipsis)
    return False


def _matches(value: Any, hint: Any) -> bool:
    """Return whether a value has an annotated type."""
    origin = get_origin(hint)
    if origin is Literal:
        return any(value is choice or (type(value) is type(choice) and value == choice) for choice in get_args(hint))
    if origin in (Union, types.UnionType):
        return any(_matches(value, option) for option in get_args(hint))
    if origin is not None:
        return _is_list_of(value, get_args(hint))
    if hint is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    return isinstance(value, hint)


def _is_list_of(value: Any, options: Sequence[Any]) -> bool:
    """Return whether a value is a list, tuple, range or array of these types."""
    if isinstance(value, (str, bytes, Mapping)):
        return False
    if not isinstance(value, (list, tuple, range)):
        return hasattr(value, "tolist")  # arrays and tensors
    hints = [option for option in options if option is not Ellipsis]
    for element in value[:_MOST_ELEMENTS]:
        if not any(_matches(element, hint) for hint in hints):
            return False
    return True


def _message(name: str, value: Any, hint: Any) -> str:
    choices = [choice for choice in _choices(hint) if isinstance(choice, str)]
    near = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"{name} must be {_described(hint)}, got {value!r}{near}"


def _is_list(hint: Any) -> bool:
    return get_origin(hint) in (list, tuple, Sequence)


def _choices(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    choices: list[Any] = []
    if get_origin(hint) in (Union, types.UnionType):
        for option in get_args(hint):
            choices += _choices(option)
    return choices


def _described(hint: Any) -> str:
    """Return an annotation in words; None is not named beside other types."""
    origin = get_origin(hint)
    if origin is Literal:
        return " or ".join(str(choice) for choice in get_args(hint))
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        if Path in options:
            options.remove(str)
        single = [_described(option) for option in options if not _is_list(option)]
        lists = [_described(option) for option in options if _is_list(option)]
        if single and lists:
            lists = ["a list of them"]
        return " or ".join(dict.fromkeys([*single, *lists]))
    if origin is not None:
        elements = dict.fromkeys(_described(option) for option in get_args(hint) if option is not Ellipsis)
        return f"a list of {' or '.join(elements)}".replace("list of a ", "list of ")
    return _NAMES[hint]
