"""The LightningModule that all methods share: slots that are filled from a queue, trained, looked at and emptied."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.engine.bridge import StepRuleOptimizer
from lit_viz.engine.devices import Agreed, Asked, DevicesMode, Processes, Said
from lit_viz.engine.looks import Look, RunProgress, joined
from lit_viz.engine.moments import Moments
from lit_viz.engine.slots import ITERATION, ITERATIONS, UNTIL, Slots
from lit_viz.engine.tasks import Observation, Result, Task
from lit_viz.errors import LitVizError
from lit_viz.optim import Evaluation, State, StepRule

#: Changes when a checkpoint of an older version can't be continued.
CHECKPOINT_VERSION = 2


class ImageTraining(pl.LightningModule):
    """Trains the images of a queue of tasks, N slots at a time.

    A method says how an image starts (:meth:`start`), what it scores (:meth:`evaluate`), how it is shown
    (:meth:`look`), and what its record says besides (:meth:`record`).

    Args:
        classifier: the frozen network; it is no submodule, so it is neither trained, moved nor saved.
        step_rule: how an image moves.
        iterations: updates an image.
        slots: images trained at once.
        log_at: iterations at which an image is looked at and kept (see :class:`Moments`).
        curve_at: iterations at which its scalars are.
        views: classifier inputs an image and evaluation.

    Attributes:
        notes: sentences worth saying once before the run.
        advice: what to do where an image breaks (its score is no finite number), as the end of a sentence.
        devices_mode: how several processes share the work.
        processes: they, once they are connected.
        asked: what a callback wants of all processes at their next meeting: to stop (a signal) or to save.
        agreed: what they do after the last one.
    """

    def __init__(
        self,
        classifier: Classifier,
        step_rule: StepRule,
        *,
        iterations: int,
        slots: int,
        log_at: str,
        curve_at: str,
        views: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("iterations", iterations), ("slots", slots), ("views", views)):
            if value < 1:
                raise LitVizError(f"--{name} {value} makes no run: give a whole number from 1 up.")
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint keeps images by task, not as a state dict
        self.classifier = classifier
        self.step_rule = step_rule
        self.iterations = iterations
        self.capacity = slots
        self.views = views
        self.log_at = Moments.parse(log_at)
        self.curve_at = Moments.parse(curve_at)
        self.slots = Slots()
        self.notes: list[str] = []
        self.advice = "try a lower learning rate"
        self.finished: dict[int, str] = {}  # task index -> status; known on the first process
        self.devices_mode: DevicesMode = "images"
        self.processes = Processes()
        self.asked = Asked()
        self.agreed = Agreed()
        self._updates = (0, 0)  # of the finished images, and of all: counted once, for there may be thousands
        self._observations: list[Observation] = []  # since the processes met
        self._results: list[Result] = []
        self._restored: dict[str, Any] | None = None
        self._begun: dict[int, dict[str, Any]] = {}  # by task, as a checkpoint has kept those that were in slots
        self._waiting: list[Task] = []  # the next one last
        self._evaluated: dict[int, tuple[Evaluation, int]] = {}  # by slot: the first one of x_k in this step, its row
        self._scores = torch.zeros(0)  # sum of each slot's scores in the present step
        self._shown: dict[str, float] = {}  # on the progress bar

    # What a method defines.

    @abstractmethod
    def prepare(self, device: torch.device) -> None:
        """Make the frozen network and what else is needed on the device, once."""

    @abstractmethod
    def start(self, task: Task) -> Tensor:
        """Return the task's first image as it is trained, ``(...)`` without a slot dimension."""

    @abstractmethod
    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        """Evaluate ``x``, row m of which belongs to slot ``rows[m]``, with the draws of its iteration."""

    def fits(self, task: Task, beside: Task) -> bool:
        """Return whether the two may be trained in one batch: what the rule's state consists of is the same for all."""
        return True

    def complete(self, tasks: Sequence[Task], x: Tensor) -> list[Task | LitVizError]:
        """Return the tasks with what is only known once their images ``(N, ...)`` are there (a predicted label).

        An error in the place of a task fails that task.
        """
        return list(tasks)

    def initial(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the state of slots that start at ``x`` ``(N, ...)``: the rule's, and what the method keeps besides."""
        return self.step_rule.init(x, tasks)

    def begin(self, rows: Sequence[int]) -> None:
        """Be told that these slots were filled."""

    def conclude(self, x: Tensor, rows: Sequence[int]) -> list[dict[str, float]]:
        """Return what else is known of the final images of these slots: the terms of their score."""
        terms = self.score(x, rows, gradient=False).terms
        return [{name: float(value[m]) for name, value in terms.items()} for m in range(len(rows))]

    def project(self, x: Tensor) -> Tensor:
        """Return the moved images ``(N, ...)`` back where they belong, in place or not; as they are by default."""
        return x

    @abstractmethod
    def look(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Look]:
        """Show the images ``x`` ``(len(rows), ...)`` of these slots, and what the network sees in them.

        Where they are ``final``, :meth:`conclude` was called before, and what is shown is the outcome.
        """

    @abstractmethod
    def record(self, n: int, look: Look) -> dict[str, Any]:
        """Return what the record of slot n says besides the common keys and the look's scalars."""

    # What Lightning calls.

    @property
    def tasks(self) -> Sequence[Task]:
        """The whole queue, in order."""
        tasks: Sequence[Task] = self.trainer.datamodule.tasks  # type: ignore[attr-defined]
        return tasks

    def configure_optimizers(self) -> StepRuleOptimizer:
        """Return the bridge to the step rule."""
        return StepRuleOptimizer(self.slots, self.step_rule, self.evaluate, self.project)

    def on_fit_start(self) -> None:
        """Prepare the network and take up where a checkpoint left off."""
        self.processes = Processes.connected(self.devices_mode)
        self.prepare(self.device)
        self._begun = {}
        if self._restored is not None:
            self.finished = dict(self._restored["finished"])
            self._begun = {
                entry["task"]: entry for entry in self._restored["slots"] if self.processes.holds(entry["task"])
            }
            self.agreed.updates = sum(int(entry["state"][ITERATION]) for entry in self._restored["slots"])
        ended = sum(self.last(task) for task in self.tasks if task.index in self.finished)
        self._updates = (ended, sum(map(self.last, self.tasks)))
        mine = {task.index: task for task in self.tasks if self.processes.holds(task.index)}
        fresh = [index for index in mine if index not in self.finished and index not in self._begun]
        self._waiting = [mine[index] for index in reversed([*self._begun, *fresh])]

    @property
    def optimizer(self) -> StepRuleOptimizer:
        """The bridge, without Lightning's wrapping."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, StepRuleOptimizer)
        return optimizer

    @property
    def number(self) -> torch.dtype:
        """The dtype of the images: float64 under ``--trainer.precision 64-true``, float32 under any other."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def training_step(self, batch: int, batch_idx: int) -> dict[str, Any]:
        """Fill the slots, make one update of the batch, write out and empty the slots that are done."""
        began = time.perf_counter()
        results = self._refill()
        observations: list[Observation] = []
        if len(self.slots):
            x, began_at = self.slots.x, self.slots.iteration
            looks = self._looks(x)
            self._evaluated = {}
            self._scores = torch.zeros(len(x), dtype=torch.float64, device=x.device)
            self.slots.state[UNTIL] = self._until()
            self.optimizers().step()  # type: ignore[union-attr]
            observations = [self._observation(n, k, look) for n, k, look in looks]
            self._show([observation.scalars for observation in observations])
            share = (time.perf_counter() - began) / len(self.slots)
            self.slots.seconds = [seconds + share for seconds in self.slots.seconds]
            for observation, result in self._finish(x, began_at):
                observations = joined(observations, observation)
                results.append(result)
            for evaluation, _ in self._evaluated.values():
                evaluation.close()
        self._observations += observations
        self._results += results
        return self._met(time.perf_counter() - began)

    def _met(self, seconds: float) -> dict[str, Any]:
        """Return what was found since the processes last met, on the first of them what all have found.

        Between two meetings it is nothing. One process alone meets itself after every step.
        """
        if not self.processes.meets():
            return {"observations": [], "results": []}
        self.agreed = self.processes.agree(
            Said(
                unfinished=bool(self.slots.tasks or self._waiting),
                signal=self.asked.signal,
                save=self.asked.save,
                updates=sum(self.slots.iteration),
                seconds=seconds,
                digest=float(self.slots.x.double().sum()) if self.processes.shares_views else 0.0,
            )
        )
        self.asked.save = False
        observations = self.processes.gather(self._observations)
        results = self.processes.gather(self._results)
        self._observations, self._results = [], []
        for result in results:
            self.finished[result.task.index] = result.record["status"]
        self._updates = (self._updates[0] + sum(self.last(result.task) for result in results), self._updates[1])
        if not self.agreed.unfinished:
            self.trainer.should_stop = True
        return {"observations": observations, "results": results}

    def last(self, task: Task) -> int:
        """Return the number of the task's last image: its option ``iterations`` where it has one (a sweep)."""
        return int(task.options.get("iterations", self.iterations))

    def evaluate(
        self,
        x: Tensor,
        *,
        gradient: bool = True,
        slots: Tensor | None = None,
        network: str = "plain",
        logged: bool = False,
    ) -> Evaluation:
        """Score ``x`` for the step rule; the first evaluation of the images themselves is that of x_k, which is logged.

        See :class:`~lit_viz.optim.Evaluate`.
        """
        rows = range(len(self.slots)) if slots is None else slots.tolist()
        evaluation = self.score(x, rows, gradient=gradient, network=network)
        if slots is None:
            self._scores += evaluation.score
        else:
            self._scores.index_add_(0, slots, evaluation.score.double())
        if slots is None or logged:
            for m, n in enumerate(rows):
                self._evaluated.setdefault(n, (evaluation, m))
        return evaluation

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep images and states by task, and which tasks are finished; no classifier."""
        checkpoint["state_dict"] = {}
        checkpoint["lit_viz"] = {
            "version": CHECKPOINT_VERSION,
            "slots": self.processes.gather([*self.slots.dump(), *self._begun.values()]),
            "finished": dict(self.finished),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was saved until the device is known (:meth:`on_fit_start`)."""
        restored = checkpoint["lit_viz"]
        if restored["version"] != CHECKPOINT_VERSION:
            raise LitVizError(
                f"the checkpoint is of version {restored['version']} and this lit_viz continues version "
                f"{CHECKPOINT_VERSION}: resume it with the lit_viz that its config.yaml names."
            )
        self._restored = restored

    def progress(self) -> RunProgress:
        """Return how far the run is."""
        iteration = self.slots.iteration
        return RunProgress(
            total=len(self.tasks),
            done=len(self.finished),
            failed=sum(status == "failed" for status in self.finished.values()),
            updates_done=self._updates[0] + self.agreed.updates,
            updates_total=self._updates[1],
            iteration=min(iteration, default=self.iterations),
            **self._shown,
        )

    def cost(self, tasks: Sequence[Task]) -> tuple[int, int]:
        """Return the steps that the tasks take in the slots, and the evaluations (forward and backward) at most."""
        last = [self.last(task) for task in tasks]
        busy = [0] * min(self.capacity, len(tasks))  # when each slot is free again
        for iterations in last:
            first = busy.index(min(busy))
            busy[first] += iterations
        return max(busy), sum(last) * self.views

    def seconds_a_step(self, tasks: Sequence[Task]) -> float:
        """Return the time of an evaluation of full slots, measured on the processor."""
        self.prepare(torch.device("cpu"))
        self._waiting = list(tasks)
        self._refill()
        rows = range(len(self.slots))
        began = 0.0
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            _ = self.score(self.slots.x, rows, gradient=True).gradient
        return time.perf_counter() - began

    # The life of a slot.

    def _refill(self) -> list[Result]:
        """Fill the free slots from the queue; return the tasks that could not start."""
        failed: list[Result] = []
        tasks: list[Task] = []
        images: list[Tensor] = []
        while self._waiting and len(self.slots) + len(tasks) < self.capacity:
            beside = (self.slots.tasks or tasks)[:1]
            if beside and not self.fits(self._waiting[-1], beside[0]):
                break
            task = self._waiting.pop()
            if task.index in self._begun:  # these come first
                self.slots.restore([self._begun.pop(task.index)], [task], self.device)
                self.begin([len(self.slots) - 1])
                continue
            try:
                images.append(self.start(task))
            except LitVizError as error:
                failed.append(_failed(task, error))
            else:
                tasks.append(task)
        if tasks:
            x = torch.stack(images).to(self.device, self.number)
            completed = self.complete(tasks, x)
            whole = {m: task for m, task in enumerate(completed) if isinstance(task, Task)}
            failed += [_failed(t, e) for t, e in zip(tasks, completed, strict=True) if isinstance(e, LitVizError)]
            self._fill(list(whole.values()), x[list(whole)])
        return failed

    def _fill(self, tasks: list[Task], x: Tensor) -> None:
        if not tasks:
            return
        iterations = torch.tensor([self.last(task) for task in tasks], device=self.device)
        counts = {ITERATION: torch.zeros_like(iterations), ITERATIONS: iterations, UNTIL: iterations}
        self.slots.append(tasks, x, {**self.initial(x, tasks), **counts})
        self.begin(range(len(self.slots) - len(tasks), len(self.slots)))

    def _until(self) -> Tensor:
        """Return the next iteration of each slot at which it is looked at."""
        until = [
            min(moments.after(k, self.last(task)) for moments in (self.log_at, self.curve_at))
            for k, task in zip(self.slots.iteration, self.slots.tasks, strict=True)
        ]
        return torch.tensor(until, device=self.slots.x.device)

    def _looks(self, x: Tensor) -> list[tuple[int, int, Look]]:
        """Look at the images whose iteration is due, before they are moved."""
        iteration = self.slots.iteration
        moments = (self.log_at, self.curve_at)
        last = [self.last(task) for task in self.slots.tasks]
        due = [n for n, k in enumerate(iteration) if any(m.due(k, last[n]) for m in moments)]
        if not due:
            return []
        looks = self.look(x[due], due)
        self._show([look.scalars for look in looks])
        return [(n, iteration[n], look) for n, look in zip(due, looks, strict=True)]

    def _show(self, scalars: Sequence[Mapping[str, float]]) -> None:
        """Keep the mean of the probabilities, or else of the objectives, for the progress bar."""
        for name in ("probability", "objective"):
            if known := [of_one[name] for of_one in scalars if name in of_one]:
                self._shown = {name: sum(known) / len(known)}
                return

    def _observation(self, n: int, iteration: int, look: Look) -> Observation:
        """Join a look with the scalars of the evaluation that the step rule has made of the same image."""
        scalars = dict(look.scalars)
        if n in self._evaluated:
            evaluation, m = self._evaluated[n]
            scalars |= {name: float(term[m]) for name, term in evaluation.terms.items()}
            if (gradient := evaluation.known_gradient) is not None:
                scalars["gradient_norm"] = float(torch.linalg.vector_norm(gradient[m]))
        task = self.slots.tasks[n]
        kept = self.log_at.due(iteration, self.last(task))
        shown = (look.image, look.besides) if kept else (None, {})
        return Observation(task, iteration, scalars, shown[0], look.top5, shown[1])

    def _finish(self, before: Tensor, began_at: Sequence[int]) -> list[tuple[Observation, Result]]:
        """Take the images that are done out of their slots; ``before`` are the images before the last update."""
        iteration = self.slots.iteration
        sums = self.slots.x.flatten(1).sum(1, dtype=torch.float64) + self._scores
        broken = (~torch.isfinite(sums)).tolist()
        done = self.optimizer.done.tolist()
        last = [self.last(task) for task in self.slots.tasks]
        ended = [n for n, k in enumerate(iteration) if broken[n] or done[n] or k >= last[n]]
        if not ended:
            return []
        x = self.slots.x.clone()
        for n in ended:
            if broken[n]:
                x[n] = before[n]
                self.slots.state[ITERATION][n] = began_at[n]
        whole = [n for n in ended if not broken[n]]
        known = dict(zip(whole, self.conclude(x[whole], whole), strict=True)) if whole else {}
        looks = self.look(x[ended], ended, final=True)
        pairs = [self._result(n, look, known.get(n, {}), broken[n]) for n, look in zip(ended, looks, strict=True)]
        self.slots.keep([n for n in range(len(self.slots)) if n not in ended])
        return pairs

    def _result(self, n: int, look: Look, terms: dict[str, float], broken: bool) -> tuple[Observation, Result]:
        task, slots = self.slots.tasks[n], self.slots
        iteration = int(slots.state[ITERATION][n])
        error = (
            f"{task.name}: the image or its score stopped being a finite number at iteration {iteration + 1}; "
            f"its last finite image is kept: {self.advice}."
            if broken
            else None
        )
        scalars = {**look.scalars, **terms}
        record = {
            "status": "failed" if broken else "done",
            "error": error,
            "iterations": iteration,
            "forwards": slots.forwards[n],
            "backwards": slots.backwards[n],
            "seconds": round(slots.seconds[n], 3),
            **scalars,
            **self.record(n, look),
        }
        observation = Observation(task, iteration, scalars, look.image, look.top5, look.besides)
        return observation, Result(task, record, look.image, look.array, look.source, look.bearers)


def _failed(task: Task, error: LitVizError) -> Result:
    return Result(task, {"status": "failed", "error": str(error), "iterations": 0})
