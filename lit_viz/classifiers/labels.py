"""Class names: read them, and find a class by name or index."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import SupportsIndex

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.utils.files import check_regular


@cache
def imagenet_labels() -> tuple[str, ...]:
    """Return torchvision's names of the 1000 ImageNet classes, without a download."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def numbered_labels(count: int) -> tuple[str, ...]:
    """Return ``class 0``, ``class 1`` ..."""
    return tuple(f"class {i}" for i in range(count))


def read_labels(labels: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Return labels from a sequence, or from a text file with one name per line; blank lines are skipped.

    Raises:
        LitVizError: the file can't be read or is empty.
    """
    if not isinstance(labels, (str, Path)):
        names = tuple(labels) if isinstance(labels, Iterable) else (labels,)
        wrong = [name for name in names if not isinstance(name, (str, SupportsIndex))]
        if wrong or not isinstance(labels, Iterable):
            raise LitVizError(
                f"labels must be names or a text file with one name per line, got {[*wrong, labels][0]!r}"
            )
        return tuple(str(name) for name in names)
    check_regular(labels)
    try:
        lines = Path(labels).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is not UTF-8 text"
        raise LitVizError(
            f"labels file {str(labels)!r} can't be read ({reason}): give a text file with one name per line"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise LitVizError(f"labels file {str(labels)!r} is empty: give a text file with one name per line")
    return names


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
        if tuple(labels) == numbered_labels(len(labels)):
            hint = "; the classes have no names: give an index, or names by --classifier.labels FILE (labels=)"
        else:
            names = set[str]().union(*_indices(tuple(labels)))
            is_list = "," in target and names.issuperset(map(_normalized, target.split(",")))
            separate = "; give classes separately: visualize A B, or --target A --target B"
            hint = separate if is_list else did_you_mean(target.replace("_", " "), labels) or ": see lit-viz classes"
        raise LitVizError(f"unknown class {target!r}{hint}") from None


def _normalized(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


# Some releases of torchvision rename one of ImageNet's two cranes and maillots. The original name stays ambiguous.
_HOMONYMS = {"crane bird": "crane", "maillot tank suit": "maillot"}

_MATCHES: tuple[Callable[[str], Sequence[str]], ...] = (
    lambda label: [_normalized(label), _HOMONYMS.get(label, "")],
    lambda label: [_normalized(label.split(",")[0])],
    lambda label: [_normalized(synonym) for synonym in label.split(",")],
)


@lru_cache(maxsize=8)
def _indices(labels: tuple[str, ...]) -> tuple[Mapping[str, list[int]], ...]:
    """Return for each kind of match the class indices by name; cached, since a queue looks up a class per image."""
    tables = tuple(dict[str, list[int]]() for _ in _MATCHES)
    for table, names_of in zip(tables, _MATCHES, strict=True):
        for i, label in enumerate(labels):
            for name in dict.fromkeys(names_of(label)):
                table.setdefault(name, []).append(i)
    return tables


def _in_range(index: int, labels: Sequence[str]) -> int:
    if not 0 <= index < len(labels):
        raise LitVizError(f"class index must be between 0 and {len(labels) - 1}, got {index}")
    return index
