"""Goals of attacks on scores that are numbers: ``above:V``, ``below:V``, ``change:T`` in the unit of the score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.types import Task

#: Option of a task that holds its goal, as text.
GOAL = "goal"
#: Option of a task that holds the score that divides success from failure.
THRESHOLD = "threshold"


@dataclass(frozen=True)
class NumberGoal:
    """Where an attack moves a score.

    Attributes:
        kind: ``above`` or ``below`` a value; ``rise`` or ``fall`` by an amount from the score of the photograph.
        value: the value, or the amount, in the unit of the score.
    """

    kind: Literal["above", "below", "rise", "fall"]
    value: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.value:g}"

    @property
    def is_upward(self) -> bool:
        """Whether the score has to grow."""
        return self.kind in ("above", "rise")

    def threshold(self, score: float) -> float:
        """Return the score that divides success from failure, for the score of the photograph."""
        if self.kind == "rise":
            return score + self.value
        if self.kind == "fall":
            return score - self.value
        return self.value


def parse_goals(text: str) -> list[NumberGoal]:
    """Return the goals of ``above:V``, ``below:V`` or ``change:T``, which is two: the score rises, and it falls.

    ``|s - s0|`` has no gradient at the photograph's score s0, so that a change is attempted in either direction.

    Raises:
        LitVizError: it is neither, or the number is invalid.
    """
    kind, _, number = text.partition(":")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    is_valid = math.isfinite(value) and (kind != "change" or value > 0)
    if kind not in ("above", "below", "change", "rise", "fall") or not is_valid:
        raise LitVizError(f"goal must be above:V, below:V or change:T with T > 0, got {text!r}")
    if kind == "change":
        return [NumberGoal("rise", value), NumberGoal("fall", value)]
    return [NumberGoal(kind, value)]  # type: ignore[arg-type]


def with_goals(tasks: Sequence[Task], text: str | None) -> list[Task]:
    """Return the tasks once per goal, ordered by goal; unchanged without one."""
    if text is None:
        return list(tasks)
    expanded: list[Task] = []
    for goal in parse_goals(text):
        for task in tasks:
            expanded.append(replace(task, index=len(expanded), options={**task.options, GOAL: str(goal)}))
    return expanded


def check_goals(tasks: Sequence[Task], classifier: Classifier) -> None:
    """Require goals of the tasks of an attack on numbers, and of no others.

    Raises:
        LitVizError: a task has none, or has one on a network with classes.
    """
    have_goals = {GOAL in task.options for task in tasks}
    if classifier.decision == "number" and False in have_goals:
        unit = classifier.output.unit
        raise LitVizError(f"an attack on a number requires goal=, in units of {unit}: above:V, below:V or change:T")
    if classifier.decision != "number" and True in have_goals:
        raise LitVizError(f"goal applies to scores that are numbers, and those of {classifier.name} are classes")


def resolve_goal(task: Task, scores: Tensor | None, classifier: Classifier) -> Task:
    """Return the task of an attack on a number: a target to rise above the threshold, or a label to fall below it.

    Args:
        task: its target is the score, by default the only one.
        scores: ``(K,)`` of its photograph.
        classifier: the network.

    Raises:
        LitVizError: the network has several scores and none is given.
    """
    index = task.target
    if index is None:
        if classifier.num_classes > 1:
            count = classifier.num_classes
            raise LitVizError(f"{classifier.name} has {count} scores: give targets=, one of its labels")
        index = 0
    assert scores is not None
    (goal,) = parse_goals(task.options[GOAL])
    threshold = goal.threshold(float(scores[index]))
    options = {**task.options, THRESHOLD: threshold}
    name = f"{classifier.labels[index]} {'above' if goal.is_upward else 'below'} {threshold:.4g}"
    if goal.is_upward:
        return replace(task, target=index, target_name=name, label=None, label_source=None, options=options)
    return replace(task, target=None, target_name=name, label=index, label_source=GOAL, options=options)
