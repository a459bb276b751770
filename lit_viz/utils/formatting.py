"""How a person is told: sentences on the way, and numbers, names and outcomes in words."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lit_viz.utils.ranks import is_rank_zero

#: Is given the lines that a person at a terminal wants to read.
Notify = Callable[[str], None]


def notify(sentence: str) -> None:
    """Print a sentence beside the results, on stderr; of several processes only the first one does."""
    if not is_rank_zero():
        return
    from rich.console import Console

    Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)


def command_line(name: str, folder: object) -> str:
    """Return ``lit-viz resume 'my run'``, as it can be pasted into a shell."""
    return f"lit-viz {name} {shlex.quote(str(folder))}"


#: As people call the norms.
NORMS = {"linf": "L∞", "l2": "L2"}


def format_distance(value: float | None, norm: str) -> str:
    """Return a length in a norm as users give it: ``4/255`` of the largest value, ``0.5`` in Euclidean length."""
    if value is None:
        return "-"
    return f"{value * 255:.3g}/255" if norm == "linf" else f"{value:.4g}"


def has_several_radii(records: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a run's records must be told apart by their radius."""
    return len({record["eps"] for record in records if "eps" in record}) > 1


def label_with_target(name: str, target_name: str | None) -> str:
    """Return a photograph's name with the class that is asked for: ``quail -> stingray``; one of the two where they are
    the same, or none is asked for."""
    return name if target_name in (None, name) else f"{name} -> {target_name}"


def label_with_eps(name: str, record: Mapping[str, Any]) -> str:
    """Return a name with the radius of its record: ``chelsea, eps 4/255``."""
    return f"{name}, eps {format_distance(record['eps'], record['norm'])}" if record.get("eps") is not None else name


def label_with_lr(name: str, record: Mapping[str, Any]) -> str:
    """Return a name with the learning rate of its record, where it has one of its own: ``zebra, lr 0.05``."""
    return f"{name}, lr {record['lr']:g}" if "lr" in record else name


def unique_labels(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of records, those that are the same with what tells them apart: the number of iterations, and
    where that is not enough the seed."""
    for key, said in (("iterations", "{} iterations"), ("seed", "seed {}")):
        values: dict[str, set[Any]] = defaultdict(set)
        for name, record in zip(names, records, strict=True):
            values[name].add(record.get(key))
        names = [
            f"{name}, {said.format(record.get(key))}" if len(values[name]) > 1 else name
            for name, record in zip(names, records, strict=True)
        ]
    return list(names)


def pluralize(number: int, what: str) -> str:
    """Return ``1 iteration``, ``2,000 iterations`` ..."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def status_summary(records: Sequence[Mapping[str, Any]]) -> str:
    """Return ``3 done, 1 skipped, 2 failed``, without those that there are none of."""
    counts = Counter(record["status"] for record in records)
    return ", ".join(f"{counts[status]} {status}" for status in ("done", "skipped", "failed") if counts[status])
