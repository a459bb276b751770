"""Grids of images: contact sheets, channels of a layer, parameter sweeps, and tiled pixel arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lit_viz.figures.layout import Block, Cell, Grid, Text, compose, is_group, pixels, selection, stack, wrap
from lit_viz.figures.style import CELL, GAP, GRAY, GROUP_GAP, HEADING, NORMAL
from lit_viz.runs.records import VisualizationRecord, label_with_lr
from lit_viz.runs.results import Outcome
from lit_viz.types import Picture
from lit_viz.utils.formatting import pluralize, unique_labels
from lit_viz.utils.limits import MOST_CHANNELS, MOST_IMAGES

_LABEL = 1.5  # maximum width of the labels of a sweep in inches


def contact_sheet(
    images: Sequence[Picture],
    titles: Sequence[str],
    columns: int | None = None,
    width: float = CELL,
    limit: int = MOST_IMAGES,
    heading: str = "",
) -> Figure:
    """Draw images in rows.

    Args:
        images: ``(C, H, W)`` in [0, 1] or files; shapes may differ.
        titles: text beneath each image: the first line in black (the class), other lines in gray.
        columns: images per row; nearly square with at most ten columns if not given.
        width: of an image in inches.
        limit: maximum number of images.
        heading: title of the figure.
    """
    if columns is None:
        _, columns = grid_shape(min(len(images), limit))
        columns = min(columns, 10)
    cells = []
    gap = GAP
    for image, text in zip(images[:limit], titles, strict=False):
        title, *notes = text.split("\n")
        picture = pixels(image)
        cells.append(Cell(picture, notes, width, title))
        if is_group(picture):
            gap = GROUP_GAP
    _, columns = grid_shape(len(cells), columns)
    grid = wrap(cells, columns, (gap, GAP))
    header = Text(heading, grid.width, HEADING, lines=None, weight="bold")
    return compose(stack(header, grid, gap=GAP), selection(len(cells), len(images), "images"))


def channel_grid(outcomes: Sequence[Outcome[VisualizationRecord]]) -> Figure:
    """Draw the final image of each channel with its number beneath, under the name of the layer."""
    pictures, records = [], []
    for outcome in outcomes:
        picture = outcome.pictures()[1]
        if picture is not None:
            pictures.append(picture)
            records.append(outcome.record)
    numbers = unique_labels([label_with_lr(str(record.channel), record) for record in records], records)
    aspect, columns = 1.0, None
    if pictures:
        height, width = pixels(pictures[0]).shape[:2]  # equal for all images of a run
        aspect = width / height
    if aspect != 1:
        columns = max(1, round(8 / aspect))
    heading = _channel_heading(records)
    return contact_sheet(pictures, numbers, columns, 1.2 * aspect, MOST_CHANNELS, heading)


def _channel_heading(records: Sequence[VisualizationRecord]) -> str:
    """Return the layers, and the number of channels or of units on another axis: ``features.3 · 3 channels``."""
    layers = dict.fromkeys(str(record.layer) for record in records)
    axes = {record.axis or "channel" for record in records}
    count = len({(record.layer, record.channel) for record in records})
    noun = axes.pop() if len(axes) == 1 else "channel"
    return f"{', '.join(layers)} · {pluralize(count, noun)}"


def sweep_figure(
    rows: Sequence[Sequence[str]], columns: Sequence[str], cells: Sequence[Sequence[Cell | None]], caption: str
) -> Figure:
    """Draw a grid of images with one value of an option per row and per column.

    Args:
        rows: lines of text on the left of each row; the first line is bold.
        columns: text above each column.
        cells: images by row and column; None is an empty place.
        caption: of the figure.
    """
    header: list[Block | None] = [None]
    for title in columns:
        header.append(Text(title, CELL, NORMAL, lines=None, weight="bold"))
    grid = [header]
    for texts, row in zip(rows, cells, strict=True):
        line: list[Block | None] = [_row_label(texts)]
        for cell in row:
            line.append(cell and replace(cell, width=CELL))
        grid.append(line)
    return compose(Grid(grid), caption)


def _row_label(texts: Sequence[str]) -> Grid:
    """Return the label of a row of a sweep: its name, and its options in gray."""
    name, *options = texts
    lines = [Text(name, _LABEL, NORMAL, lines=None, shrink=True, weight="bold")]
    for option in options:
        lines.append(Text(option, _LABEL, NORMAL, lines=None, shrink=True, color=GRAY))
    return stack(*lines)


def grid_shape(count: int, columns: int | None = None) -> tuple[int, int]:
    """Return (rows, columns) for ``count`` images: up to three in one row, more nearly square."""
    if not columns:
        columns = 3 if count <= 3 else math.ceil(math.sqrt(count))
    columns = max(1, min(columns, count))
    return math.ceil(count / columns), columns


def tile(
    images: Sequence[NDArray[np.uint8]], columns: int | None = None, gap: int = 4, side: int = 4096
) -> NDArray[np.uint8]:
    """Arrange images ``(H, W, 3)`` uint8 in a grid on white, each centered in the cell of the largest.

    Args:
        images: shapes may differ.
        columns: images per row; nearly square if not given.
        gap: pixels between images.
        side: maximum width and height of the result in pixels; larger grids are downscaled.
    """
    rows, columns = grid_shape(len(images), columns)
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        top = row * (height + gap) + (height - image.shape[0]) // 2
        left = column * (width + gap) + (width - image.shape[1]) // 2
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    result = Image.fromarray(canvas)
    result.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(result)
