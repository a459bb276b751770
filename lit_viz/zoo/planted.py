"""Images with planted evidence: only a glyph of 6 x 6 pixels at a random place decides the class.

An image has a smooth random background, two distractor glyphs and the glyph of its class. All glyphs are white on black
and equally large, distractors have shapes of their own. The surroundings of the glyph, distractors included, are drawn
independently of the class, so that nothing else in the image is evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_viz.rng import Draws, Key
from lit_viz.zoo.networks import SIDE

#: Side of a glyph in pixels.
GLYPH = 6
#: Distractor glyphs in an image.
DISTRACTORS = 2

_CLASSES = {
    "cross": "#....# .#..#. ..##.. ..##.. .#..#. #....#",
    "plus": "..##.. ..##.. ###### ###### ..##.. ..##..",
    "ring": ".####. #....# #....# #....# #....# .####.",
    "T": "###### ###### ..##.. ..##.. ..##.. ..##..",
    "L": "##.... ##.... ##.... ##.... ###### ######",
    "Z": "###### ....## ...##. .##... ##.... ######",
    "H": "##..## ##..## ###### ###### ##..## ##..##",
    "U": "##..## ##..## ##..## ##..## ###### ######",
}
_DISTRACTORS = (
    "###### ##.... .##... ...##. ....## ######",  # S
    "#....# #....# .#..#. .#..#. ..##.. ..##..",  # V
    "###### ###### ##.... ##.... ###### ######",  # C
    "..##.. .####. ###### ..##.. ..##.. ..##..",  # arrow
    "##..## ##..## ..##.. ..##.. ##..## ##..##",  # squares
    "###### ...... ###### ###### ...... ######",  # bars
    "#..... ##.... ###... ####.. #####. ######",  # triangle
    "..##.. ..##.. ..##.. ..##.. ..##.. ..##..",  # I
)
#: Names of the classes, in the order of the logits.
PLANTED_LABELS = tuple(_CLASSES)

_PLACES = SIDE - GLYPH + 1  # of the upper left corner of a glyph, along an axis
_GAP = 1  # pixels between two glyphs, at least
_BATCH = 1000  # images that are held at a time


@dataclass(frozen=True)
class PlantedImages:
    """Images with planted evidence.

    Attributes:
        images: float32 ``(N, 1, 28, 28)`` in [0, 1], on the 8-bit lattice.
        labels: int64 ``(N,)``, indices of :data:`PLANTED_LABELS`.
        masks: bool ``(N, 28, 28)``: the 36 pixels of the glyph.
        removed: the images without the glyph, ``(N, 1, 28, 28)``: they show the background in its place.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    removed: Tensor


def planted_images(indices: Sequence[int], seed: int = 0, surroundings: int = 0) -> PlantedImages:
    """Draw images with planted evidence.

    Class and place of a glyph are a pure function of seed and index, all other pixels of seed, index and
    ``surroundings``. Two calls that differ only in ``surroundings`` exchange everything but the glyph.

    Args:
        indices: one per image, from 0.
        seed: of all draws. The networks of the zoo were trained with seeds of 1,000,000 and more.
        surroundings: number of the background and the distractors, from 0.
    """
    glyph_draws = Draws([Key(seed, index) for index in indices])
    other_draws = Draws([Key(seed, index, surroundings) for index in indices])
    labels = glyph_draws.integers("planted class", 0, len(_CLASSES) - 1)
    place = glyph_draws.integers("planted place", 0, _PLACES - 1, (2,))
    images = _background(other_draws)

    shapes = _bitmaps(_DISTRACTORS)
    occupied = _near(place)
    for n in range(DISTRACTORS):
        shape = other_draws.integers(f"planted distractor {n}", 0, len(shapes) - 1)
        scores = other_draws.noise(f"planted distractor place {n}", (_PLACES**2,))
        chosen = scores.masked_fill(occupied, -torch.inf).argmax(1)
        distractor_place = torch.stack([chosen // _PLACES, chosen % _PLACES], 1)
        images = _paste(images, shapes[shape], distractor_place)
        occupied = occupied | _near(distractor_place)

    masks = _paste(torch.zeros_like(images), torch.ones(len(labels), GLYPH, GLYPH), place)[:, 0].bool()
    planted = _paste(images, _bitmaps(tuple(_CLASSES.values()))[labels], place)
    return PlantedImages(planted, labels, masks, images)


def leak(network: Callable[[Tensor], Tensor], count: int = 1000, seed: int = 0) -> float:
    """Measure how far a network's logits depend on pixels outside of the glyph.

    The leak is the change of the target's logit when everything but the glyph is exchanged, relative to the change when
    the glyph is removed; both are root mean squares over the images.

    Args:
        network: returns the logits ``(N, 8)`` of images in [0, 1].
        count: number of images.
        seed: of the images.
    """
    change = effect = torch.zeros((), dtype=torch.float64)
    for start in range(0, count, _BATCH):
        indices = range(start, min(start + _BATCH, count))
        first, second = planted_images(indices, seed), planted_images(indices, seed, surroundings=1)
        target = first.labels[:, None]
        with torch.no_grad():
            logit = network(first.images).gather(1, target)
            exchanged = network(second.images).gather(1, target)
            removed = network(first.removed).gather(1, target)
        change = change + (logit - exchanged).double().square().sum()
        effect = effect + (logit - removed).double().square().sum()
    return float((change / effect).sqrt())


def _background(draws: Draws) -> Tensor:
    """Draw smooth gray images ``(N, 1, 28, 28)`` with a fine texture."""
    coarse = draws.normal("planted background", (1, SIDE // 4, SIDE // 4))
    smooth = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=False)
    texture = draws.noise("planted texture", (1, SIDE, SIDE))
    gray = (0.5 + 0.15 * smooth + 0.05 * texture).clamp(0.1, 0.9)
    return (gray * 255).round() / 255


def _bitmaps(glyphs: Sequence[str]) -> Tensor:
    """Convert glyphs written as rows of ``#`` and ``.`` to ``(G, 6, 6)``."""
    pixels = [[float(mark == "#") for mark in glyph.replace(" ", "")] for glyph in glyphs]
    return torch.tensor(pixels).view(-1, GLYPH, GLYPH)


def _paste(images: Tensor, glyphs: Tensor, places: Tensor) -> Tensor:
    """Return images ``(N, 1, 28, 28)`` with glyphs ``(N, 6, 6)`` at the places (row, column) of their corners."""
    offsets = torch.arange(GLYPH)
    rows, columns = places[:, 0, None] + offsets, places[:, 1, None] + offsets
    pixels = (rows[:, :, None] * SIDE + columns[:, None, :]).flatten(1)
    return images.flatten(1).scatter(1, pixels, glyphs.flatten(1)).view_as(images)


def _near(places: Tensor) -> Tensor:
    """Return ``(N, 529)``: the places at which another glyph would touch the one at the given place."""
    axis = torch.arange(_PLACES)
    rows = (axis - places[:, :1]).abs() < GLYPH + _GAP
    columns = (axis - places[:, 1:]).abs() < GLYPH + _GAP
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)
