"""Keywords of the short functions: arguments of the module, of its parts, and of the run."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

from lit_viz.attacks import Attack, without_radius
from lit_viz.attributions import ATTRIBUTIONS, Attribution
from lit_viz.errors import LitVizError, did_you_mean, find_part
from lit_viz.launch.execute import run
from lit_viz.networks import Network
from lit_viz.utils.parts import Part, constructor_parameters

#: Arguments of :func:`~lit_viz.launch.execute.run` that keywords give.
RUN_KEYWORDS = frozenset(inspect.signature(run).parameters) - {"module", "tasks", "out", "progress"}
#: Names in other tools and in other places of lit_viz, and the keyword to use.
_REPLACED = {
    "target": "targets",
    "label": "labels",
    "channel": "channels",
    "epsilon": "eps",
    "radii": "eps",
    "steps": "iterations",
    "batch_size": "slots",
    "n_samples": "iterations",
}


@dataclass
class Choice:
    """A part of a method as it was chosen: its object, and whether the caller made it.

    Attributes:
        value: the part; a dataclass of arguments counts as one.
        is_given: whether it is an instance of the caller, which is not changed.
    """

    value: Any
    is_given: bool = False

    @property
    def name(self) -> str:
        """Name of its class."""
        return type(self.value).__name__

    def accepts(self, keyword: str) -> bool:
        """Return whether its class has this argument."""
        return keyword in constructor_parameters(type(self.value))

    def set(self, keyword: str, value: Any) -> None:
        """Replace the part by one with this argument."""
        if isinstance(self.value, Part):
            self.value = self.value.with_arguments(**{keyword: value})
        elif is_dataclass(self.value):
            self.value = replace(self.value, **{keyword: value})  # type: ignore[type-var]


@dataclass
class Keywords:
    """The keywords of a call, assigned to what receives them.

    Args:
        module: class of the method.
        parts: the parts of the method by argument.
        reserved: arguments of the module that have a keyword of the function.

    Attributes:
        module_arguments: arguments of the module.
        run_arguments: arguments of :func:`~lit_viz.launch.execute.run`.
    """

    module: type[Any]
    parts: Mapping[str, Sequence[Choice]]
    reserved: Collection[str] = ("network", "images")
    module_arguments: dict[str, Any] = field(default_factory=dict)
    run_arguments: dict[str, Any] = field(default_factory=dict)

    def assign(self, options: Mapping[str, Any]) -> None:
        """Assign each keyword to the module, to the run, or to the part whose class has it.

        Raises:
            LitVizError: nothing has this argument, several parts have it, or its part is an instance of the caller.
        """
        own = constructor_parameters(self.module).keys() - {*self.reserved, *self.parts}
        for name, value in options.items():
            if name in own:
                self.module_arguments[name] = value
            elif self._owners(name):  # before the run: group= of a class image, not of W&B
                self._assign_to_part(name, value)
            elif name in RUN_KEYWORDS:
                self.run_arguments[name] = value
            else:
                raise LitVizError(self._unknown(name, own))

    def build(self, network: Network, arguments: Mapping[str, Any]) -> Any:
        """Return the module with these arguments, those of the keywords, and the parts."""
        given = dict(arguments)
        given |= self.module_arguments
        for name, choices in self.parts.items():
            values = [choice.value for choice in choices]
            given[name] = values[0] if len(values) == 1 else values
        return self.module(network, **given)

    def _owners(self, name: str) -> list[Choice]:
        owners: list[Choice] = []
        for choices in self.parts.values():
            owners += [choice for choice in choices if choice.accepts(name)]
        return owners

    def _assign_to_part(self, name: str, value: Any) -> None:
        owners = self._owners(name)
        if len(owners) > 1:
            names = " and ".join(owner.name for owner in owners)
            example = f"{owners[0].name}({name}={value!r})"
            raise LitVizError(f"{name} is an argument of {names}: give it to an instance, such as {example}")
        (owner,) = owners
        if owner.is_given:
            raise LitVizError(f"{name} must be an argument of the instance, {owner.name}({name}={value!r})")
        owner.set(name, value)

    def _unknown(self, name: str, own: Collection[str]) -> str:
        attack = next((choice.value for choice in self.parts.get("attack", ()) if name == "eps"), None)
        if isinstance(attack, Attack):
            return without_radius(type(attack))
        known = {*own, *RUN_KEYWORDS, *self.parts}
        for choices in self.parts.values():
            for choice in choices:
                known |= constructor_parameters(type(choice.value)).keys()
        if name in _REPLACED:
            return f"{name} is not an argument: use {_REPLACED[name]}"
        last = name.rpartition("__")[2]
        if last != name and last in known:
            return f"{name} is not an argument: use {last}"
        similar = "alpha" if name == "lr" and "alpha" in known else name
        return f"{name} is not an argument of {self._receivers()}{did_you_mean(similar, known)}"

    def _receivers(self) -> str:
        names = [self.module.__name__]
        for choices in self.parts.values():
            names += [choice.name for choice in choices]
        return " or ".join(dict.fromkeys(names))


def chosen_part(
    value: Any, kind: type[Any], classes: Mapping[str, type[Any]], noun: str, *, default: Any = None
) -> Choice:
    """Return a part that is given by its name, as a class or as an instance.

    Args:
        value: name, class or instance; None for the default.
        kind: class of the parts.
        classes: classes by name.
        noun: name of the kind of part in messages.
        default: part that keywords may change.

    Raises:
        LitVizError: the value is another object, or there is no part of the name.
    """
    if value is None and default is not None:
        return Choice(default)
    if isinstance(value, kind):
        return Choice(value, is_given=True)
    if isinstance(value, type) and issubclass(value, kind):
        return Choice(value())
    if not isinstance(value, str):
        raise LitVizError(f"{noun} must be a name or an instance, got {value!r}")
    return Choice(find_part(value, classes, noun)())


def chosen_methods(given: Any, default: Any) -> list[Choice]:
    """Return the saliency methods of a name, several names with commas, an instance, or a list of them; for None the
    default, one or a list."""
    if given is None:
        return list(map(Choice, as_list(default)))
    if isinstance(given, str):
        given = given.split(",")
    return [chosen_part(value, Attribution, ATTRIBUTIONS, "saliency method") for value in as_list(given)]


def as_list(value: Any) -> list[Any]:
    """Return a list or tuple as a list, and another value as a list of one."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]


def reject_positional(function: str, values: Sequence[Any], names: str) -> None:
    """Reject arguments that must be given by keyword.

    Raises:
        LitVizError: there is one.
    """
    if values:
        raise LitVizError(
            f"{function} takes the network and what it is about by position, got also {_shortened(values[0])}: give "
            f"classes by keyword, {names}"
        )


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
