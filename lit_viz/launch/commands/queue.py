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
from lit_viz.methods.targets import RUNNER_UP, TARGET_RULES, resolve
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

    Labels and targets that depend on a prediction are resolved later, by :func:`~lit_viz.methods.targets.resolve`. A
    photograph without a valid class becomes one task with the reason as its option ``error``. A class in the table that
    lists the photographs takes precedence. Without ``has_contrast``, as for attacks, its column ``against`` has no
    effect.
    """
    listing = photographs(given)
    read = _reader(classifier)
    label_of = _labels(labels, listing, read)
    targets_of = _targets(target, listing, classifier, read, default)
    contrast_of = _contrast(against, listing, classifier, read)
    tasks: list[Task] = []
    for entry, name in zip(listing.entries, listing.names(), strict=True):
        first = _first(entry, name, len(tasks), seed + len(tasks))
        try:
            if entry.error is not None:
                raise LitVizError(entry.error)
            label, source = label_of(entry)
            contrast = contrast_of(entry) if has_contrast else None
            options = first.options if contrast is None else {**first.options, "against": contrast}
            labelled = replace(first, label=label, label_source=source, options=options)
            tasks += [_with_target(labelled, i, target, classifier) for i, target in enumerate(targets_of(entry))]
        except LitVizError as error:
            tasks.append(replace(first, options={**first.options, "error": str(error)}))
    errors = [task.options["error"] for task in tasks if "error" in task.options]
    if len(errors) == len(tasks):
        prefix = f"none of the {len(tasks)} photographs can be used; of the first: " if len(tasks) > 1 else ""
        raise LitVizError(f"{prefix}{errors[0]}")
    return tasks, list(listing.notes)


def _first(entry: Entry, name: str, index: int, seed: int) -> Task:
    if not entry.path.startswith(ARRAY_PREFIX):
        return Task(index, name, seed, source=entry.path)
    place = int(entry.path.removeprefix(ARRAY_PREFIX))
    return Task(index, f"image {place}", seed, options={"image": place})


def _with_target(first: Task, i: int, target: Target, classifier: Classifier) -> Task:
    """Return the task of a photograph's i-th target, resolved unless it depends on a prediction."""
    task = replace(first, index=first.index + i, seed=first.seed + i)
    if isinstance(target, str):
        task = replace(task, options={**task.options, "target": target})
    else:
        task = replace(task, target=target)
    return resolve(task, None, classifier.labels)


_Read = Callable[[Entry, str, str | int], int]


def _labels(labels: str, listing: Listing, read: _Read) -> Callable[[Entry], tuple[int | None, str]]:
    """Return a function from a photograph to its label (None: to be predicted) and the source of the label."""
    table = _table(labels, "label", listing)
    if table is None and labels not in ("predicted", "folders"):
        hint = did_you_mean(labels, ("predicted", "folders"))
        raise LitVizError(f"--labels must be predicted, folders or a CSV file (file,label), got {labels!r}{hint}")

    def label_of(entry: Entry) -> tuple[int | None, str]:
        if entry.label is not None:
            return read(entry, "label", entry.label), str(entry.listed_in)
        if table is not None:
            return read(entry, "label", _cell(table, entry)), labels
        return None if labels == "predicted" else read(entry, "folder", _folder(entry)), labels

    return label_of


def _targets(
    targets: Sequence[str | int] | str | int | None,
    listing: Listing,
    classifier: Classifier,
    read: _Read,
    default: Literal["label", "none"],
) -> Callable[[Entry], list[Target]]:
    """Return a function from a photograph to its targets."""

    def parse(entry: Entry, word: str | int) -> Target:
        return word if isinstance(word, str) and word in _OPEN else read(entry, "target", word)

    def reading(word: str | int) -> Callable[[Entry], Target]:
        if not isinstance(word, (str, int)):
            raise LitVizError(f"a target must be the name or index of a class, got {word!r}")
        table = _table(str(word), "target", listing)
        if table is not None:
            return lambda entry: parse(entry, _cell(table, entry))
        fixed = word if word in _OPEN else class_of(classifier, word)
        return lambda entry: fixed

    words = [targets] if isinstance(targets, (str, int)) else list(targets or [default])
    if default == "label" and "none" in words:
        raise LitVizError("--target of a saliency map must be a class, got none: leave it out for the label")
    readings = [reading(word) for word in words]
    return lambda entry: (
        [reading(entry) for reading in readings] if entry.target is None else [parse(entry, entry.target)]
    )


def _contrast(
    against: str | int | None, listing: Listing, classifier: Classifier, read: _Read
) -> Callable[[Entry], int | str | None]:
    """Return a function from a photograph to the class that its target is contrasted with."""
    table = _table(str(against), "against", listing)
    fixed = class_of(classifier, against) if against not in (None, RUNNER_UP) and table is None else against

    def contrast_of(entry: Entry) -> int | str | None:
        word = entry.against if entry.against is not None else fixed if table is None else _cell(table, entry)
        return word if word in (None, RUNNER_UP) else read(entry, "contrasted class", word)

    return contrast_of


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


def _reader(classifier: Classifier) -> _Read:
    """Return a function that parses the label, folder or target of a photograph; its error names the photograph."""

    @cache  # errors too: the search for similar names is slow, and a thousand photographs may share a folder
    def find(word: str | int) -> int | LitVizError:
        try:
            return class_of(classifier, word)
        except LitVizError as error:
            return error

    def read(entry: Entry, what: str, word: str | int) -> int:
        index = find(word)
        if isinstance(index, LitVizError):
            raise LitVizError(f"the {what} of {entry.path} is no class: {index}")
        return index

    return read


def _table(path: str, column: str, listing: Listing) -> Mapping[str, str | LitVizError] | None:
    if Path(path).suffix.casefold() != ".csv":
        return None
    return column_values([entry.path for entry in listing.entries], path, column)


def _cell(table: Mapping[str, str | LitVizError], entry: Entry) -> str:
    value = table[entry.path]
    if isinstance(value, LitVizError):
        raise value
    return value


def _folder(entry: Entry) -> str:
    if entry.path.startswith((PACKAGED_PREFIX, ARRAY_PREFIX)):
        raise LitVizError(f"{entry.path} has no folder with the name of its class: give its label in a CSV file")
    parent = Path(entry.path).parent
    return parent.name if parent.name not in ("", "..") else parent.resolve().name
