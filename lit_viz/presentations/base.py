"""Base class of presentations, and the presentation of a method and of a run folder."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lit_viz import methods
from lit_viz.engine.method import Method
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError
from lit_viz.evidence.measures import Compared, Measure, costs, photograph_of
from lit_viz.evidence.verifier import EvidencePart, OutcomeVerifier
from lit_viz.figures.evolution import Evolution
from lit_viz.figures.scales import ScaleOf
from lit_viz.presentations.items import EvidenceItem
from lit_viz.presentations.tables import TableRow, median_of
from lit_viz.runs.evidence import ONE_DRAW, E
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.results import Outcome, R, records_of
from lit_viz.types import Record, Task, slug
from lit_viz.utils.formatting import label_with_target, probability_text
from lit_viz.utils.imports import import_by_path

#: Which photographs are the first rows of a figure.
Rows = Literal["first", "worst", "best", "random"]
T = TypeVar("T")

#: Format of the file of a figure.
FigureFormat = Literal["png", "pdf", "svg"]


@dataclass(frozen=True)
class FigureOptions:
    """How the figure of a run is drawn.

    Attributes:
        format: format of the file.
        scale: whether saliency maps share one color scale, or each map has its own.
        overlays: whether saliency maps are also drawn over the photographs.
        rows: which photographs are on the first page: the first of the run, or the worst, the best or random ones by
            :meth:`Presentation.quality`.
        page: the page that is drawn, from 1.
    """

    format: FigureFormat = "png"
    scale: ScaleOf = "map"
    overlays: bool = False
    rows: Rows = "first"
    page: int = 1

    def ordered(self, items: Sequence[T], quality: Callable[[T], float]) -> list[T]:
        """Return the items in the order of the rows.

        Args:
            items: in the order of the run.
            quality: value of an item, higher for a better one.
        """
        if self.rows == "first":
            return list(items)
        if self.rows == "random":
            places = np.random.default_rng(0).permutation(len(items))
            return [items[place] for place in places]
        return sorted(items, key=quality, reverse=self.rows == "best")


class Presentation(ABC, Generic[R, E]):
    """Presentation of the outcomes of a method, with records of the class ``R`` and evidence of the class ``E``.

    Attributes:
        title: heading of the report.
        command: name of the command of the method; empty if there is none.
        result: caption of the result in the report.
        note: remark below the curves of the report.
        files: patterns of the files and folders that only runs of this method contain.
        run_options: options of figure and evidence that apply to the method.
        task_options: formats of the task options that captions state.
        verdict_column: column of the table that states what a task has reached.
        orders: what captions of figures state of the order of the rows, such as ``, the most probable first``.
    """

    title: ClassVar[str]
    command: ClassVar[str] = ""
    result: ClassVar[str] = "image"
    note: ClassVar[str] = ""
    files: ClassVar[tuple[str, ...]] = ()
    run_options: ClassVar[tuple[str, ...]] = ()
    task_options: ClassVar[Mapping[str, str]] = {}
    verdict_column: ClassVar[str] = "status"
    orders: ClassVar[Mapping[Rows, str]] = {}

    def heading(self, records: Sequence[R]) -> str:
        """Return the heading of a report about these records."""
        return self.title

    def subtitle(self, record: R) -> str:
        """Return what was computed, for a record's card in the report."""
        return ""

    def facets(self, record: R, evidence: E) -> dict[str, str]:
        """Return what the index of the report filters by: class, method, outcome ..."""
        facets: dict[str, str] = {"outcome": record.status}
        if record.target_name is not None:
            facets["class"] = record.target_name
        return facets

    def comes_first(self, record: R) -> bool:
        """Return whether the report shows a record before others, such as an error of the network."""
        return False

    def quality(self, record: R) -> float:
        """Return the value by which the figure orders records, from the worst to the best."""
        return -math.inf

    def confusion(self, records: Sequence[R]) -> list[TableRow]:
        """Return how many photographs of a label are predicted as another class, the most frequent first."""
        return []

    @abstractmethod
    def table(self, records: Sequence[R]) -> list[TableRow]:
        """Return a row per record, by column."""

    def rows(self, records: Sequence[R], evidence: E) -> list[TableRow]:
        """Return the table of a run; of a network that draws random numbers, each result is of one draw."""
        rows = self.table(records)
        if evidence.one_draw:
            for record, row in zip(records, rows, strict=True):
                if record.status == "done":
                    row[self.verdict_column] += ", of one draw"
        return rows

    def summary(self, records: Sequence[R]) -> list[TableRow]:
        """Return a row per class, the largest first, by column, for runs with more images than rows of a table."""
        groups: dict[Hashable, list[R]] = defaultdict(list)
        for record in records:
            groups[record.target_name or record.label].append(record)
        rows = []
        for group in sorted(groups.values(), key=lambda group: (-len(group), _class_name(group))):
            done = [record for record in group if record.status == "done"]
            row = {"class": _class_name(group), "images": str(len(group)), "done": str(len(done))}
            rows.append(row | self.class_summary(done))
        return rows

    def class_summary(self, records: Sequence[R]) -> TableRow:
        """Return the summary of the finished records of a class, by column."""
        return {"probability": median_of([record.probability for record in records])}

    def pages(self, outcomes: Sequence[Outcome[R]]) -> int:
        """Return the number of pages of the figure."""
        return 1

    @abstractmethod
    def figure(self, outcomes: Sequence[Outcome[R]], options: FigureOptions, evidence: E | None = None) -> Figure:
        """Return a page of the figure of a run.

        Args:
            outcomes: outcomes of the run.
            options: how it is drawn.
            evidence: evidence of the run, of which the figure may show a verdict; None if there is none.
        """

    def names(self, records: Sequence[R]) -> list[str]:
        """Return the name of each record that distinguishes it in its run."""
        return [record.title for record in records]

    def compared(
        self, outcomes: Sequence[Outcome[R]], evidence: E, radii: Mapping[str, Sequence[float]]
    ) -> list[Compared]:
        """Return the methods of a run with what was measured of each photograph, for comparisons.

        Args:
            outcomes: outcomes of the run.
            evidence: its evidence.
            radii: radii by norm, in units of [0, 1], at which attacks without a radius are compared.
        """
        done = [record for record in records_of(outcomes) if record.status == "done"]
        probabilities: dict[Hashable, float] = {}
        for record in done:
            if record.probability is not None:
                probabilities[photograph_of(record)] = record.probability
        return [Compared(self.title, len(done), [Measure("probability", probabilities, "higher"), *costs(done)])]

    def curve(self, record: R) -> str:
        """Return the metric that is plotted below the logged images."""
        if record.score is None:
            return "probability"
        return "score"

    def evolutions(self, outcomes: Sequence[Outcome[R]]) -> list[Evolution]:
        """Return the logged images of each task with its name and curve; no image is read."""
        names = self.names(records_of(outcomes))
        evolutions = []
        for outcome, name in zip(outcomes, names, strict=True):
            metric = self.curve(outcome.record)
            evolutions.append(Evolution(name, outcome.frames(), outcome.logged(metric), metric))
        return evolutions

    def overlays(self, outcomes: Sequence[Outcome[R]], scale: ScaleOf) -> list[NDArray[np.uint8] | None]:
        """Return the map of each outcome over its photograph as bytes ``(H, W, 3)``; None for one without a map.

        Raises:
            LitVizError: the method has no maps.
        """
        raise LitVizError(f"overlays requires saliency maps, got {self.title.lower()}")

    def task_name(self, task: Task) -> str:
        """Return the name of a task in captions."""
        texts = [label_with_target(task.name, task.target_name)]
        for key, text in self.task_options.items():
            if (value := getattr(task, key)) is not None:
                texts.append(text.format(value))
        return ", ".join(texts)

    def metric_texts(self, metrics: Mapping[str, float]) -> list[str]:
        """Return the metrics of a snapshot that its caption states."""
        if "probability" in metrics:
            text = probability_text(metrics["probability"])
            if "rank" in metrics:
                text += f" (rank {metrics['rank']:.0f})"
            return [text]
        if "score" in metrics:
            return [f"score {metrics['score']:.3g}"]
        if "objective" in metrics:
            return [f"objective {metrics['objective']:.3g}"]
        return []

    def evidence_items(self, evidence: E, records: Sequence[R]) -> list[EvidenceItem]:
        """Return the items of the evidence of a run, and of evidence in its records."""
        return self.part_items(evidence)

    def part_items(self, evidence: E) -> list[EvidenceItem]:
        """Return the items of the computed parts of the evidence, in the order of the page: those of the method before
        the failed ones."""
        items: list[EvidenceItem] = []
        if evidence.one_draw:
            items.append(EvidenceItem(ONE_DRAW, name="one_draw"))
        if evidence.unchecked:
            items.append(EvidenceItem(evidence.unchecked_text, name="unchecked"))
        for name, text in evidence.failure_texts.items():
            items.append(EvidenceItem(text, name=f"{slug(name)}_failure"))
        return items

    def messages(self, verifier: OutcomeVerifier[Any, R, E]) -> list[str]:
        """Return what the terminal states of the records before the evidence is computed."""
        return []

    def show(self, verifier: OutcomeVerifier[Any, R, E], name: str, part: EvidencePart[E]) -> None:
        """Show a part of the evidence in the terminal, and in a run folder in a figure.

        Args:
            verifier: verifier that computed the part.
            name: name of the part.
            part: the part.
        """
        if part.evidence is not None:
            for item in self.part_items(part.evidence):
                for line in item.lines:
                    verifier.settings.notify(line)


def presentation_of(method: type[Method]) -> Presentation[Any]:
    """Return the presentation of a method, which its class or a base class names.

    Raises:
        LitVizError: the class has no presentation.
    """
    if method.presentation is None:
        raise LitVizError(
            f"{method.__name__} has no presentation: set its class attribute presentation to the dotted path of a "
            "subclass of lit_viz.presentations.Presentation"
        )
    presentation: Presentation[Any] = import_by_path(method.presentation)()
    return presentation


def recorded_method(method: type[Method]) -> dict[str, str]:
    """Return what a run folder records of its method: the class, and its presentation (:func:`stored_method`).

    Raises:
        LitVizError: the class has no presentation.
    """
    return {"module": method.__name__, "presentation": type(presentation_of(method)).__name__}


def stored_method(folder: FolderStorage) -> type[ImageTraining]:
    """Return the imported method that has the presentation of a run folder: a folder must not import code.

    Raises:
        LitVizError: no method that is imported has the recorded presentation.
    """
    recorded = folder.recorded
    base: type[Any] = ImageTraining
    for method in _subclasses(base):
        if (method.presentation or "").rpartition(".")[2] == recorded.get("presentation"):
            return method
    raise LitVizError(
        f"the method of {folder.path} must be one of {', '.join(methods.__all__)} or a subclass with its presentation, "
        f"got {recorded.get('module')}"
    )


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    """Yield the imported subclasses of a class, each before its own."""
    for kind in base.__subclasses__():
        yield kind
        yield from _subclasses(kind)


def _class_name(records: Sequence[Record]) -> str:
    first = records[0]
    if first.target_name or first.label is None:
        return first.target_name or "-"
    for record in records:
        if record.label_name:
            return record.label_name
    return f"class {first.label}"
