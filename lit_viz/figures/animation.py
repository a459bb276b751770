"""Animated GIF of the images of a run by iteration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lit_viz.errors import LitVizError
from lit_viz.figures.evolution import Evolution, spread
from lit_viz.figures.layout import pixels
from lit_viz.figures.sheet import WIDE, grid_shape
from lit_viz.utils.files import atomic_write

_INK, _GRAY = (26, 26, 26), (107, 107, 107)
_GAP, _GROUP_GAP = 8, 24  # pixels
# Gray levels for the text, part of the palette of each frame.
_TEXT_LEVELS = [level for level in (26, 66, 107, 144, 181, 218, 255) for _ in range(3)]
# Noise is not compressible: about one byte per pixel, and larger files are too slow to load.
_MAX_PIXELS = 12e6
_SECONDS = 6.0  # of the animation
# Browsers do not display frames for less than 20 ms; above 600 ms no motion is perceived.
_FASTEST_MS, _SLOWEST_MS, _LAST_MS = 60, 600, 2500


def save_evolution(
    tasks: Sequence[Evolution], path: str | Path, *, most_tasks: int = 16, most_frames: int = 80, side: int = 720
) -> Path | None:
    """Write the evolution of tasks as a repeating GIF with the iteration below; the last frame is held.

    Args:
        tasks: drawn as tiles; tasks without frames are omitted. A tile shows the latest frame up to the iteration.
        path: of the .gif.
        most_tasks: maximum number of tiles; tasks with more than two frames take precedence.
        most_frames: maximum number of iterations, fewer for large tiles; evenly spaced with both ends.
        side: maximum width and height of all tiles together in pixels; small images are enlarged by whole numbers.

    Returns:
        The path, or None without any frame.

    Raises:
        LitVizError: if ``path`` does not end in .gif or the disk is full.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise LitVizError(f"animation file must end in .gif, got {path}")
    tasks = sorted((task for task in tasks if task.frames), key=lambda task: not task.is_animated)[:most_tasks]
    if not tasks:
        return None
    iterations = sorted({iteration for task in tasks for iteration, _ in task.frames})
    shape = grid_shape(len(tasks))
    size = _tile_size(tasks[0], shape, side)
    count = max(8, int(_MAX_PIXELS / (len(tasks) * size[0] * size[1])))
    iterations = [iterations[place] for place in spread(len(iterations), min(most_frames, count))]
    duration = int(min(max(_SECONDS * 1000 / len(iterations), _FASTEST_MS), _SLOWEST_MS))
    frames = _frames(tasks, iterations, shape, size)
    with atomic_write(path) as temporary:
        next(frames).save(
            temporary,
            save_all=True,
            append_images=frames,
            duration=[duration] * (len(iterations) - 1) + [_LAST_MS],
            loop=0,
            optimize=False,
        )
    return path


def _tile_size(task: Evolution, shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (width, height) of a tile: the first image, enlarged by a whole number or downscaled."""
    height, width = pixels(task.frames[0][1]).shape[:2]
    scale = (side - _GAP * (max(shape) - 1)) / max(shape) / max(height, width)
    if scale >= 1:
        scale = min(int(scale), max(1, round(256 / max(height, width))))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _frames(
    tasks: Sequence[Evolution], iterations: Sequence[int], shape: tuple[int, int], size: tuple[int, int]
) -> Iterator[Image.Image]:
    """Yield the frame of each iteration."""
    rows, columns = shape
    width, height = size
    text = max(11, min(18, width // 14))  # size of the font in pixels
    font = _font(text)
    titles = title_lines([task.name for task in tasks], width, font)
    head = len(titles[0]) * (text + 4) + 4
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
            canvas.paste(_resized(_picture_at(task, iteration), size), (left, top + head - 4))
        ended = any(task.frames[-1][0] < iteration for task in tasks)
        label = f"iteration {iteration}{' or the last one' if ended else ''}"
        draw.text((_GAP, rows * step[1] + _GAP + text // 2), label, _GRAY, font=font, anchor="lm")
        yield _quantized(canvas)


def _picture_at(task: Evolution, iteration: int) -> NDArray[np.uint8]:
    """Return the latest image of a task up to an iteration, or its first one."""
    return pixels(next((picture for k, picture in reversed(task.frames) if k <= iteration), task.frames[0][1]))


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(image)
    if picture.size == size:
        return picture
    enlarged = size[0] >= picture.width
    return picture.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def _quantized(frame: Image.Image) -> Image.Image:
    """Reduce a frame to a palette of its own with dithering; the noise of the first frames would fill a joint one."""
    sample = frame.resize((160, 160), Image.Resampling.NEAREST)
    colors = sample.quantize(256 - len(_TEXT_LEVELS) // 3, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(_TEXT_LEVELS + colors)
    return frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def title_lines(names: Sequence[str], width: int, font: ImageFont.FreeTypeFont) -> list[list[str]]:
    """Break names at commas into lines of a width in pixels, the same number for all; longer lines are cut."""
    titles = []
    for name in names:
        first, *parts = name.split(", ")
        lines = [first]
        for part in parts:
            longer = f"{lines[-1]}, {part}"
            lines[-1:] = [longer] if font.getlength(longer) <= width else [lines[-1], part]
        titles.append([_cut(line, width, font) for line in lines])
    most = max(map(len, titles))
    return [lines + [""] * (most - len(lines)) for lines in titles]


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(text) <= width:
        return text
    return next((cut for n in range(len(text), 0, -1) if font.getlength(cut := text[:n].rstrip() + "…") <= width), "…")


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib includes; Pillow has only a bitmap font."""
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
