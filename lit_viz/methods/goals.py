"""Goals of attacks on scores that do not exclude each other; the output of the network parses them
(:meth:`~lit_viz.networks.outputs.Output.parse_goals`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.types import Task

#: Source of labels that a goal leaves.
GOAL = "goal"


def with_goals(tasks: Sequence[Task], text: str | None, network: Network) -> list[Task]:
    """Return the tasks once per goal, ordered by goal; unchanged without one.

    Raises:
        LitVizError: the scores of the network have no such goal.
    """
    if text is None:
        return list(tasks)
    expanded: list[Task] = []
    for goal in network.output.parse_goals(text, network.rule):
        for task in tasks:
            expanded.append(replace(task, index=len(expanded), aim=goal))
    return expanded


def check_numbers(tasks: Sequence[Task], network: Network) -> None:
    """Require a target of tasks about a network with several numbers, of which none is the prediction.

    Raises:
        LitVizError: a task has none.
    """
    if network.rule.has_prediction or network.num_classes == 1:
        return
    if any(task.target is None and task.error is None for task in tasks):
        raise LitVizError(f"{network.name} has {network.num_classes} scores: give target, one of its labels")


def check_goals(tasks: Sequence[Task], network: Network) -> None:
    """Require goals of the tasks of an attack on numbers, and reject goals that do not apply to other tasks.

    Raises:
        LitVizError: a task has none, has one that does not apply to the scores of the network, or lacks its target.
    """
    output, is_number = network.output, not network.rule.has_prediction
    for task in tasks:
        text = task.aim
        if text is None:
            if is_number:
                forms = ", ".join(output.goal_forms(network.rule))
                raise LitVizError(f"an attack on a number requires goal=, in units of {output.unit}: {forms}")
            continue
        (goal,) = output.parse_goals(text, network.rule).values()
        if goal.leaves_label and task.label is None and task.label_source is None:
            raise LitVizError(f"goal {text} requires two classes: give target and label")
        has_target = task.target is not None or task.rule not in (None, "none")
        if goal.is_upward and not (is_number or has_target):
            raise LitVizError(f"goal {text} requires a class: give target")


def resolve_goal(task: Task, scores: Tensor | None, network: Network) -> Task:
    """Return the task of an attack with a goal: a target to rise above the threshold, or a label to fall below it.

    Args:
        task: of a number, its target is the score, by default the only one; else label and target are known.
        scores: ``(K,)`` of its photograph.
        network: the network.
    """
    assert scores is not None
    assert task.aim is not None
    is_number = not network.rule.has_prediction
    index = task.goal
    if is_number:
        index = task.target or 0
    assert index is not None
    (goal,) = network.output.parse_goals(task.aim, network.rule).values()
    threshold = goal.threshold
    if goal.is_relative:
        threshold += float(scores[index])
    if goal.leaves_label:
        return _becoming(task, network)
    is_upward = goal.is_upward
    if is_upward is None:
        is_upward = task.target is not None or task.label is None
    task = replace(task, threshold=threshold)
    if is_number:
        name = f"{network.labels[index]} {'above' if is_upward else 'below'} {threshold:.4g}"
        task = replace(task, target=index, target_name=name, label=None, label_source=None)
    if is_upward or task.target is None:
        return task
    target_name = task.target_name if is_number else None
    return replace(task, target=None, target_name=target_name, label=index, label_source=GOAL)


def _becoming(task: Task, network: Network) -> Task:
    """Return the task of an attack that replaces the label by the target.

    Raises:
        LitVizError: they are the same.
    """
    assert task.target is not None
    assert task.label is not None
    target, label = network.labels[task.target], network.labels[task.label]
    if target == label:
        raise LitVizError(f"target and label of the goal become must be two classes, got {label} for both")
    return replace(task, against=task.label, target_name=f"{target}, not {label}")
