"""Comparison of runs: one table and figure of their methods or attacks."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from matplotlib.figure import Figure

from lit_viz.attacks.norms import parse_radius
from lit_viz.errors import LitVizError, require
from lit_viz.evidence.measures import Compared, Estimate, are_best
from lit_viz.evidence.verifier import verifier_of
from lit_viz.figures.comparison import comparison_figure
from lit_viz.figures.style import save_figure, with_notebook_png
from lit_viz.presentations import FigureFormat, Presentation, stored_method
from lit_viz.presentations.base import presentation_of
from lit_viz.presentations.tables import TableRow
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.records import AdversarialRecord
from lit_viz.runs.results import Outcome, records_of
from lit_viz.runs.tar_store import open_run
from lit_viz.runs.verification import verify
from lit_viz.utils.files import atomic_write
from lit_viz.utils.formatting import data_frame, text_table
from lit_viz.utils.parts import distinct_names

_MARK = " n="  # before the number of photographs
_WIDEST = 170  # of a table in characters
_NAMED = ("method", "photographs")  # columns of each table
_STAR = "* best, or not distinguishable from the best: the paired 95 % interval of the difference contains 0"
_COUNT = "n: photographs of a value, where they are not those of the column; no star where others have more"


class Comparison:
    """The methods or attacks of runs with their measures, 95 % intervals and paired differences.

    Args:
        compared: methods by their distinct names.

    Attributes:
        runs: the runs, if one call has made and compared them.
    """

    def __init__(self, compared: Mapping[str, Compared]) -> None:
        self.compared = compared
        self.runs: Sequence[Any] = ()  # of Run, which has comparisons itself
        self._best = _best_by_measure(compared)

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html(index=False)  # type: ignore[no-any-return]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each method: its name, the number of photographs, and each measure with the ends of its interval,
        its number of photographs, and whether it is the best or not distinguishable from it: ``insertion``,
        ``insertion_low``, ``insertion_high``, ``insertion_count`` and ``insertion_best``; None where it was not
        measured."""
        rows: list[dict[str, Any]] = []
        for place, (name, item) in enumerate(self.compared.items()):
            row: dict[str, Any] = {"method": name, "photographs": item.photographs}
            for title, best in self._best.items():
                row |= dict.fromkeys((title, f"{title}_low", f"{title}_high", f"{title}_count"))
                measure = item.measure(title)
                if measure is not None:
                    estimate = measure.estimate()
                    row[title], row[f"{title}_low"], row[f"{title}_high"] = estimate.value, estimate.low, estimate.high
                    row[f"{title}_count"] = estimate.count
                row[f"{title}_best"] = best[place]
            rows.append(row)
        return rows

    def to_pandas(self) -> Any:
        """Return the rows as a ``pandas.DataFrame``.

        Raises:
            LitVizError: pandas is not installed.
        """
        return data_frame(self.rows)

    def table(self) -> str:
        """Return the table as text: ``0.612 (0.570 to 0.655)``, with a star at the best values.

        Measures that do not fit the width of the terminal are in further tables beneath.
        """
        width = min(get_terminal_size((120, 24)).columns, _WIDEST)
        blocks = [self._named_rows()]
        space = width - _text_width(blocks[0])
        for title in self._best:
            texts = self._texts(title)
            column = _text_width([{title: text} for text in texts])
            is_first = len(blocks[-1][0]) == len(_NAMED)
            if column > space and not is_first:
                blocks.append(self._named_rows())
                space = width - _text_width(blocks[-1])
            space -= column
            for row, text in zip(blocks[-1], texts, strict=True):
                row[title] = text
        table = "\n\n".join(text_table(rows, words=1) for rows in blocks)
        if any(map(any, self._best.values())):
            table += f"\n{_STAR}"
        if _MARK in table:
            table += f"\n{_COUNT}"
        return table

    def _named_rows(self) -> list[TableRow]:
        """Return a row for each method without measures."""
        return [dict(zip(_NAMED, (name, str(item.photographs)), strict=True)) for name, item in self.compared.items()]

    def _texts(self, title: str) -> list[str]:
        """Return the values of a measure by method, with a star at the best."""
        texts: list[str] = []
        for item, is_best in zip(self.compared.values(), self._best[title], strict=True):
            measure = item.measure(title)
            text = "-"
            if measure is not None:
                estimate = measure.estimate()
                text = _text(estimate, measure.digits)
                if estimate.count != item.photographs:
                    text += f"{_MARK}{estimate.count}"
            if is_best:
                text += " *"
            texts.append(text)
        return texts

    def figure(self) -> Figure:
        """Return the figure: a panel for each measure, and the robustness curves of attacks; a notebook displays it."""
        return with_notebook_png(comparison_figure(self.compared, self._best))

    def save(self, folder: str | Path, *, figure: FigureFormat = "png") -> list[Path]:
        """Write ``comparison.csv`` and the figure ``comparison.png`` to a folder, and return their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows, text = self.rows, StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        table = folder / "comparison.csv"
        with atomic_write(table) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
        return [table, save_figure(self.figure(), folder / f"comparison.{figure}")]


@dataclass(frozen=True)
class ComparedRun:
    """A run that is compared."""

    name: str
    network: str
    presentation: Presentation
    outcomes: Sequence[Outcome]
    evidence: Evidence


def compare_runs(runs: Sequence[ComparedRun], eps: Sequence[float | str] = ()) -> Comparison:
    """Compare runs; see :func:`lit_viz.compare`."""
    require(runs, "there must be at least one run", "none", is_argument=False)
    radii = _radii(runs, eps)
    items: list[Compared] = []
    names: list[str] = []
    settings: list[Mapping[str, Any]] = []
    networks: list[Mapping[str, Any]] = []
    paths: list[Mapping[str, Any]] = []
    places: list[Mapping[str, Any]] = []
    for run in runs:
        for item in run.presentation.compared(run.outcomes, run.evidence, radii):
            if item in items:  # such as the random map of the same photographs
                continue
            names.append(item.name)
            settings.append(item.settings)
            networks.append({"network": run.network})
            paths.append({"run": run.name})
            places.append({"run": len(items)})
            items.append(item)
    if not items:
        raise LitVizError("the runs have no finished task that can be compared")
    for differences in (settings, networks, paths, places):
        names = distinct_names(names, differences)
    return Comparison(dict(zip(names, items, strict=True)))


def run_in_folder(path: str | Path) -> ComparedRun:
    """Return the run in a folder, which is verified first.

    Raises:
        LitVizError: the folder is not a run, is not complete or was changed.
    """
    folder = open_run(path)
    verify(folder)
    network = str((folder.config.get("network") or {}).get("name", ""))
    method = stored_method(folder)
    evidence = folder.evidence(verifier_of(method).evidence_class)
    return ComparedRun(str(path), network, presentation_of(method), folder.outcomes(), evidence)


def _radii(runs: Sequence[ComparedRun], eps: Sequence[float | str]) -> dict[str, list[float]]:
    """Return the radii by norm at which attacks without one are compared: the given ones, or those of the others."""
    radii: dict[str, list[float]] = {}
    given = sorted({*map(parse_radius, eps)})
    for run in runs:
        for record in records_of(run.outcomes):
            if not isinstance(record, AdversarialRecord) or record.norm is None:
                continue
            of_norm = radii.setdefault(record.norm, given.copy())
            if not given and record.eps is not None and record.eps not in of_norm:
                of_norm.append(record.eps)
                of_norm.sort()
    return radii


def _best_by_measure(compared: Mapping[str, Compared]) -> dict[str, list[bool]]:
    """Return, for each measure with values in order of appearance, which methods are the best."""
    best: dict[str, list[bool]] = {}
    for item in compared.values():
        for measure in item.measures:
            if measure.values and measure.name not in best:
                measures = [other.measure(measure.name) for other in compared.values()]
                best[measure.name] = are_best(measures)
    return best


def _text_width(rows: Sequence[TableRow]) -> int:
    """Return the width of the columns of a table in characters, with the space beside them."""
    width = 0
    for title in rows[0]:
        width += max(len(title), *(len(row[title]) for row in rows)) + 2
    return width


def _text(estimate: Estimate, digits: str) -> str:
    value, low, high = format(estimate.value, digits), format(estimate.low, digits), format(estimate.high, digits)
    if math.isnan(estimate.low) or low == high:
        return value
    return f"{value} ({low} to {high})"
