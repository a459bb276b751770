"""Saliency maps: pixels that determine the score of a class."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_viz.attributions import ATTRIBUTIONS, AUTO, Attribution, FunctionMap, automatic_method
from lit_viz.attributions.reducers import SIGNED, reduce_channels
from lit_viz.attributions.reducers import reducer as find_reducer
from lit_viz.attributions.terms import empty_record
from lit_viz.engine.evaluator import Evaluator
from lit_viz.engine.method import Schedule, check_at_least_one
from lit_viz.engine.slots import select_rows
from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.engine.sources import input_name
from lit_viz.errors import ArgumentError, LitVizError, check_shape, find_part, require, value_text
from lit_viz.images.rasters import mask_of
from lit_viz.images.rendering import BandBars, Heat, has_both_signs
from lit_viz.methods.goals import check_numbers
from lit_viz.methods.photographs import (
    LOGITS,
    RUNNER_UP,
    PhotographTraining,
    check_gamma,
    contrast_fields,
    resolve,
    said_columns,
    with_gamma,
)
from lit_viz.networks import FrozenNetwork, Network, as_network
from lit_viz.networks.decisions import Ranking
from lit_viz.networks.fast import Backprop
from lit_viz.networks.isolation import full_float32
from lit_viz.objectives.classes import ClassScore
from lit_viz.optim import Evaluation, State
from lit_viz.runs.records import SaliencyRecord
from lit_viz.types import Record, Task
from lit_viz.utils.device import to_cpu
from lit_viz.utils.parts import distinct_names, settings_of, short_name
from lit_viz.utils.sequences import LazySequence, as_list

#: Photographs that get a map.
Only = Literal["errors"]
#: Names of uncertainties in records, where ``error`` is the message of a failed task.
_METRIC_NAMES = {"error": "relative_error"}


class SaliencyMap(PhotographTraining):
    """Compute saliency maps of photographs (Simonyan et al. 2014, arXiv:1312.6034, section 3).

    Evaluations are accumulated and the photograph does not change: iteration k of a map is the map after k
    evaluations. Each attribution method of a photograph is a task.

    Args:
        network: frozen network, a module or a name.
        method: attribution method or methods, which are copied, functions
            (:class:`~lit_viz.attributions.FunctionMap`), or their names in
            :data:`~lit_viz.attributions.ATTRIBUTIONS`; ``auto``: ``libra_gradient`` of transformers, otherwise
            ``gradient`` (:func:`~lit_viz.attributions.automatic_method`), which is recorded.
        reducer: reduction of an attribution ``(C, H, W)`` to the displayed map ``(H, W)``, by name:
            ``max_abs``, ``sum_abs``, ``l2``, ``positive``, ``above_least`` or ``sum``; by default that of the method.
        tolerance: relative error at which a map is done; by default it takes all its evaluations.
        batch: inputs per step over all slots, also if there is a single photograph.
        gamma: weight of the class that a task's option ``against`` names (see
            :class:`~lit_viz.objectives.classes.ClassScore`).
        iterations: evaluations per map; by default that of each method.
        only: ``errors`` for the photographs that are not predicted as their given label; by default all.
        curve_at: iterations at which the metrics are logged.
        options: other arguments of :class:`~lit_viz.methods.photographs.PhotographTraining`.

    Raises:
        LitVizError: an argument is invalid, or a method does not support the network.
    """

    presentation = "lit_viz.presentations.saliency_map.SaliencyMapPresentation"
    verifier = "lit_viz.evidence.saliency_map.SaliencyMapVerifier"
    completed = ("method",)
    step_rule: Attribution  # that of the batch, whose tasks all have the same one (see can_batch)

    def __init__(
        self,
        network: Network | nn.Module | str,
        *,
        method: Attribution | str | Callable[..., Tensor] | Sequence[Attribution | str | Callable[..., Tensor]] = AUTO,
        reducer: str | None = None,
        tolerance: float | None = None,
        batch: int = 16,
        gamma: float = 1.0,
        iterations: int | None = None,
        curve_at: Schedule = "geometric",
        only: Only | None = None,
        **options: Any,
    ) -> None:
        network = as_network(network)
        methods = [_made(m, network) for m in as_list(method)]
        if not methods:
            raise LitVizError("method must name at least one saliency method, got none: try gradient")
        require(tolerance is None or tolerance > 0, "tolerance must be positive", tolerance, hint="try 0.5")
        check_at_least_one(batch=batch)
        names = [_name_of(m) for m in methods]
        if len({*names}) < len(names):
            names = distinct_names(names, [settings_of(m) for m in methods])
        self.methods = dict(zip(names, methods, strict=True))
        if len(self.methods) < len(methods):
            raise LitVizError(f"saliency methods of a run must differ, got {', '.join(names)}: give other settings")
        for m in methods:
            m.bind(network)
            m.objective = copy.copy(m.objective)  # that of the class is shared
            m.objective.bind(network)
            m.tolerance, m.batch = tolerance, batch
            if gamma != 1 and isinstance(m.objective, ClassScore):
                m.objective.gamma = m.objective.checked_gamma(gamma)
        most = iterations
        if most is None:
            most = max(m.evaluations for m in methods)
        super().__init__(network, methods[0], iterations=most, curve_at=curve_at, **options)
        self.method = methods if len(methods) > 1 else methods[0]
        self.given_iterations, self.batch, self.reducer = iterations, batch, reducer
        require(only in (None, "errors"), "only must be errors", only)
        if only is not None and not network.rule.is_exclusive:
            raise ArgumentError("only", "requires a network whose classes exclude each other: leave it out")
        self.tolerance, self.only = tolerance, only
        self._most: dict[str, int] = {}  # evaluations of a map of the run, by method
        self._texts: dict[str, str] = {}  # of the last photographs, by their names
        if reducer is not None:
            find_reducer(reducer)
        for name, m in self.methods.items():
            if iterations is not None and m.fixed and 1 < m.evaluations != iterations:
                self.notes.append(f"{name} takes {m.evaluations} evaluations; iterations={iterations} has no effect")
            if "layer" in (fields := m.record_fields()):
                self.notes.append(f"{name} reads the layer {fields['layer']}")

    # Tasks

    def expand_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return a task per tile and method, by default of the label, unless the tasks have a method; with the weight
        of a contrasted class."""
        tasks = super().expand_tasks(tasks)
        if self.only is not None:
            tasks = self._errors(tasks)
        if not all(task.method is not None for task in tasks):
            return _TasksOfMethods(tasks, [*self.methods], self._with_method)
        return list(map(self._with_gamma, tasks))

    def _errors(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks of photographs that are not predicted as their labels, and of those that can't be read.

        Raises:
            LitVizError: no task has a given label, or all photographs are predicted as theirs.
        """
        tasks = [self.with_dataset_label(task) for task in tasks]
        if not any(task.has_given_label for task in tasks):
            raise ArgumentError("only", "requires labels, got none: give label, such as folders")
        kept: list[Task] = []
        for first in range(0, len(tasks), self.batch):
            kept += self._errors_of_batch(tasks[first : first + self.batch])
        if not kept:
            raise ArgumentError("only", f"finds no error: all {len(tasks)} photographs are predicted as their labels")
        self.notes.append(f"only errors: {len(kept)} of {len(tasks)} photographs are not predicted as their labels")
        return [task.amend(index=index) for index, task in enumerate(kept)]

    def _errors_of_batch(self, tasks: Sequence[Task]) -> list[Task]:
        readable: list[Task] = []
        photographs: list[Tensor] = []
        unreadable: list[Task] = []
        for task in tasks:
            try:
                photographs.append(self.photograph(task))
                readable.append(task)
            except LitVizError:
                unreadable.append(task)  # it fails with the reason when its turn comes
        kept = list(unreadable)
        if photographs:
            predicted = self._scores(torch.stack(photographs)).argmax(1).tolist()
            for task, prediction in zip(readable, predicted, strict=True):
                if task.has_given_label and prediction != task.label:
                    kept.append(task)
        return sorted(kept, key=lambda task: task.index)

    def _with_method(self, task: Task, index: int, name: str) -> Task:
        """Return a task as that of a method, with another index."""
        with_method = task.amend(index=index, method=name)
        return self._with_gamma(self._with_target(with_method))

    def _with_gamma(self, task: Task) -> Task:
        return with_gamma(task, self.methods[_method_name(task)].objective)

    def _with_target(self, task: Task) -> Task:
        """Return a task without a target as one of its label, which is resolved at once if it is given."""
        if task.target is not None or task.error is not None or task.rule not in (None, "none"):
            return task
        task = task.amend(rule="label")
        try:
            return resolve(task, None, self.network.labels)
        except LitVizError as error:
            return replace(task, error=str(error))

    def validate_tasks(self, tasks: Sequence[Task]) -> None:
        """Require photographs, and of a network with several numbers their targets."""
        super().validate_tasks(tasks)
        check_numbers(tasks, self.network)
        for method in self.methods.values():
            check_gamma(tasks, method.objective)

    def last_iteration(self, task: Task) -> int:
        method = self.methods[_method_name(task)]
        if task.iterations is not None:
            return task.iterations
        if self.given_iterations is None or method.fixed:
            return method.evaluations
        return self.given_iterations

    def can_batch(self, task: Task, other: Task, iteration: int) -> bool:
        return _method_name(task) == _method_name(other)

    def init_state(self, x: Tensor, tasks: Sequence[Task]) -> State:
        self.step_rule = self.methods[_method_name(tasks[0])]
        state = super().init_state(x, tasks)
        recorded = self.step_rule.recorded
        most = 0 if recorded is None else self._most_evaluations(_method_name(tasks[0]))
        if recorded is None or not most:
            return state
        record = empty_record(recorded, x, most)
        if len(self.slots):
            restored = self.slots.state.get(recorded)
            # A batch that was restored from a checkpoint of another number of evaluations records nothing.
            if restored is None or restored.shape[1] != most:
                return state
        return state | record

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._most.clear()

    def _most_evaluations(self, method: str) -> int:
        """Return the largest number of evaluations of a map of a method in the run; 0 outside of a run."""
        if self._trainer is None:
            return 0
        if method not in self._most:
            tasks = (task for task in self.tasks if _method_name(task) == method)
            self._most[method] = max(map(self.last_iteration, tasks))
        return self._most[method]

    def on_slots_filled(self, rows: Sequence[int]) -> None:
        """Select the method of the batch, also of restored tasks."""
        super().on_slots_filled(rows)
        self.step_rule = self.methods[_method_name(self.slots.tasks[0])]

    def needs_original(self, task: Task) -> bool:
        """Return whether the goal depends on the original network; a predicted label is resolved at the end."""
        is_open = task.target is None or task.against == RUNNER_UP
        return self.is_half or (is_open and super().needs_original(task))

    def own_columns(self, tasks: Sequence[Task]) -> list[int] | None:
        return said_columns(tasks)

    def cost(self, tasks: Sequence[Task]) -> tuple[int, int]:
        """Return the number of batches of evaluations, and the maximum number of evaluations."""
        evaluations = sum(map(self.last_iteration, tasks))
        return math.ceil(evaluations / self.batch), evaluations

    def step_seconds(self, tasks: Sequence[Task]) -> float:
        """Measure one batch of evaluations on the CPU, in seconds."""
        return super().step_seconds(tasks) * self.batch / max(len(self.slots), 1)

    # Evaluation

    def prepare(self, device: torch.device) -> None:
        layers: dict[Backprop, set[str]] = defaultdict(set)
        for method in self.methods.values():
            for backprop in method.networks:
                layers[backprop].update(method.layers)
        networks: dict[str, FrozenNetwork] = {}
        for backprop, read in layers.items():
            networks[backprop] = self.make_network(read, device, backprop=backprop)
        normalize, ranks = self.network.normalize, self.ranks
        self._evaluators: dict[str, Evaluator] = {}
        for name, method in self.methods.items():
            self._evaluators[name] = Evaluator(networks, method.objective, normalize, layers=method.layers, ranks=ranks)

    def step_batch(self, *, logged: bool = True) -> tuple[list[Snapshot], list[Result]]:
        """Make one step without TF32: its rounding would exceed the tolerance of the check against Captum."""
        with full_float32():
            return super().step_batch(logged=logged)

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        evaluator = self._evaluators[_method_name(self.slots.tasks[0])]
        with self.network.output.about(self.own_columns(self.slots.tasks_of(rows))):
            evaluation = evaluator(x, self.slots, rows, gradient=gradient, network=network)
        self.store_photograph_logits(x, rows, evaluation)
        return evaluation

    # Output

    def final_metrics(
        self, x: Tensor, rows: Sequence[int], evaluated: Mapping[int, dict[str, float]]
    ) -> list[dict[str, float]]:
        """Evaluate photographs without logits, and resolve predicted labels."""
        missing = self.without_logits(rows)
        if missing:
            network = self.step_rule.networks[0]
            evaluation = self.score(x[missing], [rows[m] for m in missing], gradient=False, network=network)
            self.set_photograph_logits([rows[m] for m in missing], evaluation.logits)
        logits, not_numbers = to_cpu(self.slots.state[LOGITS]), self.without_logits(rows)
        for m, n in enumerate(rows):
            of_photograph = None if m in not_numbers else logits[n]
            self.slots.tasks[n] = resolve(self.slots.tasks[n], of_photograph, self.network.labels)
        if self.network.output.reads:
            self._read_texts(x, self.slots.tasks_of(rows))
        return [{} for _ in rows]

    def _read_texts(self, x: Tensor, tasks: Sequence[Task]) -> None:
        """Read the texts of photographs, each once for its maps."""
        names = list(map(input_name, tasks))
        known = {name: self._texts[name] for name in names if name in self._texts}
        missing = {name: m for m, name in enumerate(names) if name not in known}
        if missing:
            known |= zip(missing, self.network.read(x[[*missing.values()]]), strict=True)
        self._texts = known

    @torch.no_grad()
    def snapshots(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Snapshot]:
        """Return the current maps; at iteration 0 the photographs."""
        state, method = self.slots.state_of(rows), self.step_rule
        recorded = None
        if final and method.recorded is not None:
            recorded = state.get(method.recorded)
        maps = method.attribution(x, state)
        check_shape(method, maps, x.shape, (len(x), 1, *x.shape[2:]), meaning="a map of each photograph")
        uncertainty = method.uncertainty(x, state)
        names = [*(_METRIC_NAMES.get(name, name) for name in uncertainty), "maximum"]
        maps, photographs = maps.float().cpu(), x.float().cpu()
        reducer = self.reducer or method.reducer
        reduced = reduce_channels(maps, reducer)
        magnitudes = reduced if reducer == "max_abs" else reduce_channels(maps, "max_abs")
        columns = [*map(to_cpu, uncertainty.values()), magnitudes.flatten(1).amax(1)]
        metrics = torch.stack([column.double() for column in columns], 1).tolist()
        snapshots, iteration = [], self.slots.iteration
        predictions, rankings = self._predictions(rows)
        for m, n in enumerate(rows):
            if iteration[n] == 0:
                snapshots.append(self.snapshot(n, {}, self.network.bands.draw(photographs[m])))
                continue
            terms = None
            if recorded is not None:
                terms = recorded[m, : iteration[n]].float().cpu().clone()
            snapshots.append(
                self.snapshot(
                    n,
                    {**predictions.get(n, {}), **dict(zip(names, metrics[m], strict=True))},
                    self.picture(method, reduced[m], maps[m]),
                    top5=rankings.get(n, ()),
                    array=maps[m],
                    source=photographs[m],
                    terms=terms,
                )
            )
        return snapshots

    def picture(self, method: Attribution, values: Tensor, attribution: Tensor) -> Heat:
        """Return the picture of a map ``(C, H, W)``, by its reduced values ``(H, W)``, or of the bands that are
        replaced as a whole."""
        if _replaces_bands(method):
            return BandBars(values, bands=attribution.flatten(1).mean(1))
        return Heat(values, self._with_signs(method, attribution))

    def _with_signs(self, method: Attribution, attribution: Tensor) -> Tensor | None:
        """Return the sum of an attribution over its channels; None if the reducer is given, or values have no sign."""
        if self.reducer is not None or not method.signed:
            return None
        return reduce_channels(attribution, SIGNED)[0]

    def _predictions(self, rows: Sequence[int]) -> tuple[dict[int, dict[str, float]], dict[int, Ranking]]:
        """Return the predictions of the targets, and the most probable classes, of the photographs that were evaluated,
        by slot."""
        missing = set(self.without_logits(rows))
        slots = [n for m, n in enumerate(rows) if m not in missing]
        if not slots:
            return {}, {}
        logits = select_rows(to_cpu(self.slots.state[LOGITS]), slots)
        targets: dict[int, int] = {}
        for m, n in enumerate(slots):
            target = self.slots.tasks[n].target
            if target is not None:
                targets[m] = target
        of_targets = self.network.predictions(select_rows(logits, [*targets]), [*targets.values()])
        predictions = {slots[m]: prediction for m, prediction in zip(targets, of_targets, strict=True)}
        return predictions, dict(zip(slots, self.network.rankings(logits), strict=True))

    def new_record(self, task: Task, **fields: Any) -> SaliencyRecord:
        name = _method_name(task)
        reducer = self.reducer or self.methods[name].reducer
        return SaliencyRecord.of(task, method=name, reducer=reducer, **fields)

    def record(self, n: int, snapshot: Snapshot, common: Record) -> SaliencyRecord:
        record = SaliencyRecord.extend(
            common,
            settings=self._settings(n),
            top5=snapshot.ranking,
            **contrast_fields(self.slots.tasks[n], self.step_rule.objective),
            **self.crop_fields(n),
            **self.attribution_fields(self.step_rule, snapshot.array, self.slots.tasks[n].no_data),
            **self._prediction_fields(n),
        )
        record = self._with_text(record, self.slots.tasks[n])
        if snapshot.array is None or math.isfinite(snapshot.metrics["maximum"]):
            return record
        count, total = int((~snapshot.array.isfinite()).sum()), snapshot.array.numel()
        error = f"all values of a map must be finite, and {count} of {total} are not: the gradient is not finite there"
        return record.amend(status="failed", error=error)

    def _settings(self, n: int) -> dict[str, Any]:
        """Return the settings of the method, and what it records of itself and of the map in a slot."""
        method = self.step_rule
        return settings_of(method) | method.record_fields() | method.map_fields(self.slots.state, n)

    def _prediction_fields(self, n: int) -> dict[str, Any]:
        """Return the fields of the record about the prediction of the photograph in a slot, and its given label."""
        logits, task = self.photograph_logits(n), self.slots.tasks[n]
        if logits is None or not self.network.rule.is_exclusive:
            return {}
        predicted, labels = int(logits.argmax()), self.network.labels
        fields: dict[str, Any] = {"predicted": predicted, "predicted_name": labels[predicted]}
        if task.has_given_label:
            assert task.label is not None
            fields |= {"label_name": labels[task.label], "correct": predicted == task.label}
        return fields

    def _with_text(self, record: SaliencyRecord, task: Task) -> SaliencyRecord:
        """Return a record with what the network says or reads of the photograph."""
        text = self._texts.get(input_name(task))
        if text is None or record.target is None:
            return record
        output = self.network.output
        agrees = output.agrees(text, record.target, is_said=True)
        return record.amend(text=text, text_agrees=agrees, place=output.place_of(record.target))

    def attribution_fields(
        self, method: Attribution, attribution: Tensor | None, no_data: Sequence[int] | None
    ) -> dict[str, Any]:
        """Return the fields of the record that follow from an attribution ``(C, H, W)``: its sums by band, and whether
        its picture shows both signs.

        Args:
            method: its method.
            attribution: the attribution; None of a photograph without one.
            no_data: pixels of the photograph without data; see :class:`~lit_viz.types.Record`.
        """
        if attribution is None:
            return {"bands": None, "signed": None}
        return {
            "bands": self._band_values(method, attribution, no_data),
            "signed": self._is_drawn_signed(method, attribution),
        }

    def _is_drawn_signed(self, method: Attribution, attribution: Tensor) -> bool | None:
        """Return whether the picture of a map shows both signs; None if not."""
        if _replaces_bands(method):
            return None
        values = self._with_signs(method, attribution)
        return True if values is not None and has_both_signs(values) else None

    def _band_values(
        self, method: Attribution, attribution: Tensor, no_data: Sequence[int] | None
    ) -> dict[str, float] | None:
        """Return the sum of each band of an attribution over the pixels with data, or the values of features that are
        bands; None of pictures and of maps without bands."""
        bands = self.network.bands
        of_features = _replaces_bands(method)
        if len(attribution) != bands.channels or bands.channels == 1:
            return None
        if bands.are_pictures and not of_features:
            return None
        has_data = ~mask_of(no_data, self.network.size)
        planes = attribution.double()[:, has_data]
        values = planes.mean(1) if of_features else planes.sum(1)
        return {bands.name(index): value for index, value in enumerate(values.tolist())}


class _TasksOfMethods(LazySequence[Task]):
    """A task per method and task, ordered by method."""

    def __init__(
        self, tasks: Sequence[Task], methods: Sequence[str], with_method: Callable[[Task, int, str], Task]
    ) -> None:
        self._tasks, self._methods, self._with_method = tasks, methods, with_method

    def __len__(self) -> int:
        return len(self._tasks) * len(self._methods)

    def make(self, position: int) -> Task:
        method, place = divmod(position, len(self._tasks))
        return self._with_method(self._tasks[place], position, self._methods[method])


def _name_of(method: Attribution) -> str:
    """Return the name of a method in records: that of its function, or of its class."""
    return method.function_name if isinstance(method, FunctionMap) else short_name(type(method))


def _made(method: Any, network: Network) -> Attribution:
    """Return a copy of a method, or the method of a name or a function."""
    if isinstance(method, Attribution):
        return copy.copy(method)
    if callable(method):
        return FunctionMap(method)
    names = "an instance of Attribution, a function, a name or a list of them"
    require(isinstance(method, str), f"method must be {names}", value_text(method))
    name = automatic_method(network) if method == AUTO else method
    return find_part(name, ATTRIBUTIONS, "saliency method")()


def _replaces_bands(method: Attribution) -> bool:
    """Return whether the features of a method are whole bands, which have no map."""
    segments = getattr(method, "segments", None)
    return bool(getattr(segments, "are_bands", False))


def _method_name(task: Task) -> str:
    return str(task.method)
