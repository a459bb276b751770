"""The LightningModule that all methods share: slots that are filled from a queue, trained, looked at and emptied."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.classifiers.fast import mark_compiled_step
from lit_viz.engine.checkpoint import packed, unpacked
from lit_viz.engine.distributed import DevicesMode, JointDecision, LocalRequests, RankGroup
from lit_viz.engine.method import Method
from lit_viz.engine.optimizer import StepRuleOptimizer
from lit_viz.engine.queue import Queue
from lit_viz.engine.rank_status import RankExchange
from lit_viz.engine.slots import ITERATION, UNTIL
from lit_viz.engine.snapshots import Look, RunProgress, joined
from lit_viz.engine.step import Step
from lit_viz.optim import Evaluation, StepRule
from lit_viz.types import Snapshot, Task
from lit_viz.utils.device import to_device, to_list


class ImageTraining(Method):
    """Trains the images of a queue of tasks, N slots at a time.

    A method says how an image starts (:meth:`start`), what it scores (:meth:`score`), how it is shown
    (:meth:`snapshots`), and what its record says besides (:meth:`record`): see :class:`~lit_viz.engine.method.Method`.

    Args:
        classifier, step_rule, limits: see :class:`~lit_viz.engine.method.Method`.

    Attributes:
        devices_mode: how several processes share the work.
        queue: the tasks that wait for a slot.
        exchange: where the processes tell each other what they have found.
    """

    def __init__(self, classifier: Classifier, step_rule: StepRule, **limits: Any) -> None:
        super().__init__(classifier, step_rule, **limits)
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint keeps images by task, not as a state dict
        self.devices_mode: DevicesMode = "images"
        self.queue = Queue()
        self.exchange = RankExchange()
        self._step: Step
        self._updates = (0, 0)  # of the finished images, and of all: counted once, for there may be thousands
        self._made = 0  # updates of those that have finished in this process's time
        self._restored: dict[str, Any] | None = None
        self._shown: dict[str, float] = {}  # on the progress bar

    # What Lightning calls.

    def configure_optimizers(self) -> StepRuleOptimizer:
        """Return the bridge to the step rule."""
        return StepRuleOptimizer(self.slots, self.step_rule, self.evaluate, self.project)

    def on_fit_start(self) -> None:
        """Prepare the network and take up where a checkpoint left off."""
        if isinstance(self.trainer.precision_plugin, MixedPrecision):
            self.trainer.precision_plugin.scaler = None  # it would unscale what nobody has scaled: there is no loss
        self.ranks = RankGroup.connected(self.devices_mode, self.trainer.world_size)
        self.prepare(self.device)
        kept: list[dict[str, Any]] = []
        if self._restored is not None:
            kept = self._restored["slots"]
            self.exchange.finished = dict(self._restored["finished"])
            self.decision.updates = sum(int(entry["state"][ITERATION]) for entry in kept)
        ended = sum(self.last(task) for task in self.tasks if task.index in self.finished)
        self._updates = (ended, sum(map(self.last, self.tasks)))
        mine = [task for task in self.tasks if self.ranks.holds(task.index)]
        begun = [entry for entry in kept if self.ranks.holds(entry["task"])]
        self.queue = Queue(mine, self.finished, begun)

    def training_step(self, batch: int, batch_idx: int) -> dict[str, Any]:
        """Fill the slots, make one update of the batch, write out and empty the slots that are done.

        Without autocast, which would round images and rules as well: the network alone is asked in half precision.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self._train()

    def _train(self) -> dict[str, Any]:
        began = time.perf_counter()
        if self.compile_mode is not None:
            mark_compiled_step()
        results = self.queue.fill(self)
        snapshots: list[Snapshot] = []
        if len(self.slots):
            looks = self._looks(self.slots.x)
            self._step = Step(self)
            self.slots.state[UNTIL] = self._until()
            self.optimizers().step()  # type: ignore[union-attr]
            snapshots = self._step.snapshots(looks)
            self._show([snapshot.metrics for snapshot in snapshots])
            endings = self._step.ended(self.optimizer.done)
            share = (time.perf_counter() - began) / len(self.slots)
            self.slots.seconds = [seconds + share for seconds in self.slots.seconds]
            for snapshot, result in self._step.finish(endings):
                snapshots = joined(snapshots, snapshot)
                results.append(result)
            self._step.close()
        self.exchange.tell(snapshots, results)
        seconds = time.perf_counter() - began
        found = self.exchange.hold(self.ranks, self.slots, self.queue, seconds=seconds)
        ended = sum(self.last(result.task) for result in found["results"])
        self._updates = (self._updates[0] + ended, self._updates[1])
        self._made += sum(result.record.iterations or 0 for result in found["results"])
        if not self.decision.unfinished:
            self.trainer.should_stop = True
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep images and states by task, and which tasks are finished; no classifier."""
        checkpoint["state_dict"] = {}
        checkpoint["lit_viz"] = packed(self.ranks.gather([*self.slots.dump(), *self.queue.kept]), self.finished)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was saved until the device is known (:meth:`on_fit_start`)."""
        self._restored = unpacked(checkpoint["lit_viz"])

    # What the step rule calls.

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
        rows = range(len(self.slots)) if slots is None else to_list(slots)
        evaluation = self.score(x, rows, gradient=gradient, network=network)
        self._step.heard(evaluation, slots, logged=logged or slots is None)
        return evaluation

    # What callbacks and runs ask.

    @property
    def tasks(self) -> Sequence[Task]:
        """The whole queue, in order."""
        tasks: Sequence[Task] = self.trainer.datamodule.tasks  # type: ignore[attr-defined]
        return tasks

    @property
    def optimizer(self) -> StepRuleOptimizer:
        """The bridge, without Lightning's wrapping."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, StepRuleOptimizer)
        return optimizer

    @property
    def requests(self) -> LocalRequests:
        """What a callback wants of all processes at their next meeting."""
        return self.exchange.requests

    @property
    def decision(self) -> JointDecision:
        """What all processes do after their last meeting."""
        return self.exchange.decision

    @property
    def finished(self) -> Mapping[int, str]:
        """By task, how it ended; known on the first process."""
        return self.exchange.finished

    def progress(self) -> RunProgress:
        """Return how far the run is."""
        iteration = self.slots.iteration
        return RunProgress(
            total=len(self.tasks),
            ended=len(self.finished),
            failed=sum(status == "failed" for status in self.finished.values()),
            skipped=sum(status == "skipped" for status in self.finished.values()),
            updates_done=self._updates[0] + self.decision.updates,
            updates_made=self._made + self.decision.updates,
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

    def step_seconds(self, tasks: Sequence[Task]) -> float:
        """Return the time of a step's forward and backwards, measured on the processor; 0 where no task can start."""
        self.prepare(torch.device("cpu"))
        self.queue = Queue(tasks)
        self.queue.fill(self)
        rows = range(len(self.slots))
        if not rows:
            return 0.0
        backwards = math.ceil(self.backwards_per_step)
        took = 0.0
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            evaluation = self.score(self.slots.x, rows, gradient=backwards > 0, network=self.default_network)
            seen = time.perf_counter()
            for left in reversed(range(backwards)):
                evaluation.backward(keep=left > 0)
            took = seen - began + (time.perf_counter() - seen) * self.backwards_per_step / max(backwards, 1)
        return took

    # What is seen on the way.

    def _until(self) -> Tensor:
        """Return the next iteration of each slot at which it is looked at."""
        until = [
            min(moments.after(k, self.last(task)) for moments in (self.log_at, self.curve_at))
            for k, task in zip(self.slots.iteration, self.slots.tasks, strict=True)
        ]
        return to_device(until, self.slots.x.device)

    def _looks(self, x: Tensor) -> list[tuple[int, Look]]:
        """Look at the images whose iteration is due, before they are moved."""
        iteration = self.slots.iteration
        moments = (self.log_at, self.curve_at)
        last = [self.last(task) for task in self.slots.tasks]
        due = [n for n, k in enumerate(iteration) if any(m.due(k, last[n]) for m in moments)]
        if not due:
            return []
        shown = x if len(due) == len(x) else x[to_device(due, x.device)]
        return list(zip(due, self.snapshots(shown, due), strict=True))

    def _show(self, metrics: Sequence[Mapping[str, float]]) -> None:
        """Keep the mean of the probabilities, or else of the objectives, for the progress bar."""
        for name in ("probability", "objective"):
            if known := [of_one[name] for of_one in metrics if name in of_one]:
                self._shown = {name: sum(known) / len(known)}
                return
