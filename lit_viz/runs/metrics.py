"""``metrics.csv`` of a run folder: a row per task, iteration and metric."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from lit_viz.errors import LitVizError, printable
from lit_viz.runs.layout import METRICS
from lit_viz.types import index_of
from lit_viz.utils.files import complete_lines
from lit_viz.utils.formatting import command_line

#: First line of the file.
HEADER = "task,iteration,metric,value\n"
_MOST_DIGITS = 19  # of an iteration
_MOST_CHARACTERS = 100_000  # of a line


class Row(NamedTuple):
    """A row of ``metrics.csv``; ``key`` is ``task.key``."""

    key: str
    iteration: int
    metric: str
    value: float


class MetricsFile:
    """Read the metrics of a run folder. An incomplete last line of a killed run is ignored.

    Args:
        folder: run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lines(self) -> Iterator[str]:
        """Yield the lines without the header."""
        for line in complete_lines(self._folder / METRICS):
            if line != HEADER:
                yield line

    def rows(self) -> Iterator[Row]:
        """Yield the rows.

        Raises:
            LitVizError: a line is no row.
        """
        for line in self.lines():
            row = _parse(line)
            if row is None:
                remedy = f"{command_line('resume', self._folder)} computes its task again"
                raise LitVizError(f"{self._folder / METRICS} is damaged (row {printable(line[:60])!r}): {remedy}")
            yield row

    def names(self) -> list[str]:
        """Return the names of all metrics, sorted."""
        return sorted({row.metric for row in self.rows()})

    def curves(self, metric: str) -> dict[str, list[tuple[int, float]]]:
        """Return a metric of all tasks: by ``task.key``, (iteration, value) in order of iteration."""
        by_task: dict[str, dict[int, float]] = {}
        for row in self.rows():
            if row.metric == metric:
                by_task.setdefault(row.key, {})[row.iteration] = row.value
        return {key: sorted(by_task[key].items()) for key in sorted(by_task, key=index_of)}

    def of_tasks(self, keys: Collection[str]) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """Return all metrics of some tasks: by ``task.key`` and name, (iteration, value) in order of iteration."""
        values: dict[str, dict[str, dict[int, float]]] = {key: {} for key in keys}
        for row in self.rows():
            if row.key in values:
                values[row.key].setdefault(row.metric, {})[row.iteration] = row.value
        metrics: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for key, curves in values.items():
            metrics[key] = {name: sorted(curve.items()) for name, curve in curves.items()}
        return metrics

    def snapshots(self) -> Iterator[tuple[str, int, dict[str, float]]]:
        """Yield ``task.key``, iteration and metrics of each snapshot, in the order in which they were logged."""
        for (key, iteration), rows in groupby(self.rows(), key=attrgetter("key", "iteration")):
            yield key, iteration, {row.metric: row.value for row in rows}


def row_line(key: str, iteration: int, metric: str, value: float) -> str:
    """Return a line of ``metrics.csv``."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow((key, iteration, metric, f"{float(value):.9g}"))
    return text.getvalue()


def row_position(line: str) -> tuple[str, int]:
    """Return ``task.key`` and iteration of a line; an iteration that is no number is -1."""
    key, _, rest = line.partition(",")
    iteration = rest.partition(",")[0]
    return key, int(iteration) if iteration.isdecimal() else -1


def _parse(line: str) -> Row | None:
    """Return the row of a line; None if it is none."""
    if len(line) >= _MOST_CHARACTERS:
        return None
    (cells,) = csv.reader([line])
    if len(cells) != 4:
        return None
    key, iteration, metric, value = cells
    if not iteration.isdecimal() or len(iteration) >= _MOST_DIGITS:
        return None
    try:
        return Row(key, int(iteration), metric, float(value))
    except ValueError:
        return None
