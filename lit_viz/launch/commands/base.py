"""Base classes of the commands: their options, and the module and tasks that these describe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any, ClassVar

from jsonargparse import ArgumentParser, Namespace

from lit_viz.engine.lightning import TaskQueue
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, find_part
from lit_viz.images.reading import Fit
from lit_viz.methods.tasks import listed_tasks
from lit_viz.presentations import presentation_of

#: Options of all methods that are arguments of the module.
COMMON = ("iterations", "slots", "log_at", "curve_at", "fit", "compile", "devices_mode")
#: Options that describe the tasks of a run.
TASK_OPTIONS = (
    "photographs", "target", "targets", "labels", "against", "layer", "channel", "neuron", "axis", "vary", "radii",
    "goal", "seed",
)  # fmt: skip


class Command(ABC):
    """A method as users launch it; its docstring is the description in the help.

    Attributes:
        name: name of the subcommand and of its folder in ``configs/``.
        module: class of the method.
        variants: classes of other methods, which options select.
        default_config: configuration in ``configs/<name>/`` that is used unless another is given.
        positional: option that receives the positional arguments.
        example: a complete command line.
        shorts: description of the short options.
        demo: arguments in ``lit-viz demo``.
        flat: classes whose arguments replace those of the method as options.
        short: short options, and the options of the parser.
        flags: options without a value.
        listed: arguments of the method that are one part or a list of parts, with the classes by name.
        iterations, slots, log_at, curve_at: default values.
    """

    name: ClassVar[str]
    module: ClassVar[type[Any]]
    variants: ClassVar[tuple[type[Any], ...]] = ()
    default_config: ClassVar[str]
    positional: ClassVar[str]
    example: ClassVar[str]
    shorts: ClassVar[str]
    demo: ClassVar[tuple[str, ...]]
    flat: ClassVar[tuple[type, ...]] = ()
    short: ClassVar[Mapping[str, str]] = {}
    flags: ClassVar[tuple[str, ...]] = ()
    listed: ClassVar[Mapping[str, Mapping[str, type]]] = {}
    iterations: ClassVar[int | None] = 200
    slots: ClassVar[int] = 8
    log_at: ClassVar[str] = "every:10"
    curve_at: ClassVar[str] = "every:10"

    def option(self, name: str, value: str) -> tuple[str, str]:
        """Return the parser's option and value of a short option; other options are unchanged."""
        return name, value

    def config_for(self, options: Collection[str]) -> str:
        """Return the configuration that is used with these options if none is given."""
        return self.default_config

    def implied(self, options: Collection[str]) -> list[str]:
        """Return options of the parser that these ones imply; they replace values of the configuration."""
        return []

    def settle(self, config: Namespace) -> None:  # noqa: B027
        """Convert options that have several forms, before the parts are instantiated."""

    @abstractmethod
    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the command's own options."""

    @abstractmethod
    def check(self, config: Namespace) -> None:
        """Validate a configuration before anything is loaded."""

    @abstractmethod
    def module_arguments(self, config: Namespace, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the module: its instantiated parts and the common options."""

    @abstractmethod
    def tasks(self, config: Namespace, module: ImageTraining) -> TaskQueue:
        """Return the tasks of a module."""

    def method(self, config: Namespace) -> type[Any]:
        """Return the class of the method that a configuration selects."""
        return self.module

    def presented(self, attribute: str) -> tuple[str, ...]:
        """Return the values of a class attribute of the presentations of all methods, such as ``files``."""
        values: list[str] = []
        for method in (self.module, *self.variants):
            values += getattr(presentation_of(method), attribute)
        return tuple(values)


class PhotographCommand(Command):
    """A command whose tasks start from photographs."""

    positional = "photographs"
    iterations = None
    slots = 16  # one input each: the fastest batch on CPUs
    log_at = "geometric"

    def settle(self, config: Namespace) -> None:
        if isinstance(config.photographs, str):
            config.photographs = [config.photographs]

    def add_arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        # Items are not typed: jsonargparse would copy the whole list for each item.
        add(
            "--photographs",
            type=list | str,
            default=[],
            help="files, folders, packaged:NAME, zoo:NAME, or a CSV file that lists them",
        )
        add(
            "--target",
            type=list[str | int] | str | int | None,
            default=None,
            help="class names or indices, label, predicted, random, least-likely, or a CSV file (file,target)",
        )
        labels_help = "true labels: predicted, folders, or a CSV file (file,label)"
        add("--labels", type=str, default="predicted", help=labels_help)
        add(
            "--fit", type=Fit | None, default=None, help="crop, squash or pad with gray; default: as published, or crop"
        )

    def check(self, config: Namespace) -> None:
        if not config.photographs:
            raise LitVizError(f"no photograph was given: try {self.example}")

    def module_arguments(self, config: Namespace, parts: Mapping[str, Any]) -> dict[str, Any]:
        return {**parts, **{name: config[name] for name in COMMON}}

    def tasks(self, config: Namespace, module: ImageTraining) -> TaskQueue:
        return listed_tasks(
            module.network,
            config.photographs,
            target=config.target,
            labels=config.labels,
            against=config.get("against"),
            radii=config.get("radii") or (),
            goal=config.get("goal"),
            seed=config.seed,
        )


def class_of_part(part: Any) -> Any:
    """Return the class of a configured part."""
    module, _, name = part.class_path.rpartition(".")
    return getattr(import_module(module), name)


def class_paths(words: str, classes: Mapping[str, type], noun: str) -> list[dict[str, str]]:
    """Return the class paths of ``name,name``: short names in any case, or dotted paths.

    Raises:
        LitVizError: there is no class of a name.
    """
    paths = []
    for word in words.split(","):
        path = word.strip()
        if "." not in path:
            found: type = find_part(path, classes, noun)
            path = f"{found.__module__}.{found.__name__}"
        paths.append({"class_path": path})
    return paths
