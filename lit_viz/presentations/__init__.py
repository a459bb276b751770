"""Presentations of the outcomes of a method: tables, captions, figures and evidence, one method per file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import ClassVar

from jsonargparse import Namespace
from matplotlib.figure import Figure

from lit_viz.engine.module import ImageTraining
from lit_viz.figures.evolution import Evolution
from lit_viz.methods.records import AdversarialRecord
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome
from lit_viz.types import Record, Task
from lit_viz.utils.formatting import Notify, label_with_target, probability_text

Row = dict[str, str]

#: Time limit of the comparison with Captum at the end of a run; ``lit-viz check`` has none.
CAPTUM_SECONDS = 15.0


@dataclass(frozen=True)
class EvidenceSettings:
    """Which evidence is computed.

    Attributes:
        config: configuration of the run.
        seconds: time limit of the comparison with Captum at the end of a run; None (``lit-viz check``) for no limit.
        notify: receives lines for the terminal.
        faithfulness: whether saliency metrics are computed.
        trust: whether stronger attacks are run on images that an attack did not fool.
    """

    config: Namespace
    seconds: float | None
    notify: Notify
    faithfulness: bool = False
    trust: bool = False

    @property
    def at_end_of_run(self) -> bool:
        """Whether the evidence is computed at the end of a run, where the options of the run select it."""
        return self.seconds is not None


class Presentation(ABC):
    """Presentation of the outcomes of a method.

    Attributes:
        title: heading of the report.
        result: caption of the result in the report.
        note: remark below the curves of the report.
        files: patterns of the files and folders that only runs of this method contain.
        flags: options of the presentation without a value.
        resumable: options of the presentation that a resume may change.
        evidence_options: options of ``lit-viz check`` that apply to the method.
        task_options: formats of the task options that captions state.
    """

    title: ClassVar[str]
    result: ClassVar[str] = "image"
    note: ClassVar[str] = ""
    files: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[tuple[str, ...]] = ()
    resumable: ClassVar[tuple[str, ...]] = ()
    evidence_options: ClassVar[tuple[str, ...]] = ()
    task_options: ClassVar[Mapping[str, str]] = {}

    def heading(self, records: Sequence[Record]) -> str:
        """Return the heading of a report about these records."""
        return self.title

    def subtitle(self, record: Record) -> str:
        """Return what was computed, for a record's card in the report."""
        return ""

    @abstractmethod
    def table(self, records: Sequence[Record]) -> list[Row]:
        """Return a row per record, by column."""

    def summary(self, records: Sequence[Record]) -> list[Row]:
        """Return a row per class, the largest first, by column, for runs with more images than rows of a table."""
        groups: dict[Hashable, list[Record]] = defaultdict(list)
        for record in records:
            groups[record.target_name or record.label].append(record)
        rows = []
        for group in sorted(groups.values(), key=lambda group: (-len(group), _class_name(group))):
            done = [record for record in group if record.status == "done"]
            counts = {"class": _class_name(group), "images": str(len(group)), "done": str(len(done))}
            rows.append({**counts, **self.class_summary(done)})
        return rows

    def class_summary(self, records: Sequence[Record]) -> Row:
        """Return the summary of the finished records of a class, by column."""
        return {"probability": median_of(record.probability for record in records)}

    @abstractmethod
    def figure(self, outcomes: Sequence[Outcome], config: Namespace) -> Figure:
        """Return the figure of a run."""

    def names(self, records: Sequence[Record]) -> list[str]:
        """Return the name of each record that distinguishes it in its run."""
        return [record.title for record in records]

    def curve(self, record: Record) -> str:
        """Return the metric that is plotted below the logged images."""
        return "probability"

    def evolutions(self, outcomes: Sequence[Outcome]) -> list[Evolution]:
        """Return the logged images of each task with its name and curve; no image is read."""
        evolutions = []
        for outcome, name in zip(outcomes, self.names([outcome.record for outcome in outcomes]), strict=True):
            metric = self.curve(outcome.record)
            evolutions.append(Evolution(name, outcome.frames(), outcome.curve(metric), metric))
        return evolutions

    def task_name(self, task: Task) -> str:
        """Return the name of a task in captions."""
        options = [text.format(task.options[key]) for key, text in self.task_options.items() if key in task.options]
        return ", ".join([label_with_target(task.name, task.target_name), *options])

    def metric_texts(self, metrics: Mapping[str, float]) -> list[str]:
        """Return the metrics of a snapshot that its caption states."""
        if "probability" in metrics:
            rank = f" (rank {metrics['rank']:.0f})" if "rank" in metrics else ""
            return [probability_text(metrics["probability"]) + rank]
        return [f"objective {metrics['objective']:.3g}"] if "objective" in metrics else []

    def scalars(self, records: Sequence[Record], evidence: Evidence) -> dict[str, float]:
        """Return the numbers by which runs are compared in a logger: their cost and the results of the evidence."""
        counts = {"forwards": [r.forwards for r in records], "backwards": [r.backwards for r in records]}
        cost = {f"cost/{name}": sum(filter(None, values)) for name, values in counts.items()}
        return {**cost, "cost/seconds": sum(record.seconds or 0.0 for record in records)}

    def verify(
        self, module: ImageTraining, outcomes: Sequence[Outcome], folder: RunFolder | None, settings: EvidenceSettings
    ) -> bool:
        """Compute the evidence of a run, and write it to its records and its folder.

        Args:
            module: the method.
            outcomes: outcomes of the run.
            folder: run folder, or None for a run in memory.
            settings: which evidence is computed.

        Returns:
            False if the evidence contradicts a record.
        """
        return True


#: Modules of the presentations by method. The class of a presentation has the name of the method as prefix.
_MODULES = {
    "AdversarialExample": "adversarial_example",
    "ClassVisualization": "class_visualization",
    "SaliencyMap": "saliency_map",
    "UniversalPerturbation": "universal_perturbation",
}


def method_name(kind: type) -> str:
    """Return the name of the first base of a class that has a presentation; ``ClassVisualization`` if none has."""
    return next((base.__name__ for base in kind.__mro__ if base.__name__ in _MODULES), "ClassVisualization")


def presentation_of(method: type | str) -> Presentation:
    """Return the presentation of a method by its class or name; by default that of class visualizations."""
    name = method_name(method) if isinstance(method, type) else method if method in _MODULES else "ClassVisualization"
    presentation: Presentation = getattr(import_module(f"{__name__}.{_MODULES[name]}"), f"{name}Presentation")()
    return presentation


def _class_name(records: Sequence[Record]) -> str:
    first = records[0]
    if first.target_name or first.label is None:
        return first.target_name or "-"
    names = (record.label_name for record in records if isinstance(record, AdversarialRecord))
    return next(filter(None, names), f"class {first.label}")


def median_of(values: Iterable[float | None], template: str = "{:.3f}") -> str:
    """Return the formatted median of the values that are not None."""
    present = [value for value in values if value is not None]
    return format_value(median(present) if present else None, template)


def format_value(value: object, template: str = "{:.3f}") -> str:
    """Return a formatted value; ``-`` for None."""
    return "-" if value is None else template.format(value)
