"""What a person at a terminal is told of a run at its end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_viz.utils.formatting import command_line, pluralize, status_summary
from lit_viz.utils.ranks import is_rank_zero

if TYPE_CHECKING:
    from rich.console import Console

    from lit_viz.presentations.base import Presentation
    from lit_viz.runs.results import Run

#: Results that the terminal shows; all are in results.jsonl.
_ROWS = 40
#: Columns of words, which may take several lines where they are longer than this.
_WORDS = ("photograph", "class", "target", "method", "status", "image", "seen as")
_FOLDED = 12
#: Columns that a narrow terminal goes without, the first one first; all are in results.jsonl.
_SPARED = ("seconds", "status", "evaluations", "iterations", "before", "L2", "target", "method", "probability", "after")


def report(presentation: Presentation, run: Run) -> None:
    """Print the results as a table, the errors, and where everything lies; exit with 1 unless all were done.

    Of several processes only the first one does.
    """
    if not is_rank_zero():
        return
    from rich.console import Console

    console = Console()
    console = console if console.is_terminal else Console(width=150)
    failed = [record for record in run.results if record["status"] == "failed"]
    if len(run.results) <= _ROWS:
        _print_table(console, presentation.table([outcome.record for outcome in run.outcomes]), run.results)
    else:
        classes = presentation.summary([outcome.record for outcome in run.outcomes])
        _print_table(console, classes[:_ROWS])
        more = f"; {len(classes) - _ROWS} more classes" if len(classes) > _ROWS else ""
        console.print(f"every image is in results.jsonl{more}", highlight=False)
    said = dict.fromkeys(f"{record['name']}: {record['error']}" for record in failed)  # once for several methods
    for sentence in list(said)[:_ROWS]:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if failed or len(run.results) > 1:
        console.print(f"{pluralize(len(run.results), 'image')}: {status_summary(run.results)}", highlight=False)
    if run.folder is not None:
        console.print(f"\nresults  {run.folder}", markup=False, highlight=False, soft_wrap=True)
        for figure in sorted(run.folder.glob("figure.*")):
            console.print(f"figure   {figure}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"report   {run.folder}/report.html", markup=False, highlight=False, soft_wrap=True)
        console.print(f"next     {_next(run.folder)}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        sys.exit(1)


def _next(folder: Path) -> str:
    """Return what to do with what lies in the folder of a run."""
    pictures = [file.name for pattern in ("figure.*", "evolution.*") for file in sorted(folder.glob(pattern))]
    in_wandb = ", or the run in W&B" if (folder / "wandb").is_dir() else ""
    return f"open {' and '.join(pictures)}{in_wandb}; look deeper: {command_line('check', folder)}"


def _print_table(
    console: Console, rows: Sequence[Mapping[str, str]], records: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Print the rows; those of single records with their index and seconds."""
    from rich.table import Table
    from rich.text import Text

    if records is not None:
        seconds = ["-" if record["seconds"] is None else f"{record['seconds']:.1f}" for record in records]
        rows = [
            {"": str(record["index"]), **row, "seconds": took}
            for record, row, took in zip(records, rows, seconds, strict=True)
        ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = _that_fit(rows, console.width)
    for column in columns:
        table.add_column(
            column,
            justify="left" if column in _WORDS else "right",
            overflow="fold",
            no_wrap=column not in _WORDS,
        )
    for row in rows:
        table.add_row(*(Text(row[column]) for column in columns))
    console.print(table)


def _that_fit(rows: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """Return the columns that a terminal of so many characters has room for."""
    columns = list(next(iter(rows), {}))
    needs = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    needs = {column: min(need, _FOLDED) if column in _WORDS else need for column, need in needs.items()}
    for spared in _SPARED:
        if sum(needs[column] + 2 for column in columns) - 2 <= width:
            break
        columns = [column for column in columns if column != spared]
    return columns
