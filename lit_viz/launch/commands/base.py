"""What a command adds to the engine: its arguments, its tasks, its module, and what it shows at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from jsonargparse import Namespace
from matplotlib.figure import Figure
from pytorch_lightning.cli import LightningArgumentParser

from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.runs.results import Outcome
from lit_viz.runs.writer import RunFolder
from lit_viz.types import Task
from lit_viz.utils.formatting import Notify


@dataclass(frozen=True)
class Inquiry:
    """How evidence is looked for.

    Attributes:
        config: of the run.
        seconds: that Captum may be asked for at the end of a run; None looks at everything (``lit-viz check``).
        notify: is given the lines that a person at a terminal wants to read.
        faithfulness: whether it is also measured what saliency maps are good for.
        trust: whether further attacks are tried on what an attack could not fool.
    """

    config: Namespace
    seconds: float | None
    notify: Notify
    faithfulness: bool = False
    trust: bool = False

    @property
    def ends_run(self) -> bool:
        """Whether a run has just ended, whose options say what is wanted; else everything is."""
        return self.seconds is not None


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
    iterations: ClassVar[int | None] = 200
    slots: ClassVar[int] = 8
    log_at: ClassVar[str] = "every:10"
    curve_at: ClassVar[str] = "every:10"

    def option(self, name: str, value: str) -> tuple[str, str]:
        """Return a short option of the command, and its value, as the parser knows them; others as they are."""
        return name, value

    def config_for(self, options: Collection[str]) -> str:
        """Return the configuration in ``configs/<name>/`` that holds where these options, and no configuration, are
        named; the default one unless the command has another for them."""
        return self.default_config

    def settle(self, config: Namespace) -> None:  # noqa: B027 - most have nothing to settle
        """Put into the configuration what the command's own options stand for, before its parts are made."""

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
    def figure(self, outcomes: Sequence[Outcome], config: Namespace) -> Figure:
        """Return the method's figure."""

    def verify(
        self, module: ImageTraining, outcomes: Sequence[Outcome], folder: RunFolder | None, how: Inquiry
    ) -> bool:
        """Look for evidence that the outcomes are true, and keep it in the records and in the folder.

        Args:
            module: with which they were made.
            outcomes: of the run.
            folder: where evidence is written; None writes none.
            how: thoroughly it is looked for.

        Returns:
            whether nothing speaks against them.
        """
        return True

    def summary(self, results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Return a row a class, by column, as it is printed at the end of a run of very many images."""
        return by_class(results, lambda done: {"probability": median_of(done, "probability")})

    @abstractmethod
    def table(self, results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Return a row a record, by column, as it is printed at the end."""


def by_class(
    results: Sequence[Mapping[str, Any]], further: Callable[[Sequence[Mapping[str, Any]]], dict[str, str]]
) -> list[dict[str, str]]:
    """Return a row a class, the largest first: how many records it has, how many were done, and what else is said.

    Args:
        results: records.
        further: from the records of a class that were done, more columns.
    """
    by_index: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for record in results:
        by_index[record["target_name"] or record["label"]].append(record)
    found = [(_class_of(records), records) for records in by_index.values()]
    rows = []
    for name, records in sorted(found, key=lambda group: (-len(group[1]), group[0])):
        done = [record for record in records if record["status"] == "done"]
        counts = {"class": name, "images": str(len(records)), "done": str(len(done))}
        rows.append({**counts, **further(done)})
    return rows


def _class_of(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the class that records are about: their target's name, or that of their label, if one of them says it."""
    first = records[0]
    if first["target_name"]:
        return str(first["target_name"])
    if first["label"] is None:
        return "-"
    return str(next((r["label_name"] for r in records if "label_name" in r), f"class {first['label']}"))


def median_of(records: Sequence[Mapping[str, Any]], key: str, form: str = "{:.3f}") -> str:
    """Return the median of a value of records for a table; a dash where none has it."""
    known = [record[key] for record in records if record.get(key) is not None]
    return form.format(median(known)) if known else "-"


def class_path(name: str, known: Mapping[str, type], what: str) -> str:
    """Return the class that users call by a name, as the parser knows it; a dotted path of their own as it is.

    Args:
        name: in any case, with dashes or underscores.
        known: classes by name.
        what: they are: ``attack``.

    Raises:
        LitVizError: there is none of that name; the known ones are listed.
    """
    if not isinstance(name, str):
        raise LitVizError(f"{what}s are named, with their arguments as {{name: {{...}}}}, not {type(name).__name__}.")
    if "." in name:
        return name.strip()
    key = name.strip().lower().replace("-", "_")
    if key not in known:
        near = did_you_mean(key, known) or f": there are {', '.join(known)}."
        raise LitVizError(f"there is no {what} {name.strip()!r}{near}")
    return f"{known[key].__module__}.{known[key].__name__}"


def shown_number(record: Mapping[str, Any], key: str, form: str = "{:.3f}") -> str:
    """Return a value of a record for a table; a dash where there is none."""
    return "-" if record.get(key) is None else form.format(record[key])
