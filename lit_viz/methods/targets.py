"""Labels and targets that depend on the logits of the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.rng import Draws, Key
from lit_viz.types import Task

#: Values of the option ``target`` that derive the target from the label or the logits.
TARGET_RULES = ("label", "predicted", "random", "least-likely")


def needs_logits(task: Task) -> bool:
    """Return whether the label or the target of a task depends on the logits of its photograph."""
    return (task.label is None and task.label_source == "predicted") or (
        task.target is None and task.options.get("target") in TARGET_RULES
    )


def is_targeted(task: Task) -> bool:
    """Return whether a task has a target, resolved or not."""
    return task.target is not None or task.options.get("target") in TARGET_RULES


def resolve(task: Task, logits: Tensor | None, labels: Sequence[str]) -> Task:
    """Return the task with label, target and target name, as far as they can be resolved.

    A label is predicted if ``label_source`` is ``"predicted"``. The option ``target`` selects the label, the predicted
    class, a class drawn uniformly from all but the label, or the least likely class.

    Args:
        task: the task.
        logits: logits ``(K,)`` of its photograph, or None if they are not known.
        labels: K class names.

    Raises:
        LitVizError: the target is random and there is only one class.
    """
    label, target, rule = task.label, task.target, task.options.get("target")
    if label is None and task.label_source == "predicted" and logits is not None:
        label = int(logits.argmax())
    if target is None and rule == "label":
        target = label
    elif target is None and rule == "random" and label is not None:
        target = _random_target(task, label, len(labels))
    elif target is None and rule in ("predicted", "least-likely") and logits is not None:
        target = int(logits.argmax() if rule == "predicted" else logits.argmin())
    return replace(task, label=label, target=target, target_name=None if target is None else labels[target])


def _random_target(task: Task, label: int, classes: int) -> int:
    if classes < 2:
        raise LitVizError(f"{task.name}: a random target requires at least 2 classes, got {classes}")
    drawn = int(Draws([Key(task.seed, 0)]).integers("random target", 0, classes - 2))
    return drawn + (drawn >= label)


def check_goal(task: Task) -> Task:
    """Return the task of an attack.

    Raises:
        LitVizError: it has neither a label nor a target.
    """
    if task.goal is None:
        raise LitVizError(f"{task.name} has neither a label nor a target: use --labels or --target")
    return task
