"""Grids of images: contact sheets, channels of a layer, parameter sweeps, and tiled pixel arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lit_viz.figures.layout import Block, Cell, Grid, Text, compose, pixels, selection, stack, wrap
from lit_viz.figures.style import CELL, GAP, GRAY, GROUP_GAP, HEADING, NORMAL, WIDE
from lit_viz.methods.records import LayerImageRecord, label_with_lr
from lit_viz.runs.results import Outcome
from lit_viz.types import Picture
from lit_viz.utils.formatting import pluralize, unique_labels

_MOST_CHANNELS = 1280
_LABEL = 1.5  # maximum width of the labels of a sweep in inches


def contact_sheet(
    images: Sequence[Picture],
    titles: Sequence[str],
    columns: int | None = None,
    width: float = CELL,
    limit: int = 200,
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
    drawn = [pixels(image) for image in images[:limit]]
    _, columns = grid_shape(len(drawn), columns or min(grid_shape(len(drawn))[1], 10))
    texts = (text.split("\n") for text in titles)
    cells = [Cell(picture, notes, width, title) for picture, (title, *notes) in zip(drawn, texts, strict=False)]
    gap = GROUP_GAP if any(picture.shape[1] > WIDE * picture.shape[0] for picture in drawn) else GAP
    grid = wrap(cells, columns, (gap, GAP))
    header = Text(heading, grid.width, HEADING, lines=2, weight="bold")
    return compose(stack(header, grid, gap=GAP), selection(len(drawn), len(images), "images"))


def channel_grid(outcomes: Sequence[Outcome]) -> Figure:
    """Draw the final image of each channel with its number beneath, under the name of the layer."""
    pictures, records = [], []
    for outcome in outcomes:
        picture = outcome.pictures()[1]
        if picture is not None and isinstance(outcome.record, LayerImageRecord):
            pictures.append(picture)
            records.append(outcome.record)
    numbers = unique_labels([label_with_lr(str(record.channel), record) for record in records], records)
    height, width = pixels(pictures[0]).shape[:2] if pictures else (1, 1)  # equal for all images of a run
    aspect = width / height
    columns = None if aspect == 1 else max(1, round(8 / aspect))
    layers = dict.fromkeys(str(record.layer) for record in records)
    axes = {record.axis or "channel" for record in records}
    count = len({(record.layer, record.channel) for record in records})
    heading = f"{', '.join(layers)} · {pluralize(count, axes.pop() if len(axes) == 1 else 'channel')}"
    return contact_sheet(pictures, numbers, columns, 1.2 * aspect, _MOST_CHANNELS, heading)


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
    grid: list[list[Block | None]] = [[None, *(Text(title, CELL, NORMAL, lines=2, weight="bold") for title in columns)]]
    for (name, *options), row in zip(rows, cells, strict=True):
        label = stack(
            Text(name, _LABEL, NORMAL, shrink=True, weight="bold"),
            *(Text(option, _LABEL, NORMAL, shrink=True, color=GRAY) for option in options),
        )
        grid.append([label, *(cell and replace(cell, width=CELL) for cell in row)])
    return compose(Grid(grid), caption)


def grid_shape(count: int, columns: int | None = None) -> tuple[int, int]:
    """Return (rows, columns) for ``count`` images: up to three in one row, more nearly square."""
    columns = min(columns or max(3 if count <= 3 else 2, math.ceil(math.sqrt(count))), count) or 1
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
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        top = row * (height + gap) + (height - image.shape[0]) // 2
        left = column * (width + gap) + (width - image.shape[1]) // 2
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    result = Image.fromarray(canvas)
    result.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(result)
