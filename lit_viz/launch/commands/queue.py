"""The queue of ``lit-viz saliency`` and ``lit-viz attack``: photographs, labels and targets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.images.listing import ARRAY_PREFIX, Entry, Listing, column_values, photographs
from lit_viz.images.reading import PACKAGED_PREFIX
from lit_viz.methods.photographs import RUNNER_UP, TARGET_RULES, resolve
from lit_viz.types import Task

#: A class index, or one of _OPEN.
Target = int | str
_OPEN = (*TARGET_RULES, "none")


def photograph_tasks(
    given: Sequence[str | Mapping[str, Any]],
    classifier: Classifier,
    *,
    target: Sequence[str | int] | str | int | None = None,
    against: str | int | None = None,
    has_contrast: bool = True,
    labels: str = "predicted",
    seed: int = 0,
    default: Literal["label", "none"] = "label",
) -> tuple[list[Task], list[str]]:
    """Return a task per photograph and target, ordered by photograph, and notes for the user.

    Labels and targets that depend on a prediction are resolved later, by :func:`~lit_viz.methods.photographs.resolve`.
    A photograph without a valid class becomes one task with the reason as its option ``error``. A class in the table
    that lists the photographs takes precedence. Without ``has_contrast``, as for attacks, its column ``against`` has
    no effect.
    """
    listing = photographs(given)
    is_table = _is_table(labels)
    if not is_table and labels not in ("predicted", "folders"):
        hint = did_you_mean(labels, ("predicted", "folders"))
        raise LitVizError(f"--labels must be predicted, folders or a CSV file (file,label), got {labels!r}{hint}")
    words = [target] if isinstance(target, (str, int)) else list(target or [default])
    for word in words:
        if not isinstance(word, (str, int)):
            raise LitVizError(f"a target must be the name or index of a class, got {word!r}")
    if default == "label" and "none" in words:
        raise LitVizError("--target of a saliency map must be a class, got none: leave it out for the label")
    classes = _ClassReader(classifier, listing)
    label_of = classes.column("label", labels if is_table else None, (None,))
    targets_of = [classes.column("target", word, _OPEN) for word in words]
    contrast_of = classes.column("against", against, (None, RUNNER_UP))
    tasks: list[Task] = []
    for entry, name in zip(listing.entries, listing.names(), strict=True):
        options: dict[str, Any] = {}
        if entry.path.startswith(ARRAY_PREFIX):
            options["image"] = int(entry.path.removeprefix(ARRAY_PREFIX))
            name = f"image {options['image']}"
        first = Task(len(tasks), name, seed + len(tasks), source=None if options else entry.path, options=options)
        try:
            if entry.error is not None:
                raise LitVizError(entry.error)
            label, label_source = label_of(entry), labels if entry.label is None else str(entry.listed_in)
            if label is None and labels == "folders":
                label = classes.read(entry, "folder", _folder(entry))
            if has_contrast and (contrast := contrast_of(entry)) is not None:
                options = {**options, "against": contrast}
            labelled = replace(first, label=label, label_source=label_source, options=options)
            targets = [target_of(entry) for target_of in (targets_of if entry.target is None else targets_of[:1])]
            tasks += [_with_target(labelled, i, target, classifier) for i, target in enumerate(targets)]
        except LitVizError as error:
            tasks.append(replace(first, options={**first.options, "error": str(error)}))
    errors = [task.options["error"] for task in tasks if "error" in task.options]
    if len(errors) == len(tasks):
        prefix = f"none of the {len(tasks)} photographs can be used; of the first: " if len(tasks) > 1 else ""
        raise LitVizError(f"{prefix}{errors[0]}")
    return tasks, list(listing.notes)


def _with_target(first: Task, i: int, target: Target, classifier: Classifier) -> Task:
    """Return the task of a photograph's i-th target, resolved unless it depends on a prediction."""
    task = replace(first, index=first.index + i, seed=first.seed + i)
    if isinstance(target, str):
        task = replace(task, options={**task.options, "target": target})
    else:
        task = replace(task, target=target)
    return resolve(task, None, classifier.labels)


class _ClassReader:
    """Reader of the classes of photographs; its errors name the photograph."""

    def __init__(self, classifier: Classifier, listing: Listing) -> None:
        self._classifier = classifier
        self._paths = [entry.path for entry in listing.entries]
        # Errors too: the search for similar names is slow, and a thousand photographs may share a folder.
        self._indices: dict[str | int, int | LitVizError] = {}

    def read(self, entry: Entry, noun: str, word: str | int) -> int:
        """Return the index of the class of a photograph."""
        if word not in self._indices:
            try:
                self._indices[word] = class_of(self._classifier, word)
            except LitVizError as error:
                self._indices[word] = error
        index = self._indices[word]
        if isinstance(index, LitVizError):
            raise LitVizError(f"the {noun} of {entry.path} is no class: {index}")
        return index

    def column(self, name: str, word: str | int | None, rules: Sequence[str | None]) -> Callable[[Entry], Any]:
        """Return a function from a photograph to its class or rule.

        Args:
            name: column of the table that lists the photographs, which takes precedence.
            word: CSV file with this column, or the class or rule of all photographs.
            rules: words that are no classes.
        """
        table = column_values(self._paths, str(word), name) if _is_table(word) else None
        for_all = word if word is None or word in rules or table is not None else class_of(self._classifier, word)
        noun = "contrasted class" if name == "against" else name

        def class_or_rule(entry: Entry) -> int | str | None:
            cell = getattr(entry, name)
            if cell is None and table is None:
                return for_all
            if cell is None and table is not None:
                cell = table[entry.path]
            if isinstance(cell, LitVizError):
                raise cell
            return cell if cell in rules else self.read(entry, noun, cell)

        return class_or_rule


def class_of(classifier: Classifier, word: str | int) -> int:
    """Return the index of a class given by name, index, or WordNet id if the classes are ImageNet's 1000."""
    if isinstance(word, str) and re.fullmatch(r"n\d{8}", word) and _is_imagenet(classifier.labels):
        index = _wordnet_ids().get(word)
        if index is not None:
            return index
    return classifier.index_of(word)


def _is_imagenet(labels: Sequence[str]) -> bool:
    """Return whether the labels are ImageNet's 1000 classes in their usual order, by a few common names."""
    samples = {1: "goldfish", 76: "tarantula", 999: "toilet tissue"}
    return len(labels) == 1000 and all(name in labels[index].casefold() for index, name in samples.items())


@cache
def _wordnet_ids() -> Mapping[str, int]:
    from timm.data.imagenet_info import ImageNetInfo

    names: list[str] = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]
    return {name: index for index, name in enumerate(names)}


def _is_table(word: str | int | None) -> bool:
    return Path(str(word)).suffix.casefold() == ".csv"


def _folder(entry: Entry) -> str:
    if entry.path.startswith((PACKAGED_PREFIX, ARRAY_PREFIX)):
        raise LitVizError(f"{entry.path} has no folder with the name of its class: give its label in a CSV file")
    parent = Path(entry.path).parent
    return parent.name if parent.name not in ("", "..") else parent.resolve().name
