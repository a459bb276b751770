"""Results of a run on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_viz.utils.formatting import command_line, pluralize, status_summary
from lit_viz.utils.process import is_rank_zero

if TYPE_CHECKING:
    from rich.console import Console

    from lit_viz.presentations.base import Presentation
    from lit_viz.runs.results import Run
    from lit_viz.types import Record

#: Maximum number of rows; results.jsonl has all of them.
_MAX_ROWS = 40
#: Columns of text; values longer than the width are wrapped.
_TEXT_COLUMNS = ("photograph", "class", "target", "method", "status", "image", "seen as")
_TEXT_WIDTH = 12
#: Columns that are omitted on a narrow terminal, in this order.
_OPTIONAL_COLUMNS = (
    "seconds", "status", "evaluations", "iterations", "before", "L2", "target", "method", "probability", "after",
)  # fmt: skip


def print_results(presentation: Presentation, run: Run) -> None:
    """Print the results, the errors and the files of a run, on rank zero only; exit with 1 if a task has failed."""
    if not is_rank_zero():
        return
    from rich.console import Console

    console = Console()
    console = console if console.is_terminal else Console(width=150)

    def print_line(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    records = [outcome.record for outcome in run.outcomes]
    failed = [record for record in records if record.status == "failed"]
    if len(records) <= _MAX_ROWS:
        _print_table(console, presentation.table(records), records)
    else:
        classes = presentation.summary(records)
        _print_table(console, classes[:_MAX_ROWS])
        more = f"; {len(classes) - _MAX_ROWS} more classes" if len(classes) > _MAX_ROWS else ""
        print_line(f"all images are in results.jsonl{more}")
    errors = dict.fromkeys(f"{record.name}: {record.error}" for record in failed)  # without duplicates
    for error in list(errors)[:_MAX_ROWS]:
        print_line(error)
    if failed or len(records) > 1:
        print_line(f"{pluralize(len(records), 'image')}: {status_summary(records)}")
    if run.folder is not None:
        print_line(f"\nresults  {run.folder}")
        for figure in sorted(run.folder.glob("figure.*")):
            print_line(f"figure   {figure}")
        print_line(f"report   {run.folder}/report.html")
        print_line(f"next     {_next_steps(run.folder)}")
    if failed:
        sys.exit(1)


def _next_steps(folder: Path) -> str:
    files = [file.name for pattern in ("figure.*", "evolution.*") for file in sorted(folder.glob(pattern))]
    wandb = ", or the run in W&B" if (folder / "wandb").is_dir() else ""
    return f"open {' and '.join(files)}{wandb}; verify: {command_line('check', folder)}"


def _print_table(console: Console, rows: Sequence[Mapping[str, str]], records: Sequence[Record] | None = None) -> None:
    """Print rows as a table; with records, add their index and duration."""
    from rich.table import Table
    from rich.text import Text

    if records is not None:
        seconds = ["-" if record.seconds is None else f"{record.seconds:.1f}" for record in records]
        rows = [
            {"": str(record.index), **row, "seconds": duration}
            for record, row, duration in zip(records, rows, seconds, strict=True)
        ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = _visible_columns(rows, console.width)
    for column in columns:
        is_text = column in _TEXT_COLUMNS
        table.add_column(column, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*(Text(row[column]) for column in columns))
    console.print(table)


def _visible_columns(rows: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """Return the columns that fit into a terminal of a width in characters."""
    columns = list(next(iter(rows), {}))
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    widths = {column: min(n, _TEXT_WIDTH) if column in _TEXT_COLUMNS else n for column, n in widths.items()}
    for optional in _OPTIONAL_COLUMNS:
        if sum(widths[column] + 2 for column in columns) - 2 <= width:
            break
        columns = [column for column in columns if column != optional]
    return columns
