"""Class names: read them, and find a class by name or index."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, SupportsIndex

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.utils.files import check_regular

_LISTED = 20  # classes that an error lists
_LABELS = "labels must be names or a text file with one name per line"


@cache
def imagenet_labels() -> tuple[str, ...]:
    """Return torchvision's names of the 1000 ImageNet classes, without importing it."""
    return tuple((Path(__file__).parent / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines())


def numbered_labels(count: int, noun: str = "class") -> tuple[str, ...]:
    """Return ``class 0``, ``class 1`` ..."""
    return tuple(f"{noun} {i}" for i in range(count))


def read_labels(labels: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Return labels from a sequence, or from a text file with one name per line; blank lines are skipped.

    Raises:
        LitVizError: the file can't be read or is empty.
    """
    if not isinstance(labels, (str, Path)):
        return _checked_labels(labels)
    check_regular(labels)
    try:
        lines = Path(labels).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text"
        if isinstance(error, OSError):
            reason = error.strerror or type(error).__name__
        raise LitVizError(
            f"labels file {str(labels)!r} can't be read ({reason}): give a text file with one name per line"
        ) from error
    names = tuple(filter(None, map(str.strip, lines)))
    if not names:
        raise LitVizError(f"labels file {str(labels)!r} is empty: give a text file with one name per line")
    return names


def _checked_labels(labels: Any) -> tuple[str, ...]:
    if not isinstance(labels, Iterable):
        raise LitVizError(f"{_LABELS}, got {labels!r}")
    names = []
    for name in labels:
        if not isinstance(name, (str, SupportsIndex)):
            raise LitVizError(f"{_LABELS}, got {name!r}")
        names.append(str(name))
    return tuple(names)


def find_class(target: str | SupportsIndex, labels: Sequence[str]) -> int:
    """Return the index of a class.

    Names are compared without case, with underscores as spaces. A label such as ``"tench, Tinca tinca"`` matches by the
    whole label, then by its first synonym, then by any synonym. Other text may be an index.

    Raises:
        LitVizError: unknown (with similar names), ambiguous (with the choices and their indices) or out of range.
    """
    if not isinstance(target, str):
        return _in_range(operator.index(target), labels)
    if not target.strip():
        raise LitVizError("class name must not be empty: give a name or an index")
    name = _normalized(target)
    for classes_by_name in _indices(tuple(labels)):
        matches = classes_by_name.get(name, [])
        if len(matches) > 1:
            choices = ", ".join(f"{i} ({labels[i]})" for i in matches)
            raise LitVizError(f"class {target!r} is ambiguous: give one of the indices {choices}")
        if matches:
            return matches[0]
    try:
        return _in_range(int(target), labels)
    except ValueError:
        raise LitVizError(f"unknown class {target!r}{_hint(target, labels)}") from None


def find_text(text: str | SupportsIndex, labels: Sequence[str]) -> int:
    """Return the index of a text among texts, which are matched exactly; a number may also be an index.

    Raises:
        LitVizError: unknown (with similar texts) or out of range.
    """
    if str(text) in labels and (isinstance(text, str) or not 0 <= operator.index(text) < len(labels)):
        return labels.index(str(text))
    if not isinstance(text, str):
        return _in_range(operator.index(text), labels)
    similar = did_you_mean(text, labels) or f": the texts are {', '.join(map(repr, labels))}"
    raise LitVizError(f"unknown text {text!r}{similar}")


def _hint(target: str, labels: Sequence[str]) -> str:
    """Return a hint for an unknown name."""
    if tuple(labels) == numbered_labels(len(labels)):
        return "; the classes have no names: give an index, or names by labels= of the network"
    names = set[str]().union(*_indices(tuple(labels)))
    if "," in target and names.issuperset(map(_normalized, target.split(","))):
        return f"; give classes separately: target={target.split(',')}"
    similar = did_you_mean(target.replace("_", " "), labels)
    if similar:
        return similar
    if len(labels) <= _LISTED:
        return f": the classes are {', '.join(labels)}"
    return ": see lit-viz classes"


def _normalized(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


# Some releases of torchvision rename one of ImageNet's two cranes and maillots. The original name stays ambiguous.
_HOMONYMS = {"crane bird": "crane", "maillot tank suit": "maillot"}


def _whole(label: str) -> list[str]:
    return [_normalized(label), _HOMONYMS.get(label, "")]


def _first_synonym(label: str) -> list[str]:
    return [_normalized(label.split(",")[0])]


def _synonyms(label: str) -> list[str]:
    return list(map(_normalized, label.split(",")))


#: Names by which a label matches, from the strictest kind of match to the loosest.
_MATCHES: tuple[Callable[[str], list[str]], ...] = (_whole, _first_synonym, _synonyms)


@lru_cache(maxsize=8)
def _indices(labels: tuple[str, ...]) -> tuple[Mapping[str, list[int]], ...]:
    """Return for each kind of match the class indices by name; cached, since a queue resolves a class per image."""
    return tuple(_indices_by(names_of, labels) for names_of in _MATCHES)


def _indices_by(names_of: Callable[[str], list[str]], labels: Sequence[str]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        for name in dict.fromkeys(names_of(label)):
            table.setdefault(name, []).append(index)
    return table


def _in_range(index: int, labels: Sequence[str]) -> int:
    if not 0 <= index < len(labels):
        raise LitVizError(f"class index must be between 0 and {len(labels) - 1}, got {index}")
    return index
