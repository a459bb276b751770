"""Evolution of images: a figure with iterations in a row above the curve, and an animated GIF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lit_viz.figures.curves import AXIS, plot_metric, spread
from lit_viz.figures.layout import Block, Cell, Grid, Plot, Text, compose, pixels, stack, wrap_text
from lit_viz.figures.sheet import contact_sheet, grid_shape
from lit_viz.figures.style import CELL, GAP, GROUP_GAP, HEADING, WIDE
from lit_viz.types import Curve, Picture
from lit_viz.utils.files import atomic_write
from lit_viz.utils.formatting import probability_text

_ROWS = 6  # maximum number of tasks in rows
_CURVE = 0.62  # height of the curve in inches
_TILES = 16  # maximum number of tasks in an animation
_SIDE = 720  # maximum width and height of all tiles together in pixels
_INK, _GRAY = (26, 26, 26), (107, 107, 107)
_GAP, _GROUP_GAP = 8, 24  # pixels
# Gray levels for the text, part of the palette of each frame.
_TEXT_LEVELS = [level for level in (26, 66, 107, 144, 181, 218, 255) for _ in range(3)]
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

    def value_text(self, iteration: int) -> str:
        """Format the value of the curve at an iteration; empty if there is none."""
        value = dict(self.curve).get(iteration)
        if value is None:
            return ""
        return probability_text(value) if self.metric == "probability" else f"{self.metric} {value:.3g}"


def evolution_figure(tasks: Sequence[Evolution]) -> Figure:
    """Draw each task as a row of up to six images by iteration, above its curve; many tasks as a sheet of the last
    images. Tasks without frames are omitted."""
    tasks = [task for task in tasks if task.frames]
    last = [(task, *task.frames[-1]) for task in tasks]
    if len(tasks) > _ROWS:
        texts = (f"{task.name}\niteration {k} · {task.value_text(k)}" for task, k, _ in last)
        return contact_sheet([picture for *_, picture in last], [text.removesuffix(" · ") for text in texts])
    shapes = (pixels(picture).shape for *_, picture in last)
    aspect = max((width / height for height, width, _ in shapes), default=1.0)
    columns, width, gap = (3, CELL * min(aspect, 3.0), GROUP_GAP) if aspect > WIDE else (6, CELL, GAP)
    most = max((min(len(task.frames), columns) for task in tasks), default=1)
    band = max(most * (width + gap) - gap, 2.6)
    blocks = []
    for task in tasks:
        frames = [task.frames[place] for place in spread(len(task.frames), columns)]
        cells = [Cell(pixels(picture), [task.value_text(k)], width, f"iteration {k}", lines=1) for k, picture in frames]
        rows: list[list[Block | None]] = [
            [Text("", AXIS - GAP), Text(task.name, band, HEADING, lines=2, weight="bold")],
            [None, Grid([cells], gap)],
        ]
        if len(task.curve) > 1:
            plot = partial(plot_metric, task.curve, task.metric, [k for k, _ in frames])
            rows.append([None, Plot(_CURVE, plot, band, below=0.32)])
        blocks.append(Grid(rows))
    return compose(stack(*blocks, gap=2 * GAP))


def save_evolution(tasks: Sequence[Evolution], path: Path, most_frames: int = 80) -> Path | None:
    """Write the evolution of tasks as a repeating GIF with the iteration below; the last frame is held.

    Args:
        tasks: drawn as tiles, those with more than two frames first; tasks without frames are omitted. A tile shows
            the latest frame up to the iteration.
        path: of the .gif.
        most_frames: maximum number of iterations, fewer for large tiles; evenly spaced with both ends.

    Returns:
        The path, or None without any frame.

    Raises:
        LitVizError: full disk.
    """
    tasks = sorted((task for task in tasks if task.frames), key=lambda task: not task.is_animated)[:_TILES]
    if not tasks:
        return None
    iterations = sorted({iteration for task in tasks for iteration, _ in task.frames})
    shape = grid_shape(len(tasks))
    size = _tile_size(tasks[0], shape)
    count = max(8, int(_MAX_PIXELS / (len(tasks) * size[0] * size[1])))
    iterations = [iterations[place] for place in spread(len(iterations), min(most_frames, count))]
    duration = int(min(max(_SECONDS * 1000 / len(iterations), _FASTEST_MS), _SLOWEST_MS))
    durations = [duration] * (len(iterations) - 1) + [_LAST_MS]
    frames = _animate(tasks, iterations, shape, size)
    with atomic_write(path) as temporary:
        next(frames).save(temporary, save_all=True, append_images=frames, duration=durations, loop=0, optimize=False)
    return path


def _tile_size(task: Evolution, shape: tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) of a tile: the first image, enlarged by a whole number or downscaled."""
    height, width = pixels(task.frames[0][1]).shape[:2]
    scale = (_SIDE - _GAP * (max(shape) - 1)) / max(shape) / max(height, width)
    if scale >= 1:
        scale = min(int(scale), max(1, round(256 / max(height, width))))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _animate(
    tasks: Sequence[Evolution], iterations: Sequence[int], shape: tuple[int, int], size: tuple[int, int]
) -> Iterator[Image.Image]:
    """Yield the frame of each iteration."""
    rows, columns = shape
    width, height = size
    text = max(11, min(18, width // 14))  # size of the font in pixels
    # The font that matplotlib includes; Pillow has only a bitmap font.
    font = ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", text)
    titles = [wrap_text(task.name, lambda line: font.getlength(line) <= width, lines=3) for task in tasks]
    head = max(map(len, titles)) * (text + 4) + 4
    step = (width + (_GROUP_GAP if width > WIDE * height else _GAP), height + head + _GAP)
    canvas_width = max(columns * step[0] - (step[0] - width) + 2 * _GAP, 12 * text)
    for iteration in iterations:
        canvas = Image.new("RGB", (canvas_width, rows * step[1] + _GAP + text + 8), "white")
        draw = ImageDraw.Draw(canvas)
        draw.fontmode = "L"
        for place, (task, title) in enumerate(zip(tasks, titles, strict=True)):
            left, top = _GAP + place % columns * step[0], _GAP + place // columns * step[1]
            for row, line in enumerate(title):
                draw.text((left, top + row * (text + 4) + text // 2), line, _INK, font=font, anchor="lm")
            shown = [picture for k, picture in task.frames if k <= iteration] or [task.frames[0][1]]
            canvas.paste(_resized(pixels(shown[-1]), size), (left, top + head - 4))
        ended = any(task.frames[-1][0] < iteration for task in tasks)
        label = f"{tasks[0].unit} {iteration}{' or the last one' if ended else ''}"
        draw.text((_GAP, rows * step[1] + _GAP + text // 2), label, _GRAY, font=font, anchor="lm")
        yield _quantized(canvas)


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    enlarged = size[0] >= image.shape[1]
    return Image.fromarray(image).resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def _quantized(frame: Image.Image) -> Image.Image:
    """Reduce a frame to a palette of its own with dithering; the noise of the first frames would fill a joint one."""
    sample = frame.resize((160, 160), Image.Resampling.NEAREST)
    colors = sample.quantize(256 - len(_TEXT_LEVELS) // 3, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(_TEXT_LEVELS + colors)
    return frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
