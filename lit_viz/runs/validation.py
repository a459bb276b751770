"""Validation of JSON values that were read from a run folder, by the annotations of the classes that hold them."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from lit_viz.types import Item, JsonObject

#: Largest whole number that arrays, tensors and dates hold.
_MOST = 2**63 - 1
_MOST_SHOWN = 60  # characters of a value in a message
#: Names of types in messages.
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def find_wrong(values: Any, kind: type) -> str | None:
    """Return the first value of a JSON object that a class can't hold, as ``seed must be a whole number, got 'x'``.

    Args:
        values: the object as it was read.
        kind: a :class:`~lit_viz.types.JsonObject`, another dataclass, or a typed dictionary.

    Returns:
        The sentence; None if all values have the annotated types, and all required keys are there. Numbers must be
        finite and have at most 64 bits.
    """
    if not isinstance(values, Mapping):
        return f"it must be an object, got {_shown(values)}"
    hints = _hints(kind)
    for key in _required(kind):
        if key not in values:
            return f"{key} is missing"
    for key, value in values.items():
        hint = hints.get(key, Any)
        if not _matches(value, hint):
            return f"{key} must be {_described(hint)}, got {_shown(value)}"
    return None


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the type of each key: of fields, and of the items of flattened ones."""
    hints = get_type_hints(kind)
    if not issubclass(kind, JsonObject):
        return hints
    flattened = [part.name for part in kind._parts() if "flattened" in part.metadata]
    for name in (*flattened, "extra", "nulls"):
        del hints[name]
    for base in reversed(kind.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Item):
                (hint,) = get_args(getattr(value, "__orig_class__", Item[Any]))
                hints[name] = hint | None
    return hints


@cache
def _required(kind: type) -> Sequence[str]:
    """Return the keys that an object must have."""
    if is_typeddict(kind):
        return sorted(kind.__required_keys__)  # type: ignore[attr-defined]
    required = []
    for part in fields(kind):
        if part.default is MISSING and part.default_factory is MISSING:
            required.append(part.name)
    return required


def _matches(value: Any, hint: Any) -> bool:
    origin, options = get_origin(hint), get_args(hint)
    if hint is Any:
        return _is_bounded(value)
    if origin in (Union, types.UnionType):
        return any(_matches(value, option) for option in options)
    if origin is Literal:
        return value in options
    if origin is tuple:
        is_as_long = isinstance(value, list) and len(value) == len(options)
        return is_as_long and all(map(_matches, value, options))
    if origin is Sequence:
        return isinstance(value, list) and all(_matches(item, options[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(_matches(item, options[1]) for item in value.values())
    if isinstance(hint, type) and (is_dataclass(hint) or is_typeddict(hint)):
        return find_wrong(value, hint) is None
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float)) and _is_bounded(value)
    return isinstance(value, hint) and _is_bounded(value)


def _is_bounded(value: Any) -> bool:
    """Return whether all numbers in a JSON value are finite and have at most 64 bits."""
    if isinstance(value, dict):
        return all(map(_is_bounded, value.values()))
    if isinstance(value, list):
        return all(map(_is_bounded, value))
    if isinstance(value, int):
        return abs(value) <= _MOST
    return not isinstance(value, float) or math.isfinite(value)


def _described(hint: Any) -> str:
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_described, options))
    if origin is Literal:
        return " or ".join(map(str, options))
    if origin in (tuple, Sequence):
        return "a list of " + " and ".join(dict.fromkeys(map(_described, options)))
    if hint is Any:
        return "of finite numbers of 64 bits"
    return _NAMES.get(hint, "an object")


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= _MOST_SHOWN else f"{repr(value)[:_MOST_SHOWN]}..."
