"""Parts that record the arguments they were made with, so that they can be written to a configuration and read back."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeGuard, TypeVar, get_args, get_origin

from lit_viz.errors import ArgumentError, LitVizError, did_you_mean, find_part, first_line
from lit_viz.utils.checking import check_values, hints_of_function, shortened, types_of
from lit_viz.utils.imports import current_folder_importable

P = ParamSpec("P")
T = TypeVar("T")
PartT = TypeVar("PartT", bound="Part")

#: Mark of a value that a configuration can't hold, after the name of its class.
INSTANCE = " (instance)"
#: Values of a tensor or array that a configuration holds at most; larger ones are marked.
_MOST_VALUES = 4096
#: Numbers of an argument that records state at most.
_FEW = 8
_RECORDED = "_recorded_arguments"


def _cached(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that keeps its results; for type checkers, abstract classes can't be arguments of a cache."""
    return functools.cache(function)  # type: ignore[return-value]


class Part:
    """Base class of objects that record the arguments of their constructor.

    Subclasses need no code for it: the arguments of the call are bound to the parameters before the constructor runs,
    with their defaults, and their types are checked (:func:`~lit_viz.utils.checking.check_values`).

    Attributes:
        completed: arguments that the constructor or ``bind`` replaces by an equivalent one, such as a module by its
            name: they are the attributes of the same names.
    """

    completed: ClassVar[tuple[str, ...]] = ()

    def __new__(cls: type[PartT], *args: Any, **kwargs: Any) -> PartT:
        """Record and check the arguments. A copy is made without any, and then receives the attributes."""
        part = object.__new__(cls)
        signature, names = _constructor(cls)
        try:
            bound = signature.bind(part, *args, **kwargs)
        except TypeError:  # which the constructor raises, unless the name of an argument is wrong
            check_values(cls.__name__, kwargs, hints_of(cls), names)
            return part
        check_values(cls.__name__, _by_name(bound), hints_of(cls), names)
        if not is_dataclass(cls):
            bound.apply_defaults()
            vars(part)[_RECORDED] = _by_name(bound)
        return part

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments by name, including ``**options``; of a dataclass its fields."""
        if is_dataclass(self):
            return {field.name: getattr(self, field.name) for field in fields(self) if field.init}
        arguments = dict(vars(self).get(_RECORDED, {}))
        for name in self.completed:
            if name in arguments:
                arguments[name] = getattr(self, name)
        return arguments

    def with_arguments(self: PartT, **changes: Any) -> PartT:
        """Return a new part of the same class, with these arguments changed."""
        return type(self)(**{**self.arguments, **changes})


def settings_of(part: Part) -> dict[str, Any]:
    """Return the arguments of a part that are numbers, texts or a few numbers, with the values that are used."""
    settings: dict[str, Any] = {}
    for name, given in part.arguments.items():
        value = plain_arguments(getattr(part, name, None) if given is None else given)
        is_plain = isinstance(value, (bool, int, float, str)) and not has_instances(value)
        if is_plain or _are_few_numbers(value):
            settings[name] = value
    return settings


def _are_few_numbers(value: Any) -> bool:
    if not isinstance(value, list) or not 0 < len(value) <= _FEW:
        return False
    return all(isinstance(item, (int, float)) for item in value)


def distinct_names(names: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return names; equal ones with the settings in which they differ: ``smoothgrad, sigma 0.1``."""
    distinct: list[str] = []
    for name, own in zip(names, settings, strict=True):
        others = [other for same, other in zip(names, settings, strict=True) if same == name]
        texts = [name]
        for setting, value in own.items():
            if any(other.get(setting) != value for other in others):
                texts.append(f"{setting} {value}")
        distinct.append(", ".join(texts))
    return distinct


def _by_name(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Return the arguments of a constructor by name, including ``**options``; lists are copied."""
    arguments: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        else:
            arguments[name] = list(value) if isinstance(value, list) else value
    return arguments


@_cached
def _constructor(kind: Any) -> tuple[inspect.Signature, Collection[str] | None]:
    """Return the signature of the constructor of a class, and the names of its arguments; None if it takes any."""
    if kind.__init__ is object.__init__:  # which names *args and **kwargs
        return inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]), ()
    signature = inspect.signature(kind.__init__)
    for base in kind.__mro__:
        if base is object or "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        if not _takes_options(parameters):
            return signature, {*constructor_parameters(kind), *signature.parameters}  # with *args
    return signature, None


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
    path = public_path(value) if isinstance(value, type) else import_path(value)
    if path is None:
        return f"{type(value).__name__}{INSTANCE}"
    return path


def _plain_part(part: Part) -> Any:
    path = public_path(type(part))
    if path is None:
        return f"{type(part).__name__}{INSTANCE}"
    arguments = {name: plain_arguments(value) for name, value in part.arguments.items()}
    if has_instances(arguments):
        return f"{type(part).__name__}{INSTANCE}"
    if arguments:
        return {"class_path": path, "init_args": arguments}
    return {"class_path": path}


def _count(array: Any) -> int:
    return int(array.numel() if hasattr(array, "numel") else array.size)


def import_path(thing: Any) -> str | None:
    """Return ``package.module.Class`` or ``package.module:function``; None unless it imports the same object."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__" or "." in name:
        return None
    try:
        imported = getattr(import_module(module), name, None)
    except ImportError:
        return None
    if imported is not thing:
        return None
    if isinstance(thing, type):
        return f"{module}.{name}"
    return f"{module}:{name}"


@_cached
def public_path(kind: Any) -> str | None:
    """Return the shortest dotted path that imports a class, such as ``lit_viz.attacks.PGD``; None if none does."""
    if import_path(kind) is None:
        return None
    words, name = str(kind.__module__).split("."), str(kind.__name__)
    for count in range(1, len(words) + 1):
        prefix = ".".join(words[:count])
        if getattr(import_module(prefix), name, None) is kind:
            return f"{prefix}.{name}"
    return None


def has_instances(value: Any) -> bool:
    """Return whether a plain value contains the mark of an object that a configuration can't hold."""
    if isinstance(value, Mapping):
        return any(has_instances(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(has_instances(item) for item in value)
    return isinstance(value, str) and value.endswith(INSTANCE)


@_cached
def constructor_parameters(kind: Any) -> Mapping[str, inspect.Parameter]:
    """Return the named parameters of a class, including the ones passed on to the constructors of its bases, or those
    of a function.

    A base's parameter without a default is omitted: the class supplies it.
    """
    if not isinstance(kind, type):
        return inspect.signature(kind).parameters
    named: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        for parameter in parameters:
            is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            is_own = not named or base is kind
            if is_named and (is_own or parameter.default is not parameter.empty):
                named.setdefault(parameter.name, parameter)
        if not _takes_options(parameters):
            break
    return named


# -- from plain values to objects


def _takes_options(parameters: Iterable[inspect.Parameter]) -> bool:
    """Return whether ``**options`` is among the parameters of a constructor."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


@_cached
def hints_of(kind: Any) -> dict[str, Any]:
    """Return the annotated type of each named argument of a class or function, by name."""
    if not isinstance(kind, type):
        return hints_of_function(kind)
    names = constructor_parameters(kind)
    hints: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        for name, hint in hints_of_function(vars(base)["__init__"]).items():
            if name in names:
                hints.setdefault(name, hint)
    return {name: hints.get(name, Any) for name in names}


@_cached
def classes_in(hint: Any) -> Sequence[type]:
    """Return the classes of parts and dataclasses that an annotation admits, including list elements."""
    classes: list[type] = []
    for kind in types_of(hint):
        if get_origin(kind) in (list, tuple, Sequence):
            for element in get_args(kind):
                classes += classes_in(element)
        elif isinstance(kind, type) and (issubclass(kind, Part) or is_dataclass(kind)):
            classes.append(kind)
    return tuple(classes)


def find_class(path: str, bases: Sequence[type], name: str) -> type[Any]:
    """Return the class of a dotted path, which must be a subclass of one of ``bases``.

    Args:
        path: dotted path, such as ``lit_viz.attacks.PGD``.
        bases: classes that the argument admits; no module is imported if there are none.
        name: name of the argument in messages.

    Raises:
        LitVizError: it can't be imported, or is no such class.
    """
    module, _, word = str(path).rpartition(".")
    if not bases or not module or module.partition(".")[0] in sys.stdlib_module_names:
        raise ArgumentError(name, f"can't be given by class_path, got {path}", value=path)
    try:
        imported = sys.modules.get(module)
        if imported is None:
            with current_folder_importable():
                imported = import_module(module)
        found = getattr(imported, word)
    except (ImportError, AttributeError, ValueError) as error:
        reason = f"it can't be imported ({first_line(error)})"
        raise LitVizError(f"the class_path of {name} must be a class, got {path}: {reason}") from error
    if not _is_subclass(found, tuple(bases)):
        kinds = " or ".join(dict.fromkeys(base.__name__ for base in bases))
        raise ArgumentError(name, f"must be an instance of {kinds}, got {path}", value=path)
    return found


def find_named(word: str, bases: Sequence[type], name: str) -> type[Any]:
    """Return the class of a short name such as ``pgd`` or ``PGD``, in any case, or of a dotted path.

    Short names are the public classes of the packages of ``bases``, and the keys of their mappings of names to classes,
    such as :data:`lit_viz.attacks.ATTACKS`.
    """
    if "." in word:
        return find_class(word, bases, name)
    found: dict[str, type[Any]] = {}
    for base in bases:
        found |= named_classes(base)
    return find_part(word, found, name)


@_cached
def named_classes(base: Any) -> dict[str, type[Any]]:
    """Return the subclasses of a class in its package by their short names, then by the names of the classes."""
    package = import_module(".".join(base.__module__.split(".")[:2]))
    by_short_name: dict[str, type[Any]] = {}
    by_class_name: dict[str, type[Any]] = {}
    for public in package.__all__:
        value = getattr(package, public)
        if _is_subclass(value, base) and not inspect.isabstract(value):
            by_class_name[public] = value
        elif isinstance(value, Mapping):
            by_short_name |= {name: kind for name, kind in value.items() if _is_subclass(kind, base)}
    return by_short_name | by_class_name


def _is_subclass(kind: Any, base: type | tuple[type, ...]) -> TypeGuard[type[Any]]:
    # In Python 3.10, a generic class with parameters is an instance of type.
    return isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, base)


def short_name(kind: type) -> str:
    """Return the short name of the class of a part, ``smoothgrad``; without one the name of the class."""
    for base in kind.__mro__:
        if issubclass(base, Part) and base is not Part and base.__module__.startswith("lit_viz."):
            for name, named in named_classes(base).items():
                if named is kind:
                    return name
    return kind.__name__


def construct(value: Any, hint: Any, name: str) -> Any:
    """Return the value of an argument, with objects in place of ``class_path`` and ``init_args``.

    Args:
        value: plain value, object, or a list of both.
        hint: annotated type of the argument, which admits the classes.
        name: name of the argument in messages.
    """
    if isinstance(value, (list, tuple)):
        return [construct(item, hint, name) for item in value]
    kinds = classes_in(hint)
    if isinstance(value, str):
        classes = [kind for kind in types_of(hint) if get_origin(kind) is type]
        if classes:
            return find_class(value, get_args(classes[0]), name)
        takes_text = str in types_of(hint) or hint is Any
        if takes_text or not kinds:
            return value
        return find_named(value, kinds, name)()
    if not isinstance(value, Mapping):
        return value
    if "class_path" in value:
        for key in value:
            if key not in ("class_path", "init_args"):
                raise LitVizError(f"{name} has class_path and init_args, got the key {key}")
        kind = value["class_path"]
        if not isinstance(kind, type):
            kind = find_class(kind, kinds, name)
        return make(kind, value.get("init_args") or {})
    for kind in kinds:
        if is_dataclass(kind):
            return make(kind, value)
    return dict(value)


def make(kind: type[Any], arguments: Mapping[str, Any], **given: Any) -> Any:
    """Construct an object, and its parts, from plain arguments and given objects.

    Raises:
        LitVizError: an argument is unknown, missing, or has another type than annotated.
    """
    if not isinstance(arguments, Mapping):
        raise LitVizError(f"init_args of {kind.__name__} must be a mapping, got {shortened(arguments)}")
    hints = hints_of(kind)
    made = dict(given)
    for name, value in arguments.items():
        if name not in hints and not accepts_any(kind):
            raise LitVizError(f"{name} is not an argument of {kind.__name__}{did_you_mean(str(name), hints)}")
        made[name] = construct(value, hints.get(name, Any), name)
    for name, parameter in constructor_parameters(kind).items():
        if parameter.default is parameter.empty and name not in made:
            raise LitVizError(f"{kind.__name__} requires {name}")
    return kind(**made)


def accepts_any(kind: type) -> bool:
    """Return whether a class passes other options to something that is no base class of it, such as an optimizer."""
    constructors = [base for base in kind.__mro__ if "__init__" in vars(base)]
    parameters = inspect.signature(vars(constructors[0])["__init__"]).parameters.values()
    if not _takes_options(parameters):
        return False
    return not any(issubclass(base, Part) for base in constructors[1:])
