"""What options do to a picture: a grid whose rows and columns are their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from lit_viz.figures.cells import GAP, LINE, MARGIN, SIZE, Cell, captioned
from lit_viz.figures.style import GREY, INK, fitted, inches, style, write

_LABEL = 1.5
_WIDTH = 1.4


def sweep_figure(
    rows: Sequence[Sequence[str]], columns: Sequence[str], cells: Sequence[Sequence[Cell | None]], caption: str
) -> Figure:
    """Draw a grid of pictures.

    Args:
        rows: the lines that stand beside each row; the first one is bold.
        columns: what stands above each column.
        cells: by row and column; None where there is no picture.
        caption: what stands at the foot.

    Returns:
        a figure at which no pixel is lost; save it by :func:`lit_viz.figures.style.save_figure`.
    """
    drawn = [cell for row in cells for cell in row if cell is not None]
    label = min(
        _LABEL, max((inches(line, SIZE, **_font(n)) for lines in rows for n, line in enumerate(lines)), default=0)
    )
    left = MARGIN + label + GAP
    heights = [
        max([LINE * len(lines), *(c.height(_WIDTH) for c in row if c)]) for lines, row in zip(rows, cells, strict=True)
    ]
    top = MARGIN + LINE + 0.08
    with style():
        end = top + sum(heights) + GAP * len(heights)
        figure = captioned(drawn, _WIDTH, left + len(columns) * (_WIDTH + GAP) - GAP + MARGIN, end, caption)
        for place, title in enumerate(columns):
            words = fitted(title, _WIDTH, SIZE, weight="bold")
            write(figure, words, left + place * (_WIDTH + GAP), MARGIN, size=SIZE, weight="bold")
        for lines, row, height in zip(rows, cells, heights, strict=True):
            for n, line in enumerate(lines):
                words = fitted(line, label, SIZE, **_font(n))
                write(figure, words, MARGIN, top + n * LINE, size=SIZE, color=GREY if n else INK, **_font(n))
            for place, cell in enumerate(row):
                if cell is not None:
                    cell.draw(figure, left + place * (_WIDTH + GAP), top, _WIDTH)
            top += height + GAP
    return figure


def _font(line: int) -> dict[str, Any]:
    return {} if line else {"weight": "bold"}
