"""The images of a run as they emerge, as an animated GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lit_viz.errors import LitVizError
from lit_viz.figures.evolution import Evolution, spread
from lit_viz.figures.tiles import WIDE, grid_shape, pixels
from lit_viz.utils.files import atomic_write

_INK, _GREY = (26, 26, 26), (107, 107, 107)
_GAP = 8
_GAP_OF_GROUPS = 24  # wider than the gaps inside of them
# Greys that every palette has, so that the lettering stays clean.
_RAMP = [level for level in (26, 66, 107, 144, 181, 218, 255) for _ in range(3)]
# Noise doesn't compress: about a byte a pixel. A GIF of more than this many is a burden wherever it is shown.
_PIXELS = 12e6
# Three browsers and most viewers refuse to go faster than 20 ms; slower than this nothing seems to move.
_SECONDS, _FASTEST_MS, _SLOWEST_MS, _LAST_MS = 6.0, 60, 600, 2500


def save_evolution(
    tasks: Sequence[Evolution], path: str | Path, *, most_tasks: int = 16, most_frames: int = 80, side: int = 720
) -> Path | None:
    """Write what emerges as a GIF that repeats, the iteration stamped on it, and holds its last frame.

    Args:
        tasks: what is shown, tiled; those without a frame are left out. A task that has no frame at an iteration shows
            its latest.
        path: of the .gif.
        most_tasks: the first so many are shown, those that move before those that don't.
        most_frames: at most so many moments, and fewer if they are large; evenly, the first and the last among them.
        side: pixels that the tiles may take beside or above one another; small images are enlarged by whole numbers.

    Returns:
        the path, or None where no task has a frame.

    Raises:
        LitVizError: ``path`` is no .gif, or the disk is full.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise LitVizError(f"an animation is written as .gif, not as {path.suffix or 'a file without suffix'}: {path}")
    seen = [task for task in tasks if task.frames]
    tasks = sorted(seen, key=lambda task: not task.moves)[:most_tasks]
    if not tasks:
        return None
    moments = sorted({iteration for task in tasks for iteration, _ in task.frames})
    shape = grid_shape(len(tasks))
    size = _tile_size(tasks[0], shape, side)
    affordable = max(8, int(_PIXELS / (len(tasks) * size[0] * size[1])))
    moments = [moments[place] for place in spread(len(moments), min(most_frames, affordable))]
    pace = int(min(max(_SECONDS * 1000 / len(moments), _FASTEST_MS), _SLOWEST_MS))
    frames = (_frame(tasks, moment, shape, size) for moment in moments)
    with atomic_write(path) as temporary:
        next(frames).save(
            temporary,
            save_all=True,
            append_images=frames,
            duration=[pace] * (len(moments) - 1) + [_LAST_MS],
            loop=0,
            optimize=False,
        )
    return path


def _frame(tasks: Sequence[Evolution], moment: int, shape: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    tiles = [_resized(_at(task, moment), size) for task in tasks]
    ended = any(task.frames[-1][0] < moment for task in tasks)
    said = f"iteration {moment}{', or the last one' if ended else ''}"
    return _quantized(_stamped(tiles, [task.name for task in tasks], said, shape))


def _quantized(frame: Image.Image) -> Image.Image:
    """Return a frame in 256 colours of its own, dithered: a palette for all would go to the noise of the start."""
    sample = frame.resize((160, 160), Image.Resampling.NEAREST)
    colours = sample.quantize(256 - len(_RAMP) // 3, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(_RAMP + colours)
    return frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def _at(task: Evolution, moment: int) -> NDArray[np.uint8]:
    known = [picture for iteration, picture in task.frames if iteration <= moment]
    return pixels(known[-1] if known else task.frames[0][1])


def _tile_size(task: Evolution, shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (width, height) of a tile: the first image's, times a whole number if small, less if there is no room."""
    height, width = pixels(task.frames[0][1]).shape[:2]
    room = (side - _GAP * (max(shape) - 1)) / max(shape)
    scale = room / max(height, width)
    if scale >= 1:
        scale = min(int(scale), max(1, round(256 / max(height, width))))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(image)
    if picture.size == size:
        return picture
    enlarged = size[0] >= picture.width
    return picture.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def _stamped(tiles: Sequence[Image.Image], names: Sequence[str], said: str, shape: tuple[int, int]) -> Image.Image:
    rows, columns = shape
    width, height = tiles[0].size
    text = max(11, min(18, width // 14))
    titles = _titles(names, width, _font(text))
    head = len(titles[0]) * (text + 4) + 4
    step = height + head + _GAP
    across = _GAP_OF_GROUPS if width > WIDE * height else _GAP
    wide = max(columns * (width + across) - across + 2 * _GAP, 12 * text)
    canvas = Image.new("RGB", (wide, rows * step + _GAP + text + 8), "white")
    draw = ImageDraw.Draw(canvas)
    draw.fontmode = "L"
    for place, (tile, title) in enumerate(zip(tiles, titles, strict=True)):
        left, top = _GAP + place % columns * (width + across), _GAP + place // columns * step
        for row, line in enumerate(title):
            draw.text((left, top + row * (text + 4) + text // 2), line, _INK, font=_font(text), anchor="lm")
        canvas.paste(tile, (left, top + head - 4))
    draw.text((_GAP, rows * step + _GAP + text // 2), said, _GREY, font=_font(text), anchor="lm")
    return canvas


def _titles(names: Sequence[str], width: int, font: ImageFont.FreeTypeFont) -> list[list[str]]:
    """Return the lines above each tile, as many for all: what tells images of one name apart stands in further ones
    where it is too long for the first."""
    titles = [_lines(name, width, font) for name in names]
    most = max(map(len, titles))
    return [[_cut(line, width, font) for line in lines] + [""] * (most - len(lines)) for lines in titles]


def _lines(name: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    first, *others = name.split(", ")
    lines = [first]
    for part in others:
        longer = f"{lines[-1]}, {part}"
        lines[-1:] = [longer] if font.getlength(longer) <= width else [lines[-1], part]
    return lines


def _cut(name: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(name) <= width:
        return name
    return next((cut for n in range(len(name), 0, -1) if font.getlength(cut := name[:n].rstrip() + "…") <= width), "…")


def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings this one along; Pillow has only a pixel font, and the system may have none.
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
