"""The results of a run: images, figure, report and evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from inspect import signature
from io import BytesIO
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_viz.attacks import BudgetAttack
from lit_viz.attacks.norms import format_distance
from lit_viz.attributions.reducers import reduce_channels
from lit_viz.engine.failures import gradients_enabled
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, require
from lit_viz.evidence.attacks.robustness import RobustAccuracy, robust_accuracy
from lit_viz.evidence.verifier import EvidenceSettings, verifier_of
from lit_viz.figures.evolution import save_evolution
from lit_viz.figures.layout import footer
from lit_viz.figures.scales import ScaleOf
from lit_viz.figures.style import save_figure, with_notebook_png
from lit_viz.launch.comparison import ComparedRun, Comparison, compare_runs
from lit_viz.launch.options import RunOptions, extra_files
from lit_viz.launch.provenance import scores_caption
from lit_viz.launch.resume import check_identity, check_records
from lit_viz.launch.trainer import failures_of_run
from lit_viz.methods import AdversarialExample, SaliencyMap
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.networks import Network
from lit_viz.presentations import Presentation, Rows, presentation_of
from lit_viz.report.page import run_html, write_report
from lit_viz.runs.access import check_new, is_run, run_lock
from lit_viz.runs.evidence import ONE_DRAW, Evidence, SaliencyEvidence
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.memory import Storage
from lit_viz.runs.results import Outcome
from lit_viz.runs.seal import is_drawing
from lit_viz.runs.stitching import tiled_images, write_maps
from lit_viz.runs.stored import StoredTasks
from lit_viz.runs.tar_store import TarStorage
from lit_viz.runs.verification import verify
from lit_viz.types import Record, Task
from lit_viz.utils.checking import checked_types
from lit_viz.utils.formatting import (
    Notify,
    choose_notify,
    data_frame,
    ignore,
    is_notebook,
    number_text,
    pluralize,
    status_summary,
)
from lit_viz.utils.limits import MOST_PRINTED
from lit_viz.utils.parts import Part
from lit_viz.utils.process import tune_allocator
from lit_viz.utils.sequences import as_list

T = TypeVar("T")

_MOST_VALUES = 4  # of a setting in a footer; of more, the least and the largest are stated
_MOST_NAMES = 10  # in a message
#: One or several files or folders.
Paths = str | Path | Sequence[str | Path]


class Run:
    """The results of a run.

    A run is a sequence of outcomes: ``run[0].frames()`` are the logged images as (iteration, image), and
    ``run[0].curve("probability")`` is a metric as (iteration, value).

    Args:
        module: the method.
        tasks: its tasks.
        options: options of the run.
        storage: results of the run; None on ranks other than 0.

    Attributes:
        folder: the run folder; None for a run in memory.
    """

    def __init__(
        self, module: ImageTraining, tasks: Sequence[Task], options: RunOptions, storage: Storage | None = None
    ) -> None:
        self.folder = None if storage is None else storage.path
        self._module, self._options, self._storage = module, options, storage
        self._tasks = tasks

    @cached_property
    def outcomes(self) -> Sequence[Outcome]:
        """The outcome of each task, in task order; of a store of tars, each is read when it is accessed."""
        return () if self._storage is None else self._storage.outcomes()

    def __len__(self) -> int:
        return len(self.outcomes)

    def __getitem__(self, index: int) -> Outcome:
        if not isinstance(index, (SupportsIndex, slice)):
            names = ", ".join(outcome.record.name for outcome in self.outcomes[:_MOST_NAMES])
            raise LitVizError(f"an outcome of a run is given by its index, got {index!r}: from 0 on, they are {names}")
        return self.outcomes[index]

    def _repr_html_(self) -> str | None:
        """Return figure, table and verdicts, which a notebook displays."""
        if not self.outcomes:
            return None
        if self._storage is not None and isinstance(self._module, SaliencyMap):
            evidence = self.stored_evidence  # of the end of the run, without a further comparison with Captum
        else:
            evidence = self.evidence
        return run_html(self.outcomes, self.figure(), self.presentation, evidence, _output_caption(self._module))

    def __repr__(self) -> str:
        where = "kept in memory" if self.folder is None else str(self.folder)
        summary = status_summary(outcome.record.status for outcome in self.outcomes)
        return f"Run({pluralize(len(self.outcomes), 'image')}: {summary}; {where})"

    @property
    def presentation(self) -> Presentation:
        """Presentation of the outcomes."""
        return presentation_of(type(self._module))

    @property
    def _network(self) -> Network:
        return self._module.network

    @property
    def records(self) -> list[Record]:
        """The records, which are the lines of ``results.jsonl``, in task order."""
        return [outcome.record for outcome in self.outcomes]

    @property
    def is_shard(self) -> bool:
        """Whether the run has the tasks of a shard, without evidence, figure and report."""
        return isinstance(self._storage, FolderStorage) and self._storage.shard is not None

    def endings(self) -> Endings:
        """Return how the tasks have ended. The records are read one by one, and need not fit into memory."""
        endings = Endings()
        if self._storage is not None:
            for record in self._storage.not_done():
                endings.add(record)
            endings.counts["done"] = len(self._storage.records()) - endings.counts.total()
        return endings

    @property
    def images(self) -> Tensor:
        """The final images ``(N, C, H, W)`` in [0, 1]; NaN for a task without one."""
        return _stack([outcome.image() for outcome in self.outcomes])

    @property
    def arrays(self) -> Tensor:
        """The raw signed results ``(N, C, H, W)`` or ``(N, 1, H, W)``, maps or universal perturbations; NaN for a task
        without one.

        Raises:
            LitVizError: the results have different shapes, because of their methods.
        """
        arrays = [outcome.array() for outcome in self.outcomes]
        shapes = {array.shape for array in arrays if array is not None}
        if len(shapes) > 1:
            raise LitVizError(
                "the raw maps of these methods have different shapes: take run.outcomes[0].array() ..., or run.maps"
            )
        return _stack(arrays)

    @property
    def maps(self) -> Tensor | list[Tensor]:
        """The saliency maps ``(N, H, W)`` of the figure, reduced by the ``reducer`` of each record (see
        :data:`~lit_viz.attributions.reducers.REDUCERS`); NaN for a task without one.

        Of a run by tiles a list with the map ``(H, W)`` of each image by each method, blended where tiles overlap and
        memory-mapped from the run folder; empty for an image that can't be read.
        """
        tiled = tiled_images(self.outcomes)
        if tiled:
            return [torch.empty(0, 0) if image is None else image.map(self.folder) for image in tiled]
        maps: list[Tensor | None] = []
        for outcome in self.outcomes:
            array, reducer = outcome.array(), getattr(outcome.record, "reducer", "max_abs")
            if array is not None:
                array = reduce_channels(array, reducer)[0]
            maps.append(array)
        return _stack(maps)

    @property
    def score_maps(self) -> list[Tensor]:
        """The score of the target on each tile, ``(rows, columns)`` of tiles, for each map of a run by tiles; NaN for a
        tile without one.

        Raises:
            LitVizError: the run has no tiles.
        """
        tiled = tiled_images(self.outcomes)
        if not tiled:
            raise LitVizError("score_maps requires a run by tiles: give tile")
        return [torch.empty(0, 0) if image is None else image.scores() for image in tiled]

    @property
    def robust_accuracy(self) -> RobustAccuracy | dict[str, RobustAccuracy]:
        """The robust accuracy of an untargeted attack with a radius, with counts and 95 % interval; of several radii a
        dictionary by radius (``"4/255"``).

        Photographs that are misclassified before the attack are not robust. Failed tasks are omitted.

        Raises:
            LitVizError: the attack is targeted or has no radius, or the labels are predicted.
        """
        self._on_rank_zero()
        attacked: Sequence[Outcome[Any]] = self.outcomes if isinstance(self._module, AdversarialExample) else ()
        return robust_accuracy(attacked)

    def to_pandas(self) -> Any:
        """Return the records as a ``pandas.DataFrame``: a row per task, a column per key of ``results.jsonl``.

        Raises:
            LitVizError: pandas is not installed.
        """
        return data_frame([record.flat() for record in self.records])

    @checked_types
    def overlays(self, scale: ScaleOf | None = None) -> NDArray[np.uint8]:
        """Return the saliency maps over their photographs, as the figure draws them with ``overlays=True``.

        Args:
            scale: color scale, ``shared`` by the maps of a method or one per ``map``. Default: that of the run.

        Returns:
            Bytes ``(N, H, W, 3)``; black for a task without a map.

        Raises:
            LitVizError: the run has no saliency maps.
        """
        drawn = self.presentation.overlays(self.outcomes, scale or self._options.scale)
        overlays = _filled(drawn, np.zeros_like)
        if not overlays:
            return np.zeros((len(drawn), *self._network.size, 3), np.uint8)
        return np.stack(overlays)

    def save_gif(self, path: str | Path) -> Path:
        """Write the logged images of the tasks over their iterations as a repeating GIF, and return its path.

        Up to 16 tasks are drawn; tasks with a changing image come first.

        Raises:
            LitVizError: the path does not end in .gif, no image was logged, or the disk is full.
        """
        require(
            Path(path).suffix.lower() == ".gif", "the path of an animation must end in .gif", path, is_argument=False
        )
        saved = save_evolution(self.presentation.evolutions(self.outcomes), Path(path))
        if saved is None:
            raise LitVizError("an animation requires logged images, and the run has none: give log_at")
        return saved

    @checked_types
    def figure(self, page: int = 1, *, rows: Rows | None = None) -> Figure:
        """Return the figure of the run; a notebook displays it.

        Args:
            page: page of a figure of many photographs, from 1.
            rows: photographs on the first page: the ``first``, ``worst``, ``best`` or ``random`` ones, as in
                :func:`lit_viz.run`. Default: as the run was started.

        Raises:
            LitVizError: the figure has fewer pages.
        """
        if page != 1:
            pages = self.presentation.pages(self.outcomes)
            require(1 <= page <= pages, f"page must be between 1 and {pages}", page)
        options = replace(self._options.figure_options, page=page, rows=rows or self._options.rows)
        with self.captions():
            drawn = self.presentation.figure(self.outcomes, options, self.stored_evidence)
        return with_notebook_png(drawn)

    @property
    def is_drawn(self) -> bool:
        """Whether the folder has the figure in its format."""
        return self.folder is not None and self._figure_file(self.folder).exists()

    def _figure_file(self, folder: Path, page: int = 1) -> Path:
        number = "" if page == 1 else f"_{page}"
        return folder / f"figure{number}.{self._options.figure}"

    def draw(self) -> None:
        """Write the maps of large images, the animation, if an image changes over the iterations, and then the
        figure."""
        assert self.folder is not None
        write_maps(self.outcomes, self.folder)
        changes = self.presentation.evolutions(self.outcomes)
        if any(evolution.is_animated for evolution in changes):
            save_evolution(changes, self.folder / "evolution.gif")
        for path in self.folder.glob(f"figure_*.{self._options.figure}"):
            path.unlink()
        for page in range(self.presentation.pages(self.outcomes), 0, -1):  # a run with the first page is drawn
            save_figure(self.figure(page), self._figure_file(self.folder, page))

    def show(self) -> None:
        """Display figure, table and verdicts in a notebook; elsewhere open the figure in the image viewer."""
        if is_notebook():
            from IPython.display import display

            display(self)
            return
        buffer = BytesIO()
        figure = self.figure()
        figure.savefig(buffer, format="png", dpi=figure.dpi)
        Image.open(buffer).show()

    @checked_types
    def save(self, folder: str | Path, *, overwrite: bool = False) -> Run:
        """Write images, arrays, logged images, records, figure and report to a new run folder; return the run in it.

        :func:`lit_viz.check` accepts the folder.

        Args:
            folder: a missing or empty folder.
            overwrite: whether an existing run in the folder is replaced.

        Raises:
            LitVizError: the folder exists, or contains other files than a run, or the disk is full.
        """
        storage, path = self._on_rank_zero(), Path(folder)
        with run_lock(path):
            check_new(path, overwrite, extra_files())
            in_memory = self.folder is None
            if in_memory:
                self._verify_once()
            if overwrite:
                self._clear(path)
            saved = storage.save(path)
            run = self._in(saved)
            if in_memory:
                run.draw()
                assert isinstance(saved, FolderStorage)
                write_report(saved, run.presentation, run.stored_evidence)
                saved.seal()
        return run

    def _clear(self, folder: Path) -> None:
        """Delete an existing run in a folder that is not the run's own."""
        if self.folder is not None and folder.resolve() == self.folder.resolve():
            raise LitVizError(f"{folder} is the folder of this run: choose another one")
        if is_run(folder):
            FolderStorage(folder).clear(extra_files())

    def _in(self, storage: Storage) -> Run:
        """Return this run in another storage."""
        tasks = storage.queue() if isinstance(storage, FolderStorage) else self._tasks
        return Run(self._module, tasks, replace(self._options, out=storage.path), storage)

    def sample(self) -> Run:
        """Return the run with the tasks that figure, report and evidence are of: of a store of tars, only some."""
        storage = self._on_rank_zero()
        outcomes = storage.sample()
        if len(outcomes) == len(storage.records()):
            self.outcomes = outcomes  # evidence replaces the lines that a sequence of all would read
            return self
        tasks = [storage.task(outcome.record.index) for outcome in outcomes]
        sample = Run(self._module, tasks, self._options, storage)
        sample.outcomes = outcomes
        return sample

    def _on_rank_zero(self) -> Storage:
        if self._storage is None:
            raise LitVizError("only rank 0 has the results of a run")
        return self._storage

    @property
    def evidence(self) -> Evidence:
        """The evidence of the end of the run, or of the last :meth:`check`.

        The evidence of a run in memory is computed at the first access.
        """
        if self._storage is not None and self.folder is None:
            self._verify_once()
        return self.stored_evidence

    @property
    def stored_evidence(self) -> Evidence:
        """The evidence that was computed so far."""
        kind = verifier_of(type(self._module)).evidence_class
        return kind() if self._storage is None else self._storage.evidence(kind)

    def faithfulness(self) -> Comparison:
        """Return the saliency metrics by method with 95 % intervals, as a table, a DataFrame and a figure.

        They are computed first, if :meth:`check` has not yet done so.

        Raises:
            LitVizError: the run has no saliency maps.
        """
        if not self._is_measured:
            self.check(faithfulness=True)
        return compare_runs([self.compared])

    @property
    def _is_measured(self) -> bool:
        """Whether the evidence has saliency metrics."""
        evidence = self.stored_evidence
        return isinstance(evidence, SaliencyEvidence) and evidence.faithfulness is not None

    @property
    def compared(self) -> ComparedRun:
        """The run as it is compared with others."""
        name = "memory" if self.folder is None else str(self.folder)
        return ComparedRun(name, self._network.name, self.presentation, self.outcomes, self.stored_evidence)

    def check(
        self,
        *,
        faithfulness: bool = False,
        trust: bool = False,
        images: Paths = (),
        progress: bool | None = None,
    ) -> bool:
        """Compute all evidence of the run, as :func:`lit_viz.check` does.

        Args:
            faithfulness: also compute saliency metrics.
            trust: also run stronger attacks on images that an attack with a budget did not fool.
            images: files or folders with which class images are compared.
            progress: show messages.

        Returns:
            True if no check has failed.
        """
        if self._storage is None:
            return True
        notify = choose_notify(progress is not False)
        settings = check_settings(self._module, self._options, faithfulness, trust, notify, images)
        if isinstance(self._storage, FolderStorage):
            passed = check_folder(self._module, self._options, self._storage, settings)
        else:
            passed = self._verify(settings)
        self.outcomes = self._storage.outcomes()
        return passed

    def _verify_once(self) -> None:
        """Compute the evidence of the end of a run in memory, unless it is stored."""
        if not self.stored_evidence.to_dict():
            self._verify(evidence_settings(self._options, ignore))

    def _verify(self, settings: EvidenceSettings) -> bool:
        """Compute the evidence of a run in memory."""
        storage = self._on_rank_zero()
        self._network.refresh()
        with gradients_enabled(), failures_of_run(self._module, self._options):
            passed = verify_outcomes(self._module, storage.outcomes(), storage, settings)
        self.outcomes = storage.outcomes()
        return passed

    def captions(self) -> AbstractContextManager[None]:
        """Add the settings, and of a multi-label network the meaning of its outputs, to the captions of figures."""
        return footer(self._settings_line(), _output_caption(self._module))

    def _settings_line(self) -> str:
        """Return the network, the parts of the method with the numbers that are not their defaults, the iterations of
        the records, and the seed."""
        arguments, varied = self._module.arguments, _varied_values(self._tasks)
        described: list[str] = []
        for value in arguments.values():
            described += [_describe(part, varied) for part in as_list(value) if isinstance(part, Part)]
        counts = [self._iterations_text()]
        if arguments.get("views") is not None:
            counts.append(pluralize(arguments["views"], "view"))
        seed = self._tasks[0].seed if self._tasks else 0
        return " · ".join([self._network.name, ", ".join(described), *filter(None, counts), f"seed {seed}"])

    def _iterations_text(self) -> str:
        """Return the iterations that were made, and their limit where tasks ended before: ``10, 20 iterations``,
        ``3 to 57 of at most 100 iterations``."""
        made = {record.iterations for record in self.records if record.status == "done"} - {None}
        limits = {self._module.last_iteration(task) for task in self._tasks if task.error is None}
        if not limits:
            return ""
        text = _values_text(limits)
        if made != limits:
            text = f"at most {text}"
            if made:
                text = f"{_values_text(made)} of {text}"
        if text in ("1", "at most 1"):
            return f"{text} iteration"
        return f"{text} iterations"


@dataclass
class Endings:
    """How the tasks of a run have ended.

    Attributes:
        counts: number of tasks by status.
        first: the first record of each status but ``done``.
        errors: different messages, the first ones of each status.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, Record] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Count the record of a task that is not done."""
        self.counts[record.status] += 1
        self.first.setdefault(record.status, record)
        errors = self.errors.setdefault(record.status, [])
        text = f"{record.name}: {record.error}"
        if record.error and len(errors) < MOST_PRINTED and text not in errors:
            errors.append(text)

    def explained(self) -> list[str]:
        """Return the messages of the tasks that have failed; if no task is done, those of all."""
        texts = list(self.errors.get("failed", ()))
        if not self.counts["done"]:
            for status, others in self.errors.items():
                if status != "failed":
                    texts += others
        return texts[:MOST_PRINTED]


def check_finished(endings: Endings, folder: Path | None) -> str | None:
    """Check that a task of a run is done; its folder, if it has one, is complete in any case.

    Returns:
        The number of failed and skipped tasks, and the first reason: ``1 failed of 4 images: cat: no image``; None if
        all tasks are done.

    Raises:
        LitVizError: all tasks have failed.
    """
    unfinished = {status: endings.counts[status] for status in ("failed", "skipped") if endings.counts[status]}
    if not unfinished:
        return None
    first = endings.first[next(iter(unfinished))]
    total = endings.counts.total()
    text = f"{status_summary(unfinished)} of {pluralize(total, 'image')}: {first.name}: {first.error}"
    if endings.counts["failed"] < total:
        return text
    where = "" if folder is None else f"; see {folder}"
    raise LitVizError(f"{text}{where}")


def _stack(tensors: Sequence[Tensor | None]) -> Tensor:
    """Stack tensors ``(...)`` to ``(N, ...)``, with NaN for None."""
    filled = _filled(tensors, lambda present: torch.full_like(present, torch.nan))
    if not filled:
        return torch.empty(0)
    return torch.stack(filled)


def _filled(values: Sequence[T | None], blank_like: Callable[[T], T]) -> list[T]:
    """Return arrays with a blank one of the same shape in place of each None; an empty list if all are None."""
    first = next((value for value in values if value is not None), None)
    if first is None:
        return []
    blank = blank_like(first)
    return [blank if value is None else value for value in values]


def _values_text(values: Iterable[int | None]) -> str:
    """Return different numbers in ascending order, of many the least and the largest: ``10, 20``, ``3 to 57``."""
    ordered = sorted(value for value in values if value is not None)
    if len(ordered) > _MOST_VALUES:
        return f"{ordered[0]:,} to {ordered[-1]:,}"
    return ", ".join(f"{value:,}" for value in ordered)


def _varied_values(tasks: Sequence[Task]) -> dict[str, list[float]]:
    """Return the different values of radius and learning rate of tasks that have their own, by the name of the
    argument that they replace."""
    varied: dict[str, list[float]] = {"eps": [], "lr": []}
    for task in tasks:
        for name, values in varied.items():
            value = getattr(task, name)
            if value is not None and value not in values:
                values.append(float(value))
    return varied


def _describe(part: Part, varied: Mapping[str, Sequence[float]]) -> str:
    """Return the class of a part, and the numbers that are not their defaults, or those of the tasks."""
    shown = []
    arguments = part.arguments
    for parameter in signature(type(part)).parameters.values():
        value = arguments.get(parameter.name)
        if value is None:
            value = getattr(part, parameter.name, None)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        values = varied.get(parameter.name) or [value]
        if [*values] == [parameter.default]:
            continue
        texts = [number_text(value) for value in values]
        if parameter.name == "eps" and isinstance(part, BudgetAttack):
            texts = [format_distance(float(value), part.norm.name) for value in values]
        shown.append(f"{parameter.name} {', '.join(texts)}")
    name = type(part).__name__
    return f"{name} ({', '.join(shown)})" if shown else name


def _output_caption(module: ImageTraining) -> str:
    """Return what captions state of the scores of a run; empty for the logits of exclusive classes."""
    caption = scores_caption(type(module), module.network)
    return f"{caption} {ONE_DRAW}".strip() if module.network.draws else caption


# -- evidence


def verify_outcomes(
    module: ImageTraining, outcomes: Sequence[Outcome], storage: Storage, settings: EvidenceSettings
) -> bool:
    """Compute the evidence of a run and show it; return whether no check has failed."""
    verifier = verifier_of(type(module))(module, outcomes, storage, settings)
    kind, presentation = verifier.evidence_class, presentation_of(type(module))
    for text in presentation.messages(verifier):
        settings.notify(text)
    if module.network.draws:
        storage.merge_evidence(kind(one_draw=True))
        settings.notify(ONE_DRAW)
    done = sum(outcome.record.status == "done" for outcome in outcomes)
    not_done = sum(1 for _ in storage.not_done())
    unchecked = kind(unchecked=len(storage.records()) - not_done - done)
    if unchecked.unchecked or storage.evidence(kind).unchecked:
        storage.merge_evidence(unchecked)
    if unchecked.unchecked:
        settings.notify(unchecked.unchecked_text)
    return verifier.verify(presentation.show)


def evidence_settings(options: RunOptions, notify: Notify) -> EvidenceSettings:
    """Return the settings of the evidence at the end of a run."""
    return EvidenceSettings(
        captum=options.captum,
        faithfulness=options.faithfulness,
        localize=options.localize,
        boxes=options.boxes,
        explain=options.explain,
        notify=notify,
        precision=options.half_precision,
    )


def check_settings(
    module: ImageTraining,
    options: RunOptions,
    faithfulness: bool,
    trust: bool,
    notify: Notify | None,
    images: Paths = (),
) -> EvidenceSettings:
    """Return the settings of all evidence, without a time limit.

    Raises:
        LitVizError: a requested kind of evidence does not apply to the method.
    """
    given = [images] if isinstance(images, (str, Path)) else images
    files = [str(path) for path in given]
    requested: Mapping[str, bool] = {"faithfulness": faithfulness, "trust": trust, "images": bool(files)}
    for name, is_requested in requested.items():
        if is_requested and name not in verifier_of(type(module)).applicable:
            raise LitVizError(f"{name} does not apply to {type(module).__name__}: leave it out")
    at_end = evidence_settings(options, notify or ignore)
    measures = faithfulness or at_end.faithfulness
    return replace(at_end, at_end_of_run=False, faithfulness=measures, trust=trust, images=files)


def check_folder(module: ImageTraining, options: RunOptions, folder: FolderStorage, settings: EvidenceSettings) -> bool:
    """Compute evidence for the outcomes in a run folder, and write it there; return whether no check has failed.

    Before, the folder is compared with its digests. Afterwards, figures that are missing or damaged are drawn again.

    Raises:
        LitVizError: the folder is in use, is not complete, was changed, or is of another network.
    """
    tune_allocator()
    module.network.refresh()
    with gradients_enabled(), run_lock(folder.path), failures_of_run(module, options):
        damaged = verify(folder)
        check_identity(folder, module.network)
        check_records(folder, module.network)
        folder.discard(damaged)
        give_photographs(folder, module)
        if isinstance(folder, TarStorage):
            for text in folder.missing_photographs():
                settings.notify(text)
        run = Run(module, folder.queue(), options, folder)
        is_drawn = run.is_drawn and not any(map(is_drawing, damaged))
        return complete(run, module, folder, settings, draws=not is_drawn)


def complete(
    run: Run, module: ImageTraining, folder: FolderStorage, settings: EvidenceSettings | None, *, draws: bool
) -> bool:
    """Complete the folder of a run with finished images: evidence, figure and report.

    Args:
        run, module: the run and its method.
        folder: its folder.
        settings: which evidence is computed; None for none.
        draws: whether the figure is drawn.

    Returns:
        False if a check has failed.
    """
    passed = True
    sample = run.sample()
    if settings is not None:
        with sample.captions():
            passed = verify_outcomes(module, sample.outcomes, folder, settings)
        if settings.faithfulness and sample._is_measured:
            comparison = sample.faithfulness()
            settings.notify(comparison.table())
            comparison.save(folder.path)
    if draws:
        sample.draw()  # the figure shows evidence
    write_report(folder, sample.presentation, sample.stored_evidence, sample.outcomes)
    folder.seal()
    return passed


def give_photographs(folder: FolderStorage, module: ImageTraining) -> None:
    """Let a storage without copies of the photographs read them from their files."""
    if not isinstance(folder, TarStorage) or not isinstance(module, PhotographTraining):
        return
    tasks: list[StoredTasks] = []

    def read(record: Record) -> Tensor:
        if not tasks:
            tasks.append(folder.queue())
        return module.photograph(tasks[0].of_index(record.index))

    folder.read_source = read
