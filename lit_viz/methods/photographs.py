"""Base classes of the methods that start from photographs, and labels and targets that depend on their logits."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_viz.attacks import Attack, BudgetAttack, without_radius
from lit_viz.engine.evaluator import Evaluator
from lit_viz.engine.method import Schedule
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.sources import input_name, is_replaced, replaced_sources, tile_of
from lit_viz.errors import LitVizError, SkippedTask, require
from lit_viz.images.formats import FileFormat
from lit_viz.images.rasters import FileOptions, FittedImage, image_size, read_image, runs_of
from lit_viz.images.reading import Fit
from lit_viz.images.sources import DatasetImages, Pictures
from lit_viz.images.tiles import tiles_of
from lit_viz.networks import Network
from lit_viz.networks.outputs import FINAL
from lit_viz.objectives import Objective
from lit_viz.optim import Evaluation, State, StepRule
from lit_viz.rng import Draws, Key
from lit_viz.types import Task
from lit_viz.utils.device import to_cpu
from lit_viz.utils.formatting import pluralize
from lit_viz.utils.parts import short_name

#: Fields of a record that the file of its photograph determines.
OF_READING = ("original_size", "original_box", "format", "clipped", "filled", "no_data")
#: State key of the logits of the photographs.
LOGITS = "logits"
#: Values of the option ``target`` that derive the target from the label or the logits.
TARGET_RULES = ("label", "predicted", "random", "least-likely")
#: Value of the option ``rule`` of a photograph of which a network of images and text says nothing.
NOTHING_SAID = "nothing said"
#: Source of labels and targets that the network itself says of a photograph.
SAID = "said"
#: Source of labels that are read with the images of a dataset.
DATASET = "dataset"
#: Value of the option ``against`` that selects the most probable class other than the target.
RUNNER_UP = "runner-up"


class PhotographTraining(ImageTraining):
    """Train something for each photograph of a queue.

    Photographs are read when a slot is free. Labels and targets that depend on their logits are resolved then.

    Args:
        network, step_rule: see :class:`~lit_viz.engine.method.Method`.
        fit: how photographs are fitted to the input size of the network; by default its ``resizing``, or
            ``"crop"`` without one.
        images: pictures ``(C, H, W)`` in place of files; the task's option ``image`` is the index.
        slots: photographs at once; 16 are the fastest batch on CPUs.
        limits: other arguments of :class:`~lit_viz.engine.method.Method`.

    Attributes:
        tiles_overlap: whether the tiles of large images overlap and cover them; if not, they are those that fit.
        reads_final: whether labels, targets and thresholds depend on the final scores of the photographs.
    """

    usual_tasks: ClassVar[str] = "lit_viz.ImageTasks"
    tiles_overlap: ClassVar[bool] = True
    reads_final: ClassVar[bool] = False

    advice = "check the network with this photograph"

    def __init__(
        self,
        network: Network | nn.Module | str,
        step_rule: StepRule,
        *,
        fit: Fit | None = None,
        images: Pictures = (),
        slots: int = 16,
        log_at: Schedule = "geometric",
        **limits: Any,
    ) -> None:
        super().__init__(network, step_rule, slots=slots, log_at=log_at, **limits)
        self.fit, self.images = fit or self.network.resizing or "crop", images
        self._read_options: dict[int, dict[str, Any]] = {}  # what was read of a file, by task
        self._original_logits: dict[int, Tensor] = {}  # of the original network, by task

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (self.network.channels, *self.network.size)

    # Tiles

    def expand_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return a task per tile of images that are read by tiles, with the same goal for all tiles of an image; other
        tasks are unchanged."""
        if not any(task.tiling is not None for task in tasks):
            return tasks
        expanded: list[Task] = []
        means: dict[Hashable, Tensor | None] = {}
        for image, task in enumerate(tasks):
            tiles = self._tile_tasks(task, image)
            if has_open_goal(tiles[0]):
                key = (task.source, task.image)
                if key not in means:
                    means[key] = self._mean_scores(tiles)
                tiles = _with_goal(tiles, means[key], self.network.labels)
            for tile in tiles:
                expanded.append(replace(tile, index=len(expanded)))
        return expanded

    def _tile_tasks(self, task: Task, image: int) -> list[Task]:
        """Return a task per tile of an image, without their indices; an image that can't be read is one failed task."""
        overlap = self._overlap(task.tiling or {})
        task = replace(task, tiling=None)
        try:
            if task.error is not None:
                raise LitVizError(task.error)
            size = image_size(self._source(task), self.network.bands, FileOptions(**(task.reading or {})))
        except LitVizError as error:
            return [replace(task, error=str(error))]
        tile_size = self.network.size
        tiles = tiles_of(image, size, tile_size, overlap, covers=self.tiles_overlap)
        rows = size[0] - max(tile.rows.stop for tile in tiles)
        columns = size[1] - max(tile.columns.stop for tile in tiles)
        if rows or columns:
            self.notes.append(f"{task.name}: the last {rows} rows and {columns} columns fill no tile, and are left out")
        tasks: list[Task] = []
        for tile in tiles:
            name, seed = task.name + tile.suffix, task.seed + len(tasks)
            tasks.append(replace(task, name=name, seed=seed, tile=tile.to_dict()))
        return tasks

    def _overlap(self, tiling: Mapping[str, int | None]) -> int:
        overlap = tiling.get("overlap")
        if self.tiles_overlap:
            if overlap is None:
                return min(self.network.size) // 8
            return overlap
        require(not overlap, "tiles of attacks must share no pixels, with overlap 0", overlap, is_argument=False)
        return 0

    def _mean_scores(self, tiles: Sequence[Task]) -> Tensor | None:
        """Return the mean scores ``(K,)`` of the tiles of an image that can be read; None without any."""
        total, count = torch.zeros(self.network.num_classes, dtype=torch.float64), 0
        for first in range(0, len(tiles), self.capacity):
            pixels: list[Tensor] = []
            for tile in tiles[first : first + self.capacity]:
                with suppress(LitVizError):  # of its task
                    pixels.append(self._load(tile).pixels)
            if pixels:
                total += self._scores(torch.stack(pixels).float()).double().sum(0)
                count += len(pixels)
        if count:
            return (total / count).float()
        return None

    # Start

    def validate_tasks(self, tasks: Sequence[Task]) -> None:
        """Require photographs, and the images of tasks that have no file."""
        self.check_photographs(tasks)
        if not len(self.images) and any(task.source is None and task.image is not None for task in tasks):
            raise LitVizError(
                "the photographs of this run are arrays: resume it in Python, with the original call and resume=True"
            )

    def check_photographs(self, tasks: Sequence[Task]) -> None:
        """Check that tasks are of photographs.

        Raises:
            LitVizError: a task has neither a file nor an image.
        """
        for task in tasks:
            if task.source is None and task.image is None and task.photographs is None:
                name = type(self).__name__
                raise LitVizError(f"{name} takes tasks of photographs, such as ImageTasks, got {task.name!r}")

    def on_fit_start(self) -> None:
        """Compare an image that has no file with the one that a resumed run has read: the others may be in another
        order too."""
        super().on_fit_start()
        for task in self.tasks if self.has_inputs else ():
            if task.source is None and task.image is not None and self.has_read(input_name(task)):
                self._read(task)
                return

    def start(self, task: Task) -> Tensor:
        """Return the photograph ``(C, H, W)``, on the 8-bit lattice unless it is a floating-point picture of this size.

        Raises:
            ChangedInput: it is not the one that an earlier task has read, or that the queue has listed.
            SkippedTask: the network says nothing of it.
            LitVizError: it can't be read, or its label or target is invalid.
        """
        if (error := task.error) is not None:
            raise LitVizError(error)
        photograph = self._read(task)
        if task.rule == NOTHING_SAID:
            raise SkippedTask(f"the network says nothing of {task.name}: give answers or target")
        self._read_options[task.index] = self._read_fields(task, photograph)
        return photograph.pixels

    def read_fields(self, task: Task) -> dict[str, Any]:
        """Read the photograph of a task again, and return the fields of the record that its file determines, those
        that have not their default; errors of :meth:`start`."""
        return self._read_fields(task, self._load(task))

    def _read_fields(self, task: Task, photograph: FittedImage) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if task.source is not None or photograph.original_size != self.network.size:
            fields["original_size"] = list(photograph.original_size)
            fields["original_box"] = list(photograph.box)
        file_format = photograph.format.to_dict()
        if file_format is not None:
            fields["format"] = file_format
        if photograph.clipped:
            fields["clipped"] = photograph.clipped
        if photograph.filled:
            fields["filled"] = photograph.filled
        if photograph.no_data is not None:
            fields["no_data"] = runs_of(photograph.no_data)
        return fields

    def photograph(self, task: Task) -> Tensor:
        """Return the photograph ``(C, H, W)`` of a task, as the network receives it; errors of :meth:`start`."""
        return self._read(task).pixels

    def _read(self, task: Task) -> FittedImage:
        is_of_run = self._trainer is not None
        if is_of_run and not self.has_read(input_name(task)) and is_replaced(task):
            raise replaced_sources([str(task.source)])
        photograph = self._load(task)
        remedy = "give the same images in the same order" if task.source is None else "restore the file"
        self.check_input(input_name(task), photograph.pixels, remedy)
        return photograph

    def _load(self, task: Task) -> FittedImage:
        """Return the photograph of a task, or its tile."""
        options, window = FileOptions(**(task.reading or {})), tile_of(task)
        return read_image(self._source(task), self.network.size, self.network.bands, self.fit, options, window)

    def _source(self, task: Task) -> str | Tensor:
        """Return the file or the image of a task."""
        if task.source is not None:
            return task.source
        assert task.image is not None
        return self.images[task.image]

    def resolve_tasks(self, tasks: Sequence[Task], x: Tensor) -> list[Task | LitVizError]:
        """Return the tasks with label, target and the box of the photograph in the original image.

        The original network evaluates only photographs for which this is required.
        """
        tasks = [self.with_dataset_label(task) for task in tasks]
        rows = [m for m, task in enumerate(tasks) if self.needs_original(task)]
        columns = self.own_columns([tasks[m] for m in rows])
        scores = self.network.scores_alone(x[rows], final=self.reads_final, columns=columns) if rows else ()
        logits = dict(zip(rows, scores, strict=True))
        self._original_logits |= {tasks[m].index: row for m, row in logits.items()}
        resolved: list[Task | LitVizError] = []
        for m, task in enumerate(tasks):
            try:
                task = self.resolve_task(task, logits.get(m))
            except LitVizError as error:
                resolved.append(error)
                continue
            read = self._read_options.pop(task.index, None)
            if read:
                task = task.amend(**read)
            resolved.append(task)
        return resolved

    def own_columns(self, tasks: Sequence[Task]) -> list[int] | None:
        """Return the index of the only score of each photograph that its task requires; None if it requires all."""
        return None

    def _scores(self, x: Tensor) -> Tensor:
        """Return the scores ``(N, K)`` of photographs by the original network, the same in any batch."""
        return self.network.scores_alone(x, final=self.reads_final)

    def with_dataset_label(self, task: Task) -> Task:
        """Return a task with the label that a dataset gave with the image; predicted if it gave none."""
        if task.label is not None or task.label_source != DATASET:
            return task
        label = None
        if task.image is not None and isinstance(self.images, DatasetImages):
            label = self.images.label(task.image)
        return task.amend(label=label, label_source="predicted" if label is None else DATASET)

    def needs_original(self, task: Task) -> bool:
        """Return whether the original network must evaluate the photograph before training."""
        return self.is_half or not self.network.rule.is_exclusive or needs_logits(task)

    def resolve_task(self, task: Task, logits: Tensor | None) -> Task:
        """Return the task with label and target, as far as they can be resolved.

        Raises:
            LitVizError: label or target is invalid.
        """
        return resolve(task, logits, self.network.labels)

    def on_slots_filled(self, rows: Sequence[int]) -> None:
        for n in rows:
            logits = self._original_logits.pop(self.slots.tasks[n].index, None)
            if logits is not None:
                self.set_photograph_logits([n], logits[None])
                self.slots.count_evaluations([n], forwards=1)

    def init_state(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the initial state, with NaN as the logits of the photographs."""
        state = super().init_state(x, tasks)
        if LOGITS in state:
            raise LitVizError(f"{type(self.step_rule).__name__} must not use the reserved state key {LOGITS!r}")
        return {**state, LOGITS: torch.full((len(x), self.network.num_classes), torch.nan, device=x.device)}

    def photograph_logits(self, n: int) -> Tensor | None:
        """Return the logits ``(K,)`` of the photograph in a slot, or None if it was not evaluated."""
        logits = to_cpu(self.slots.state[LOGITS])[n]
        return None if bool(logits[0].isnan()) else logits

    def without_logits(self, rows: Sequence[int]) -> list[int]:
        """Return the positions in ``rows``, which are slots, of the photographs that were not evaluated."""
        is_missing = to_cpu(self.slots.state[LOGITS])[:, 0].isnan().tolist()
        return [m for m, n in enumerate(rows) if is_missing[n]]

    def set_photograph_logits(self, rows: Sequence[int], logits: Tensor) -> None:
        """Store the logits ``(M, K)`` of the photographs in these slots."""
        # In place, because the rule may return the state it received; no rule writes this tensor.
        self.slots.state[LOGITS][rows] = logits.to(self.slots.state[LOGITS])

    def store_photograph_logits(self, x: Tensor, rows: Sequence[int], evaluation: Evaluation) -> None:
        """Store the logits of those evaluated images that are unmodified photographs without logits."""
        iteration, photographs = self.slots.iteration, self.slots.x
        same: list[int] = []
        for m in self.without_logits(rows):
            image, photograph = x[m], photographs[rows[m]]
            is_initial = iteration[rows[m]] == 0
            if is_initial and (image.data_ptr() == photograph.data_ptr() or torch.equal(image, photograph)):
                same.append(m)
        if same:
            self.set_photograph_logits([rows[m] for m in same], evaluation.logits[same])

    def format_of(self, n: int) -> FileFormat:
        """Return the format of the file of the photograph in a slot."""
        return FileFormat.of(self.slots.tasks[n].format)

    def crop_fields(self, n: int) -> dict[str, Any]:
        """Return the record fields that locate a photograph in the original, those of its file, and the region that the
        scores are about.

        All may be absent: of a picture of 8 bits and the input's size, and of a network without a region.
        """
        task = self.slots.tasks[n]
        fields = {key: value for key in OF_READING if (value := getattr(task, key)) is not None}
        output = self.network.output
        if output.box is not None:
            fields["output_box"] = list(output.box)
        if output.outline is not None:
            fields["output_outline"] = output.outline
        if output.note is not None:
            fields["output_note"] = output.note
        return fields


class AttackTraining(PhotographTraining):
    """Train images or perturbations by an attack.

    Args:
        network: frozen network.
        attack: step rule and objective.
        views: network inputs per iteration.
        residual_gradient: factor in (0, 1] of the gradient through residual branches. Less than 1 improves the transfer
            to other networks (Wu et al. 2020, "Skip Connections Matter", arXiv:2002.05990) and costs iterations.
        iterations: maximum number of updates; by default that of the attack.
        curve_at: iterations at which the metrics are logged.
        options: other arguments of :class:`PhotographTraining`.

    Raises:
        LitVizError: an argument is invalid.
    """

    tiles_overlap: ClassVar[bool] = False
    reads_final: ClassVar[bool] = True

    def __init__(
        self,
        network: Network | nn.Module | str,
        attack: Attack,
        views: int,
        *,
        residual_gradient: float = 1.0,
        iterations: int | None = None,
        curve_at: Schedule = "every:1",
        **options: Any,
    ) -> None:
        super().__init__(
            network,
            attack,
            iterations=attack.iterations if iterations is None or attack.fixed else iterations,
            curve_at=curve_at,
            views=views,
            **options,
        )
        self.attack = attack
        if attack.fixed and iterations not in (None, attack.iterations):
            count = pluralize(attack.iterations, "update")
            self.notes.append(f"{short_name(type(attack))} takes {count}; iterations={iterations} has no effect")
        self.notes += attack.restart_schedule.notes(self.iterations)
        require(0 < residual_gradient <= 1, "residual_gradient must be above 0 and at most 1", residual_gradient)
        self.residual_gradient = residual_gradient

    def validate_tasks(self, tasks: Sequence[Task]) -> None:
        """Require radii that are valid in the norm of the attack, and enough classes for its objective."""
        super().validate_tasks(tasks)
        for radius in dict.fromkeys(task.eps for task in tasks if task.eps is not None):
            if not isinstance(self.attack, BudgetAttack):
                raise LitVizError(without_radius(type(self.attack)))
            self.attack.check_radius(radius, type(self.attack).__name__)
        for targeted in sorted({is_targeted(task) for task in tasks}):
            self.attack.check_classes(self.network, targeted=targeted)

    def prepare(self, device: torch.device) -> None:
        self._evaluator = Evaluator(
            {"plain": self.make_network((), device, residual_gradient=self.residual_gradient)},
            self.attack.objective,
            self.network.normalize,
            make_inputs=self.make_inputs,
            views=self.views,
            ranks=self.ranks,
            layers=[FINAL] if self.network.output.has_final else [],
            rule=self.network.rule,
        )

    def make_inputs(self, x: Tensor, draws: Draws) -> Tensor:
        """Return the network inputs of ``x`` ``(N, C, H, W)``, one row per draw; ``x`` itself by default."""
        return x


def has_open_goal(task: Task) -> bool:
    """Return whether target or contrasted class of a task depend on the logits of its photograph."""
    return task.against == RUNNER_UP or (task.target is None and needs_logits(task))


def _with_goal(tiles: Sequence[Task], scores: Tensor | None, labels: Sequence[str]) -> list[Task]:
    """Return the tasks of an image with one label and one goal, by its mean scores ``(K,)``."""
    try:
        first = resolve(tiles[0], scores, labels)
    except LitVizError as error:
        return [replace(tile, error=str(error)) for tile in tiles]
    with_goal: list[Task] = []
    for tile in tiles:
        goal = {name: getattr(first, name) for name in ("label", "target", "target_name", "against")}
        with_goal.append(replace(tile, **goal))
    return with_goal


def said_columns(tasks: Sequence[Task]) -> list[int] | None:
    """Return the index of the text that the network says of each photograph; None unless all tasks are of their own."""
    columns: list[int] = []
    for task in tasks:
        if task.label_source != SAID or task.goal is None or task.against is not None:
            return None
        columns.append(task.goal)
    return columns


def needs_logits(task: Task) -> bool:
    """Return whether label, target or contrasted class of a task depend on the logits of its photograph."""
    return (
        (task.label is None and task.label_source == "predicted")
        or (task.target is None and task.rule in TARGET_RULES)
        or task.against == RUNNER_UP
    )


def is_targeted(task: Task) -> bool:
    """Return whether a task has a target, resolved or not."""
    return task.target is not None or task.rule in TARGET_RULES


def resolve(task: Task, logits: Tensor | None, labels: Sequence[str]) -> Task:
    """Return the task with label, target and target name, as far as they can be resolved.

    A label is predicted if ``label_source`` is ``"predicted"``. The option ``target`` selects the label, the predicted
    class, a class drawn uniformly from all but the label, or the least likely class. The option ``against`` is the
    class that the target is contrasted with; ``"runner-up"`` selects the most probable class other than the target.

    Args:
        task: the task.
        logits: logits ``(K,)`` of its photograph, or None before its evaluation.
        labels: K class names.

    Raises:
        LitVizError: the target is random and there is only one class, or the target is contrasted with itself.
    """
    label, target, rule = task.label, task.target, task.rule
    if label is None and task.label_source == "predicted" and logits is not None:
        label = int(logits.argmax())
    if target is None and rule == "label":
        target = label
    elif target is None and rule == "random" and label is not None:
        target = _random_target(task, label, len(labels))
    elif target is None and rule in ("predicted", "least-likely") and logits is not None:
        target = int(logits.argmax() if rule == "predicted" else logits.argmin())
    against = task.against
    if against == RUNNER_UP and target is not None and logits is not None:
        against = next(
            (index for index in logits.topk(min(2, len(logits))).indices.tolist() if index != target), target
        )
    name = None if target is None else labels[target]
    if name is not None and isinstance(against, int):
        if target == against:
            raise LitVizError(f"against must be another class than the target, got {name} for both")
        name = f"{name} vs. {labels[against]}"
    if (label, target, name, against) == (task.label, task.target, task.target_name, task.against):
        return task
    return task.amend(label=label, target=target, target_name=name, against=against)


def class_tasks(
    network: Network,
    targets: Sequence[str | int],
    against: Sequence[str | int] | str | int | None,
    seed: int,
    source: str | None = None,
) -> list[Task]:
    """Return a task per class, by name or index.

    Args:
        network: network with the classes.
        targets: classes to reach.
        against: classes that they are contrasted with, one for all or one per target.
        seed: of the first task.
        source: initial photograph.

    Raises:
        LitVizError: a class does not exist, or the number of contrasted classes differs from that of the targets.
    """
    contrasts = [against] if against is None or isinstance(against, (str, int)) else list(against)
    contrasts = contrasts * len(targets) if len(contrasts) == 1 else contrasts
    if len(contrasts) != len(targets):
        raise LitVizError(f"against must be one class, or one per target: got {len(contrasts)} for {len(targets)}")
    tasks = []
    for index, (word, contrast) in enumerate(zip(targets, contrasts, strict=True)):
        against = None if contrast is None else network.index_of(contrast)
        task = Task(index, "", seed + index, target=network.index_of(word), source=source, against=against)
        task = resolve(task, None, network.labels)
        tasks.append(replace(task, name=str(task.target_name)))
    return tasks


def contrast_fields(task: Task, objective: Objective) -> dict[str, Any]:
    """Return the record fields of the class that the target of a task is contrasted with; empty without one."""
    if task.against is None:
        return {}
    return {"against": task.against, "gamma": getattr(objective, "gamma", None)}


def check_gamma(tasks: Sequence[Task], objective: Objective) -> None:
    """Raise an error for a weight of classes to contrast the targets with, if no task has one."""
    gamma = getattr(objective, "gamma", 1)
    if gamma == 1:
        return
    has_none = all(task.against is None for task in tasks if task.error is None)
    require(not has_none, "gamma requires against", gamma, hint="give the class to contrast with")


def with_gamma(task: Task, objective: Objective) -> Task:
    """Return a task with the option ``gamma`` for its captions: the weight of the class that its target is contrasted
    with, if it is not 1."""
    gamma = getattr(objective, "gamma", 1)
    if task.against is None or gamma == 1:
        return task
    return replace(task, gamma=gamma)


def _random_target(task: Task, label: int, classes: int) -> int:
    if classes < 2:
        raise LitVizError(f"{task.name}: a random target requires at least 2 classes, got {classes}")
    drawn = int(Draws([Key(task.seed, 0)]).integers("random target", 0, classes - 2))
    return drawn + (drawn >= label)


def check_goal(task: Task) -> Task:
    """Return the task of an attack.

    Raises:
        LitVizError: it has neither a label nor a target.
    """
    if task.goal is None:
        raise LitVizError(f"{task.name} has neither a label nor a target: give label or target")
    return task
