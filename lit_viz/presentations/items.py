"""Items of evidence: one result with its text, verdict, table and notes, equal in the terminal, notebooks and pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_viz.presentations.tables import TableRow
from lit_viz.utils.formatting import text_table
from lit_viz.utils.limits import MOST_NAMES, MOST_PRINTED

#: Verdicts in words.
VERDICTS = {True: "passed", False: "failed", None: "no verdict"}


@dataclass(frozen=True)
class EvidenceItem:
    """A result of the evidence.

    Attributes:
        text: the result in one or two sentences.
        passed: verdict; None for a measurement without one.
        rows: table below the text, by column.
        notes: sentences below the table.
        name: name of the part of the evidence, in keys of loggers.
        prints_table: whether the terminal shows the table.
    """

    text: str
    passed: bool | None = None
    rows: Sequence[TableRow] = ()
    notes: Sequence[str] = ()
    name: str = ""
    prints_table: bool = False

    @property
    def verdict(self) -> str:
        """Verdict in words."""
        return VERDICTS[self.passed]

    @property
    def columns(self) -> list[str]:
        """Columns of the table in order of appearance."""
        columns: dict[str, None] = {}
        for row in self.rows:
            columns |= dict.fromkeys(row)
        return list(columns)

    @property
    def markdown(self) -> str:
        """The item as Markdown, for loggers of texts: text and verdict, table and notes."""
        text = self.text
        if self.passed is not None:
            text += f" **{self.verdict}**"
        blocks = [text]
        if self.rows:
            columns = self.columns
            table = [_markdown_row(columns), _markdown_row(["---"] * len(columns))]
            for row in self.rows:
                table.append(_markdown_row([row.get(column, "") for column in columns]))
            blocks.append("\n".join(table))
        return "\n\n".join([*blocks, *self.notes]) + "\n"

    @property
    def lines(self) -> list[str]:
        """The item as lines for the terminal."""
        lines = [f"evidence: {self.text}"]
        if self.rows and self.prints_table:
            lines.append(text_table(self.rows[:MOST_PRINTED], words=1))
        return [*lines, *self.notes]


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def listed(names: Sequence[str]) -> str:
    """Return the names, of many the first ones: ``a, b and 3 more``."""
    text = ", ".join(names[:MOST_NAMES])
    if len(names) > MOST_NAMES:
        text += f" and {len(names) - MOST_NAMES} more"
    return text
