"""Module and tasks as plain values or objects, whose arguments are given by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from numbers import Real
from typing import Any

import pytorch_lightning as pl

from lit_viz.attacks import Attack, Universal, without_radius
from lit_viz.attacks.norms import is_in_file_units, parse_radius
from lit_viz.attributions import AUTO, Attribution, FunctionMap
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.errors import OTHER_NAMES, ArgumentError, LitVizError, did_you_mean, require
from lit_viz.networks import Network
from lit_viz.types import VARYING
from lit_viz.utils.owners import Owner
from lit_viz.utils.parts import (
    INSTANCE,
    Part,
    accepts_any,
    classes_in,
    constructor_parameters,
    find_class,
    find_named,
    hints_of,
    make,
    plain_arguments,
    public_path,
)
from lit_viz.utils.sequences import as_list, split_commas
from lit_viz.utils.yaml_files import parse_yaml

#: Arguments of modules that are no options: what the tasks or the form give.
_GIVEN = {"network", "images"}
_UNIVERSAL, _PER_IMAGE = "lit_viz.UniversalPerturbation", "lit_viz.AdversarialExample"
#: Arguments that are lists of parts, whose arguments have no names of their own.
LISTS_OF_PARTS = ("transforms", "priors", "projections")


@dataclass
class MethodForm:
    """Module and tasks as plain values or objects.

    Attributes:
        module, tasks: ``class_path`` and ``init_args``.
    """

    module: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)

    # Classes

    @property
    def module_class(self) -> type[ImageTraining]:
        """Class of the method."""
        return self._class("module", ImageTraining)

    @property
    def tasks_class(self) -> type[TaskQueue]:
        """Class of the queue of tasks."""
        return self._class("tasks", TaskQueue)

    def _class(self, section: str, base: type) -> type[Any]:
        path = getattr(self, section).get("class_path")
        if isinstance(path, type):
            return path
        if path is None:
            raise LitVizError(f"a form must have the class_path of {section}, got none")
        return find_class(path, [base], section)

    def owners(self) -> Iterator[Owner]:
        """Yield what receives arguments, in the order in which a name is looked up."""
        yield Owner("tasks", self.tasks_class, ("tasks", "init_args"))
        yield Owner("module", self.module_class, ("module", "init_args"), hidden=_GIVEN)
        yield from self.parts()

    def parts(self) -> Iterator[Owner]:
        """Yield the parts of the module that have options: attack, saliency methods, objective ..."""
        kind = self.module_class
        parameters = constructor_parameters(kind)
        for name, hint in hints_of(kind).items():
            bases = classes_in(hint)
            if not bases or name in LISTS_OF_PARTS or name in _GIVEN:
                continue
            path = ("module", "init_args", name)
            value = self.module["init_args"].get(name, parameters[name].default)
            if is_dataclass(bases[0]):
                yield Owner(name, bases[0], path)
                continue
            if isinstance(value, Part) and name not in self.module["init_args"]:  # the default
                yield Owner(name, type(value), path)
                continue
            if not isinstance(value, (list, tuple)):
                yield from _part_owner(name, bases, value, path)
                continue
            for index, item in enumerate(value):
                for owner in _part_owner(name, bases, item, (*path, index)):
                    yield replace(owner, label=owner.long_label)

    def arguments_of(self, owner: Owner) -> Mapping[str, Any]:
        """Return the arguments of an owner that the form states."""
        value: Any = vars(self)
        for key in owner.path:
            has_key = isinstance(key, int) or (isinstance(value, Mapping) and key in value)
            if not has_key or value is None:
                return {}
            value = value[key]
        if isinstance(value, Mapping) and "class_path" in value:
            value = value.get("init_args")
        return value if isinstance(value, Mapping) else {}

    # Arguments

    def choose(self, argument: str, value: Any) -> None:
        """Set a part of the module by a short name, a dotted path, a class or an instance.

        Of an argument that admits several parts, ``value`` is also a list of them, or names with commas. Several
        attacks are those of a run each.
        """
        bases = [base for base in classes_in(hints_of(self.module_class)[argument]) if issubclass(base, Part)]
        if argument == "attack" and public_path(self.module_class) == _UNIVERSAL:
            bases = [Attack]  # another attack has another module
        chosen = [_chosen(item, bases, argument) for item in as_list(split_commas(value))]
        if not chosen:
            raise ArgumentError(argument, f"must name at least one {bases[0].__name__}, got none")
        self.module["init_args"][argument] = chosen if len(chosen) > 1 else chosen[0]
        if argument == "attack" and len(chosen) == 1:
            self._follow_attack()

    def _follow_attack(self) -> None:
        """Choose the module of the attack: a universal perturbation has one of its own."""
        attack = next((owner.kind for owner in self.parts() if owner.label == "attack"), None)
        if attack is None:
            return
        is_universal = issubclass(attack, Universal)
        if public_path(self.module_class) not in (_UNIVERSAL, _PER_IMAGE):
            return  # of a method of its own
        if is_universal:
            self.module["init_args"].pop("transforms", None)
        self.module["class_path"] = _UNIVERSAL if is_universal else _PER_IMAGE

    def set(self, name: str, value: Any, owner: Owner | None = None) -> None:
        """Set an argument by its name, or by its dotted path such as ``attack.eps``.

        A name belongs to the tasks or the module, else to one of its parts, else to the run. A list of eps, lr or
        iterations is a task for each.

        Args:
            name: the name.
            value: the value.
            owner: what receives the argument, if it is known, as that of an option.

        Raises:
            LitVizError: nothing has an argument of this name, or several parts have.
        """
        last = name.rpartition(".")[2]
        if last == "eps" and value is not None and "attack" in hints_of(self.module_class):
            _check_radii(value)
            if isinstance(value, str) and "," not in value and not is_in_file_units(value):
                value = parse_radius(value)
        if last in VARYING:
            value = _listed(value, name)
            if isinstance(value, list) and last != "eps":  # radii may be texts such as 4/255
                _check_numbers(last, value)
        if name.startswith("vary.") or (last in VARYING and isinstance(value, list)):
            self._varied()[last] = value
        elif name in hints_of(self.module_class) and _is_choice(self.module_class, name):
            self.choose(name, value)
        else:
            for receiver in [owner] if owner else self._receivers(name):
                self._put(receiver, last, value)

    def _varied(self) -> dict[str, Any]:
        if "vary" not in hints_of(self.tasks_class):
            raise LitVizError(f"{self.tasks_class.__name__} can't vary: leave vary out")
        varied = dict(self.tasks["init_args"].get("vary") or {})
        self.tasks["init_args"]["vary"] = varied
        return varied

    def _receivers(self, name: str) -> list[Owner]:
        """Return what receives an argument: one, or each of several attacks that has it."""
        prefix, _, last = name.rpartition(".")
        found: list[Owner] = []
        for owner in self.owners():
            if prefix and not f"{owner.label}.".startswith(f"{prefix}.") and prefix != owner.long_label:
                continue
            if not prefix and owner.needs_prefix:
                continue
            if last not in owner.names and not (prefix and accepts_any(owner.kind)):
                continue
            if owner.label in ("tasks", "module"):
                return [owner]
            found.append(owner)
        parts = [owner for owner in found if owner.path[0] != "run"]
        found = parts or found[:1]
        if len(found) > 1 and not found[0].label.startswith("attack."):
            names = " and ".join(owner.kind.__name__ for owner in found)
            example = f"{found[0].label}.{last}"
            raise ArgumentError(last, f"is an argument of {names}: give it to one of them, as {example}")
        if not found:
            raise self.unknown(name)
        return found

    def unknown(self, name: str) -> LitVizError:
        """Return the error about a name that nothing has."""
        prefix, _, last = name.rpartition(".")
        owners = [owner for owner in self.owners() if not prefix or owner.label.split(".")[0] == prefix.split(".")[0]]
        attack = next((owner.kind for owner in self.parts() if owner.label.startswith("attack")), None)
        if last == "eps" and isinstance(attack, type) and issubclass(attack, Attack):
            return LitVizError(without_radius(attack))
        known: dict[str, None] = {}
        for owner in owners:
            if prefix or not owner.needs_prefix:
                known.update(dict.fromkeys(owner.names))
        if not prefix:
            known.update(dict.fromkeys(f"{owner.label}.{last}" for owner in owners if last in owner.names))
        receivers = " or ".join(
            dict.fromkeys([self.module_class.__name__, *(part.kind.__name__ for part in self.parts())])
        )
        if prefix and owners:
            receivers = " or ".join(dict.fromkeys(owner.kind.__name__ for owner in owners))
        other = OTHER_NAMES.get(last)
        if other is not None and other not in known:
            other = None
        if other is None and last == "lr" and "alpha" in known:
            other = "alpha"
        hint = f": use {other}" if other else did_you_mean(last if prefix else name, known)
        if last == "layer" and "method" in hints_of(self.module_class):
            hint = ": give it to a method that reads a layer, such as grad_cam"
        return ArgumentError(name, f"is not an argument of {receivers}{hint}")

    def _put(self, owner: Owner, name: str, value: Any) -> None:
        """Set an argument of an owner; add its section if it is missing."""
        if owner.instance is not None:
            raise LitVizError(f"{name} must be an argument of the instance, {owner.kind.__name__}({name}={value!r})")
        target: Any = vars(self)
        for depth, key in enumerate(owner.path):
            current = target[key] if isinstance(key, int) else target.get(key)
            if is_dataclass(current) and not isinstance(current, type):
                current = plain_arguments(current)
            if not isinstance(current, (dict, list)):
                is_part = owner.path[0] in ("module", "tasks") and not is_dataclass(owner.kind)
                last = depth == len(owner.path) - 1
                if isinstance(current, pl.Trainer):
                    raise ArgumentError(f"trainer.{name}", "must be an argument of the given Trainer")
                current = {"class_path": owner.kind, "init_args": {}} if is_part and last else {}
            target[key] = current
            target = current
        if "class_path" in target:
            target = target.setdefault("init_args", {})
        target[name] = value

    # Objects

    def build_tasks(self, network: Network) -> TaskQueue:
        """Return the queue of tasks."""
        kind = self.tasks_class
        given = {"network": network} if "network" in hints_of(kind) else {}
        tasks: TaskQueue = make(kind, self.tasks.get("init_args") or {}, **given)
        return tasks

    def build_module(self, network: Network) -> ImageTraining:
        """Return the module."""
        module: ImageTraining = make(self.module_class, self.module.get("init_args") or {}, network=network)
        return module


def _listed(value: Any, name: str) -> Any:
    """Return several values of an argument, a list, an array or a text with commas, as a list; one value unchanged."""
    if isinstance(value, str):
        return [parse_yaml(word, name) for word in value.split(",")] if "," in value else value
    plain_value = value.tolist() if hasattr(value, "tolist") else value
    return list(plain_value) if isinstance(plain_value, (list, tuple)) else plain_value


def _check_numbers(name: str, values: Sequence[Any]) -> None:
    """Check that several values of an argument are numbers."""
    for value in values:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        require(is_number, f"{name} must be numbers", repr(value), hint="separate several by commas, 0.1,0.2")


def _check_radii(given: Any) -> None:
    """Check a radius, or several.

    Raises:
        LitVizError: one is no number, or not positive.
    """
    values = split_commas(given)
    if hasattr(values, "tolist"):
        values = values.tolist()
    for value in as_list(values):
        try:
            radius = parse_radius(value)
        except LitVizError as error:
            problem = f"must be numbers such as 0.0157 or 4/255, got {given!r}"
            raise ArgumentError("eps", problem, value=given) from error
        require(radius != 0, "eps must be positive", 0, hint="try 4/255")


def _is_choice(kind: type, name: str) -> bool:
    """Return whether an argument of a module is a part, or several, that is chosen by name."""
    if name in LISTS_OF_PARTS or name in _GIVEN:
        return False
    return any(issubclass(base, Part) for base in classes_in(hints_of(kind)[name]))


def _chosen(value: Any, bases: Sequence[type], argument: str) -> Any:
    """Return a chosen part as ``class_path`` and ``init_args``; an instance unchanged."""
    if isinstance(value, (Mapping, *bases)):
        return value
    if isinstance(value, type) and issubclass(value, tuple(bases)):
        return {"class_path": value, "init_args": {}}
    if isinstance(value, str) and value.strip() == AUTO:
        return AUTO
    is_path = isinstance(value, str) and ":" in value
    if Attribution in bases and (is_path or callable(value)):
        return {"class_path": FunctionMap, "init_args": {"function": value}}
    if isinstance(value, str):
        return {"class_path": find_named(value.strip(), bases, argument), "init_args": {}}
    raise ArgumentError(argument, f"must be a name or an instance, got {value!r}", value=value)


def _part_owner(name: str, bases: Sequence[type], value: Any, path: tuple[str | int, ...]) -> Iterator[Owner]:
    if isinstance(value, Part):
        yield Owner(name, type(value), path, value)
    elif isinstance(value, Mapping) and "class_path" in value:
        kind = value["class_path"]
        yield Owner(name, kind if isinstance(kind, type) else find_class(kind, bases, name), path)
    elif isinstance(value, str) and value != AUTO and not value.endswith(INSTANCE):
        yield Owner(name, find_named(value, bases, name), path)
