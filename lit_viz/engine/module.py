"""The LightningModule of all methods: slots are refilled from a queue, updated, logged and emptied."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lit_viz.engine.lightning import adapt_strategy, describe_bar
from lit_viz.engine.method import Method
from lit_viz.engine.ranks import RankExchange, RankGroup, RankStatus
from lit_viz.engine.slots import ITERATION, UNTIL, Slots
from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.engine.step import Queue, Step, StepRuleOptimizer, fail_raising, merge_final
from lit_viz.errors import ChangedInput, LitVizError, NetworkError
from lit_viz.optim import Evaluation
from lit_viz.types import Task
from lit_viz.utils.device import to_device, to_list
from lit_viz.utils.files import FORMAT, check_format
from lit_viz.utils.imports import import_by_path

_SECONDS_BETWEEN_LOGS = 0.1
_DIGITS = 15  # hexadecimal, of the digest of an input image: a number of 60 bits takes half the memory of a text


@dataclass(frozen=True)
class RunProgress:
    """Progress of a run.

    Attributes:
        total: tasks of the run.
        ended: finished tasks, including those that ``failed`` or were ``skipped``.
        updates_done: updates made, where a finished task counts with its maximum.
        updates_made: updates made by this process.
        updates_total: maximum number of updates, without restarts.
        iteration: lowest iteration in the slots.
        probability: mean probability of the last snapshots, if they have one.
        objective: mean objective otherwise.
    """

    total: int
    ended: int
    failed: int
    skipped: int
    updates_done: int
    updates_made: int
    updates_total: int
    iteration: int
    probability: float | None = None
    objective: float | None = None


class ImageTraining(Method):
    """Train the images of a task queue, N slots at a time.

    Subclasses implement the hooks of :class:`~lit_viz.engine.method.Method`. Each step logs the mean ``objective`` and
    ``probability`` of the batch, the number of ``images_done``, and for attacks the share that is ``fooled``.

    Args:
        arguments, options: see :class:`~lit_viz.engine.method.Method`.

    Attributes:
        keep_results: whether :attr:`results` are kept in memory and in checkpoints.
        queue: tasks of this rank that wait for a slot.
        exchange: exchange of the rank status.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._verifier: Any = None  # class that computes the evidence, in the test stage
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints store images by task, not as a state dict
        self.keep_results = True
        self._results: dict[int, Result] = {}
        self._logged = 0.0
        self._sums: dict[str, tuple[float, int]] = {}  # sum and count of each metric of finished tasks
        self._inputs: dict[str, int] = {}  # start of the digest of each input image that was read, by its name
        self.queue = Queue()
        self.exchange = RankExchange()
        self._step: Step | None = None
        self._optimizer: StepRuleOptimizer | None = None
        self._is_evaluated = False  # whether the network has evaluated an image of the run
        self._updates_finished = self._updates_total = self._updates_made = 0
        self._restored: dict[str, Any] | None = None
        self._progress_metrics: dict[str, float] = {}
        self._bar_text, self._bar_steps = "", 0

    # Lightning hooks

    def configure_optimizers(self) -> StepRuleOptimizer:
        """Return the optimizer of the step rule."""
        self._optimizer = StepRuleOptimizer(self, self._evaluate)
        self._optimizer.set_rate(0, self.iterations)
        return self._optimizer

    def setup(self, stage: str) -> None:
        """Allocate the images of a full batch, for the model summary, and discard the state of an earlier run."""
        if stage == "fit":
            self.slots.clear(torch.zeros(min(self.capacity, len(self.tasks)), *self.image_shape))
            self.exchange, self._results, self._sums, self._inputs = RankExchange(), {}, {}, {}
            self._updates_made, self._progress_metrics = 0, {}
            self._bar_text, self._bar_steps = "", 0

    def on_fit_start(self) -> None:
        """Prepare the networks and restore the state of a checkpoint."""
        adapt_strategy(self.trainer)
        self.ranks = RankGroup.connect(self.devices_mode, self.trainer.world_size)
        self.prepare(self.device)
        entries: list[dict[str, Any]] = []
        if self._restored is not None:
            entries = self._restored["slots"]
            self.exchange.finished = dict(self._restored["finished"])
            self.decision.updates = sum(int(entry["state"][ITERATION]) for entry in entries)
            self._restored = None
        self.exchange.finished |= getattr(getattr(self.trainer, "datamodule", None), "finished", {})
        self.network_error = None
        self._is_evaluated = bool(entries) or "done" in self.finished.values()
        self._updates_finished = self._updates_total = 0
        for task in self.tasks:
            updates = self.last_iteration(task)
            self._updates_total += updates
            if task.index in self.finished:
                self._updates_finished += updates
        own_tasks = self.tasks
        if self.ranks.size > 1:
            own_tasks = [task for task in self.tasks if self.ranks.owns(task.index)]
        own_entries = [entry for entry in entries if self.ranks.owns(entry["task"])]
        self.queue = Queue(own_tasks, self.finished, own_entries)

    def on_train_start(self) -> None:
        """Log the notes of network, method and tasks, each once; a run prints them."""
        if self.keep_results:
            tasks = getattr(self.trainer, "datamodule", None)
            self.network.log_notes(rank_zero_info, [*self.notes, *getattr(tasks, "notes", ())])

    def training_step(self, batch: int, batch_idx: int) -> dict[str, Any]:
        """Fill the slots, make one update of the batch, and empty the slots of finished images.

        Returns:
            the ``snapshots`` and ``results`` since the last exchange between ranks; see
            :meth:`~lit_viz.engine.ranks.RankExchange.synchronize`.
        """
        outputs = self._training_step()
        for result in outputs["results"]:
            if self.keep_results:
                self._results[result.task.index] = result
            for name, value in self.finished_metrics(result.record).items():
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = total + value, count + 1
        if self._is_log_due(batch_idx) or outputs["results"]:
            self.log_dict(self._means(), prog_bar=True, batch_size=1)
            self._logged = time.monotonic()
        return outputs

    def on_train_batch_end(self, outputs: Any, batch: int, batch_idx: int) -> None:
        """Check for early stopping after every step, because a run is a single epoch."""
        for callback in self.trainer.early_stopping_callbacks:
            if callback.monitor in self.trainer.callback_metrics:
                callback.on_train_epoch_end(self.trainer, self)
        if self.trainer.progress_bar_callback is not None:
            self._describe_bar(batch_idx + 1)

    def _describe_bar(self, steps_made: int) -> None:
        """Show the number of finished images in the progress bar, and the number of steps, when they change."""
        text = f"{len(self.finished)}/{len(self.tasks)} images"
        steps = self._bar_steps
        if text != self._bar_text:
            steps = self.cost(self.tasks)[0]
        if not self.decision.unfinished:  # images may be done before their last iteration
            steps = steps_made
        elif steps <= steps_made:  # of maps, the number is estimated
            steps = steps_made + 1
        if (text, steps) != (self._bar_text, self._bar_steps):
            self._bar_text, self._bar_steps = text, steps
            describe_bar(self.trainer, text, steps)

    def on_train_end(self) -> None:
        """Keep the results of all ranks on every rank, including unfinished images."""
        self.ranks.close()
        if not self.keep_results or self.decision.signal:  # equal on all ranks, which exchange results below
            return
        if self.decision.unfinished:
            self._keep_unfinished()
        self._results = self.ranks.broadcast(self._results)

    def _keep_unfinished(self) -> None:
        """Keep the images that the Trainer has stopped before their last iteration, as ``unfinished`` results."""
        entries, tasks = self.slots.dump(), list(self.slots.tasks)
        for entry, task in self.queue.restarts:  # they have an earlier image
            self.slots.restore(entry, task, self.device)
        with torch.no_grad(), _default_dtype(self.image_dtype):
            finished = Step(self).finish(dict.fromkeys(range(len(self.slots)), False))
        results: list[Result] = []
        for _, result in finished:
            results.append(replace(result, record=result.record.amend(status="unfinished")))
        for result in self.ranks.gather(results):
            self._results[result.task.index] = result
        for entry, task in zip(entries, tasks, strict=True):  # for a later checkpoint
            self.slots.restore(entry, task, self.device)

    def test_step(self, batch: int, batch_idx: int) -> None:
        """Log the evidence of the results, which rank 0 computes, on every rank."""
        results = self.results
        if not results:
            rank_zero_warn(
                "trainer.test evaluates the results of trainer.fit, and there are none: fit the module first, or give "
                "ckpt_path="
            )
        numbers: dict[str, float] = {}
        if self.trainer.is_global_zero and self._verifier is not None:
            with torch.inference_mode(False), torch.enable_grad():
                numbers.update(self._verifier.test(self, results))
        numbers = self.trainer.strategy.broadcast(numbers)
        self.log_dict(numbers, batch_size=1, sync_dist=self.trainer.world_size > 1)

    @classmethod
    def load_from_checkpoint(cls, *_: Any, **__: Any) -> Any:
        """Reject what a checkpoint can't give: it has the images of a run, but not its parts and its network."""
        raise LitVizError(
            f"a checkpoint has images, but no {cls.__name__}: make it again, and continue by trainer.fit(ckpt_path=...)"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save unfinished images by task and the finished tasks, without the network."""
        checkpoint["state_dict"] = {}
        entries = self.ranks.gather([*self.slots.dump(), *self.queue.entries])
        inputs: dict[str, int] = {}
        for of_rank in self.ranks.gather([self._inputs]):
            inputs = inputs | of_rank if inputs else of_rank
        checkpoint["lit_viz"] = {
            "format": FORMAT,
            "slots": entries,
            "finished": self.finished if self.keep_results else {},  # of a run folder, in its segments
            "sums": dict(self._sums),
            "inputs": inputs,
        }
        if self.keep_results:  # of a run folder, queue and results are files
            checkpoint["lit_viz"]["queue"] = [task.to_dict() for task in self.tasks]
            checkpoint["lit_viz"]["results"] = [result.dump() for result in self.results if result.is_finished]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the saved state until :meth:`on_fit_start`, where the device is set.

        Raises:
            LitVizError: the checkpoint has another format, or is of other tasks.
        """
        self._restored = check_run_state(checkpoint.get("lit_viz"))
        queue = self._restored.get("queue")
        if queue is not None and queue != [task.to_dict() for task in self.tasks]:
            raise LitVizError("the checkpoint is of other tasks: give the tasks of its run, or no ckpt_path=")
        self._sums = dict(self._restored.get("sums", {}))
        self._inputs = dict(self._restored.get("inputs", {}))
        self._results = {}
        for result in map(Result.restore, self._restored.get("results", ())):
            self._results[result.task.index] = result

    # Inputs

    def check_input(self, name: str, pixels: Tensor, remedy: str) -> None:
        """Compare an input image with the first one that the run has read under this name, also before a resume.

        Args:
            name: file or index of the image.
            pixels: the image as a task starts from it.
            remedy: what to do if it is another one.

        Raises:
            ChangedInput: it is another image.
        """
        if self._trainer is None:  # outside of a run, which may be resumed
            return
        actual = int(image_digest(pixels)[:_DIGITS], 16)
        expected = self._inputs.setdefault(name, actual)
        if actual != expected:
            before, now = (f"{start:0{_DIGITS}x}"[:12] for start in (expected, actual))
            raise ChangedInput(
                f"{name} is another picture than this run has read before (sha256 {before}..., got {now}...): "
                f"{remedy} and resume the run, or start another run"
            )

    @property
    def has_inputs(self) -> bool:
        """Whether the run has read any input image, also before a resume."""
        return len(self._inputs) > 0

    def has_read(self, name: str) -> bool:
        """Return whether the run has read the input image with this name, also before a resume."""
        return name in self._inputs

    # Steps

    def _training_step(self) -> dict[str, Any]:
        start = time.perf_counter()
        snapshots, results = self.step_batch()
        if not self.exchange.is_due(snapshots, results):
            return {"snapshots": [], "results": []}
        status = self.exchange.status
        status.unfinished = len(self.slots) > 0 or len(self.queue) > 0
        status.updates = sum(self.slots.iteration) + self.queue.updates
        status.seconds = time.perf_counter() - start
        status.digest = 0.0
        if self.ranks.shares_views:
            status.digest = float(self.slots.x.double().sum())
        outputs = self.exchange.synchronize(self.ranks)
        for result in outputs["results"]:
            self._updates_finished += self.last_iteration(result.task)
            self._updates_made += result.record.iterations or 0
        if not self.decision.unfinished:
            self.trainer.should_stop = True
        return outputs

    def compute(self, tasks: Sequence[Task]) -> list[Result]:
        """Return the results of tasks, in their order, by the steps of a run without a Trainer and logs.

        Raises:
            LitVizError: a task is invalid.
            NetworkError: the network raises on every image.
        """
        self.validate_tasks(tasks)
        self.configure_optimizers()
        self.prepare(self.device)
        self.queue = Queue(tasks)
        results: dict[int, Result] = {}
        while len(self.slots) or len(self.queue):
            for result in self.step_batch(logged=False)[1]:
                results[result.task.index] = result
        return [results[task.index] for task in tasks]

    def step_batch(self, *, logged: bool = True) -> tuple[list[Snapshot], list[Result]]:
        """Fill the slots, make one update of the batch, and empty the slots of finished images.

        Args:
            logged: whether there are snapshots of the images at their logged iterations.

        Returns:
            the snapshots, and the results of the finished images.
        """
        # Autocast or a half default dtype would round images and step rules; only the network has half precision.
        with torch.autocast(self.device.type, enabled=False), _default_dtype(self.image_dtype):
            return self._step_batch(logged)

    def _step_batch(self, logged: bool) -> tuple[list[Snapshot], list[Result]]:
        start = time.perf_counter()
        if self.compile_mode is not None:
            # Releases the memory of the previous step's CUDA graphs.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        results = self.queue.fill(self)
        snapshots: list[Snapshot] = []
        due, failed = self._update_images(logged)
        results += failed
        step = self._step
        if step is not None and len(self.slots):
            self._is_evaluated = True
            snapshots = step.snapshots(due)
            self._update_progress_metrics(snapshots)
            endings = step.endings(self.optimizer.done)
            share = (time.perf_counter() - start) / len(self.slots)
            self.slots.seconds = [seconds + share for seconds in self.slots.seconds]
            finals: list[Snapshot] = []
            for snapshot, result in step.finish(endings, self.queue):
                if snapshot is not None and logged:
                    finals.append(snapshot.without_results())
                results.append(result)
            snapshots = merge_final(snapshots, finals)
            step.close()
        self._check_evaluated(results)
        return snapshots, results

    def _update_images(self, logged: bool) -> tuple[dict[int, Snapshot], list[Result]]:
        """Make one update of the batch; images on which the network raises leave their slots.

        Returns:
            the snapshots that are due before the update, by slot, and the results of the images that failed.
        """
        failed: list[Result] = []
        while len(self.slots):
            due = self._due_snapshots(self.slots.x) if logged else {}
            self._step = step = Step(self)
            self.slots.state[UNTIL] = self._next_logged()
            self.optimizer.set_rate(step.iteration[0], self.last_iteration(self.slots.tasks[0]))
            counts = self.slots.counts
            try:
                self._update()
                return due, failed
            except NetworkError as error:
                step.close()
                self.slots.counts = counts
                failed += fail_raising(self, error)
        return {}, failed

    def _update(self) -> None:
        """Update the images by the optimizer, as Lightning wraps it in a Trainer."""
        if self._trainer is None:
            self.optimizer.step()
        else:
            self.optimizers().step()  # type: ignore[union-attr]

    def _check_evaluated(self, results: Sequence[Result]) -> None:
        """Stop a run if the network raises on every image: on the first batch, or on each of the queue.

        Raises:
            NetworkError: the exception of the network.
        """
        if self.network_error is None or self._is_evaluated or len(self.slots) or self.ranks.size > 1:
            return
        if len(results) > 1 or not len(self.queue):
            raise self.network_error

    def _evaluate(
        self,
        x: Tensor,
        *,
        gradient: bool = True,
        slots: Tensor | None = None,
        network: str = "plain",
        logged: bool = False,
    ) -> Evaluation:
        rows = range(len(self.slots)) if slots is None else to_list(slots)
        evaluation = self.score(x, rows, gradient=gradient, network=network)
        assert self._step is not None
        self._step.add_evaluation(evaluation, slots, logged=logged or slots is None)
        return evaluation

    # Evidence

    def attach_evidence(self) -> None:
        """Compute the evidence of the verifier that the class names, with each image and in the test stage."""
        self._verifier = import_by_path(self.verifier)
        self._verifier.prepare(self)

    # State for callbacks

    @property
    def tasks(self) -> Sequence[Task]:
        """The whole queue, in order."""
        tasks: Sequence[Task] | None = getattr(getattr(self.trainer, "datamodule", None), "tasks", None)
        if tasks is None:
            raise LitVizError(f"the data of a run must be a TaskQueue, such as {self.usual_tasks}")
        return tasks

    @property
    def results(self) -> list[Result]:
        """The results in task order, on every rank after the training.

        Images that the Trainer stopped have the status ``unfinished``.
        """
        return [result for _, result in sorted(self._results.items())]

    @property
    def optimizer(self) -> StepRuleOptimizer:
        """The optimizer without Lightning's wrapper."""
        assert self._optimizer is not None
        return self._optimizer

    @property
    def decision(self) -> RankStatus:
        """Joint status of all ranks at the last exchange."""
        return self.exchange.decision

    @property
    def finished(self) -> Mapping[int, str]:
        """Status of each finished task, by index; complete on rank 0."""
        return self.exchange.finished

    def progress(self) -> RunProgress:
        """Return the progress of the run."""
        status = list(self.finished.values())
        return RunProgress(
            total=len(self.tasks),
            ended=len(status),
            failed=status.count("failed"),
            skipped=status.count("skipped"),
            updates_done=self._updates_finished + self.decision.updates,
            updates_made=self._updates_made + self.decision.updates,
            updates_total=self._updates_total,
            iteration=min(self.slots.iteration, default=self.iterations),
            **self._progress_metrics,
        )

    def cost(self, tasks: Sequence[Task]) -> tuple[int, int]:
        """Return the number of steps of these tasks, and the maximum number of evaluations, both without restarts."""
        iterations = [self.last_iteration(task) for task in tasks]
        free_at = [0] * min(self.capacity, len(tasks))  # step at which each slot is free
        for count in iterations:
            free_at[free_at.index(min(free_at))] += count
        return max(free_at), sum(iterations) * self.views

    def step_seconds(self, tasks: Sequence[Task]) -> float:
        """Measure the evaluations of one step on the CPU, in seconds; 0 if no task can start."""
        self.prepare(torch.device("cpu"))
        self.queue = Queue(tasks)
        self.queue.fill(self)
        rows = range(len(self.slots))
        if not rows:
            return 0.0
        backwards, network = math.ceil(self.step_rule.backwards_per_step), self.step_rule.networks[0]
        seconds = 0.0
        for _ in range(2):  # the first pass is a warm-up
            start = time.perf_counter()
            evaluation = self.score(self.slots.x, rows, gradient=backwards > 0, network=network)
            forward_end = time.perf_counter()
            for remaining in reversed(range(backwards)):
                evaluation.backward(keep=remaining > 0)
            backward_seconds = (time.perf_counter() - forward_end) / max(backwards, 1)
            seconds = forward_end - start + backward_seconds * self.step_rule.backwards_per_step
        return seconds

    # Logging

    def _is_log_due(self, batch_idx: int) -> bool:
        """Return whether a callback or logger reads the means of this step, or the last ones are 0.1 seconds old."""
        # Logging takes a millisecond, several percent of a step on a GPU.
        trainer = self.trainer
        every: int = getattr(trainer, "log_every_n_steps", 0)
        logger_is_due = bool(trainer.loggers and every) and (batch_idx + 1) % max(every, 1) == 0
        is_read = logger_is_due or trainer.should_stop or bool(trainer.early_stopping_callbacks)
        return is_read or time.monotonic() - self._logged >= _SECONDS_BETWEEN_LOGS

    def _means(self) -> dict[str, float | Tensor]:
        """Return the means that a step logs; no value is read from the device."""
        means: dict[str, float | Tensor] = dict(self._progress_metrics)
        if self._step is not None and self._step.first is not None:
            metrics = self._step.first.metrics
            for name in ("objective", "probability", "score"):
                if name in metrics:
                    means[name] = metrics[name].float().mean()
        for name, (total, count) in self._sums.items():
            means[name] = total / count
        means["images_done"] = float(len(self.finished))
        return means

    def _next_logged(self) -> Tensor:
        """Return the next logged iteration of each slot, ``(N,)``."""
        until: list[int] = []
        for k, task in zip(self.slots.iteration, self.slots.tasks, strict=True):
            last = self.last_iteration(task)
            until.append(min(self.log_at.after(k, last), self.curve_at.after(k, last)))
        return to_device(until, self.slots.x.device)

    def _due_snapshots(self, x: Tensor) -> dict[int, Snapshot]:
        """Return the snapshots of images that are logged at their current iteration, by slot."""
        due: list[int] = []
        for n, (k, task) in enumerate(zip(self.slots.iteration, self.slots.tasks, strict=True)):
            last = self.last_iteration(task)
            if self.log_at.due(k, last) or self.curve_at.due(k, last):
                due.append(n)
        if not due:
            return {}
        if len(due) < len(x):
            x = x[to_device(due, x.device)]
        return dict(zip(due, self.snapshots(x, due), strict=True))

    def _update_progress_metrics(self, snapshots: Sequence[Snapshot]) -> None:
        """Keep the mean probability, or else the mean objective, until the next snapshots."""
        for name in ("probability", "objective"):
            if values := [snapshot.metrics[name] for snapshot in snapshots if name in snapshot.metrics]:
                self._progress_metrics = {name: sum(values) / len(values)}
                return


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def image_digest(pixels: Tensor) -> str:
    """Return the SHA-256 of the shape and the values of an image."""
    values = pixels.detach().cpu().contiguous().numpy()
    digest = hashlib.sha256(f"{values.dtype} {values.shape}".encode())
    digest.update(values.tobytes())
    return digest.hexdigest()


def check_run_state(state: Any) -> dict[str, Any]:
    """Return the run's entry of a checkpoint, with its ``slots`` (:meth:`~lit_viz.engine.slots.Slots.dump`) and the
    status of each ``finished`` task.

    Raises:
        LitVizError: the entry has another format, or is damaged.
    """
    if not isinstance(state, dict) or not state:
        raise damaged_state("the state of the run")
    check_format("the checkpoint", state.get("format"))
    slots, finished, sums = state.get("slots"), state.get("finished"), state.get("sums", {})
    if not isinstance(slots, list) or not all(map(Slots.is_entry, slots)):
        raise damaged_state("slots")
    if not isinstance(finished, dict) or not all(isinstance(index, int) for index in finished):
        raise damaged_state("finished")
    if not isinstance(sums, dict) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in sums.values()):
        raise damaged_state("sums")
    inputs = state.get("inputs", {})
    if not isinstance(inputs, dict) or not all(isinstance(start, int) for start in inputs.values()):
        raise damaged_state("inputs")
    return state


def damaged_state(part: str) -> LitVizError:
    """Return the error of a checkpoint of which a part has another type."""
    return LitVizError(
        f"the checkpoint is damaged (its entry of {part}): start the run again with overwrite, or in another folder"
    )
