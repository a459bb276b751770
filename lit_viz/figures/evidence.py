"""Saliency maps beside Captum's, with the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels, reducer
from lit_viz.figures.cells import GAP, LINE, MARGIN, SIZE, SMALL, Cell, captioned, lines_of
from lit_viz.figures.scales import Scale, beside, clipping, number, remarks, upright_bar
from lit_viz.figures.style import COLORS, GREY, INK, fitted, style, write
from lit_viz.figures.tiles import pixels

#: Maps that are drawn at most.
MOST = 20

_CELL = 1.4
_BAND = 3 * (_CELL + GAP) - GAP
_BETWEEN = 0.25  # rows
_BESIDE = 0.2  # columns
_PAUSE = 0.06
_WORD = 0.5  # passed, failed
_NUMBERS_OF_GATE = 1.25
_NAME = 1.4  # of a line of the table
_HOW = "max_abs"  # sees every channel; in a sum, errors of two channels could cancel
_VERDICTS = {True: ("passed", COLORS[2]), False: ("failed", COLORS[1]), None: ("not checked", GREY)}


@dataclass(frozen=True)
class Gate:
    """A limit that a map was held against.

    Attributes:
        name: ``formula in float64``.
        difference: the largest, as a part of the reference's maximum.
        allowed: what it may be.
        passed: whether it isn't larger.
    """

    name: str
    difference: float
    allowed: float
    passed: bool


@dataclass(frozen=True)
class EvidenceRow:
    """One map, ours and Captum's.

    Attributes:
        name: of the photograph or its class.
        method: of the map.
        ours: the attribution ``(C, H, W)``, or ``(1, H, W)`` where the method is spatial.
        captum: Captum's, of the same shape; None where Captum has no such method.
        gates: that were tried.
        similarity: other numbers by their name (``Spearman``, ``SSIM``, ``top 10 % IoU``), for this map and for
            controls that must not agree: ``{"this map": {...}, "another class": {...}}``.
    """

    name: str
    method: str
    ours: Tensor | NDArray[np.floating]
    captum: Tensor | NDArray[np.floating] | None
    gates: Sequence[Gate] = ()
    similarity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """Whether all gates were passed; None where none was tried."""
        return all(gate.passed for gate in self.gates) if self.gates else None


def evidence_figure(
    rows: Sequence[EvidenceRow], quantile: float = 0.995, of: Sequence[bool | None] | None = None
) -> Figure:
    """Draw each map beside Captum's and their difference, on one scale, over the verdict and its numbers.

    More than two maps stand in two columns, and more than six in three, to be read line by line.

    The difference is taken of the attributions, and its channels are reduced then: what differs in any channel is seen.

    Args:
        rows: what is drawn; of more than :data:`MOST` those that failed before others.
        quantile: of the pixels of both maps, at which the colours end (see
            :func:`lit_viz.images.heatmap.clip_limits`).
        of: whether each of all maps passed, of which the rows are some; what is said at the foot is of all.

    Returns:
        a figure at which no pixel of a map is lost; save it by :func:`lit_viz.figures.style.save_figure`.
    """
    drawn = sorted(rows, key=lambda row: row.passed is not False)[:MOST] if len(rows) > MOST else rows
    passed = [row.passed for row in rows] if of is None else of
    with style():
        blocks = [_Block.of(row, quantile) for row in drawn]
        columns = 1 if len(blocks) <= 2 else 2 if len(blocks) <= 6 else 3
        lines = [blocks[first : first + columns] for first in range(0, len(blocks), columns)]
        heights = [max(block.height for block in line) + _BETWEEN for line in lines]
        tops = list(accumulate(heights, initial=MARGIN))
        wide = _BAND + beside((block.scale.ends() for block in blocks), GAP) + _BESIDE
        cells = [cell for block in blocks for cell in block.cells]
        width = 2 * MARGIN + columns * wide - _BESIDE
        figure = captioned(cells, _CELL, width, tops[-1], _caption(passed, blocks, quantile))
        for line, top in zip(lines, tops, strict=False):
            for column, block in enumerate(line):
                block.draw(figure, MARGIN + column * wide, top)
    return figure


def _caption(passed: Sequence[bool | None], blocks: Sequence[_Block], quantile: float) -> str:
    cut = f"{len(blocks)} of {len(passed)} maps, those that failed first. " if len(passed) > len(blocks) else ""
    checked = [one for one in passed if one is not None]
    verdict = f"{sum(checked)} of {len(checked)} checked maps passed." if checked else "No map was checked."
    clipped = clipping(any(any(block.scale.clipped) for block in blocks), quantile)
    return (
        f"{cut}{verdict} Maps: {reducer(_HOW).description}. Scale: shared by the three maps; {clipped}. "
        "Gates compare the largest difference, relative to the maximum."
    )


@dataclass(frozen=True)
class _Block:
    """A row as it is drawn."""

    row: EvidenceRow
    cells: Sequence[Cell]
    scale: Scale

    @classmethod
    def of(cls, row: EvidenceRow, quantile: float) -> _Block:
        both = [torch.as_tensor(row.ours).double()]
        if row.captum is not None:
            both.append(torch.as_tensor(row.captum).double())
        maps = [reduce_channels(attribution, _HOW)[0] for attribution in both]
        scale = Scale.of(maps, reducer(_HOW), quantile, shared=True)
        notes = [remarks(values) for values in maps]
        if len(both) == 2:
            maps.append(reduce_channels(both[0] - both[1], _HOW)[0])
            largest = float(maps[-1].max())
            notes.append([f"largest: {number(largest)}"] if math.isfinite(largest) else remarks(maps[-1]))
        pictures = [pixels(scale.colours(values, scale.limits[0])) for values in maps]
        return cls(row, [Cell(p, lines_of(said, _CELL)) for p, said in zip(pictures, notes, strict=True)], scale)

    @property
    def _head(self) -> float:
        return 2 * LINE + 0.1

    @property
    def _maps(self) -> float:
        return max(cell.height(_CELL) for cell in self.cells)

    @property
    def height(self) -> float:
        """Inches."""
        lines = len(self.row.gates) + (1 + len(self.row.similarity) if self.row.similarity else 0)
        return self._head + self._maps + (2 * _PAUSE + lines * LINE if lines else 0.0)

    def draw(self, figure: Figure, left: float, top: float) -> None:
        self._draw_head(figure, left, top)
        top += self._head
        for place, cell in enumerate(self.cells):
            cell.draw(figure, left + place * (_CELL + GAP), top, _CELL)
        right = left + len(self.cells) * (_CELL + GAP)
        upright_bar(figure, self.scale.ends(), self.scale.signed, right, top, self.cells[0].tall(_CELL))
        top += self._maps + _PAUSE
        for gate in self.row.gates:
            _draw_gate(figure, gate, left, top)
            top += LINE
        _draw_table(figure, self.row.similarity, left, top + _PAUSE)

    def _draw_head(self, figure: Figure, left: float, top: float) -> None:
        word, colour = _VERDICTS[self.row.passed]
        name = fitted(f"{self.row.method} · {self.row.name}", _BAND - 0.9, SIZE + 0.5, weight="bold")
        write(figure, name, left, top, size=SIZE + 0.5, weight="bold")
        write(figure, word, left + _BAND, top, size=SIZE + 0.5, weight="bold", color=colour, ha="right")
        titles = ["lit_viz", "Captum", "difference"][: len(self.cells)]
        for place, title in enumerate(titles):
            write(figure, title, left + place * (_CELL + GAP), top + LINE + 0.06, size=SMALL, color=GREY)
        if self.row.captum is None:
            right = left + _CELL + beside([self.scale.ends()], GAP) + 2 * GAP
            write(figure, "Captum has no such method", right, top + self._head, size=SMALL, color=GREY)


def _draw_gate(figure: Figure, gate: Gate, left: float, top: float) -> None:
    word, colour = _VERDICTS[gate.passed]
    write(figure, word, left, top, size=SMALL, weight="bold", color=colour)
    write(figure, fitted(gate.name, _BAND - _WORD - _NUMBERS_OF_GATE, SMALL), left + _WORD, top, size=SMALL)
    said = f"{number(gate.difference)} {'≤' if gate.passed else '>'} {number(gate.allowed)}"
    write(figure, said, left + _BAND, top, size=SMALL, ha="right")


def _draw_table(figure: Figure, table: Mapping[str, Mapping[str, float]], left: float, top: float) -> None:
    """Draw a line a map and a column a number, the numbers flush right."""
    names = list(dict.fromkeys(name for numbers in table.values() for name in numbers))
    width = (_BAND - _NAME) / max(1, len(names))
    rights = {name: left + _NAME + (column + 1) * width for column, name in enumerate(names)}
    for name, right in rights.items():
        write(figure, fitted(name, width - GAP, SMALL), right, top, size=SMALL, color=GREY, ha="right")
    for row, (of, numbers) in enumerate(table.items(), 1):
        colour = GREY if row > 1 else INK
        write(figure, fitted(of, _NAME, SMALL), left, top + row * LINE, size=SMALL, color=colour)
        for name, value in numbers.items():
            write(figure, _decimals(value), rights[name], top + row * LINE, size=SMALL, color=colour, ha="right")


def _decimals(value: float) -> str:
    """Return four decimals, unless these would show a number as nothing."""
    if math.isnan(value):
        return "undefined"
    return number(value) if 0 < abs(value) < 0.00005 else f"{value:.4f}"
