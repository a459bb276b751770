"""Confidence intervals and text tables of results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table

from lit_viz.errors import LitVizError


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927, eq. 1; Newcombe 1998, method 3).

    Args:
        successes: number of successes.
        n: number of trials.
        z: quantile of the normal distribution; 1.96 for 95 %.

    Returns:
        (low, high) in [0, 1]; (0, 1) without trials.

    Raises:
        LitVizError: ``successes`` is not in [0, n].
    """
    if not 0 <= successes <= n:
        raise LitVizError(f"successes must be between 0 and {n}, got {successes}")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    center = share + z**2 / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = ((center + sign * margin) / (1 + z**2 / n) for sign in (-1, 1))
    # Exact at the ends, despite rounding.
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def text_table(rows: Sequence[Mapping[str, str]], words: int) -> str:
    """Return a table for the terminal; columns are in order of appearance, missing cells empty.

    Args:
        rows: texts by column.
        words: number of left-aligned columns at the beginning; the others are right-aligned.
    """
    table = Table(box=None, pad_edge=False)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < words else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row.get(column, "") for column in columns))
    text = StringIO()
    Console(file=text, width=170, markup=False, highlight=False).print(table)
    return text.getvalue().rstrip("\n")
