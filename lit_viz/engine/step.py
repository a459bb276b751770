"""One step of the batch: what was seen of the images before it, and which of them are done after it."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_viz.engine.looks import Look
from lit_viz.engine.method import Method
from lit_viz.engine.slots import ITERATION
from lit_viz.engine.tasks import Observation, Result
from lit_viz.optim import Evaluation


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
            for m, n in enumerate(range(len(self.x)) if slots is None else slots.tolist()):
                self.evaluated.setdefault(n, (evaluation, m))

    def observation(self, n: int, look: Look) -> Observation:
        """Join a look with the scalars of the evaluation that the step rule has made of the same image."""
        method, iteration = self.method, self.began_at[n]
        scalars = dict(look.scalars)
        if n in self.evaluated:
            evaluation, m = self.evaluated[n]
            scalars |= evaluation.terms_of(m)
            if (gradient := evaluation.known_gradient(m)) is not None:
                scalars["gradient_norm"] = float(torch.linalg.vector_norm(gradient))
        task = method.slots.tasks[n]
        kept = method.log_at.due(iteration, method.last(task))
        shown = (look.image, look.besides) if kept else (None, {})
        return Observation(task, iteration, scalars, shown[0], look.top5, shown[1])

    def finish(self, found: Tensor) -> list[tuple[Observation, Result]]:
        """Take the images that are done out of their slots: those that broke, that the rule has ``found`` done
        ``(N,)`` bool, or that had all their updates."""
        method, slots = self.method, self.method.slots
        iteration = slots.iteration
        # In float32 at least, since half precision can't hold the sum of an image.
        sums = slots.x.flatten(1).sum(1, dtype=torch.promote_types(slots.x.dtype, torch.float32)) + self.scores
        broken, done = torch.stack([~torch.isfinite(sums), found]).tolist()
        last = [method.last(task) for task in slots.tasks]
        ended = [n for n, k in enumerate(iteration) if broken[n] or done[n] or k >= last[n]]
        if not ended:
            return []
        x = slots.x.clone()
        for n in ended:
            if broken[n]:
                x[n] = self.x[n]
                slots.put(ITERATION, [n], torch.tensor([self.began_at[n]]))
        whole = [n for n in ended if not broken[n]]
        known = dict(zip(whole, method.conclude(x[whole], whole), strict=True)) if whole else {}
        looks = method.look(x[ended], ended, final=True)
        for n, look in zip(ended, looks, strict=True):
            if look.traced is not None and done[n]:  # x_k was evaluated in this step
                evaluation, m = self.evaluated[n]
                known[n] = evaluation.terms_of(m)
        at_start = [k == 0 and not finite for k, finite in zip(self.began_at, self.scores.isfinite(), strict=True)]
        pairs = [
            _result(method, n, look, known.get(n, {}), broken=broken[n], from_start=at_start[n])
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
) -> tuple[Observation, Result]:
    task, slots = method.slots.tasks[n], method.slots
    iteration = int(slots.state[ITERATION][n])
    error = None
    if broken and from_start:
        error = "the network gives no finite score from the start: it is broken, or its input is not what it expects."
    elif broken:
        error = (
            f"the image or its score stopped being a finite number at iteration {iteration + 1}; "
            f"its last finite image is kept: {method.advice}."
        )
    scalars = {**look.scalars, **terms} if look.traced is None else look.scalars
    traced = scalars if look.traced is None else {**look.traced, **terms}
    record = {
        "status": "failed" if broken else "done",
        "error": error,
        "iterations": iteration,
        "forwards": slots.forwards[n],
        "backwards": slots.backwards[n],
        "seconds": round(slots.seconds[n], 3),
        **scalars,
        **method.record(n, look),
    }
    of_picture = None if look.traced is None else look.scalars
    observation = Observation(task, iteration, traced, look.image, look.top5, look.besides, of_picture)
    return observation, Result(task, record, look.image, look.array, look.source, look.bearers)
