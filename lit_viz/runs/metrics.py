"""The rows of metrics of a run, by task, and their export ``metrics.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any

from lit_viz.types import Curve

#: First line of ``metrics.csv``.
HEADER = "task,iteration,metric,value\n"


class Metrics:
    """The rows of metrics of all tasks, and of tasks in progress.

    Args:
        rows: yields key and rows of each task, in task order.
    """

    def __init__(self, rows: Callable[[], Iterable[tuple[str, list[Any]]]]) -> None:
        self._rows = rows

    def names(self) -> list[str]:
        """Return the names of all metrics, sorted."""
        names: set[str] = set()
        for _, rows in self._rows():
            for _, _, values in rows:
                names.update(values)
        return sorted(names)

    def curves(self, metric: str) -> dict[str, Curve]:
        """Return a metric of all tasks: by ``task.key``, (iteration, value) in order of iteration."""
        curves = {key: curves_of(rows).get(metric, []) for key, rows in self._rows()}
        return {key: curve for key, curve in curves.items() if curve}

    def snapshots(self) -> list[tuple[str, int, dict[str, float]]]:
        """Return ``task.key``, iteration and metrics of each snapshot, in the order in which they were logged."""
        snapshots: list[tuple[int, str, int, dict[str, float]]] = []
        for key, rows in self._rows():
            for number, iteration, values in rows:
                metrics = {name: float(value) for name, value in values.items()}
                snapshots.append((number, key, iteration, metrics))
        snapshots.sort(key=itemgetter(0))
        return [snapshot[1:] for snapshot in snapshots]

    def lines(self) -> Iterator[str]:
        """Yield the lines of ``metrics.csv`` about each task, without the header."""
        for key, rows in self._rows():
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            for _, iteration, values in rows:
                writer.writerows((key, iteration, name, f"{float(value):.9g}") for name, value in values.items())
            yield text.getvalue()


def curves_of(rows: Iterable[Any]) -> dict[str, Curve]:
    """Return the metrics of a task by name, as (iteration, value) in order of iteration."""
    curves: dict[str, dict[int, float]] = {}
    for _, iteration, values in rows:
        for name, value in values.items():
            curves.setdefault(name, {})[iteration] = float(value)
    return {name: sorted(curve.items()) for name, curve in curves.items()}
