"""Cells and rows of tables, for the terminal and for pages."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

#: A row of a table: text by column.
TableRow = dict[str, str]


def format_value(value: object, template: str = "{:.3f}") -> str:
    """Return a formatted value; ``-`` for None."""
    return "-" if value is None else template.format(value)


def median_of(values: Iterable[float | None], template: str = "{:.3f}") -> str:
    """Return the formatted median of the values that are not None; ``-`` if there is none."""
    present = [value for value in values if value is not None]
    return format_value(median(present), template) if present else "-"
