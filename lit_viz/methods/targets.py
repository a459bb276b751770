"""Labels and targets that depend on the logits of the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.objectives import Objective
from lit_viz.rng import Draws, Key
from lit_viz.types import Task

#: Values of the option ``target`` that derive the target from the label or the logits.
TARGET_RULES = ("label", "predicted", "random", "least-likely")
#: Value of the option ``against`` that selects the most probable class other than the target.
RUNNER_UP = "runner-up"


def needs_logits(task: Task) -> bool:
    """Return whether label, target or contrasted class of a task depend on the logits of its photograph."""
    return (
        (task.label is None and task.label_source == "predicted")
        or (task.target is None and task.options.get("target") in TARGET_RULES)
        or task.options.get("against") == RUNNER_UP
    )


def resolve(task: Task, logits: Tensor | None, labels: Sequence[str]) -> Task:
    """Return the task with label, target and target name, as far as they can be resolved.

    A label is predicted if ``label_source`` is ``"predicted"``. The option ``target`` selects the label, the predicted
    class, a class drawn uniformly from all but the label, or the least likely class. The option ``against`` is the
    class that the target is contrasted with; ``"runner-up"`` selects the most probable class other than the target.

    Args:
        task: the task.
        logits: logits ``(K,)`` of its photograph, or None if they are not known.
        labels: K class names.

    Raises:
        LitVizError: the target is random and there is only one class, or the target is contrasted with itself.
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
    against, options = task.options.get("against"), task.options
    if against == RUNNER_UP and target is not None and logits is not None:
        against = next(
            (index for index in logits.topk(min(2, len(logits))).indices.tolist() if index != target), target
        )
        options = {**options, "against": against}
    name = None if target is None else labels[target]
    if name is not None and isinstance(against, int):
        if target == against:
            raise LitVizError(f"--against must be another class than the target, got {name} for both")
        name = f"{name} vs. {labels[against]}"
    return replace(task, label=label, target=target, target_name=name, options=options)


def class_tasks(
    classifier: Classifier,
    targets: Sequence[str | int],
    against: Sequence[str | int] | str | int | None,
    seed: int,
    source: str | None = None,
) -> list[Task]:
    """Return a task per class, by name or index.

    Args:
        classifier: classifier with the classes.
        targets: classes to reach.
        against: classes that they are contrasted with, one for all or one per target.
        seed: of the first task.
        source: initial photograph.

    Raises:
        LitVizError: a class does not exist, or the number of contrasted classes differs from that of the targets.
    """
    contrasts = [against] if against is None or isinstance(against, (str, int)) else list(against)
    contrasts = contrasts * len(targets) if len(contrasts) == 1 else contrasts
    if len(contrasts) != len(targets):
        raise LitVizError(f"--against must be one class, or one per target: got {len(contrasts)} for {len(targets)}")
    tasks = []
    for index, (word, contrast) in enumerate(zip(targets, contrasts, strict=True)):
        options = {} if contrast is None else {"against": classifier.index_of(contrast)}
        task = Task(index, "", seed + index, target=classifier.index_of(word), source=source, options=options)
        task = resolve(task, None, classifier.labels)
        tasks.append(replace(task, name=str(task.target_name)))
    return tasks


def contrast_fields(task: Task, objective: Objective) -> dict[str, Any]:
    """Return the record fields of the class that the target of a task is contrasted with; empty without one."""
    if "against" not in task.options:
        return {}
    return {"against": task.options["against"], "gamma": getattr(objective, "gamma", None)}


def with_gamma(task: Task, objective: Objective) -> Task:
    """Return a task with the option ``gamma`` for its captions: the weight of the class that its target is contrasted
    with, if it is not 1."""
    gamma = getattr(objective, "gamma", 1)
    if "against" not in task.options or gamma == 1:
        return task
    return replace(task, options={**task.options, "gamma": gamma})


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
