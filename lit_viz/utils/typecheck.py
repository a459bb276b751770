"""Check of the types of arguments by the annotations of a function."""

from __future__ import annotations

import functools
import inspect
import numbers
import re
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from lit_viz.errors import LitVizError, did_you_mean, value_text

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
#: Start of the modules of this package.
_PACKAGE = f"{__name__.partition('.')[0]}."
#: Elements of a list that are checked; a long list is of one type.
_MOST_ELEMENTS = 100


def checked_types(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that raises a LitVizError for an argument of another type than annotated.

    Checked are numbers, texts, paths, choices, classes of this package, and lists and mappings of these; arguments with
    other annotations are not.
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
    annotations = inspect.get_annotations(inspect.unwrap(function))
    positional: list[str] = []
    checkable: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            positional.append(parameter.name)
        hint = _evaluated(annotations.get(parameter.name), function)
        if _is_checkable(hint):
            checkable[parameter.name] = hint
    return positional, checkable


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    """Return the type of an annotation; None without one, or if its names are only imported for type checkers."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))  # of this package's source
    except (NameError, TypeError, AttributeError):
        return None


def _is_checkable(hint: Any) -> bool:
    if hint is None:
        return False
    if isinstance(hint, Hashable) and hint in _NAMES:
        return True
    if get_origin(hint) is Literal or _is_class_of_package(hint):
        return True
    if _is_union(hint) or _is_list(hint) or get_origin(hint) is Mapping:
        return all(map(_is_checkable, _options(hint)))
    return False


def _is_class_of_package(hint: Any) -> bool:
    """Return whether an annotation is a class such as ``Objective``; a protocol has no instances."""
    if not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return False
    return hint.__module__.startswith(_PACKAGE)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _options(hint: Any) -> list[Any]:
    """Return the types of a union, those of the elements of a list, or those of keys and values of a mapping."""
    return [option for option in get_args(hint) if option is not Ellipsis]


def _matches(value: Any, hint: Any) -> bool:
    """Return whether a value has an annotated type."""
    origin = get_origin(hint)
    if origin is Literal:
        return any(value is choice or (type(value) is type(choice) and value == choice) for choice in get_args(hint))
    if _is_union(hint):
        return any(_matches(value, option) for option in _options(hint))
    if origin is Mapping:
        key, item = _options(hint)
        return isinstance(value, Mapping) and _is_list_of([*value], [key]) and _is_list_of([*value.values()], [item])
    if origin is not None:
        return _is_list_of(value, _options(hint))
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
        if not hasattr(value, "tolist"):
            return False
        elements = value[:_MOST_ELEMENTS] if getattr(value, "ndim", 0) else value  # of an array or tensor
        listed = elements.tolist()
        value = listed if isinstance(listed, list) else [listed]
    for element in value[:_MOST_ELEMENTS]:
        if not any(_matches(element, option) for option in options):
            return False
    return True


def _message(name: str, value: Any, hint: Any) -> str:
    near = ""
    if isinstance(value, str):
        near = did_you_mean(value, _choices(hint))
    return f"{name} must be {_described(hint)}, got {value_text(value)}{near}"


def _is_list(hint: Any) -> bool:
    return get_origin(hint) in (list, tuple, Sequence)


def _choices(hint: Any) -> list[str]:
    """Return the texts that a choice or a union with choices accepts."""
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if isinstance(choice, str)]
    choices: list[str] = []
    if _is_union(hint):
        for option in _options(hint):
            choices += _choices(option)
    return choices


def _described(hint: Any) -> str:
    """Return an annotation in words; None is not named beside other types."""
    origin = get_origin(hint)
    if origin is Literal:
        return " or ".join(map(str, get_args(hint)))
    if _is_union(hint):
        return " or ".join(_described_options(hint))
    if origin is Mapping:
        key, item = map(_described, _options(hint))
        return f"a mapping from {key} to {item}"
    if origin is not None:
        elements = dict.fromkeys(map(_described, _options(hint)))
        text = f"a list of {' or '.join(elements)}".replace("list of a ", "list of ")
        return re.sub(r"list of (whole )?number\b", r"list of \1numbers", text)
    if _is_class_of_package(hint):
        return f"an instance of {hint.__name__}"
    return _NAMES[hint]


def _has_lists_of_its_types(union: Any) -> bool:
    """Return whether the lists of a union have the types that it also admits alone."""
    single: set[Any] = set()
    elements: set[Any] = set()
    for option in _options(union):
        if _is_list(option):
            (element, *_) = _options(option)
            elements |= set(_options(element)) if _is_union(element) else {element}
        elif option is not type(None):
            single.add(option)
    return elements == single


def _described_options(union: Any) -> list[str]:
    """Return the types of a union in words; a list of them has no words of its own, and a text beside an instance is a
    name."""
    options = [option for option in _options(union) if option is not type(None)]
    if Path in options:
        options.remove(str)
    single: list[str] = []
    lists: list[str] = []
    for option in options:
        words = lists if _is_list(option) else single
        words.append(_described(option))
    if any(map(_is_class_of_package, options)):
        single = ["a name" if words == _NAMES[str] else words for words in single]
    if single and lists and _has_lists_of_its_types(union):
        lists = ["a list of them"]
    return list(dict.fromkeys([*single, *lists]))
