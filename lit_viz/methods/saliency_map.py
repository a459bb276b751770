"""Which pixels decide? A map is accumulated over evaluations of the frozen network, and converges."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.attributions import Attribution, Gradient, name_of
from lit_viz.attributions.reducers import reduce_channels
from lit_viz.attributions.reducers import reducer as find_reducer
from lit_viz.classifiers import Classifier, FrozenNetwork
from lit_viz.classifiers.fast import Backprop
from lit_viz.classifiers.isolation import full_float32
from lit_viz.classifiers.prediction import prediction_summary, top5
from lit_viz.engine.evaluation import Evaluator
from lit_viz.engine.snapshots import Look
from lit_viz.errors import LitVizError, check_shape
from lit_viz.images.fitting import Fit
from lit_viz.images.heatmap import clip_limits, heat
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.methods.records import SaliencyRecord
from lit_viz.methods.targets import resolve
from lit_viz.optim import Evaluate, Evaluation, State, StepRule
from lit_viz.types import Record, Task

#: How a method's uncertainty is called in records, where ``error`` is the sentence of a task that failed.
_SCALARS = {"error": "relative_error"}


class SaliencyMap(PhotographTraining):
    """Explains which pixels of a photograph decide for a class (Simonyan et al. 2014, arXiv:1312.6034, section 3).

    The degenerate case of training an image: evaluations are accumulated and the photograph stays. Iteration k of a map
    is the map after k evaluations; of several methods each is a task of its own.

    Args:
        classifier: the frozen network.
        method: how the map is made, or several.
        reducer: how an attribution ``(C, H, W)`` becomes the map ``(H, W)`` that is shown: a name of
            :data:`~lit_viz.attributions.reducers.REDUCERS`, the method's own unless given.
        tolerance: a map is done when its relative error is not above it; goes on to the last evaluation unless given.
        batch: inputs that are evaluated at once, over all slots: a single photograph's evaluations fill it, too.
        fit, images: see :class:`~lit_viz.methods.photographs.PhotographTraining`.
        iterations: evaluations a map; each method's own number unless given.
        slots, log_at, curve_at: see :class:`~lit_viz.engine.method.Method`.

    Raises:
        LitVizError: for values that make no run, or a method that makes no sense for the network, in one sentence.
    """

    def __init__(
        self,
        classifier: Classifier,
        method: Attribution | list[Attribution] = Gradient(),  # noqa: B008 - replaced, never changed
        reducer: str | None = None,
        tolerance: float | None = None,
        batch: int = 16,
        *,
        fit: Fit = "crop",
        images: Tensor | None = None,
        iterations: int | None = None,
        slots: int = 8,
        log_at: str = "geometric",
        curve_at: str = "geometric",
    ) -> None:
        methods = list(method) if isinstance(method, (list, tuple)) else [method]
        if not methods:
            raise LitVizError("no saliency method was named: try --method gradient.")
        if tolerance is not None and not tolerance > 0:
            raise LitVizError(f"--tolerance {tolerance} is never reached: give a positive fraction such as 0.02.")
        if batch < 1:
            raise LitVizError(f"--batch {batch} makes no run: give a whole number from 1 up.")
        self.methods = {name_of(one): one for one in methods}
        if len(self.methods) < len(methods):
            raise LitVizError("a saliency method was named twice: maps are told apart by its name, so make two runs.")
        for one in methods:
            one.bind(classifier)
            one.tolerance, one.batch = tolerance, batch
        super().__init__(
            classifier,
            _Chosen(self.methods),
            fit=fit,
            images=images,
            iterations=max(one.evaluations for one in methods) if iterations is None else iterations,
            slots=slots,
            log_at=log_at,
            curve_at=curve_at,
        )
        self.given_iterations, self.batch = iterations, batch
        self.notes += [
            f"{name} takes its {one.evaluations} evaluations: --iterations is for maps that may take more or fewer"
            for name, one in self.methods.items()
            if iterations is not None and one.fixed and 1 < one.evaluations != iterations
        ]
        about = {name: one.record_fields() for name, one in self.methods.items()}
        self.notes += [f"{name} reads the layer {how['layer']}" for name, how in about.items() if "layer" in how]
        self.reducer = reducer
        if reducer is not None:
            find_reducer(reducer)

    @property
    def chosen(self) -> _Chosen:
        """The rule, which knows the method of the present batch."""
        assert isinstance(self.step_rule, _Chosen)
        return self.step_rule

    @property
    def default_network(self) -> str:
        """The copy that the present method asks."""
        return self.chosen.method.networks[0]

    def last(self, task: Task) -> int:
        """Return the number of evaluations of the task's map."""
        method = self.methods[_method(task)]
        own = method.evaluations if self.given_iterations is None or method.fixed else self.given_iterations
        return int(task.options.get("iterations", own))

    def cost(self, tasks: Sequence[Task]) -> tuple[int, int]:
        """Return the steps, of so many evaluations as make a batch, and the evaluations at most."""
        evaluations = sum(map(self.last, tasks))
        return math.ceil(evaluations / self.batch), evaluations

    def step_seconds(self, tasks: Sequence[Task]) -> float:
        """Return the time of a batch, measured on the processor."""
        return super().step_seconds(tasks) * self.batch / max(len(self.slots), 1)

    def prepare(self, device: torch.device) -> None:
        """Make the copies of the network that the methods ask; a wrong layer name is found here."""
        layers: dict[Backprop, set[str]] = defaultdict(set)
        for method in self.methods.values():
            for name in method.networks:
                layers[name].update(method.layers)
        networks: dict[str, FrozenNetwork] = {
            name: self.frozen(read, device, backprop=name) for name, read in layers.items()
        }
        self._evaluators = {
            name: Evaluator(
                ranks=self.ranks,
                networks=networks,
                decode=lambda x: x,
                look=lambda images, draws: images,
                objective=method.objective,
                normalize=self.classifier.normalize,
                layers=method.layers,
            )
            for name, method in self.methods.items()
        }

    def training_step(self, batch: int, batch_idx: int) -> dict[str, Any]:
        """Make a step as every method does, without rounding that Captum's check would find."""
        with full_float32():
            return super().training_step(batch, batch_idx)

    def on_slots_filled(self, rows: Sequence[int]) -> None:
        """Take the method of the slots, also where a checkpoint left off."""
        super().on_slots_filled(rows)
        self.chosen.choose(self.slots.tasks[0])

    def can_batch(self, task: Task, beside: Task, iteration: int) -> bool:
        """Return whether both are explained by one method."""
        return _method(task) == _method(beside)

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        """Evaluate inputs; what the network says of the photograph itself is kept."""
        evaluator = self._evaluators[self.chosen.name]
        evaluation = evaluator(x, self.slots, rows, gradient=gradient, network=network)
        self.remember(x, rows, evaluation)
        return evaluation

    def asks(self, task: Task) -> bool:
        """Return whether the original has to be asked first; a label that is predicted may be told in the end."""
        return self.in_half or (task.target is None and super().asks(task))

    def final_metrics(self, x: Tensor, rows: Sequence[int]) -> list[dict[str, float]]:
        """Ask about the photographs of which the network has not been asked yet, and tell their labels."""
        unasked = [m for m, n in enumerate(rows) if self.said(n) is None]
        if unasked:
            asked = self.score(x[unasked], [rows[m] for m in unasked], gradient=False)
            for m, logits in zip(unasked, asked.logits, strict=True):
                self.keep(rows[m], logits)
        for n in rows:
            self.slots.tasks[n] = resolve(self.slots.tasks[n], self.said(n), self.classifier.labels)
        return [{} for _ in rows]

    @torch.no_grad()
    def snapshots(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Look]:
        """Show the maps as they are; at iteration 0 the photograph, of which nothing is known yet."""
        state = self.slots.state_of(rows)
        method = self.chosen.method
        maps = method.attribution(x, state)
        check_shape(method, maps, x.shape, (len(x), 1, *x.shape[2:]), meaning="a map of each photograph")
        errors = method.uncertainty(x, state)
        names = [*(_SCALARS.get(name, name) for name in errors), "maximum"]
        columns = [*errors.values(), maps.flatten(1).abs().amax(1)]
        metrics = torch.stack([column.double() for column in columns], 1).tolist()
        maps, photographs = maps.float().cpu(), x.float().cpu()
        looks, iteration = [], self.slots.iteration
        for m, n in enumerate(rows):
            if iteration[n] == 0:
                looks.append(Look(photographs[m], {}))
                continue
            shown = reduce_channels(maps[m], self.reducer or method.reducer)[0]
            looks.append(
                Look(
                    heat(shown, clip_limits([shown])[0]),
                    {**self._said(n), **dict(zip(names, metrics[m], strict=True))},
                    top5=self._top(n),
                    array=maps[m],
                    source=photographs[m],
                )
            )
        return looks

    def record(self, n: int, look: Look, common: Record) -> SaliencyRecord:
        """Return the record with the method, how its map is shown, and the top five classes."""
        record = SaliencyRecord.extend(
            common,
            method=_method(self.slots.tasks[n]),
            settings=self.chosen.method.record_fields(),
            reducer=self.reducer or self.chosen.method.reducer,
            top5=look.ranking,
            **self.place(n),
        )
        array = torch.empty(0) if look.array is None else look.array
        bad = int((~array.isfinite()).sum())
        if not bad:
            return record
        error = f"{bad} of the map's {array.numel()} values are no finite numbers: there the network has no slope"
        return record.amend(status="failed", error=error)

    def _said(self, n: int) -> Mapping[str, float]:
        logits, target = self.said(n), self.slots.tasks[n].target
        return {} if logits is None or target is None else prediction_summary(logits, target)

    def _top(self, n: int) -> tuple[tuple[str, float], ...]:
        logits = self.said(n)
        return () if logits is None else top5(logits, self.classifier.labels)


class _Chosen(StepRule):
    """The method of the present batch, whose tasks all have the same one (see :meth:`SaliencyMap.can_batch`)."""

    def __init__(self, methods: Mapping[str, Attribution]) -> None:
        self.methods = methods
        self.name = next(iter(methods))

    @property
    def method(self) -> Attribution:
        return self.methods[self.name]

    def choose(self, task: Task) -> None:
        self.name = _method(task)

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        self.choose(tasks[0])
        return self.method.init(x, tasks)

    def advance(self, state: State) -> Tensor:
        return self.method.advance(state)

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        return self.method.step(x, state, evaluate)


def _method(task: Task) -> str:
    return str(task.options["method"])
