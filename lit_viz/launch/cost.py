"""``--count``: the steps and evaluations of a run, and the time of one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.utils.formatting import pluralize
from lit_viz.utils.process import tune_allocator


class Cost(NamedTuple):
    """Cost of a run, if every image uses all of its iterations."""

    images: int
    steps: int
    evaluations: int
    seconds: float


def run_cost(module: ImageTraining, queue: TaskQueue) -> Cost:
    """Return the cost of a run, from the time of one step on this machine's CPU."""
    tune_allocator()
    queue.attach(module)
    steps, evaluations = module.cost(queue.tasks)
    return Cost(len(queue.tasks), steps, evaluations, steps * module.step_seconds(queue.tasks))


def format_cost(costs: Sequence[Cost]) -> str:
    """Return the total cost of one or several runs in one line."""
    images, steps, evaluations, seconds = (sum(column) for column in zip(*costs, strict=True))
    counts = {"image": images, "step": steps, "evaluation": evaluations}
    if len(costs) > 1:
        counts = {"run": len(costs), **counts}
    total = ", ".join(pluralize(number, noun) for noun, number in counts.items())
    duration = f"{seconds / 60:.1f} minutes" if seconds > 100 else pluralize(max(1, round(seconds)), "second")
    return f"{total}: about {duration} on this machine's CPU, if every image uses all of its iterations"
