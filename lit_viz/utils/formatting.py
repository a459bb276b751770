"""Console messages, and text for numbers, names and records."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import shlex
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_viz.errors import LitVizError, printable
from lit_viz.utils.process import is_rank_zero

if TYPE_CHECKING:  # it imports torch, for which the help should not wait
    from lit_viz.types import Record

#: Receives messages for the console, one line each.
Notify = Callable[[str], None]


def notify(message: str) -> None:
    """Print a message to stderr on rank 0."""
    if not is_rank_zero():
        return
    from rich.console import Console

    Console(stderr=True, emoji=False).print(printable(message), markup=False, highlight=False, soft_wrap=True)


def ignore(message: str) -> None:
    """Do not print a message."""


def is_notebook() -> bool:
    """Return whether the code runs in a notebook, which shows the outputs of a kernel."""
    if "IPython" not in sys.modules:
        return False
    return hasattr(sys.modules["IPython"].get_ipython(), "kernel")


def choose_notify(progress: bool | None) -> Notify | None:
    """Return what prints messages: :func:`notify` with ``progress``, :func:`ignore` without.

    By default it is that of notebooks; of scripts None, with which a run prints progress alone, and only if it is long.
    """
    if progress is None:
        return notify if is_notebook() else None
    return notify if progress else ignore


def warn_caller(message: str) -> None:
    """Warn at the line of the user's code that called the package, as :func:`warnings.warn` names it."""
    package = str(Path(__file__).parents[1])
    level, outermost = 1, 1
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        is_decorator = file == contextlib.__file__ and outermost == level - 1  # of a function of the package
        if file.startswith(package) or is_decorator:
            outermost = level
        frame = frame.f_back
        level += 1
    warnings.warn(message, stacklevel=outermost + 1)


def remark(message: str) -> None:
    """Log a message for users of the Python functions, on rank 0; Python prints it to stderr unless configured."""
    if is_rank_zero():
        logging.getLogger("lit_viz").warning(message)


def command_line(name: str, *folders: object, **options: object) -> str:
    """Return a command that can be pasted into a shell, such as ``lit-viz resume 'my run'``."""
    words = ["lit-viz", name, *map(str, folders)]
    for option, value in options.items():
        words += [f"--{option}", str(value)]
    return shlex.join(words)


def label_with_target(name: str, target_name: str | None) -> str:
    """Return ``quail -> stingray``; the name alone without a target, or if both are equal."""
    if target_name in (None, name):
        return name
    return f"{name} -> {target_name}"


def unique_labels(names: Sequence[str], records: Sequence[Record]) -> list[str]:
    """Append the number of iterations, and then the seed, to the names of records that are otherwise equal."""
    iterations = [f"{record.iterations} iterations" for record in records]
    seeds = [f"seed {record.seed}" for record in records]
    labels = list(names)
    for parts in (iterations, seeds):
        values = defaultdict(set)
        for label, part in zip(labels, parts, strict=True):
            values[label].add(part)
        for place, part in enumerate(parts):
            label = labels[place]
            if len(values[label]) > 1:
                labels[place] = f"{label}, {part}"
    return labels


def pluralize(count: int, noun: str) -> str:
    """Return ``1 iteration``, ``2,000 iterations`` ..."""
    if count == 1:
        return f"{count} {noun}"
    return f"{count:,} {noun}s"


def status_summary(statuses: Iterable[str]) -> str:
    """Return the number of tasks per status, ``3 done, 1 skipped, 2 failed``, for their statuses or numbers by status;
    zeros are omitted."""
    counts = Counter(statuses)
    order = ("done", "unfinished", "skipped", "failed")
    return ", ".join(f"{counts[status]} {status}" for status in order if counts[status])


def probability_text(probability: float) -> str:
    """Format a probability as ``p = 0.93``; ``p < 0.01`` and ``p > 0.99`` near 0 and 1, ``no p`` for NaN."""
    if math.isnan(probability):
        return "no p"
    if 0 <= probability < 0.005:
        return "p < 0.01"
    if probability >= 0.995:
        return "p > 0.99"
    return f"p = {probability:.2f}"


def number_text(value: float) -> str:
    """Format a float with four significant digits, such as ``0.035``; a small one as ``0.25/255`` if that is exact and
    the decimals are not. An integer has all its digits."""
    if isinstance(value, int):
        return str(value)
    text = f"{value:.4g}"
    levels = f"{255 * value:.4g}"
    is_small = 0 < abs(value) < 0.25
    if is_small and float(text) != value and math.isclose(float(levels) / 255, value, rel_tol=1e-9):
        return f"{levels}/255"
    return text


def data_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return rows as a ``pandas.DataFrame``, for methods named ``to_pandas``.

    Raises:
        LitVizError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise LitVizError("to_pandas requires pandas: pip install pandas") from error
    return pd.DataFrame(rows)


def text_table(rows: Sequence[Mapping[str, str]], words: int) -> str:
    """Return a table of texts by column for the terminal; missing cells are empty.

    Columns are in order of appearance. The first ``words`` are left-aligned, the others right-aligned.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    columns = list(dict.fromkeys(chain.from_iterable(rows)))
    for column in columns[:words]:
        table.add_column(column, justify="left", overflow="fold")
    for column in columns[words:]:
        table.add_column(column, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*(row.get(column, "") for column in columns))
    text = StringIO()
    Console(file=text, width=170, markup=False, emoji=False, highlight=False).print(table)
    return text.getvalue().rstrip("\n")
