"""Evolution of images: a figure with iterations in a row above the curve, and an animated GIF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lit_viz.figures.curves import AXIS, plot_metric
from lit_viz.figures.layout import Block, Cell, Grid, Plot, Text, compose, pixels, stack, wrap_text
from lit_viz.figures.sheet import contact_sheet, grid_shape
from lit_viz.figures.style import CELL, GAP, GROUP_GAP, HEADING, WIDE
from lit_viz.types import Curve, Picture
from lit_viz.utils.files import atomic_write
from lit_viz.utils.formatting import probability_text
from lit_viz.utils.limits import MOST_EVOLUTIONS, MOST_FRAMES, MOST_TILES, evenly

_CURVE = 0.62  # height of the curve in inches
_SIDE = 720  # maximum width and height of all tiles together in pixels
_INK, _GRAY = (26, 26, 26), (107, 107, 107)
_GAP, _GROUP_GAP = 8, 24  # pixels
# Gray levels for the text, part of the palette of each frame.
_TEXT_LEVELS = (26, 66, 107, 144, 181, 218, 255)
# Noise is not compressible: about one byte per pixel, and larger files are too slow to load.
_MAX_PIXELS = 12e6
_SECONDS = 6.0  # of the animation
# Browsers do not display frames for less than 20 ms; above 600 ms no motion is perceived.
_FASTEST_MS, _SLOWEST_MS, _LAST_MS = 60, 600, 2500


@dataclass(frozen=True)
class Evolution:
    """The logged images and the curve of one task."""

    name: str
    frames: Sequence[tuple[int, Picture]]  # (iteration, image) in order
    curve: Curve = ()
    metric: str = "probability"  # "objective" for tasks without a class
    unit: str = "iteration"  # or "epoch", of an animation

    @property
    def is_animated(self) -> bool:
        """Whether there are frames between the first and the last."""
        return len(self.frames) > 2

    def latest(self, iteration: int) -> Picture:
        """Return the latest image up to an iteration, or the first image."""
        _, latest = self.frames[0]
        for logged, picture in self.frames:
            if logged <= iteration:
                latest = picture
        return latest

    def value_text(self, iteration: int) -> str:
        """Format the value of the curve at an iteration; empty if there is none."""
        value = dict(self.curve).get(iteration)
        if value is None:
            return ""
        if self.metric == "probability":
            return probability_text(value)
        return f"{self.metric} {value:.3g}"


def evolution_figure(tasks: Sequence[Evolution]) -> Figure:
    """Draw each task as a row of up to six images by iteration, above its curve; many tasks as a sheet of the last
    images. Tasks without frames are omitted."""
    tasks = [task for task in tasks if task.frames]
    if len(tasks) > MOST_EVOLUTIONS:
        return _sheet_of_last_images(tasks)
    sizes = _RowSizes.of(tasks)
    blocks = [_task_rows(task, sizes) for task in tasks]
    return compose(stack(*blocks, gap=2 * GAP))


def _sheet_of_last_images(tasks: Sequence[Evolution]) -> Figure:
    pictures, texts = [], []
    for task in tasks:
        iteration, picture = task.frames[-1]
        text = f"{task.name}\niteration {iteration} · {task.value_text(iteration)}"
        pictures.append(picture)
        texts.append(text.removesuffix(" · "))
    return contact_sheet(pictures, texts)


@dataclass(frozen=True)
class _RowSizes:
    """Sizes of the rows of images: at most ``columns`` images, with widths and the gap in inches."""

    columns: int = 6
    cell: float = CELL
    gap: float = GAP
    width: float = 2.6  # of the longest row

    @classmethod
    def of(cls, tasks: Sequence[Evolution]) -> _RowSizes:
        """Return the sizes for the images of some tasks; groups of images are wider, and fewer in a row."""
        sizes = cls()
        aspect = 1.0
        for task in tasks:
            height, width = pixels(task.frames[-1][1]).shape[:2]
            aspect = max(aspect, width / height)
        if aspect > WIDE:
            sizes = cls(3, CELL * min(aspect, 3.0), GROUP_GAP)
        most = max((len(task.frames) for task in tasks), default=1)
        images = min(most, sizes.columns) * (sizes.cell + sizes.gap) - sizes.gap
        return replace(sizes, width=max(images, sizes.width))


def _task_rows(task: Evolution, sizes: _RowSizes) -> Grid:
    """Return the name of a task, a row of images by iteration, and the curve."""
    frames = evenly(task.frames, sizes.columns)
    iterations = [iteration for iteration, _ in frames]
    cells = []
    for iteration, picture in frames:
        notes = [task.value_text(iteration)]
        cells.append(Cell(pixels(picture), notes, sizes.cell, f"iteration {iteration}", lines=1))
    name = Text(task.name, sizes.width, HEADING, lines=None, weight="bold")
    rows: list[list[Block | None]] = [[Text("", AXIS - GAP), name], [None, Grid([cells], sizes.gap)]]
    if len(task.curve) > 1:
        plot = partial(plot_metric, task.curve, task.metric, iterations)
        rows.append([None, Plot(_CURVE, plot, sizes.width, below=0.32)])
    return Grid(rows)


def save_evolution(tasks: Sequence[Evolution], path: Path, most_frames: int = MOST_FRAMES) -> Path | None:
    """Write the evolution of tasks as a repeating GIF with the iteration below; the last frame is held.

    Args:
        tasks: drawn as tiles, tasks with more than two frames first; tasks without frames are omitted. A tile shows
            the latest frame up to the iteration.
        path: of the .gif.
        most_frames: maximum number of iterations, fewer for large tiles; evenly spaced from the first to the last.

    Returns:
        The path, or None without any frame.

    Raises:
        LitVizError: full disk.
    """
    tasks = [task for task in tasks if task.frames]
    tasks = sorted(tasks, key=lambda task: not task.is_animated)[:MOST_TILES]
    if not tasks:
        return None
    shape = grid_shape(len(tasks))
    size = _tile_size(tasks[0], shape)
    count = max(8, int(_MAX_PIXELS / (len(tasks) * size[0] * size[1])))
    iterations = _iterations(tasks, min(most_frames, count))
    duration = int(min(max(_SECONDS * 1000 / len(iterations), _FASTEST_MS), _SLOWEST_MS))
    durations = [duration] * (len(iterations) - 1) + [_LAST_MS]
    frames = _Animation(tasks, shape, size).frames(iterations)
    with atomic_write(path) as temporary:
        next(frames).save(temporary, save_all=True, append_images=frames, duration=durations, loop=0, optimize=False)
    return path


def _iterations(tasks: Sequence[Evolution], most: int) -> list[int]:
    """Return at most ``most`` iterations with a frame of any task, evenly spaced."""
    logged: set[int] = set()
    for task in tasks:
        logged.update(iteration for iteration, _ in task.frames)
    return evenly(sorted(logged), most)


def _tile_size(task: Evolution, shape: tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) of a tile: the first image, enlarged by a whole number or downscaled."""
    height, width = pixels(task.frames[0][1]).shape[:2]
    scale = (_SIDE - _GAP * (max(shape) - 1)) / max(shape) / max(height, width)
    if scale >= 1:
        scale = min(int(scale), max(1, round(256 / max(height, width))))
    return max(1, round(width * scale)), max(1, round(height * scale))


class _Animation:
    """The frames of an animation: a tile per task with its name above, and the iteration beneath all.

    Args:
        tasks: one per tile.
        shape: (rows, columns) of the tiles.
        size: (width, height) of the images in pixels.
    """

    def __init__(self, tasks: Sequence[Evolution], shape: tuple[int, int], size: tuple[int, int]) -> None:
        self._tasks, self._size = tasks, size
        self._rows, self._columns = shape
        width, height = size
        self._text = max(11, min(18, width // 14))  # size of the font in pixels
        # The font that matplotlib includes; Pillow has only a bitmap font.
        self._font = ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", self._text)
        self._titles = [wrap_text(task.name, self._fits, lines=None) for task in tasks]
        self._head = max(map(len, self._titles)) * (self._text + 4) + 4
        self._gap = _GROUP_GAP if width > WIDE * height else _GAP
        self._step = (width + self._gap, height + self._head + _GAP)

    def frames(self, iterations: Sequence[int]) -> Iterator[Image.Image]:
        """Yield the frame of each iteration."""
        for iteration in iterations:
            yield _quantized(self._frame(iteration))

    def _fits(self, line: str) -> bool:
        return self._font.getlength(line) <= self._size[0]

    def _frame(self, iteration: int) -> Image.Image:
        width = max(self._columns * self._step[0] - self._gap + 2 * _GAP, 12 * self._text)
        bottom = self._rows * self._step[1] + _GAP
        canvas = Image.new("RGB", (width, bottom + self._text + 8), "white")
        draw = ImageDraw.Draw(canvas)
        draw.fontmode = "L"
        for place, task in enumerate(self._tasks):
            row, column = divmod(place, self._columns)
            left, top = _GAP + column * self._step[0], _GAP + row * self._step[1]
            for number, line in enumerate(self._titles[place]):
                middle = top + number * (self._text + 4) + self._text // 2
                draw.text((left, middle), line, _INK, font=self._font, anchor="lm")
            canvas.paste(_resized(pixels(task.latest(iteration)), self._size), (left, top + self._head - 4))
        label = f"{self._tasks[0].unit} {iteration}"
        if any(task.frames[-1][0] < iteration for task in self._tasks):
            label += " or the last one"
        draw.text((_GAP, bottom + self._text // 2), label, _GRAY, font=self._font, anchor="lm")
        return canvas


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    enlarged = size[0] >= image.shape[1]
    resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return Image.fromarray(image).resize(size, resampling, reducing_gap=3.0)


def _quantized(frame: Image.Image) -> Image.Image:
    """Reduce a frame to a palette of its own with dithering; the noise of the first frames would fill a joint one."""
    sample = frame.resize((160, 160), Image.Resampling.NEAREST)
    colors = sample.quantize(256 - len(_TEXT_LEVELS), method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    grays = np.repeat(_TEXT_LEVELS, 3).tolist()
    palette.putpalette(grays + colors)
    return frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
