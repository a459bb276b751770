"""Tables as they are told on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table


def text_table(rows: Sequence[Mapping[str, str]], words: int) -> str:
    """Return a table without lines, its columns in the order in which they turn up.

    Args:
        rows: texts by column; one that a row lacks is left empty there.
        words: columns that are words, the first ones; the others are numbers, and stand at the right.
    """
    shown = Table(box=None, pad_edge=False)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for place, column in enumerate(columns):
        shown.add_column(column, justify="left" if place < words else "right", overflow="fold")
    for row in rows:
        shown.add_row(*(row.get(column, "") for column in columns))
    text = StringIO()
    Console(file=text, width=170, markup=False, highlight=False).print(shown)
    return text.getvalue().rstrip("\n")
