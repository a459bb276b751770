"""Parts that record the arguments they were made with, so that they can be written to a configuration and read back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from lit_viz.utils.typecheck import check_types

PartT = TypeVar("PartT", bound="Part")

#: Mark of a value that a configuration can't hold, after the name of its class.
INSTANCE = " (instance)"
#: Values of a tensor or array that a configuration holds at most; larger ones are marked.
_MOST_VALUES = 4096
_RECORDED = "_recorded_arguments"


class Part:
    """Base class of objects that record the arguments of their constructor.

    Subclasses need no code for it: the constructor that a call reaches first is recorded, with its defaults. The types
    of arguments are checked (:func:`~lit_viz.utils.typecheck.check_types`).
    """

    def __new__(cls: type[PartT], *args: Any, **kwargs: Any) -> PartT:
        """Check the arguments of a dataclass, whose constructor is made after the class."""
        part = object.__new__(cls)
        if is_dataclass(cls) and (args or kwargs):
            check_types(cls.__init__, (part, *args), kwargs)
        return part

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments by name, those of ``**options`` included; of a dataclass its fields."""
        recorded = vars(self).get(_RECORDED)
        if recorded is not None:
            return dict(recorded)
        if is_dataclass(self):
            return {field.name: getattr(self, field.name) for field in fields(self) if field.init}
        return {}

    def on_constructed(self) -> None:
        """Hook called after the constructor."""

    def record_argument(self, name: str, value: Any) -> None:
        """Replace a recorded argument by an equivalent one, such as a module by the name that it has in a network, or
        None by what it stands for."""
        recorded = vars(self).get(_RECORDED, {})
        if name in recorded or name in constructor_parameters(type(self)):
            recorded[name] = value

    def with_arguments(self: PartT, **changes: Any) -> PartT:
        """Return a new part of the same class, with these arguments changed."""
        return type(self)(**{**self.arguments, **changes})


def _recording(constructor: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that records its arguments, unless it is called by that of a subclass."""
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def wrapper(self: Part, *args: Any, **kwargs: Any) -> None:
        if type(self).__init__ is wrapper:
            vars(self)[_RECORDED] = _bound(signature, self, args, kwargs)
        check_types(constructor, (self, *args), kwargs)
        constructor(self, *args, **kwargs)
        if type(self).__init__ is wrapper:
            self.on_constructed()

    return wrapper


def _bound(signature: inspect.Signature, part: Part, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name; empty for a call that the constructor rejects."""
    try:
        bound = signature.bind(part, *args, **kwargs)
    except TypeError:
        return {}
    bound.apply_defaults()
    _, *names = bound.arguments
    arguments: dict[str, Any] = {}
    for name in names:
        value = bound.arguments[name]
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        else:
            arguments[name] = list(value) if isinstance(value, list) else value
    return arguments


def plain_arguments(value: Any) -> Any:
    """Return a value as a configuration holds it.

    A part becomes ``{"class_path": ..., "init_args": {...}}``, a dataclass the mapping of its fields, a tuple a list, a
    path its text. What a configuration can't hold, such as a local function, becomes the name of its class followed by
    :data:`INSTANCE`.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain_arguments(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return [plain_arguments(item) for item in value]
    if isinstance(value, Part):
        return _plain_part(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_arguments(getattr(value, field.name)) for field in fields(value) if field.init}
    if hasattr(value, "tolist") and getattr(value, "size", None) is not None and _count(value) <= _MOST_VALUES:
        return value.tolist()
    path = import_path(value)
    return f"{type(value).__name__}{INSTANCE}" if path is None else path


def _plain_part(part: Part) -> Any:
    path = import_path(type(part))
    if path is None:
        return f"{type(part).__name__}{INSTANCE}"
    arguments = {name: plain_arguments(value) for name, value in part.arguments.items()}
    if has_instances(arguments):
        return f"{type(part).__name__}{INSTANCE}"
    return {"class_path": path, "init_args": arguments} if arguments else {"class_path": path}


def _count(array: Any) -> int:
    return int(array.numel() if hasattr(array, "numel") else array.size)


def import_path(thing: Any) -> str | None:
    """Return ``package.module.Class`` or ``package.module:function``; None unless it imports the same object."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__" or "." in name:
        return None
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:
        return None
    if found is not thing:
        return None
    return f"{module}.{name}" if isinstance(thing, type) else f"{module}:{name}"


def has_instances(value: Any) -> bool:
    """Return whether a plain value contains the mark of an object that a configuration can't hold."""
    if isinstance(value, Mapping):
        return any(has_instances(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(has_instances(item) for item in value)
    return isinstance(value, str) and value.endswith(INSTANCE)


def constructor_parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return the named parameters of a class, those that it passes on to the constructors of its bases included.

    A base's parameter without a default is left out: the class supplies it.
    """
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        for parameter in parameters:
            is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            is_own = not found or base is kind
            if is_named and (is_own or parameter.default is not parameter.empty):
                found.setdefault(parameter.name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found
