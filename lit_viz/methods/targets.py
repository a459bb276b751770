"""Labels and targets that are only known once the network has seen the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.rng import Draws, Key
from lit_viz.types import Task

#: Targets that follow from the label or from what the network says of the photograph.
WISHES = ("label", "predicted", "random", "least-likely")


def needs_logits(task: Task) -> bool:
    """Return whether label or target of the task can't be told before the network has seen its photograph."""
    return (task.label is None and task.label_source == "predicted") or (
        task.target is None and task.options.get("target") in WISHES
    )


def is_targeted(task: Task) -> bool:
    """Return whether the task asks for a class, known already or not."""
    return task.target is not None or task.options.get("target") in WISHES


def resolve(task: Task, logits: Tensor | None, labels: Sequence[str]) -> Task:
    """Return the task with label, target and the target's name, as far as they can be told.

    Args:
        task: its ``label_source`` may be ``"predicted"``, its option ``target`` one of ``WISHES``: the label; the class
            predicted; a class drawn by the task's seed, uniform over all but the label; the least likely class.
        logits: of its photograph ``(K,)``; None where they are not known yet.
        labels: K class names.

    Raises:
        LitVizError: another class is wanted at random, but there is only one.
    """
    label = task.label
    if label is None and task.label_source == "predicted" and logits is not None:
        label = int(logits.argmax())
    target = task.target
    if target is None:
        target = _wished(replace(task, label=label), logits, len(labels))
    return replace(task, label=label, target=target, target_name=None if target is None else labels[target])


def _wished(task: Task, logits: Tensor | None, classes: int) -> int | None:
    wish, label = task.options.get("target"), task.label
    if wish == "random" and label is not None:
        if classes < 2:
            raise LitVizError(f"{task.name} can't get a random target: the classifier has no second class")
        drawn = int(Draws([Key(task.seed, 0)]).integers("random target", 0, classes - 2))
        return drawn + (drawn >= label)
    if wish in ("predicted", "least-likely") and logits is not None:
        return int(logits.argmax() if wish == "predicted" else logits.argmin())
    return label if wish == "label" else None


def with_goal(task: Task) -> Task:
    """Return the task, which an attack can be asked for.

    Raises:
        LitVizError: it has neither a class to leave nor one to reach.
    """
    if task.target is None and task.label is None:
        raise LitVizError(f"{task.name} has no class to leave: give its true label by --labels, or a --target.")
    return task
