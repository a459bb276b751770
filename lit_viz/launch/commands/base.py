"""Base classes of the commands: their options, tasks and module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from types import NoneType
from typing import Any, ClassVar, Literal

from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, find_class
from lit_viz.images.reading import Fit
from lit_viz.launch.commands.queue import photograph_tasks
from lit_viz.optim import StepRule
from lit_viz.presentations import presentation_of
from lit_viz.types import Task


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

    def settle(self, config: Namespace) -> None:  # noqa: B027
        """Apply the command's own options to the configuration, before its parts are instantiated."""

    @abstractmethod
    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the command's own options."""

    @abstractmethod
    def check(self, config: Namespace) -> None:
        """Validate a configuration before anything is loaded."""

    @abstractmethod
    def tasks(
        self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier
    ) -> tuple[Sequence[Task], Sequence[str]]:
        """Return the queue, and notes for the user."""

    @abstractmethod
    def build(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> ImageTraining:
        """Return the method with its instantiated parts."""

    def method(self, config: Namespace) -> type[Any]:
        """Return the class of the method that a configuration selects."""
        return self.module

    def presented(self, attribute: str) -> tuple[str, ...]:
        """Return the values of a class attribute of the presentations of all methods, such as ``flags``."""
        presentations = map(presentation_of, (self.module, *self.variants))
        return tuple(value for presentation in presentations for value in getattr(presentation, attribute))


class PhotographCommand(Command):
    """A command whose tasks start from photographs.

    Attributes:
        default_target: target of a photograph unless ``--target`` is given.

    Args:
        images: pictures ``(C, H, W)`` from Python; the file ``array:3`` is the fourth.
    """

    positional = "photographs"
    iterations = None
    slots = 16  # one input each: the fastest batch on CPUs
    log_at = "geometric"
    default_target: ClassVar[Literal["label", "none"]]

    def __init__(self, images: Sequence[Tensor] = ()) -> None:
        self.images = images

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
            help="files, folders, packaged:NAME, or a CSV file that lists them",
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

    def queue(
        self, config: Namespace, classifier: Classifier, variants: Sequence[Mapping[str, Any]] = ({},)
    ) -> tuple[list[Task], list[str]]:
        """Return a task per variant, photograph and target, ordered by variant, and notes for the user."""
        tasks, notes = photograph_tasks(
            config.photographs,
            classifier,
            target=config.target,
            against=config.get("against"),
            has_contrast="against" in config,
            labels=config.labels,
            seed=config.seed,
            default=self.default_target,
        )
        return [
            replace(task, index=task.index + i * len(tasks), options={**task.options, **variant})
            for i, variant in enumerate(variants)
            for task in tasks
        ], notes

    def build(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> ImageTraining:
        """Return the method."""
        options = {name: config[name] for name in ("fit", "iterations", "slots", "log_at", "curve_at")}
        method: ImageTraining = self.method(config)(classifier, **parts, images=self.images, **options)
        return method


def class_of_part(part: Any) -> Any:
    """Return the class of a configured part: of its class path, or of the instance."""
    if not isinstance(part, Namespace):
        return type(part)
    module, _, name = part.class_path.rpartition(".")
    return getattr(import_module(module), name)


def class_paths(given: Any, classes: Mapping[str, type], noun: str) -> list[Any]:
    """Return class paths and arguments of ``name``, ``name,name``, a list of names, or ``{name: arguments}``.

    An instance of a step rule, alone or in the list, is unchanged.
    """
    names = given.split(",") if isinstance(given, str) else given
    names = list(names) if isinstance(names, (Mapping, list, tuple)) else [names]
    paths: list[Any] = [
        name if isinstance(name, StepRule) else {"class_path": _class_path(name, classes, noun)} for name in names
    ]
    if isinstance(given, Mapping):
        for path, (name, arguments) in zip(paths, given.items(), strict=True):
            if not isinstance(arguments, (Mapping, NoneType)):
                raise LitVizError(f"arguments of {noun} {name!r} must be a mapping, got {arguments!r}")
            path["init_args"] = dict(arguments or {})
    return paths


def _class_path(name: str, classes: Mapping[str, type], noun: str) -> str:
    """Return the import path of a class given by its short name, in any case; a dotted path is unchanged."""
    if not isinstance(name, str):
        raise LitVizError(f"{noun} must be a name, {{name: arguments}} or an instance, got {type(name).__name__}")
    if "." in name:
        return name.strip()
    found: type = find_class(name, classes, noun)
    return f"{found.__module__}.{found.__name__}"
