"""One step of the batch: what was seen of the images before it, and which of them are done after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_viz.engine.method import Method
from lit_viz.engine.slots import ITERATION
from lit_viz.engine.snapshots import Look
from lit_viz.optim import Evaluation
from lit_viz.types import Record, Result, Snapshot
from lit_viz.utils.device import to_list


class Ending(NamedTuple):
    """How an image ended: it broke, or was found done; or else it had all its updates."""

    broken: bool
    done: bool


class Step:
    """A step that has begun.

    Attributes:
        x: the images before it ``(N, ...)``.
        began_at: their iterations.
        scores: sum of each slot's scores in the step ``(N,)``.
        evaluated: by slot, the first evaluation of x_k, and the slot's row in it.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.x, self.began_at = method.slots.x, method.slots.iteration
        self.scores = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        self.evaluated: dict[int, tuple[Evaluation, int]] = {}

    def heard(self, evaluation: Evaluation, slots: Tensor | None, *, logged: bool) -> None:
        """Keep what was evaluated of these slots, or of all; as that of x_k where it is ``logged``."""
        if slots is None:
            self.scores += evaluation.score
        else:
            self.scores.index_add_(0, slots, evaluation.score.double())
        if logged:
            for m, n in enumerate(range(len(self.x)) if slots is None else to_list(slots)):
                self.evaluated.setdefault(n, (evaluation, m))

    def snapshots(self, looks: Sequence[tuple[int, Look]]) -> list[Snapshot]:
        """Join looks, by slot, with the scalars of the evaluations that the step rule has made of the same images."""
        method = self.method
        metrics = self._scalars([n for n, _ in looks])
        snapshots = []
        for n, look in looks:
            task, iteration = method.slots.tasks[n], self.began_at[n]
            kept = method.log_at.due(iteration, method.last(task))
            shown = (look.image, look.extra_images) if kept else (None, {})
            snapshots.append(Snapshot(task, iteration, {**look.metrics, **metrics[n]}, shown[0], look.top5, shown[1]))
        return snapshots

    def _scalars(self, slots: Sequence[int]) -> dict[int, dict[str, float]]:
        """Return by slot what was said of x_k: the terms of its score, and how long its gradient is where it is
        known."""
        found: dict[int, dict[str, float]] = {n: {} for n in slots}
        evaluations = {id(self.evaluated[n][0]): self.evaluated[n][0] for n in slots if n in self.evaluated}
        for evaluation in evaluations.values():
            rows = {n: m for n, (one, m) in self.evaluated.items() if one is evaluation and n in found}
            terms, norms = evaluation.metrics_by_row(), evaluation.gradient_norms(list(rows.values()))
            for n, m in rows.items():
                found[n] = {**terms[m], **({"gradient_norm": norms[m]} if m in norms else {})}
        return found

    def ended(self, found: Tensor) -> dict[int, Ending]:
        """Return by slot how images have ended: that broke, that the rule has ``found`` done ``(N,)`` bool, or that had
        all their updates. Here a GPU is waited for."""
        slots = self.method.slots
        iteration, last = slots.iteration, [self.method.last(task) for task in slots.tasks]
        # In float32 at least, since half precision can't hold the sum of an image.
        sums = slots.x.flatten(1).sum(1, dtype=torch.promote_types(slots.x.dtype, torch.float32)) + self.scores
        flags = torch.stack([~torch.isfinite(sums), found], 1).tolist()
        endings = {n: Ending(*those) for n, those in enumerate(flags)}
        return {n: e for n, e in endings.items() if e.broken or e.done or iteration[n] >= last[n]}

    def finish(self, endings: Mapping[int, Ending]) -> list[tuple[Snapshot, Result]]:
        """Take the images that have ended out of their slots."""
        if not endings:
            return []
        method, slots, ended = self.method, self.method.slots, list(endings)
        x = slots.x.clone()
        for n in ended:
            if endings[n].broken:
                x[n] = self.x[n]
                slots.put(ITERATION, [n], torch.tensor([self.began_at[n]]))
        whole = [n for n in ended if not endings[n].broken]
        known = dict(zip(whole, method.final_metrics(x[whole], whole), strict=True)) if whole else {}
        looks = method.snapshots(x[ended], ended, final=True)
        for n, look in zip(ended, looks, strict=True):
            if look.traced is not None and endings[n].done:  # x_k was evaluated in this step
                evaluation, m = self.evaluated[n]
                known[n] = evaluation.metrics_by_row()[m]
        finite = self.scores.isfinite().tolist()
        at_start = [k == 0 and not fine for k, fine in zip(self.began_at, finite, strict=True)]
        pairs = [
            _result(method, n, look, known.get(n, {}), broken=endings[n].broken, from_start=at_start[n])
            for n, look in zip(ended, looks, strict=True)
        ]
        slots.keep([n for n in range(len(slots)) if n not in ended])
        return pairs

    def close(self) -> None:
        """Let the graphs of the evaluations go."""
        for evaluation, _ in self.evaluated.values():
            evaluation.close()


def _result(
    method: Method, n: int, look: Look, terms: dict[str, float], *, broken: bool, from_start: bool
) -> tuple[Snapshot, Result]:
    task, slots = method.slots.tasks[n], method.slots
    iteration = slots.iteration[n]
    error = None
    if broken and from_start:
        error = "the network gives no finite score from the start: it is broken, or its input is not what it expects."
    elif broken:
        error = (
            f"the image or its score stopped being a finite number at iteration {iteration + 1}; "
            f"its last finite image is kept: {method.advice}."
        )
    metrics = {**look.metrics, **terms} if look.traced is None else look.metrics
    traced = metrics if look.traced is None else {**look.traced, **terms}
    common = Record.of(
        task,
        status="failed" if broken else "done",
        error=error,
        iterations=iteration,
        forwards=slots.forwards[n],
        backwards=slots.backwards[n],
        seconds=round(slots.seconds[n], 3),
        metrics=metrics,
    )
    record = method.record(n, look, common)
    file_metrics = None if look.traced is None else look.metrics
    snapshot = Snapshot(task, iteration, traced, look.image, look.top5, look.extra_images, file_metrics)
    return snapshot, Result(task, record, look.image, look.array, look.source, look.perturbed_images)
