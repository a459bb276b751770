"""Presentations of the outcomes of a method: tables, captions, figures and evidence, one method per file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn

from lit_viz import methods
from lit_viz.engine.lightning import is_rank_failure
from lit_viz.engine.method import Method, half_precision
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.snapshots import Result
from lit_viz.errors import LitVizError, WriteError, first_line
from lit_viz.figures.evolution import Evolution
from lit_viz.figures.scales import ScaleOf
from lit_viz.presentations.items import EvidenceItem, evidence_items
from lit_viz.presentations.tables import TableRow, format_value, median_of
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.memory import MemoryStorage
from lit_viz.runs.results import Outcome, Storage, records_of
from lit_viz.types import Record, Task
from lit_viz.utils.formatting import Notify, ignore, label_with_target, probability_text

__all__ = [
    "CAPTUM_SECONDS",
    "EvidenceItem",
    "EvidenceOptions",
    "EvidencePart",
    "EvidenceSettings",
    "FigureOptions",
    "Presentation",
    "TableRow",
    "format_value",
    "median_of",
    "presentation_of",
    "recorded_method",
    "stored_presentation",
]

#: When saliency maps are compared with Captum.
Check = Literal["auto", "captum", "none"]
#: Function that computes a part of the evidence; False if it contradicts a record.
EvidencePart = Callable[[], bool]
#: Format of the file of a figure.
FigureFormat = Literal["png", "pdf", "svg"]
#: Time limit of the comparison with Captum at the end of a run; ``lit-viz check`` has none.
CAPTUM_SECONDS = 15.0


@dataclass(frozen=True)
class FigureOptions:
    """How the figure of a run is drawn.

    Attributes:
        format: format of the file.
        scale: whether saliency maps share one color scale, or each map has its own.
        overlays: whether saliency maps are also drawn over the photographs.
    """

    format: FigureFormat = "png"
    scale: ScaleOf = "shared"
    overlays: bool = False


@dataclass(frozen=True)
class EvidenceOptions:
    """Which evidence is computed.

    Attributes:
        captum: comparison of saliency maps with Captum at the end of a run: ``captum``, ``auto`` (for as long as the
            run took), or ``none``.
        localize: whether objects are localized by saliency maps.
        boxes: file or folder of reference boxes, with which the boxes of the maps are compared; implies ``localize``.
        explain: whether saliency maps of originals and adversarial images are drawn.
        faithfulness: whether saliency metrics are computed.
        trust: whether stronger attacks are run on images that an attack did not fool.
        images: files and folders with which class images are compared.
    """

    captum: Check = "auto"
    localize: bool = False
    boxes: str | Path | None = None
    explain: bool = False
    faithfulness: bool = False
    trust: bool = False
    images: Sequence[str] = ()


@dataclass(frozen=True)
class EvidenceSettings:
    """Which evidence is computed, and how.

    Attributes:
        options: which evidence is computed.
        seconds: time limit of the comparison with Captum at the end of a run; None (``lit-viz check``) for no limit.
        notify: receives lines for the terminal.
        precision: Lightning's name of the half precision of the run; None for another precision.
    """

    options: EvidenceOptions
    seconds: float | None
    notify: Notify
    precision: str | None = None

    @property
    def at_end_of_run(self) -> bool:
        """Whether the evidence is computed at the end of a run, where the options of the run select it."""
        return self.seconds is not None

    def add(self, part: Evidence, storage: Storage, *, table: bool = False) -> None:
        """Add a part to the evidence of a run, and report it, with or without its table."""
        storage.merge_evidence(part)
        for item in evidence_items(part):
            self.report(item, table=table)

    def report(self, item: EvidenceItem, *, table: bool = False) -> None:
        """Send an item of the evidence to the terminal, with or without its table."""
        for line in item.lines(table=table):
            self.notify(line)


class Presentation(ABC):
    """Presentation of the outcomes of a method.

    Attributes:
        title: heading of the report.
        command: name of the command of the method; empty if there is none.
        result: caption of the result in the report.
        note: remark below the curves of the report.
        figure_is_first: whether the report begins with the figure.
        files: patterns of the files and folders that only runs of this method contain.
        run_options: options of figure and evidence that apply to the method.
        evidence_options: options of ``lit-viz check`` that apply to the method.
        task_options: formats of the task options that captions state.
    """

    title: ClassVar[str]
    command: ClassVar[str] = ""
    result: ClassVar[str] = "image"
    note: ClassVar[str] = ""
    figure_is_first: ClassVar[bool] = False
    files: ClassVar[tuple[str, ...]] = ()
    run_options: ClassVar[tuple[str, ...]] = ()
    evidence_options: ClassVar[tuple[str, ...]] = ()
    task_options: ClassVar[Mapping[str, str]] = {}

    def check_options(self, options: EvidenceOptions) -> None:  # noqa: B027
        """Check, before a run, what its evidence requires.

        Raises:
            LitVizError: a file or a package is missing.
        """

    def attach(self, module: ImageTraining) -> None:
        """Set the evidence of the test stage of a Trainer: that of the end of a run."""
        module.verify = partial(self._test_numbers, module)

    def _test_numbers(self, module: ImageTraining, results: Sequence[Result]) -> Mapping[str, float]:
        """Verify results as the end of a run does, and return the numbers that loggers of runs have."""
        precision = half_precision(module.trainer.precision)
        settings = EvidenceSettings(EvidenceOptions(), CAPTUM_SECONDS, ignore, precision)
        storage = MemoryStorage(results)
        outcomes = storage.outcomes()
        self.verify(module, outcomes, storage, settings)
        evidence = storage.evidence()
        for item in evidence_items(Evidence(failures=evidence.failures)):
            rank_zero_warn(item.text)
        return self.scalars(records_of(outcomes), evidence)

    def heading(self, records: Sequence[Record]) -> str:
        """Return the heading of a report about these records."""
        return self.title

    def subtitle(self, record: Record) -> str:
        """Return what was computed, for a record's card in the report."""
        return ""

    def facets(self, record: Record, evidence: Evidence) -> dict[str, str]:
        """Return what the index of the report filters by: class, method, outcome ..."""
        facets: dict[str, str] = {"outcome": record.status}
        if record.target_name is not None:
            facets["class"] = record.target_name
        return facets

    @abstractmethod
    def table(self, records: Sequence[Record]) -> list[TableRow]:
        """Return a row per record, by column."""

    def summary(self, records: Sequence[Record]) -> list[TableRow]:
        """Return a row per class, the largest first, by column, for runs with more images than rows of a table."""
        groups: dict[Hashable, list[Record]] = defaultdict(list)
        for record in records:
            groups[record.target_name or record.label].append(record)
        rows = []
        for group in sorted(groups.values(), key=lambda group: (-len(group), _class_name(group))):
            done = [record for record in group if record.status == "done"]
            row = {"class": _class_name(group), "images": str(len(group)), "done": str(len(done))}
            rows.append(row | self.class_summary(done))
        return rows

    def class_summary(self, records: Sequence[Record]) -> TableRow:
        """Return the summary of the finished records of a class, by column."""
        return {"probability": median_of([record.probability for record in records])}

    @abstractmethod
    def figure(self, outcomes: Sequence[Outcome], options: FigureOptions, evidence: Evidence | None = None) -> Figure:
        """Return the figure of a run.

        Args:
            outcomes: outcomes of the run.
            options: how it is drawn.
            evidence: evidence of the run, of which the figure may show a verdict; None if there is none.
        """

    def names(self, records: Sequence[Record]) -> list[str]:
        """Return the name of each record that distinguishes it in its run."""
        return [record.title for record in records]

    def curve(self, record: Record) -> str:
        """Return the metric that is plotted below the logged images."""
        return "probability" if record.score is None else "score"

    def evolutions(self, outcomes: Sequence[Outcome]) -> list[Evolution]:
        """Return the logged images of each task with its name and curve; no image is read."""
        names = self.names(records_of(outcomes))
        evolutions = []
        for outcome, name in zip(outcomes, names, strict=True):
            metric = self.curve(outcome.record)
            evolutions.append(Evolution(name, outcome.frames(), outcome.logged(metric), metric))
        return evolutions

    def overlays(self, outcomes: Sequence[Outcome], scale: ScaleOf) -> list[NDArray[np.uint8] | None]:
        """Return the map of each outcome over its photograph as bytes ``(H, W, 3)``; None for one without a map.

        Raises:
            LitVizError: the method has no maps.
        """
        raise LitVizError(f"overlays requires saliency maps, got {self.title.lower()}")

    def task_name(self, task: Task) -> str:
        """Return the name of a task in captions."""
        texts = [label_with_target(task.name, task.target_name)]
        for key, text in self.task_options.items():
            if key in task.options:
                texts.append(text.format(task.options[key]))
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

    def scalars(self, records: Sequence[Record], evidence: Evidence) -> dict[str, float]:
        """Return the numbers by which runs are compared in a logger: their cost and the results of the evidence."""
        return {
            "cost/forwards": sum(record.forwards or 0 for record in records),
            "cost/backwards": sum(record.backwards or 0 for record in records),
            "cost/seconds": sum(record.seconds or 0.0 for record in records),
        }

    def evidence_items(self, evidence: Evidence, records: Sequence[Record]) -> list[EvidenceItem]:
        """Return the items of the evidence of a run, and of evidence in its records."""
        return evidence_items(evidence)

    def verify(
        self, module: ImageTraining, outcomes: Sequence[Outcome], storage: Storage, settings: EvidenceSettings
    ) -> bool:
        """Compute the evidence of a run, and add it to its records and its storage.

        A part that raises an exception costs neither the results nor the other parts: its reason is recorded
        (``Evidence.failures``). Errors that the user of ``lit-viz check`` can correct are raised.

        Args:
            module: the method.
            outcomes: outcomes of the run.
            storage: results of the run.
            settings: which evidence is computed.

        Returns:
            False if the evidence contradicts a record, or a part failed.

        Raises:
            WriteError: the evidence can't be written.
        """
        passed = True
        failures = dict(storage.evidence().failures or {})  # of earlier verifications
        had_failures = bool(failures)
        for name, compute in self.parts(module, outcomes, storage, settings).items():
            failures.pop(name, None)
            try:
                passed &= compute()
            except Exception as error:
                is_of_user = isinstance(error, LitVizError) and not settings.at_end_of_run
                if is_of_user or isinstance(error, WriteError) or is_rank_failure(error):
                    raise
                failures[name] = first_line(error)
                passed = False
        if failures or had_failures:
            settings.add(Evidence(failures=failures), storage)
        return passed

    def parts(
        self, module: ImageTraining, outcomes: Sequence[Outcome], storage: Storage, settings: EvidenceSettings
    ) -> Mapping[str, EvidencePart]:
        """Return the functions that compute the parts of the evidence, in order, by the names of the parts.

        A function adds its part to the storage, and returns False if it contradicts a record. Evidence that reads files
        is left out in memory: :meth:`~lit_viz.runs.results.Storage.files` gives them.
        """
        return {}


def presentation_of(method: type[Method]) -> Presentation:
    """Return the presentation of a method, which its class or a base class names.

    Raises:
        LitVizError: the class has no presentation.
    """
    if method.presentation is None:
        raise LitVizError(
            f"{method.__name__} has no presentation: set its class attribute presentation to the dotted path of a "
            "subclass of lit_viz.presentations.Presentation"
        )
    module, _, name = method.presentation.rpartition(".")
    presentation: Presentation = getattr(import_module(module), name)()
    return presentation


def recorded_method(method: type[Method]) -> dict[str, str]:
    """Return what a run folder records of its method: the class, and its presentation (:func:`stored_presentation`).

    Raises:
        LitVizError: the class has no presentation.
    """
    return {"module": method.__name__, "presentation": type(presentation_of(method)).__name__}


def stored_presentation(folder: FolderStorage) -> Presentation:
    """Return the presentation of a run folder. Only those of lit_viz are found, since a folder must not import code.

    Raises:
        LitVizError: the recorded presentation, or in older folders the method, is not part of lit_viz.
    """
    recorded = folder.recorded
    known = {name: recorded_method(getattr(methods, name)) for name in methods.__all__}
    # Older folders record the method only.
    name = recorded.get("presentation") or known.get(str(recorded.get("module")), {}).get("presentation")
    for method, names in known.items():
        if names["presentation"] == name:
            return presentation_of(getattr(methods, method))
    raise LitVizError(
        f"the method of {folder.path} must be one of {', '.join(methods.__all__)} or a subclass with its presentation, "
        f"got {recorded.get('module')}"
    )


def _class_name(records: Sequence[Record]) -> str:
    first = records[0]
    if first.target_name or first.label is None:
        return first.target_name or "-"
    for record in records:
        if record.label_name:
            return record.label_name
    return f"class {first.label}"
