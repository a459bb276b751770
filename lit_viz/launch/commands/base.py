"""What a command adds to the engine: its arguments, tasks, module and presentation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.presentations.base import Presentation
from lit_viz.types import Task


class Command(ABC):
    """A method as users launch it.

    Attributes:
        name: of the subcommand and of the folder in ``configs/``.
        module: the LightningModule.
        default_config: the configuration in ``configs/<name>/`` that holds unless another is given.
        positional: the option that bare words of the command line go to.
        example: a command line that works as it stands.
        shorts: what the command's own short options are, in a sentence.
        demo: the words that ``lit-viz demo`` gives the command.
        own: arguments of the module that the command gives itself, so that they are no options.
        flat: dataclasses of arguments of the module whose fields are options of the module.
        flags: options of the command without a value.
        changeable: options of the command that a resume may change.
        evidence_options: options of ``lit-viz check`` that apply to the command's runs.
        iterations, slots, log_at, curve_at: the defaults.
    """

    name: ClassVar[str]
    module: ClassVar[type[ImageTraining]]
    default_config: ClassVar[str]
    positional: ClassVar[str]
    example: ClassVar[str]
    shorts: ClassVar[str]
    demo: ClassVar[tuple[str, ...]]
    own: ClassVar[frozenset[str]]
    flat: ClassVar[tuple[type, ...]] = ()
    flags: ClassVar[tuple[str, ...]] = ()
    changeable: ClassVar[tuple[str, ...]] = ()
    evidence_options: ClassVar[tuple[str, ...]] = ()
    iterations: ClassVar[int | None] = 200
    slots: ClassVar[int] = 8
    log_at: ClassVar[str] = "every:10"
    curve_at: ClassVar[str] = "every:10"

    def option(self, name: str, value: str) -> tuple[str, str]:
        """Return the parser's option and value of a short option of the command; other options are unchanged."""
        return name, value

    def config_for(self, options: Collection[str]) -> str:
        """Return the configuration in ``configs/<name>/`` that holds where these options, and no configuration, are
        named; the default one unless the command has another for them."""
        return self.default_config

    def settle(self, config: Namespace) -> None:  # noqa: B027 - most have nothing to settle
        """Apply the command's own options to the configuration, before its parts are instantiated."""

    @abstractmethod
    def add_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the command's own options."""

    @abstractmethod
    def check(self, config: Namespace) -> None:
        """Refuse a configuration that makes no run, before anything is loaded."""

    @abstractmethod
    def tasks(
        self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier
    ) -> tuple[Sequence[Task], Sequence[str]]:
        """Return the queue, and sentences worth saying about it."""

    @abstractmethod
    def build(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> ImageTraining:
        """Return the module."""

    @abstractmethod
    def presentation(self, config: Namespace) -> Presentation:
        """Return the presentation of the outcomes of a configuration."""


def import_class(path: str) -> Any:
    """Return the class of a dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def class_path(name: str, classes: Mapping[str, type], what: str) -> str:
    """Return the import path of a class given by its short name; a dotted path is unchanged.

    Args:
        name: in any case, with dashes or underscores.
        classes: classes by name.
        what: they are: ``attack``.

    Raises:
        LitVizError: no class has this name; the message lists the names.
    """
    if not isinstance(name, str):
        raise LitVizError(f"{what}s are named, with their arguments as {{name: {{...}}}}, not {type(name).__name__}.")
    if "." in name:
        return name.strip()
    key = name.strip().lower().replace("-", "_")
    if key not in classes:
        near = did_you_mean(key, classes) or f": there are {', '.join(classes)}."
        raise LitVizError(f"there is no {what} {name.strip()!r}{near}")
    return f"{classes[key].__module__}.{classes[key].__name__}"
