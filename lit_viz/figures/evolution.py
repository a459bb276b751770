"""Figure of the evolution of images: iterations in a row above the curve of the probability or objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lit_viz.figures.layout import (
    CELL,
    GAP,
    GROUP_GAP,
    HEADING,
    NORMAL,
    SMALL_CELL,
    Block,
    Cell,
    Grid,
    Plot,
    Space,
    Text,
    compose,
    pixels,
    stack,
)
from lit_viz.figures.sheet import WIDE, contact_sheet
from lit_viz.figures.style import COLORS, RULE, style
from lit_viz.types import Picture
from lit_viz.utils.formatting import probability_text

_AXIS = 0.36  # width of the labels of the vertical axis in inches
_CURVE = 0.62  # height of the curve in inches


@dataclass(frozen=True)
class Evolution:
    """The logged images and the curve of one task.

    Attributes:
        name: title of the row.
        frames: ordered pairs of iteration and image, ``(C, H, W)`` in [0, 1] or a file.
        curve: ordered pairs of iteration and value; may be empty.
        metric: name of the value: ``probability``, or ``objective`` for tasks without a class.
    """

    name: str
    frames: Sequence[tuple[int, Picture]]
    curve: Sequence[tuple[int, float]] = field(default=())
    metric: str = "probability"

    @property
    def is_animated(self) -> bool:
        """Whether there are frames between the first and the last."""
        return len(self.frames) > 2

    def value_text(self, iteration: int) -> str:
        """Format the value of the curve at an iteration; empty if there is none."""
        value = dict(self.curve).get(iteration)
        if value is None:
            return ""
        return probability_text(value) if self.metric == "probability" else f"{self.metric} {value:.3g}"


@style()
def evolution_figure(tasks: Sequence[Evolution], columns: int = 6, rows: int = 6) -> Figure:
    """Draw each task as a row of images by iteration, above its curve.

    Args:
        tasks: tasks without frames are omitted. More than ``rows`` tasks become a contact sheet of the last images.
        columns: maximum number of iterations: the first, the last and others evenly between.
        rows: maximum number of tasks.

    Returns:
        A figure with each pixel as a square of whole dots; see :func:`lit_viz.figures.style.save_figure`.
    """
    tasks = [task for task in tasks if task.frames]
    if len(tasks) > rows:
        titles = [f"{task.name}\n{_iteration_text(task)}" for task in tasks]
        return contact_sheet([task.frames[-1][1] for task in tasks], titles)
    aspect = max((_aspect(task) for task in tasks), default=1.0)
    if aspect > WIDE:
        columns = min(columns, 3)
    most = max((min(len(task.frames), columns) for task in tasks), default=1)
    width = (CELL if most <= 6 else SMALL_CELL) * (min(aspect, 3.0) if aspect > WIDE else 1.0)
    gap = GROUP_GAP if aspect > WIDE else GAP
    return compose(stack(*(_row(task, columns, most, width, gap) for task in tasks), gap=2 * GAP))


def _aspect(task: Evolution) -> float:
    height, width = pixels(task.frames[-1][1]).shape[:2]
    return float(width / height)


def _iteration_text(task: Evolution) -> str:
    iteration = task.frames[-1][0]
    value = task.value_text(iteration)
    return f"iteration {iteration}" + (f" · {value}" if value else "")


def _row(task: Evolution, columns: int, most: int, width: float, gap: float) -> Grid:
    """Return the name, the images and the curve of a task.

    Args:
        task: with at least one frame.
        columns: maximum number of images.
        most: largest number of images in a row of the figure.
        width: of an image in inches.
        gap: between images in inches.
    """
    frames = [task.frames[place] for place in spread(len(task.frames), columns)]
    band = max(most * (width + gap) - gap, 2.6)
    cells = [Cell(pixels(picture), [task.value_text(k)], width, f"iteration {k}", lines=1) for k, picture in frames]
    rows: list[list[Block | None]] = [
        [Space(_AXIS - GAP), Text(task.name, band, HEADING, lines=2, weight="bold")],
        [None, Grid([cells], gap)],
    ]
    if len(task.curve) > 1:
        rows.append([None, Plot(_CURVE, partial(_plot, task, [k for k, _ in frames]), band, below=0.32)])
    return Grid(rows)


def spread(count: int, at_most: int) -> list[int]:
    """Return at most ``at_most`` evenly spaced indices of ``range(count)``, the first and the last included."""
    if count <= at_most:
        return list(range(count))
    if at_most == 1:
        return [count - 1]
    return [round(place * (count - 1) / (at_most - 1)) for place in range(at_most)]


def _plot(task: Evolution, marked: Sequence[int], axes: Axes) -> None:
    """Draw the curve with dots at the iterations of the images."""
    iterations, values = (np.array(column, dtype=float) for column in zip(*task.curve, strict=True))
    if is_geometric(iterations):
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.3)
    axes.plot(iterations, values, color=COLORS[0], solid_capstyle="round", clip_on=False)
    axes.fill_between(iterations, values, color=COLORS[0], alpha=0.1, linewidth=0)
    points = [(k, value) for k, value in task.curve if k in marked]
    if points:
        axes.plot(*zip(*points, strict=True), "o", ms=4, mfc=COLORS[0], mec="white", mew=0.8, clip_on=False, zorder=3)
    axes.set_xlim(iterations[0], iterations[-1])
    low, high = (0.0, 1.0) if task.metric == "probability" else _limits(values)
    axes.set_ylim(low, high)
    ticks = sorted({low, 0.0, high})
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    for tick in {0.0, high}:
        axes.axhline(tick, color=RULE, linewidth=0.5, zorder=0)
    _set_ticks(axes, sorted({int(iterations[0]), *marked, int(iterations[-1])}))
    axes.set_xlabel("iteration", size=NORMAL, labelpad=2)
    axes.set_ylabel(task.metric, size=NORMAL, labelpad=4)


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return round numbers that enclose the values and 0."""
    largest = float(np.abs(values).max()) or 1.0
    step = 10.0 ** math.floor(math.log10(largest))
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _set_ticks(axes: Axes, iterations: Sequence[int]) -> None:
    """Label the first and the last iteration, and others if the labels do not overlap."""
    dots = axes.transData.transform([(k, 0.0) for k in iterations])[:, 0]
    inches = dict(zip(iterations, dots / axes.figure.dpi, strict=True))

    def apart(a: int, b: int) -> bool:
        return bool(abs(inches[a] - inches[b]) > 0.1 + 0.04 * (len(str(a)) + len(str(b))))

    first, last = iterations[0], iterations[-1]
    ticks = [first]
    for k in iterations[1:-1]:
        if apart(k, ticks[-1]) and apart(k, last):
            ticks.append(k)
    if last != first:
        ticks.append(last)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    if len(ticks) > 1 and len(str(last)) > 4:  # a centered label would exceed the margin
        axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.minorticks_off()


def is_geometric(iterations: NDArray[np.float64]) -> bool:
    """Return whether iterations were logged at growing distances, which a logarithmic axis displays better."""
    steps = np.diff(iterations[iterations >= 1])
    return len(steps) > 3 and iterations[-1] > 30 and bool(np.median(steps[-2:]) > 4 * np.median(steps[:2]))
