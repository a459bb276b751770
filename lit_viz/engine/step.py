"""One step of the batch: free slots are filled, images are updated, finished images leave their slots."""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_viz.engine.method import Method
from lit_viz.engine.slots import EARLIER, ITERATION, ITERATIONS, UNTIL, Earlier, select_rows
from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.errors import ChangedInput, LitVizError, NetworkError, SkippedTask, check_shape
from lit_viz.optim import Evaluate, Evaluation, State
from lit_viz.optim.rule import chosen
from lit_viz.rng import restart_seed
from lit_viz.types import Status, Task
from lit_viz.utils.device import to_device, to_list


class Queue:
    """The tasks of a rank that wait for a slot: tasks restored from a checkpoint first, then the new ones.

    Tasks that start again follow the new ones, so that the batches of these do not depend on them. A full batch of them
    precedes the new ones, so that few wait.

    Args:
        tasks: tasks of the rank, in order.
        finished: indices of finished tasks.
        restored: checkpoint entries of unfinished tasks (:meth:`~lit_viz.engine.slots.Slots.dump`).
    """

    def __init__(
        self, tasks: Sequence[Task] = (), finished: Collection[int] = (), restored: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._restored = {entry["task"]: dict(entry) for entry in restored}
        self._restarts: deque[Task] = deque()
        self._tasks = tasks
        self._new = array("q")  # positions of the new tasks, the next one last: tasks may be in a file
        found: dict[int, Task] = {}
        for position, task in enumerate(tasks):
            if task.index in self._restored:
                found[task.index] = task
            elif task.index not in finished:
                self._new.append(position)
        self._new.reverse()
        self._waiting: deque[Task] = deque()  # before the new tasks, and of these the next one if it was read
        for index, entry in self._restored.items():
            waiting = self._waiting
            if EARLIER in entry and int(entry["state"][ITERATION]) == 0:
                waiting = self._restarts
            waiting.append(found[index])

    def __len__(self) -> int:
        return len(self._waiting) + len(self._new) + len(self._restarts)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Checkpoint entries of restored tasks that are still waiting."""
        return list(self._restored.values())

    @property
    def updates(self) -> int:
        """Updates of restored tasks that are still waiting."""
        return sum(int(entry["state"][ITERATION]) for entry in self._restored.values())

    @property
    def restarts(self) -> list[tuple[Mapping[str, Any], Task]]:
        """Checkpoint entries and tasks that wait to start again."""
        return [(self._restored[task.index], task) for task in self._restarts]

    def restart(self, method: Method, n: int, best: Snapshot) -> None:
        """Let the task of slot n start again with other draws, as soon as a slot is free.

        Args:
            method: its slots and initial images.
            n: slot of a final image.
            best: snapshot of the best image of the task so far.
        """
        slots, task = method.slots, method.slots.tasks[n]
        earlier = Earlier(slots.earlier[n].restarts + 1, slots.updates(n), best)
        renewed = replace(task, seed=restart_seed(task.seed, earlier.restarts))
        x = to_device(method.start(renewed)[None], method.device, method.image_dtype)
        state = {key: value[0].cpu() for key, value in _initial_state(method, x, [renewed]).items()}
        entry = slots.entry(n) | {"image": x[0].cpu(), "state": state, EARLIER: earlier.dump()}
        self._restored[task.index] = entry
        self._restarts.append(task)

    def _next(self, capacity: int) -> deque[Task]:
        """Return the tasks of which the first one is the next."""
        if not self._waiting and self._new:
            self._waiting.append(self._tasks[self._new.pop()])
        if self._restarts and (not self._waiting or len(self._restarts) >= capacity):
            return self._restarts
        return self._waiting

    def fill(self, method: Method) -> list[Result]:
        """Fill the free slots of a method; return the results of tasks that failed to start."""
        failed: list[Result] = []
        tasks: list[Task] = []
        images: list[Tensor] = []
        while len(self) and len(method.slots) + len(tasks) < method.capacity:
            waiting = self._next(method.capacity)
            task = waiting[0]
            batch = method.slots.tasks or tasks
            entry = self._restored.get(task.index)
            iteration = 0
            if entry is not None:
                iteration = int(entry["state"][ITERATION])
            if batch and not method.can_batch(task, batch[0], iteration):
                break
            waiting.popleft()
            if entry is not None:
                del self._restored[task.index]
                method.slots.restore(entry, task, method.device)
                method.on_slots_filled([len(method.slots) - 1])
                continue
            try:
                images.append(method.start(task))
            except ChangedInput:
                raise
            except LitVizError as error:
                failed.append(_failed(method, task, error))
            else:
                tasks.append(task)
        if tasks:
            failed += _start(method, tasks, images)
        return failed


def _start(method: Method, tasks: list[Task], images: list[Tensor]) -> list[Result]:
    """Append slots for new tasks; return the results of tasks that can't be resolved."""
    x = to_device(torch.stack(images), method.device, method.image_dtype)
    failed: list[Result] = []
    resolved: list[Task] = []
    rows: list[int] = []
    for row, outcome in enumerate(_resolve(method, tasks, x)):
        if isinstance(outcome, Exception):
            failed.append(_failed(method, tasks[row], outcome))
        else:
            resolved.append(outcome)
            rows.append(row)
    if resolved:
        if failed:
            x = x[rows]
        method.slots.append(resolved, x, _initial_state(method, x, resolved))
        method.on_slots_filled(range(len(method.slots) - len(resolved), len(method.slots)))
    return failed


def _resolve(method: Method, tasks: list[Task], x: Tensor) -> Sequence[Task | LitVizError | NetworkError]:
    """Resolve new tasks; if the network raises, one by one, so that only its images fail."""
    try:
        return method.resolve_tasks(tasks, x)
    except NetworkError as error:
        if len(tasks) == 1:
            method.network_error = error
            return [error]
        batch_error = error
    outcomes: list[Task | LitVizError | NetworkError] = []
    for row, task in enumerate(tasks):
        outcomes += _resolve(method, [task], x[row : row + 1])
    if not any(isinstance(outcome, NetworkError) for outcome in outcomes):
        raise batch_error  # of the batch, such as of its size
    return outcomes


def _initial_state(method: Method, x: Tensor, tasks: Sequence[Task]) -> State:
    """Return the state of new slots, with that of the engine."""
    iterations = to_device([method.last_iteration(task) for task in tasks], method.device)
    engine_state = {ITERATION: torch.zeros_like(iterations), ITERATIONS: iterations, UNTIL: iterations}
    return method.init_state(x, tasks) | engine_state


def _failed(method: Method, task: Task, error: Exception) -> Result:
    status: Status = "skipped" if isinstance(error, SkippedTask) else "failed"
    return Result(task, method.new_record(task, status=status, error=str(error), iterations=0))


def fail_raising(method: Method, error: NetworkError) -> list[Result]:
    """Return the results of the images on which the network raises, and empty their slots.

    The step rule updates every image alone, with the draws of the step that raised ``error``.

    Raises:
        NetworkError: the network raises for no image alone, or the ranks share the views.
    """
    if method.ranks.shares_views:  # the other ranks wait for this one
        raise error
    failed: list[Result] = []
    intact: list[int] = []
    for n in range(len(method.slots)):
        image_error = error if len(method.slots) == 1 else _error_of(method, n)
        if image_error is None:
            intact.append(n)
            continue
        method.network_error = image_error
        failed.append(_failed_in_slot(method, n, image_error))
    if not failed:
        raise error
    method.slots.keep(intact)
    return failed


def _error_of(method: Method, n: int) -> NetworkError | None:
    """Return the exception of the network in an update of one slot alone."""

    def evaluate(x: Tensor, *, gradient: bool = True, network: str = "plain", **_: Any) -> Evaluation:
        return method.score(x, [n] * len(x), gradient=gradient, network=network)

    counts = method.slots.counts
    try:
        with torch.no_grad():
            method.step_rule.step(method.slots.x[n : n + 1], method.slots.state_of([n]), evaluate)
    except NetworkError as error:
        return error
    finally:
        method.slots.counts = counts
    return None


def _failed_in_slot(method: Method, n: int, error: NetworkError) -> Result:
    """Return the result of an image on which the network raises: an earlier image of the task, or none, without
    metrics."""
    slots = method.slots
    task, best = slots.tasks[n], slots.earlier[n].best
    if best is not None:
        return _result(method, n, best, None)
    record = method.new_record(
        task,
        status="failed",
        error=str(error),
        iterations=slots.updates(n),
        forwards=slots.forwards[n],
        backwards=slots.backwards[n],
        seconds=round(slots.seconds[n], 3),
    )
    return Result(task, record)


class StepRuleOptimizer(torch.optim.Optimizer):
    """Update the images in the slots by a step rule.

    A rule may evaluate several times per step, so the closure of Lightning, which returns one scalar, is not used.

    Args:
        method: its slots, step rule and projection.
        evaluate: evaluation of the images by the network.

    The parameter group has ``lr``, the nominal rate of the rule, for callbacks such as ``LearningRateMonitor``.

    Attributes:
        done: ``(N,)`` bool, images that the rule reported as done in the last step, which does not change them.
    """

    def __init__(self, method: Method, evaluate: Evaluate) -> None:
        super().__init__([method.slots.image], {"lr": 0.0})
        self.method, self.evaluate = method, evaluate
        self.done = torch.zeros(0, dtype=torch.bool)

    def set_rate(self, iteration: int, iterations: int) -> None:
        """Set the rate that callbacks read, of an image after ``iteration`` of its ``iterations`` updates."""
        self.param_groups[0]["lr"] = self.method.step_rule.nominal_rate(iteration, iterations)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one update x_k -> x_k+1 of all slots."""
        slots, rule = self.method.slots, self.method.step_rule
        before = slots.x
        advance = rule.advance(slots.state)
        x, state, self.done = rule.step(before, slots.state, self.evaluate)
        check_shape(rule, x, before.shape, meaning="an image for each slot")
        check_shape(rule, self.done, before.shape[:1], meaning="whether each slot is done")
        self.done = self.done.bool()
        x = chosen(self.done, before, self.method.project(x))  # not in place: the rule may keep what it returned
        slots.update(x, state, advance.masked_fill(self.done, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state; checkpoints store images and states by task (:meth:`Slots.dump`)."""
        return {"state": {}, "param_groups": []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing; see :meth:`state_dict`."""


class Step:
    """A step in progress.

    Attributes:
        x: images before the step ``(N, ...)``.
        iteration: their iterations.
        scores: ``(N,)``, sum of the scores of each slot in the step.
        first: first evaluation of the step.
        evaluated: by slot, the first logged evaluation of x_k and the row of the slot in it.
    """

    first: Evaluation | None = None

    def __init__(self, method: Method) -> None:
        self.method = method
        self.x, self.iteration = method.slots.x, method.slots.iteration
        self.scores = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        self.evaluated: dict[int, tuple[Evaluation, int]] = {}

    def add_evaluation(self, evaluation: Evaluation, slots: Tensor | None, *, logged: bool) -> None:
        """Add an evaluation of these slots, None for all; with ``logged``, its metrics are logged as metrics of x_k."""
        self.first = self.first or evaluation
        if slots is None:
            self.scores += evaluation.score
        else:
            self.scores.index_add_(0, slots, evaluation.score.double())
        if not logged:
            return
        numbers = range(len(self.x)) if slots is None else to_list(slots)
        for row, n in enumerate(numbers):
            self.evaluated.setdefault(n, (evaluation, row))

    def snapshots(self, due: Mapping[int, Snapshot]) -> list[Snapshot]:
        """Return the snapshots, given by slot, with the metrics of the evaluations of this step."""
        metrics = self._evaluation_metrics(due)
        snapshots = []
        for n, snapshot in due.items():
            snapshot = _with_metrics(snapshot.without_results(), metrics[n])
            if not self.method.log_at.due(self.iteration[n], self.method.last_iteration(snapshot.task)):
                snapshot = replace(snapshot, content=None, extra_images={})
            snapshots.append(snapshot)
        return snapshots

    def _evaluation_metrics(self, slots: Mapping[int, Snapshot]) -> dict[int, dict[str, float]]:
        """Return the metrics of x_k by slot, with its gradient norm if the gradient was computed."""
        metrics: dict[int, dict[str, float]] = {}
        rows_of: dict[Evaluation, dict[int, int]] = defaultdict(dict)  # row of each slot, by evaluation
        for n in slots:
            metrics[n] = {}
            if n in self.evaluated:
                evaluation, row = self.evaluated[n]
                rows_of[evaluation][n] = row
        for evaluation, rows in rows_of.items():
            by_row = evaluation.metrics_by_row()
            norms = evaluation.gradient_norms(list(rows.values()))
            for n, row in rows.items():
                metrics[n] |= by_row[row]
                if row in norms:
                    metrics[n]["gradient_norm"] = norms[row]
        return metrics

    def endings(self, done: Tensor) -> dict[int, bool]:
        """Return the slots of finished images, with whether image or score is not finite. Waits for the GPU.

        Args:
            done: ``(N,)`` bool, slots that the step rule reports as done.
        """
        slots = self.method.slots
        iteration = slots.iteration
        sums = self.scores
        if slots.x.data_ptr() != self.x.data_ptr():  # a saliency method returns the images that it was given
            # float32 at least: half precision can't hold the sum of an image.
            sums = sums + slots.x.flatten(1).sum(1, dtype=torch.promote_types(slots.x.dtype, torch.float32))
        flags = torch.stack([~torch.isfinite(sums), done], 1).tolist()
        endings = {}
        for n, (is_failed, is_done) in enumerate(flags):
            is_last = iteration[n] >= self.method.last_iteration(slots.tasks[n])
            if is_failed or is_done or is_last:
                endings[n] = is_failed
        return endings

    def finish(self, endings: Mapping[int, bool], queue: Queue | None = None) -> list[tuple[Snapshot | None, Result]]:
        """Empty the slots of :meth:`endings` and return the final snapshot and the result of each.

        Of an image that is not finite, the result is the image before the step. An image on which the network raises
        has no snapshot. A task that starts again has no result yet, and is added to the queue.

        Args:
            endings: see :meth:`endings`.
            queue: of the run; by default no task starts again.
        """
        if not endings:
            return []
        finished = self._finish_each(endings, queue)
        slots = self.method.slots
        slots.keep([n for n in range(len(slots)) if n not in endings])
        return finished

    def _finish_each(self, endings: Mapping[int, bool], queue: Queue | None) -> list[tuple[Snapshot | None, Result]]:
        """Finish images together; if the network raises, one by one, so that only its images fail."""
        counts = self.method.slots.counts
        try:
            return self._finish(endings, queue)
        except NetworkError as error:
            self.method.slots.counts = counts
            if len(endings) == 1:
                (n,) = endings
                self.method.network_error = error
                return [(None, _failed_in_slot(self.method, n, error))]
        finished: list[tuple[Snapshot | None, Result]] = []
        for n, is_failed in endings.items():
            finished += self._finish_each({n: is_failed}, queue)
        return finished

    def _finish(self, endings: Mapping[int, bool], queue: Queue | None) -> list[tuple[Snapshot | None, Result]]:
        method, slots, rows = self.method, self.method.slots, list(endings)
        x = slots.x
        if any(endings.values()):
            x = x.clone()
        for n in rows:
            if endings[n]:
                x[n] = self.x[n]
                slots.put(ITERATION, [n], torch.tensor([self.iteration[n]]))
        intact = [n for n in rows if not endings[n]]
        iteration, evaluated = slots.iteration, {}
        for n in intact:
            if n in self.evaluated and iteration[n] == self.iteration[n]:
                evaluation, row = self.evaluated[n]
                evaluated[n] = evaluation.metrics_by_row()[row]
        metrics: dict[int, Mapping[str, float]] = {}
        if intact:
            metrics = dict(zip(intact, method.final_metrics(select_rows(x, intact), intact, evaluated), strict=True))
        snapshots = method.snapshots(select_rows(x, rows), rows, final=True)
        finished: list[tuple[Snapshot | None, Result]] = []
        restarts: dict[int, Snapshot] = {}
        for n, snapshot in zip(rows, snapshots, strict=True):
            snapshot = _with_metrics(snapshot, metrics.get(n, {}))
            error = None
            if endings[n]:
                error = self._error(n)
            elif queue is not None and self._starts_again(n, snapshot):
                restarts[n] = self._best(n, snapshot)
                continue
            best = self._best(n, snapshot, error)
            if best is not snapshot:
                snapshot, error = replace(best, iteration=snapshot.iteration), None
            finished.append((snapshot, _result(method, n, snapshot, error)))
        if queue is not None:
            for n, best in restarts.items():
                queue.restart(method, n, best)
        return finished

    def _starts_again(self, n: int, snapshot: Snapshot) -> bool:
        """Return whether the task of a final image starts again."""
        is_allowed = self.method.slots.earlier[n].restarts < self.method.restarts
        return is_allowed and self.method.shortfall(snapshot) > 0

    def _best(self, n: int, snapshot: Snapshot, error: str | None = None) -> Snapshot:
        """Return the final snapshot of slot n, or that of a better earlier image; of an image that failed with an error
        any earlier one is better."""
        best = self.method.slots.earlier[n].best
        if best is None:
            return snapshot
        is_better = error is not None or self.method.shortfall(best) <= self.method.shortfall(snapshot)
        if is_better:
            return best
        return snapshot

    def _error(self, n: int) -> str:
        if self.iteration[n] == 0 and not self.scores[n].isfinite():
            return (
                "the scores of the network must be finite, and are not for the initial image: "
                "check the network and its preprocessing."
            )
        return (
            f"the image or its score stopped being a finite number at iteration {self.iteration[n] + 1}; "
            f"its last finite image is kept: {self.method.advice}."
        )

    def close(self) -> None:
        """Release the graphs of the evaluations."""
        for evaluation, _ in self.evaluated.values():
            evaluation.close()


def merge_final(snapshots: Sequence[Snapshot], finals: Sequence[Snapshot]) -> list[Snapshot]:
    """Return the snapshots with final ones, each merged with an earlier snapshot of its task and iteration."""
    merged = {(snapshot.task.index, snapshot.iteration): snapshot for snapshot in snapshots}
    for final in finals:
        place = (final.task.index, final.iteration)
        earlier = merged.pop(place, None)
        if earlier is not None:
            final = replace(final, metrics={**earlier.metrics, **final.metrics})
        merged[place] = final
    return list(merged.values())


def _with_metrics(snapshot: Snapshot, metrics: Mapping[str, float]) -> Snapshot:
    if not metrics:
        return snapshot
    return replace(snapshot, metrics=dict(snapshot.metrics) | dict(metrics))


def _result(method: Method, n: int, snapshot: Snapshot, error: str | None) -> Result:
    slots = method.slots
    status = "done" if error is None else "failed"
    metrics = snapshot.metrics if snapshot.file_metrics is None else snapshot.file_metrics
    common = method.new_record(
        snapshot.task,
        status=status,
        error=error,
        iterations=slots.updates(n),
        forwards=slots.forwards[n],
        backwards=slots.backwards[n],
        seconds=round(slots.seconds[n], 3),
        metrics=metrics,
    )
    record = method.record(n, snapshot, common)
    return Result(
        snapshot.task,
        record,
        snapshot.content if snapshot.data is None else snapshot.data,
        snapshot.array,
        snapshot.source,
        snapshot.perturbed_images,
        snapshot.terms,
    )
