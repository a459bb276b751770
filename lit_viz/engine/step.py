"""One step of the batch: snapshots before the update, results of finished images after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lit_viz.engine.method import Method
from lit_viz.engine.slots import ITERATION
from lit_viz.optim import Evaluation
from lit_viz.types import Record, Result, Snapshot
from lit_viz.utils.device import to_list


class Ending(NamedTuple):
    """Reason that an image is finished; with neither flag, it had all its updates.

    Attributes:
        broken: image or score is not finite.
        done: the step rule reported it as done.
    """

    broken: bool
    done: bool


class Step:
    """A step in progress.

    Attributes:
        x: images before the step ``(N, ...)``.
        iteration: their iterations.
        scores: ``(N,)``, sum of the scores of each slot in the step.
        evaluated: first logged evaluation of x_k and its row, by slot.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.x, self.iteration = method.slots.x, method.slots.iteration
        self.scores = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        self.evaluated: dict[int, tuple[Evaluation, int]] = {}

    def add_evaluation(self, evaluation: Evaluation, slots: Tensor | None, *, logged: bool) -> None:
        """Add an evaluation of these slots, or of all; with ``logged``, its metrics are those of x_k."""
        if slots is None:
            self.scores += evaluation.score
        else:
            self.scores.index_add_(0, slots, evaluation.score.double())
        if logged:
            for row, n in enumerate(range(len(self.x)) if slots is None else to_list(slots)):
                self.evaluated.setdefault(n, (evaluation, row))

    def snapshots(self, due: Mapping[int, Snapshot]) -> list[Snapshot]:
        """Return the snapshots, given by slot, with the metrics of the evaluations of this step."""
        metrics = self._evaluation_metrics(due)
        snapshots = []
        for n, snapshot in due.items():
            merged = {**snapshot.metrics, **metrics[n]}
            if self.method.log_at.due(self.iteration[n], self.method.last_iteration(snapshot.task)):
                snapshots.append(replace(snapshot.without_results(), metrics=merged))
            else:
                snapshots.append(replace(snapshot.without_results(), metrics=merged, image=None, extra_images={}))
        return snapshots

    def _evaluation_metrics(self, slots: Mapping[int, Snapshot]) -> dict[int, dict[str, float]]:
        """Return the metrics of x_k by slot, with its gradient norm if the gradient was computed."""
        metrics: dict[int, dict[str, float]] = {n: {} for n in slots}
        evaluations = {id(self.evaluated[n][0]): self.evaluated[n][0] for n in slots if n in self.evaluated}
        for evaluation in evaluations.values():
            rows = {n: row for n, (other, row) in self.evaluated.items() if other is evaluation and n in metrics}
            by_row, norms = evaluation.metrics_by_row(), evaluation.gradient_norms(list(rows.values()))
            for n, row in rows.items():
                metrics[n] = {**by_row[row], **({"gradient_norm": norms[row]} if row in norms else {})}
        return metrics

    def endings(self, done: Tensor) -> dict[int, Ending]:
        """Return the finished slots; ``done`` ``(N,)`` bool is reported by the step rule. Waits for the GPU."""
        slots = self.method.slots
        iteration, last = slots.iteration, [self.method.last_iteration(task) for task in slots.tasks]
        # float32 at least: half precision can't hold the sum of an image.
        sums = slots.x.flatten(1).sum(1, dtype=torch.promote_types(slots.x.dtype, torch.float32)) + self.scores
        flags = torch.stack([~torch.isfinite(sums), done], 1).tolist()
        endings = {n: Ending(*row) for n, row in enumerate(flags)}
        return {n: e for n, e in endings.items() if e.broken or e.done or iteration[n] >= last[n]}

    def finish(self, endings: Mapping[int, Ending]) -> list[tuple[Snapshot, Result]]:
        """Remove finished images from their slots and return the final snapshot and the result of each."""
        if not endings:
            return []
        method, slots, rows = self.method, self.method.slots, list(endings)
        x = slots.x.clone()
        for n in rows:
            if endings[n].broken:
                x[n] = self.x[n]
                slots.put(ITERATION, [n], torch.tensor([self.iteration[n]]))
        intact = [n for n in rows if not endings[n].broken]
        metrics = dict(zip(intact, method.final_metrics(x[intact], intact), strict=True)) if intact else {}
        snapshots = method.snapshots(x[rows], rows, final=True)
        scores_finite = self.scores.isfinite().tolist()
        finished = []
        for n, snapshot in zip(rows, snapshots, strict=True):
            if snapshot.file_metrics is not None and endings[n].done:  # x_k was evaluated in this step
                evaluation, row = self.evaluated[n]
                metrics[n] = evaluation.metrics_by_row()[row]
            error = None
            if endings[n].broken:
                error = self._error(n, at_start=self.iteration[n] == 0 and not scores_finite[n])
            snapshot = replace(snapshot, metrics={**snapshot.metrics, **metrics.get(n, {})})
            finished.append((snapshot.without_results(), _result(method, n, snapshot, error)))
        slots.keep([n for n in range(len(slots)) if n not in endings])
        return finished

    def _error(self, n: int, *, at_start: bool) -> str:
        if at_start:
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


def merge_final(snapshots: Sequence[Snapshot], final: Snapshot) -> list[Snapshot]:
    """Return the snapshots with a final one, merged with an earlier snapshot of the same iteration."""
    key = (final.task.index, final.iteration)
    same = [snapshot for snapshot in snapshots if (snapshot.task.index, snapshot.iteration) == key]
    others = [snapshot for snapshot in snapshots if (snapshot.task.index, snapshot.iteration) != key]
    metrics = {name: value for snapshot in same for name, value in snapshot.metrics.items()}
    return [*others, replace(final, metrics={**metrics, **final.metrics})]


def _result(method: Method, n: int, snapshot: Snapshot, error: str | None) -> Result:
    slots = method.slots
    common = Record.of(
        snapshot.task,
        status="done" if error is None else "failed",
        error=error,
        iterations=slots.iteration[n],
        forwards=slots.forwards[n],
        backwards=slots.backwards[n],
        seconds=round(slots.seconds[n], 3),
        metrics=snapshot.metrics if snapshot.file_metrics is None else snapshot.file_metrics,
    )
    record = method.record(n, snapshot, common)
    return Result(snapshot.task, record, snapshot.image, snapshot.array, snapshot.source, snapshot.perturbed_images)
