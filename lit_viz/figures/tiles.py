"""Figures of large images: the whole, what was computed of it, and three of its tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import matplotlib.patheffects as effects
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions import title_of
from lit_viz.attributions.reducers import reducer
from lit_viz.figures.attack import VERDICTS, prediction_text
from lit_viz.figures.layout import Block, Cell, Grid, Text, compose, pixels, selection, stack, titles
from lit_viz.figures.scales import SIGNED_CAPTION, ColorBar, ColorScale, clipping, map_notes, number
from lit_viz.figures.style import COLORS, GAP, GRAY, NORMAL, SMALL, TITLE
from lit_viz.images.rendering import MAGNIFIED, difference, gray_levels, heat, overlay
from lit_viz.runs.records import AdversarialRecord, SaliencyRecord
from lit_viz.runs.results import Outcome, R, records_of
from lit_viz.runs.stitching import TiledImage, reduced_map, tile_of
from lit_viz.types import Tile
from lit_viz.utils.formatting import pluralize, probability_text
from lit_viz.utils.limits import MOST_EXAMPLES

_WIDTH, _TALLEST = 2.3, 3.2  # of the picture of a whole image in inches
_SIDE = 460  # pixels of the longer side of such a picture, at most
_TILES = 3  # tiles that are drawn
_LINE = 1.0  # of the outline of a tile in points
_TINT = 0.45  # opacity of the color of a verdict


@dataclass(frozen=True)
class _Column:
    """A picture of the whole image with its color bar."""

    title: str
    picture: NDArray[np.uint8]
    bar: tuple[tuple[str, str], bool] | None = None  # labels, and whether it is signed


@dataclass(frozen=True)
class _TilePair:
    """Two pictures of a tile, with notes beneath."""

    tile: Tile
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    notes: tuple[Sequence[str], Sequence[str]]


def saliency_tiles_figure(images: Sequence[TiledImage[SaliencyRecord]]) -> Figure:
    """Draw large images with their maps, the score of each tile, and the three tiles with the largest values.

    Args:
        images: of which :data:`~lit_viz.utils.limits.MOST_EXAMPLES` are drawn.
    """
    drawn = [image for image in images if image.has_arrays][:MOST_EXAMPLES]
    if not drawn:
        return compose(Grid([]), "No map was computed.")
    blocks: list[Block] = []
    captions: list[str] = []
    for image in drawn:
        block, caption = _saliency_block(image)
        blocks.append(block)
        captions.append(caption)
    text = (
        f"{selection(len(drawn), len(images), 'maps')}{_of_tiles(drawn)} Maps are blended where tiles overlap. The "
        "whole is drawn by the means of blocks of pixels, the tiles are drawn pixel by pixel. Numbers: the tiles with "
        "the largest values, where possible without a common pixel. "
    )
    return compose(stack(*blocks, gap=3 * GAP), text + " ".join(dict.fromkeys(captions)))


def _saliency_block(image: TiledImage[SaliencyRecord]) -> tuple[Block, str]:
    """Return the block of an image, and what its caption states of the scales."""
    records = records_of(image.outcomes)
    first = records[0]
    name = next((record.drawn_reducer for record in records if record.signed), first.reducer)
    how = reducer(name)
    factor = _factor(image)
    photograph = image.shrunk(image.blend(Outcome.photograph), factor)
    values = image.shrunk(image.map_rows(name), factor)[0]
    maximum = partial(_maximum, how=name)
    chosen = _largest(image, maximum)
    maps: list[Tensor] = []
    for outcome in chosen:
        reduced = _map_of(outcome, name)
        assert reduced is not None
        maps.append(reduced)
    whole, of_tiles = ColorScale.of([values], how, shared=True), ColorScale.of(maps, how, shared=True)
    scores = image.scores()
    painted = _painted(image, scores, values.shape, factor)
    low, high = _range(scores)
    is_number = any(outcome.record.score is not None for outcome in image.outcomes)
    word = "score" if is_number else "logit"
    columns = [
        _Column("photograph", pixels(photograph)),
        _Column(
            title_of(first.method),
            pixels(overlay(photograph, values, whole.limit, colors=whole.colors)),
            (whole.labels(), how.signed),
        ),
        _Column(
            f"{word} of each tile",
            pixels(heat(painted - low, high - low)),
            ((number(low), number(high)), False),
        ),
    ]
    lowest = f"−{number(of_tiles.limit)}" if how.signed else "0"
    pairs: list[_TilePair] = []
    for outcome, part in zip(chosen, maps, strict=True):
        picture = outcome.photograph()
        tile, record = tile_of(outcome), outcome.record
        assert picture is not None
        prediction = f"{word} {number(float(record.metrics.get(word) or 0))}"
        if record.probability is not None:
            prediction += f", {probability_text(record.probability)}"
        about_map = [f"maximum {number(maximum(outcome) or 0)}", f"scale {lowest} to {number(of_tiles.limit)}"]
        notes = (prediction,), (*about_map, *map_notes(part, outcome.array()))
        drawn = pixels(picture[:, : tile.height, : tile.width]), pixels(of_tiles.colors(part, of_tiles.limit))
        pairs.append(_TilePair(tile, drawn, notes))
    caption = f"Maps: {how.description}; {clipping(whole.clipped or of_tiles.clipped)}."
    if how.signed:
        caption += f" {SIGNED_CAPTION}"
    subtitle = f"{first.title}, {_size_text(image)}"
    return _block(image, subtitle, columns, pairs, factor), caption


def attack_tiles_figure(images: Sequence[TiledImage[AdversarialRecord]]) -> Figure:
    """Draw large images with their attacked tiles, the verdict on each, and the three tiles with the largest margins.

    Args:
        images: of which :data:`~lit_viz.utils.limits.MOST_EXAMPLES` are drawn.
    """
    drawn: list[TiledImage[AdversarialRecord]] = []
    for image in images:
        is_attacked = any(_verdict(outcome) is not None for outcome in image.outcomes)
        if is_attacked and len(drawn) < MOST_EXAMPLES:
            drawn.append(image)
    if not drawn:
        return compose(Grid([]), "No tile was attacked.")
    counts: list[str] = []
    for image in drawn:
        verdicts = [_verdict(outcome) for outcome in image.outcomes]
        tested = [verdict for verdict in verdicts if verdict is not None]
        counts.append(f"{image.name}: {sum(tested)} of {pluralize(len(tested), 'tile')} fooled in the file.")
    text = (
        f"{selection(len(drawn), len(images), 'images')}{_of_tiles(drawn)} Verdicts: green for fooled, orange for "
        "robust, none where nothing was attacked. Numbers: the tiles with the largest margins, as original and "
        f"difference on mid-gray, magnified {MAGNIFIED:g} times. "
    )
    return compose(stack(*map(_attack_block, drawn), gap=3 * GAP), text + " ".join(counts))


def _attack_block(image: TiledImage[AdversarialRecord]) -> Block:
    factor = _factor(image)
    photograph = image.shrunk(image.blend(Outcome.photograph), factor)
    attacked = image.shrunk(image.blend(_drawn_result), factor)
    columns = [
        _Column("photograph", pixels(photograph)),
        _Column("attacked", pixels(attacked)),
        _Column("verdict on each tile", pixels(_tinted(image, photograph, factor))),
    ]
    pairs: list[_TilePair] = []
    for outcome in _largest(image, _margin):
        source, result, record = outcome.photograph(), _drawn_result(outcome), outcome.record
        assert source is not None
        assert result is not None
        change = gray_levels(difference(result, source, MAGNIFIED)[0])
        before = prediction_text(record, record.predicted_before_name, record.probability_before).split("\n")
        after = prediction_text(record, record.predicted_name, record.probability).split("\n")
        word, _ = VERDICTS[record.success_file]
        pairs.append(
            _TilePair(tile_of(outcome), (pixels(source), change), (before, [f"{word}: {after[0]}", *after[1:]]))
        )
    return _block(image, _size_text(image), columns, pairs, factor)


def _verdict(outcome: Outcome) -> bool | None:
    return outcome.record.success_file if outcome.record.status == "done" else None


def _drawn_result(outcome: Outcome) -> Tensor | None:
    _, result = outcome.pictures()
    if result is None:
        return outcome.photograph()
    return torch.from_numpy(pixels(result).astype(np.float32) / 255).permute(2, 0, 1)


def _tinted(image: TiledImage, photograph: Tensor, factor: int) -> Tensor:
    """Return the photograph with the tiles in the colors of their verdicts."""
    tinted = photograph.expand(3, -1, -1).clone()
    for outcome in image.outcomes:
        tile, verdict = tile_of(outcome), _verdict(outcome)
        if verdict is None:
            continue
        _, color = VERDICTS[verdict]
        rows = slice(tile.rows.start // factor, -(-tile.rows.stop // factor))
        columns = slice(tile.columns.start // factor, -(-tile.columns.stop // factor))
        part = tinted[:, rows, columns]
        part.mul_(1 - _TINT).add_(_TINT * torch.tensor(to_rgb(color)).view(3, 1, 1))
    return tinted


# -- parts of both figures


def _factor(image: TiledImage) -> int:
    """Return the side of the blocks of pixels by which an image is drawn."""
    return -(-max(image.size) // _SIDE)


def _of_tiles(images: Sequence[TiledImage]) -> str:
    tile = images[0].tile
    count = sum(len(image.outcomes) for image in images)
    return f"{pluralize(count, 'tile')} of {tile.height} x {tile.width} pixels."


def _size_text(image: TiledImage) -> str:
    return f"{image.size[0]} x {image.size[1]} pixels, {pluralize(len(image.outcomes), 'tile')}"


def _largest(image: TiledImage[R], value_of: Callable[[Outcome[R]], float | None]) -> list[Outcome[R]]:
    """Return the tiles with the largest values, the largest first; others only where too few share no pixel."""
    ranked: list[tuple[float, Outcome[R]]] = []
    for outcome in image.outcomes:
        value = value_of(outcome)
        if value is not None and np.isfinite(value):
            ranked.append((value, outcome))
    chosen: list[Outcome[R]] = []
    others: list[Outcome[R]] = []
    for _, outcome in sorted(ranked, key=lambda pair: -pair[0]):
        tile = tile_of(outcome)
        is_apart = not any(tile.overlaps(tile_of(other)) for other in chosen)
        (chosen if is_apart else others).append(outcome)
    return [*chosen, *others][:_TILES]


def _map_of(outcome: Outcome, how: str) -> Tensor | None:
    """Return the reduced map ``(h, w)`` of a tile, without what exceeds the image."""
    reduced, tile = reduced_map(outcome, how), tile_of(outcome)
    return None if reduced is None else reduced[0, : tile.height, : tile.width]


def _maximum(outcome: Outcome, how: str) -> float | None:
    """Return the largest absolute value of the reduced map of a tile."""
    reduced = _map_of(outcome, how)
    return None if reduced is None else float(reduced.abs().max())


def _margin(outcome: Outcome[AdversarialRecord]) -> float | None:
    return outcome.record.margin if outcome.record.status == "done" else None


def _range(scores: Tensor) -> tuple[float, float]:
    finite = scores[scores.isfinite()]
    if len(finite):
        return (float(finite.min()), float(finite.max()))
    return (0.0, 0.0)


def _painted(image: TiledImage, scores: Tensor, shape: Sequence[int], factor: int) -> Tensor:
    """Return the scores of the tiles as a picture ``(h, w)``, in which the edges of tiles are amid their overlaps."""
    tile = image.tile
    rows = _edges(image.rows, tile.height, shape[0], factor)
    columns = _edges(image.columns, tile.width, shape[1], factor)
    return scores.repeat_interleave(rows, 0).repeat_interleave(columns, 1)


def _edges(first: Sequence[int], tile: int, length: int, factor: int) -> Tensor:
    """Return how many pixels of a picture each tile takes along an axis."""
    edges = [0]
    for before, after in pairwise(first):
        edges.append(round((before + tile + after) / 2 / factor))
    return torch.tensor([*edges, length]).diff()


def _block(
    image: TiledImage, subtitle: str, columns: Sequence[_Column], pairs: Sequence[_TilePair], factor: int
) -> Block:
    """Arrange the pictures of an image above the tiles."""
    height, width = columns[0].picture.shape[:2]
    inches = min(_WIDTH, _TALLEST * width / height)
    outlines = partial(_outline_tiles, tiles=[pair.tile for pair in pairs], factor=factor)
    header = titles([column.title for column in columns], _WIDTH)
    pictures = [Cell(column.picture, width=inches, annotate=outlines) for column in columns]
    bars: list[Block | None] = []
    for column in columns:
        bars.append(None if column.bar is None else ColorBar(*column.bar, inches, vertical=False))
    rows: list[Sequence[Block | None]] = [header, pictures]
    if any(bars):
        rows.append(bars)
    tiles: list[Block | None] = []
    for place, pair in enumerate(pairs, start=1):
        tiles.append(_pair_block(place, pair))
    rows.append(tiles)
    name = stack(Text(image.name, 3 * _WIDTH, TITLE, weight="bold"), Text(subtitle, 3 * _WIDTH, color=GRAY))
    return stack(name, Grid(rows, (2 * GAP, GAP)), gap=GAP)


def _pair_block(place: int, pair: _TilePair) -> Block:
    title = Text(f"{place}: row {pair.tile.row}, column {pair.tile.column}", _WIDTH, NORMAL)
    width = (_WIDTH - GAP) / 2
    cells: list[Cell] = []
    for picture, notes in zip(pair.pictures, pair.notes, strict=True):
        cells.append(Cell(picture, notes, width))
    return stack(title, Grid([cells]), gap=0.4 * GAP)


def _outline_tiles(axes: Axes, tiles: Sequence[Tile], factor: int) -> None:
    """Draw the borders of tiles on the picture of a whole image, with their numbers."""
    stroke: list[effects.AbstractPathEffect] = [effects.withStroke(linewidth=2, foreground="white")]
    for place, tile in enumerate(tiles, start=1):
        corner = (tile.column / factor - 0.5, tile.row / factor - 0.5)
        border = Rectangle(corner, tile.width / factor, tile.height / factor, fill=False, lw=_LINE, ec=COLORS[0])
        border.set_path_effects(stroke)
        axes.add_patch(border)
        center = (corner[0] + tile.width / factor / 2, corner[1] + tile.height / factor / 2)
        text = axes.text(*center, str(place), size=SMALL, weight="bold", color=COLORS[0], ha="center", va="center")
        text.set_path_effects(stroke)
