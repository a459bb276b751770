"""How images emerge: columns of iterations over the curve of the probability, or of the objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lit_viz.attacks.norms import label_with_eps
from lit_viz.attributions import title_of
from lit_viz.figures.sheet import contact_sheet, sharp_dpi
from lit_viz.figures.style import COLORS, GREY, INK, RULE, axes_at, fitted, probability_text, shown, style, write
from lit_viz.figures.tiles import WIDE, pixels
from lit_viz.runs.results import Outcome
from lit_viz.types import Picture
from lit_viz.utils.formatting import has_several_radii, label_with_lr, label_with_target, unique_labels

_MARGIN = 0.15
_AXIS = 0.36  # left of the curve and of the images: room for its labels
_GAP = 0.1
_GAP_OF_GROUPS = 0.3  # wider than the gaps inside of them
_CURVE = 0.62
_NARROWEST = 2.6
_BETWEEN = 0.2  # tasks


@dataclass(frozen=True)
class Evolution:
    """One task as it emerges.

    Attributes:
        name: of the class, or whatever the row is called.
        frames: (iteration, picture), in order; the picture is ``(C, H, W)`` in [0, 1] or a file.
        curve: (iteration, value), in order; may be empty.
        metric: what the values are: ``probability``, or ``objective`` where no class is asked for.
    """

    name: str
    frames: Sequence[tuple[int, Picture]]
    curve: Sequence[tuple[int, float]] = field(default=())
    metric: str = "probability"

    @property
    def moves(self) -> bool:
        """Whether there is more to see than a beginning and an end."""
        return len(self.frames) > 2

    def said(self, value: float) -> str:
        """Return a value of the curve as it is written beneath a picture."""
        return probability_text(value) if self.metric == "probability" else f"{self.metric} {value:.3g}"


def evolutions(outcomes: Sequence[Outcome]) -> list[Evolution]:
    """Return what the tasks of a run have logged, in task order; no picture is read yet."""
    methods = {outcome.record["method"] for outcome in outcomes if "method" in outcome.record}
    of_radii = has_several_radii(outcome.record for outcome in outcomes)
    found = [_evolution(outcome, len(methods) > 1, of_radii) for outcome in outcomes]
    if any({"method", "attack"} & set(outcome.record) for outcome in outcomes):  # photographs, which have their names
        return found
    names = unique_labels([one.name for one in found], [outcome.record for outcome in outcomes])
    return [replace(one, name=name) for one, name in zip(found, names, strict=True)]


def _evolution(outcome: Outcome, of_methods: bool, of_radii: bool) -> Evolution:
    """Return how one outcome emerged, by the name that tells it from others of the same photograph."""
    record = outcome.record
    # Many photographs of an attack may have one target.
    name = label_with_target(record["name"], record["target_name"]) if "attack" in record else outcome.name
    name = label_with_lr(name, record)
    if of_methods and "method" in record:
        name += f", {title_of(record['method'])}"
    if of_radii:
        name = label_with_eps(name, record)
    classless = "objective_file" in outcome.record  # of a class image the objective means less than the probability
    metric = "objective" if classless else "probability"
    return Evolution(name, outcome.frames(), outcome.curve(metric), metric)


def evolution_figure(tasks: Sequence[Evolution], columns: int = 6, rows: int = 6) -> Figure:
    """Draw each task as a row of images at some of its iterations, over the curve of its probability.

    Args:
        tasks: what is drawn; those without a frame are left out. More than ``rows`` become a contact sheet of the last
            images.
        columns: at most so many iterations, the first and the last among them and the others evenly between as logged.
        rows: at most so many tasks.

    Returns:
        a figure at which no pixel of an image is lost; save it by :func:`lit_viz.figures.style.save_figure`.
    """
    tasks = [task for task in tasks if task.frames]
    if len(tasks) > rows:
        return contact_sheet([task.frames[-1][1] for task in tasks], [_title(task) for task in tasks])
    columns = min(columns, 3) if any(_is_wide(task) for task in tasks) else columns
    chosen = [[task.frames[place] for place in spread(len(task.frames), columns)] for task in tasks]
    drawn = [[(iteration, pixels(picture)) for iteration, picture in row] for row in chosen]
    return _Layout(drawn).draw(tasks)


def _is_wide(task: Evolution) -> bool:
    """Return whether the picture is of several images beside one another, and needs room."""
    height, width = pixels(task.frames[-1][1]).shape[:2]
    return bool(width > WIDE * height)


def spread(count: int, at_most: int) -> list[int]:
    """Return at most so many of ``range(count)``, the first and the last among them, evenly."""
    if count <= at_most:
        return list(range(count))
    if at_most == 1:
        return [count - 1]
    return [round(place * (count - 1) / (at_most - 1)) for place in range(at_most)]


class _Layout:
    """Places in inches, from the left and the top."""

    def __init__(self, rows: Sequence[Sequence[tuple[int, NDArray[np.uint8]]]]) -> None:
        self.rows = rows
        columns = max((len(row) for row in rows), default=1)
        wide = max((p.shape[1] / p.shape[0] for row in rows for _, p in row), default=1.0)
        self.cell = (1.4 if columns <= 6 else 1.15) * (min(wide, 3.0) if wide > WIDE else 1.0)
        self.gap = _GAP_OF_GROUPS if wide > WIDE else _GAP
        self.band = max(columns * (self.cell + self.gap) - self.gap, _NARROWEST)
        self.heights = [max(self.cell * p.shape[0] / p.shape[1] for _, p in row) for row in rows]

    def draw(self, tasks: Sequence[Evolution]) -> Figure:
        with style():
            names = [fitted(task.name, self.band, 10, lines=2, weight="bold") for task in tasks]
            tall = [self._block(h, name, task) for h, name, task in zip(self.heights, names, tasks, strict=True)]
            size = (_MARGIN + _AXIS + self.band + _MARGIN, sum(tall) + 2 * _MARGIN - _BETWEEN if tall else 1.0)
            figure = Figure(figsize=size, dpi=sharp_dpi([p for row in self.rows for _, p in row], self.cell))
            top = _MARGIN
            for row, name, task, height, block in zip(self.rows, names, tasks, self.heights, tall, strict=True):
                self._row(figure, top, row, name, task, height)
                top += block
        return figure

    @staticmethod
    def _head(name: str) -> float:
        return 0.08 + 0.18 * (1 + name.count("\n"))

    def _block(self, height: float, name: str, task: Evolution) -> float:
        curve = 0.12 + _CURVE + 0.36 if len(task.curve) > 1 else 0.0
        return self._head(name) + 0.32 + height + curve + _BETWEEN

    def _row(
        self,
        figure: Figure,
        top: float,
        row: Sequence[tuple[int, NDArray[np.uint8]]],
        name: str,
        task: Evolution,
        height: float,
    ) -> None:
        left = _MARGIN + _AXIS
        write(figure, name, left, top, size=10, weight="bold", linespacing=1.25)
        top += self._head(name)
        known = dict(task.curve)
        for place, (iteration, picture) in enumerate(row):
            x = left + place * (self.cell + self.gap)
            write(figure, f"iteration {iteration}", x, top, size=7.5, color=INK)
            if iteration in known:
                write(figure, task.said(known[iteration]), x, top + 0.14, size=7, color=GREY)
            shown(figure, picture, x, top + 0.32, self.cell)
        if len(task.curve) > 1:
            axes = axes_at(figure, left, top + 0.32 + height + 0.12, self.band, _CURVE)
            _draw_curve(axes, task, [iteration for iteration, _ in row], self.band)


def _draw_curve(axes: Axes, task: Evolution, marked: Sequence[int], inches: float) -> None:
    iterations, values = (np.array(column, dtype=float) for column in zip(*task.curve, strict=True))
    if is_geometric(iterations):
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.3)
    axes.plot(iterations, values, color=COLORS[0], solid_capstyle="round", clip_on=False)
    axes.fill_between(iterations, values, color=COLORS[0], alpha=0.1, linewidth=0)
    known = dict(task.curve)
    points = [(k, known[k]) for k in marked if k in known]
    if points:
        axes.plot(*zip(*points, strict=True), "o", ms=4, mfc=COLORS[0], mec="white", mew=0.8, clip_on=False, zorder=3)
    axes.set_xlim(iterations[0], iterations[-1])
    low, high = (0.0, 1.0) if task.metric == "probability" else _limits(values)
    axes.set_ylim(low, high)
    ticks = sorted({low, 0.0, high})
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    for tick in {0.0, high}:
        axes.axhline(tick, color=RULE, linewidth=0.5, zorder=0)
    _tick(axes, sorted({int(iterations[0]), *marked, int(iterations[-1])}), inches)
    axes.set_xlabel("iteration", size=7.5, labelpad=2)
    axes.set_ylabel(task.metric, size=7.5, labelpad=4)


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return round numbers that hold the values and 0."""
    largest = float(np.abs(values).max()) or 1.0
    step = 10.0 ** math.floor(math.log10(largest))
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _tick(axes: Axes, iterations: Sequence[int], inches: float) -> None:
    """Label the iterations that are shown but for those whose numbers would touch; the first and the last have one."""
    place = dict(zip(iterations, _along(axes, iterations) * inches, strict=True))

    def apart(a: int, b: int) -> bool:
        return bool(abs(place[a] - place[b]) > 0.1 + 0.04 * (len(str(a)) + len(str(b))))

    kept = [iterations[0]]
    for k in iterations[1:-1]:
        if apart(k, kept[-1]) and apart(k, iterations[-1]):
            kept.append(k)
    kept += [k for k in iterations[-1:] if k != kept[-1]]
    axes.set_xticks(kept, [str(k) for k in kept])
    if len(kept) > 1 and len(str(kept[-1])) > 4:  # wider than the margin lets it be when centred
        axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.minorticks_off()


def _along(axes: Axes, iterations: Sequence[int]) -> NDArray[np.float64]:
    """Return where on the axis iterations lie, from 0 at its left end to 1 at its right."""
    places = axes.transScale.transform([(k, 0.0) for k in (*axes.get_xlim(), *iterations)])[:, 0]
    along: NDArray[np.float64] = (places[2:] - places[0]) / max(places[1] - places[0], 1e-9)
    return along


def is_geometric(iterations: NDArray[np.float64]) -> bool:
    """Return whether the curve was logged at growing distances, so that it is to be read on a logarithmic axis."""
    steps = np.diff(iterations[iterations >= 1])
    return len(steps) > 3 and iterations[-1] > 30 and bool(np.median(steps[-2:]) > 4 * np.median(steps[:2]))


def _title(task: Evolution) -> str:
    iteration = task.frames[-1][0]
    known = dict(task.curve).get(iteration, math.nan)
    said = "" if math.isnan(known) else f" · {task.said(known)}"
    return f"{task.name}\niteration {iteration}{said}"
