"""Goals of attacks: ``above:V``, ``below:V`` and ``change:T`` of scores that are numbers, in the unit of the score;
``vanish``, ``appear`` and ``share:S`` of scores that decide independently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.networks.outputs import Decision
from lit_viz.types import Task

#: Option of a task that holds its goal, as text.
GOAL = "goal"
#: Option of a task that holds the score that divides success from failure.
THRESHOLD = "threshold"


#: Goals without a value, of a class that is decided on.
_OF_CLASSES = ("vanish", "appear")
#: Goals by what the scores decide; an output may have more (:attr:`~lit_viz.networks.outputs.Output.goals`).
_GOALS: dict[Decision, tuple[str, ...]] = {
    "exclusive": (),
    "independent": _OF_CLASSES,
    "number": ("above", "below", "change", "rise", "fall"),
}
#: Goals as users write them, by their first word.
_WRITTEN = {
    "above": "above:V",
    "below": "below:V",
    "change": "change:T with T > 0",
    "vanish": "vanish",
    "appear": "appear",
    "share": "share:S with S between 0 and 1",
}


@dataclass(frozen=True)
class Goal:
    """Where an attack moves a score.

    Attributes:
        kind: ``above`` or ``below`` a value, ``rise`` or ``fall`` by an amount from the score of the photograph;
            ``vanish`` or ``appear``, of a class that is decided on; ``share`` of a region that is left to a class, or
            that it takes.
        value: the value or the amount, in the unit of the score; the share; 0 for a class.
    """

    kind: str
    value: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind in _OF_CLASSES else f"{self.kind}:{self.value:g}"

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
        if self.kind == "share":
            return math.log(self.value) - math.log1p(-self.value)
        return self.value


def parse_goals(text: str) -> list[Goal]:
    """Return the goals of a text: one, or two of ``change:T``: the score rises, and it falls.

    ``|s - s0|`` has no gradient at the photograph's score s0, so that a change is attempted in either direction.

    Raises:
        LitVizError: there is no such goal, or its number is invalid.
    """
    kind, separator, number = text.partition(":")
    if kind in _OF_CLASSES and not separator:
        return [Goal(kind)]
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    known = (*_WRITTEN, "rise", "fall")
    is_valid = kind in known and kind not in _OF_CLASSES and math.isfinite(value)
    if kind == "change":
        is_valid = value > 0
    if kind == "share":
        is_valid = 0 < value < 1
    if not is_valid:
        raise LitVizError(f"goal must be {', '.join(_WRITTEN.values())}, got {text!r}")
    if kind == "change":
        return [Goal("rise", value), Goal("fall", value)]
    return [Goal(kind, value)]


def with_goals(tasks: Sequence[Task], text: str | None) -> list[Task]:
    """Return the tasks once per goal, ordered by goal; unchanged without one."""
    if text is None:
        return list(tasks)
    expanded: list[Task] = []
    for goal in parse_goals(text):
        for task in tasks:
            expanded.append(replace(task, index=len(expanded), options={**task.options, GOAL: str(goal)}))
    return expanded


def check_numbers(tasks: Sequence[Task], network: Network) -> None:
    """Require a target of tasks about a network with several numbers, of which none is the prediction.

    Raises:
        LitVizError: a task has none.
    """
    if network.decision != "number" or network.num_classes == 1:
        return
    if any(task.target is None and "error" not in task.options for task in tasks):
        raise LitVizError(f"{network.name} has {network.num_classes} scores: give target, one of its labels")


def check_goals(tasks: Sequence[Task], network: Network) -> None:
    """Require goals of the tasks of an attack on numbers, and of other tasks only those that apply.

    Raises:
        LitVizError: a task has none, has one that does not apply to the scores of the network, or lacks its target.
    """
    allowed = (*_GOALS[network.decision], *network.output.goals)
    written = ", ".join(_WRITTEN[kind] for kind in allowed if kind in _WRITTEN)
    for task in tasks:
        given = task.options.get(GOAL)
        if given is None:
            if network.decision == "number":
                unit = network.output.unit
                raise LitVizError(f"an attack on a number requires goal=, in units of {unit}: {written}")
            continue
        (goal,) = parse_goals(given)
        if not allowed:
            raise LitVizError(
                f"goal applies to scores that do not exclude each other, and those of {network.name} do: give "
                "target or label"
            )
        if goal.kind not in allowed:
            raise LitVizError(f"goal of {network.name} must be {written}, got {given!r}")
        has_target = task.target is not None or task.options.get("target", "none") != "none"
        if goal.kind == "appear" and not has_target:
            raise LitVizError("goal appear requires a class: give target")


def resolve_class_goal(task: Task) -> Task:
    """Return the task of an attack on a decision with a goal, after its label and target are known.

    The class of ``vanish`` is the target or else the label, that of ``appear`` the target. Of ``share``, a label falls
    to the share, and a target rises above it.
    """
    (goal,) = parse_goals(task.options[GOAL])
    if goal.kind == "vanish" and task.target is not None:
        return replace(task, target=None, target_name=None, label=task.target, label_source=GOAL)
    if goal.kind == "share":
        return replace(task, options={**task.options, THRESHOLD: goal.threshold(0.0)})
    return task


def resolve_goal(task: Task, scores: Tensor | None, network: Network) -> Task:
    """Return the task of an attack on a number: a target to rise above the threshold, or a label to fall below it.

    Args:
        task: its target is the score, by default the only one.
        scores: ``(K,)`` of its photograph.
        network: the network.
    """
    index = task.target or 0
    assert scores is not None
    (goal,) = parse_goals(task.options[GOAL])
    threshold = goal.threshold(float(scores[index]))
    options = {**task.options, THRESHOLD: threshold}
    name = f"{network.labels[index]} {'above' if goal.is_upward else 'below'} {threshold:.4g}"
    if goal.is_upward:
        return replace(task, target=index, target_name=name, label=None, label_source=None, options=options)
    return replace(task, target=None, target_name=name, label=index, label_source=GOAL, options=options)
