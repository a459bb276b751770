"""Class names: reading them, and finding a class by name or index."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import SupportsIndex

from lit_viz.errors import LitVizError, did_you_mean


@cache
def imagenet_labels() -> tuple[str, ...]:
    """Return the names of the 1000 ImageNet classes as torchvision has them; nothing is downloaded."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def numbered_labels(count: int) -> tuple[str, ...]:
    """Return ``class 0``, ``class 1`` ..."""
    return tuple(f"class {i}" for i in range(count))


def read_labels(labels: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Return the labels given as a sequence, or read from a text file with one name a line (blank lines don't count).

    Raises:
        LitVizError: the file can't be read, or holds no name.
    """
    if not isinstance(labels, (str, Path)):
        return tuple(str(label) for label in labels)
    try:
        lines = Path(labels).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LitVizError(
            f"the labels in {str(labels)!r} can't be read ({_reason(error)}): give a text file with one name a line"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise LitVizError(f"the labels file {str(labels)!r} is empty: give a text file with one class name a line")
    return names


def check_count(labels: tuple[str, ...], classes: int, name: str) -> tuple[str, ...]:
    """Return the labels, or raise where there are not as many as the network has classes."""
    if len(labels) != classes:
        raise LitVizError(
            f"{len(labels)} labels were given, but {name} tells {classes} classes apart: give one name for each class"
        )
    return labels


def find_class(target: str | SupportsIndex, labels: Sequence[str]) -> int:
    """Return the index of the class called ``target``.

    A name counts without regard to case, underscores are spaces, and of a label such as ``"tench, Tinca tinca"`` the
    whole, then its first synonym, then any synonym is compared. What is no name may be an index, also as text.

    Raises:
        LitVizError: unknown (with the nearest names), ambiguous (with the choices and their indices) or out of range.
    """
    if not isinstance(target, str):
        return _in_range(operator.index(target), labels)
    if not target.strip():
        raise LitVizError("the class name is empty: give a name or an index")
    name = _plain(target)
    for called in _by_name(tuple(labels)):
        found = called.get(name, [])
        if len(found) > 1:
            choices = ", ".join(f"{i} ({labels[i]})" for i in found)
            raise LitVizError(f"class {target!r} is ambiguous: give one of the indices {choices}")
        if found:
            return found[0]
    try:
        return _in_range(int(target), labels)
    except ValueError:
        nameless = "; no names are known here: give an index, or the names by --classifier.labels FILE (labels=)"
        near = (
            nameless
            if tuple(labels) == numbered_labels(len(labels))
            else did_you_mean(target.replace("_", " "), labels)
        )
        raise LitVizError(f"unknown class {target!r}{near}") from None


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _synonyms(label: str) -> list[str]:
    return [_plain(part) for part in label.split(",")]


# Some releases of torchvision tell ImageNet's two cranes and maillots apart by a word that the data set doesn't have.
# Who asks by the data set's name still has to say which one is meant.
_HOMONYMS = {"crane bird": "crane", "maillot tank suit": "maillot"}

_READINGS: tuple[Callable[[str], Sequence[str]], ...] = (
    lambda label: [_plain(label), _HOMONYMS.get(label, "")],
    lambda label: _synonyms(label)[:1],
    _synonyms,
)


@lru_cache(maxsize=8)
def _by_name(labels: tuple[str, ...]) -> tuple[Mapping[str, list[int]], ...]:
    """Return for each reading which classes have a name: a queue of photographs asks for a class a photograph."""
    readings = tuple(dict[str, list[int]]() for _ in _READINGS)
    for called, names_of in zip(readings, _READINGS, strict=True):
        for i, label in enumerate(labels):
            for name in dict.fromkeys(names_of(label)):
                called.setdefault(name, []).append(i)
    return readings


def _in_range(index: int, labels: Sequence[str]) -> int:
    if not 0 <= index < len(labels):
        raise LitVizError(f"there is no class {index}: the indices go from 0 to {len(labels) - 1}")
    return index


def _reason(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it isn't UTF-8 text"
