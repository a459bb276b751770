"""Images with planted evidence: only a glyph of 6 x 6 pixels at a random place decides the class.

A gray image has a smooth random background, two distractor glyphs and the glyph of its class. An image of 13 bands has
two glyphs in every band, of which the glyph of its class, in a random band, is the only one that is not a distractor.
Of a pair, two glyphs that are present or absent, evidence does not add up: their relation decides.
All glyphs are white on black and equally large, distractors have shapes of their own. The surroundings of the glyph,
distractors included, are drawn independently of the class, so that nothing else in the image is evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_viz.rng import Draws, Key
from lit_viz.zoo.networks import BAND_SIDE, BANDS, SIDE

#: Side of a glyph in pixels.
GLYPH = 6
#: Distractor glyphs in a gray image.
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

_PAIR = ("cross", "ring")
#: Relations of two glyphs, in the order of the scores: both are present, at least one, exactly one.
PAIR_LABELS = ("and", "or", "xor")
#: Their truth ``(4, 3)`` without glyphs, with the first, with the second, with both.
PAIR_TRUTH = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])

_GAP = 1  # pixels between two glyphs, at least
_BATCH = 250  # images that are held at a time


@dataclass(frozen=True)
class PlantedImages:
    """Images with planted evidence.

    Attributes:
        images: float32 ``(N, C, H, W)`` in [0, 1], on the 8-bit lattice: one band of 28 x 28, or 13 of 32 x 32 pixels.
        labels: int64 ``(N,)``, indices of :data:`PLANTED_LABELS`.
        masks: bool ``(N, H, W)``: the 36 pixels of the glyph.
        removed: the images without the glyph, ``(N, C, H, W)``: they show the background in its place.
        bands: int64 ``(N,)``, indices of the bands with the glyph.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    removed: Tensor
    bands: Tensor


@dataclass(frozen=True)
class PlantedPairs:
    """Images of two glyphs that are present or absent.

    Attributes:
        images: float32 ``(N, 4, 1, 28, 28)`` in [0, 1], on the 8-bit lattice: the same surroundings without glyphs,
            with the first, with the second, with both.
        masks: bool ``(N, 2, 28, 28)``: the 36 pixels of each glyph.
    """

    images: Tensor
    masks: Tensor


#: Draws images, given their indices, a seed, and the number of their surroundings.
DrawImages = Callable[[Sequence[int], int, int], PlantedImages]


def planted_images(indices: Sequence[int], seed: int = 0, surroundings: int = 0) -> PlantedImages:
    """Draw images with planted evidence.

    Class and place of a glyph are a pure function of seed and index, all other pixels of seed, index and
    ``surroundings``. Two calls that differ only in ``surroundings`` exchange everything but the glyph.

    Args:
        indices: one per image, from 0.
        seed: of all draws. The networks of the zoo were trained with seeds of 1,000,000 and more.
        surroundings: number of the background and the distractors, from 0.
    """
    glyph_draws = _draws(seed, indices)
    other_draws = _draws(seed, indices, surroundings)
    labels = glyph_draws.integers("planted class", 0, len(_CLASSES) - 1)
    place = glyph_draws.integers("planted place", 0, _places(SIDE) - 1, (2,))
    images = _background(other_draws, SIDE)
    occupied = _near(place, SIDE)
    for n in range(DISTRACTORS):
        images, taken = _with_distractor(images, other_draws, n, occupied)
        occupied = occupied | taken
    masks = _paste(torch.zeros_like(images), torch.ones(len(labels), GLYPH, GLYPH), place)[:, 0].bool()
    planted = _paste(images, _bitmaps(tuple(_CLASSES.values()))[labels], place)
    return PlantedImages(planted, labels, masks, images, torch.zeros_like(labels))


def planted_bands(indices: Sequence[int], seed: int = 0, surroundings: int = 0, bands: int = BANDS) -> PlantedImages:
    """Draw images of several bands with planted evidence, ``(N, 13, 32, 32)``.

    Every band has two glyphs and a background of its own contrast. Class, band and place of the glyph that counts are a
    pure function of seed and index, all other pixels of seed, index and ``surroundings``, as in :func:`planted_images`.

    Args:
        indices: one per image, from 0.
        seed: of all draws. The network of the zoo was trained with seeds of 1,000,000 and more.
        surroundings: number of the backgrounds and the distractors, from 0.
        bands: of an image.
    """
    glyph_draws = _draws(seed, indices)
    labels = glyph_draws.integers("planted bands class", 0, len(_CLASSES) - 1)
    band = glyph_draws.integers("planted bands band", 0, bands - 1)
    place = glyph_draws.integers("planted bands place", 0, _places(BAND_SIDE) - 1, (2,))

    keys = []  # of each band
    for index in indices:
        for number in range(bands):
            keys.append(Key(seed, index, surroundings * BANDS + number))
    draws = Draws(keys)
    contrast = draws.uniform("planted bands contrast", 0.2, 0.7)[:, None, None, None]
    images = _rounded(0.5 + contrast * (_background(draws, BAND_SIDE) - 0.5))
    own = torch.arange(len(labels)) * bands + band  # rows of the bands with the glyph that counts
    others = sorted(set(range(len(keys))) - set(own.tolist()))
    occupied = torch.zeros(len(keys), _places(BAND_SIDE) ** 2, dtype=torch.bool)
    occupied[own] = _near(place, BAND_SIDE)
    images[others], occupied[others] = _with_distractor(images[others], draws.rows(others), 0, occupied[others])
    images, _ = _with_distractor(images, draws, 1, occupied)

    planted, masks = images.clone(), torch.zeros_like(images[own])
    planted[own] = _paste(images[own], _bitmaps(tuple(_CLASSES.values()))[labels], place)
    masks = _paste(masks, torch.ones(len(labels), GLYPH, GLYPH), place)[:, 0].bool()
    shape = (len(labels), bands, BAND_SIDE, BAND_SIDE)
    return PlantedImages(planted.view(shape), labels, masks, images.view(shape), band)


def planted_pairs(indices: Sequence[int], seed: int = 0) -> PlantedPairs:
    """Draw images of two glyphs, a cross and a ring, that are present or absent; all have two distractors.

    Args:
        indices: one per image, from 0; all pixels are a pure function of seed and index.
        seed: of all draws. The network of the zoo was trained with seeds of 1,000,000 and more.
    """
    draws = _draws(seed, indices)
    count, places = len(indices), _places(SIDE)
    nowhere = torch.zeros(count, places**2, dtype=torch.bool)
    first_place = _free_place(draws, "planted pairs place 0", nowhere, places)
    occupied = _near(first_place, SIDE)
    second_place = _free_place(draws, "planted pairs place 1", occupied, places)
    occupied = occupied | _near(second_place, SIDE)
    absent = _background(draws, SIDE)
    for n in range(DISTRACTORS):
        absent, taken = _with_distractor(absent, draws, n, occupied)
        occupied = occupied | taken

    bitmaps = _bitmaps([_CLASSES[name] for name in _PAIR])[:, None].expand(-1, count, -1, -1)
    first = _paste(absent, bitmaps[0], first_place)
    second = _paste(absent, bitmaps[1], second_place)
    both = _paste(first, bitmaps[1], second_place)
    masks = []
    for place in (first_place, second_place):
        masks.append(_paste(torch.zeros_like(absent), torch.ones(count, GLYPH, GLYPH), place)[:, 0].bool())
    return PlantedPairs(torch.stack([absent, first, second, both], 1), torch.stack(masks, 1))


def leak(
    network: Callable[[Tensor], Tensor], count: int = 1000, seed: int = 0, draw: DrawImages = planted_images
) -> float:
    """Measure how far a network's logits depend on pixels outside of the glyph.

    The leak is the change of the target's logit when everything but the glyph is exchanged, relative to the change when
    the glyph is removed; both are root mean squares over the images.

    Args:
        network: returns the logits ``(N, 8)`` of images in [0, 1].
        count: number of images.
        seed: of the images.
        draw: :func:`planted_images` or :func:`planted_bands`.
    """
    change = effect = torch.zeros((), dtype=torch.float64)
    for start in range(0, count, _BATCH):
        indices = range(start, min(start + _BATCH, count))
        first, second = draw(indices, seed, 0), draw(indices, seed, 1)
        target = first.labels[:, None]
        with torch.no_grad():
            logit = network(first.images).gather(1, target)
            exchanged = network(second.images).gather(1, target)
            removed = network(first.removed).gather(1, target)
        change = change + (logit - exchanged).double().square().sum()
        effect = effect + (logit - removed).double().square().sum()
    return float((change / effect).sqrt())


def _with_distractor(images: Tensor, draws: Draws, number: int, occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Paste a distractor into each image at a place that is not occupied ``(N, P)``; return the places near it too."""
    shapes, places = _bitmaps(_DISTRACTORS), _places(images.shape[-1])
    shape = draws.integers(f"planted distractor {number}", 0, len(shapes) - 1)
    place = _free_place(draws, f"planted distractor place {number}", occupied, places)
    return _paste(images, shapes[shape], place), _near(place, images.shape[-1])


def _free_place(draws: Draws, purpose: str, occupied: Tensor, places: int) -> Tensor:
    """Draw a place (row, column) ``(N, 2)`` that is not occupied ``(N, P)``, of ``places`` along an axis."""
    scores = draws.noise(purpose, (places**2,))
    chosen = scores.masked_fill(occupied, -torch.inf).argmax(1)
    return torch.stack([chosen // places, chosen % places], 1)


def _background(draws: Draws, side: int) -> Tensor:
    """Draw smooth gray images ``(N, 1, H, W)`` with a fine texture."""
    coarse = draws.normal("planted background", (1, side // 4, side // 4))
    smooth = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    texture = draws.noise("planted texture", (1, side, side))
    return _rounded((0.5 + 0.15 * smooth + 0.05 * texture).clamp(0.1, 0.9))


def _draws(seed: int, indices: Sequence[int], surroundings: int = 0) -> Draws:
    return Draws([Key(seed, index, surroundings) for index in indices])


def _rounded(images: Tensor) -> Tensor:
    """Round images to the 8-bit lattice."""
    return (images * 255).round() / 255


def _bitmaps(glyphs: Sequence[str]) -> Tensor:
    """Convert glyphs written as rows of ``#`` and ``.`` to ``(G, 6, 6)``."""
    pixels = [[float(mark == "#") for mark in glyph.replace(" ", "")] for glyph in glyphs]
    return torch.tensor(pixels).view(-1, GLYPH, GLYPH)


def _places(side: int) -> int:
    """Return the number of places of the upper left corner of a glyph along an axis."""
    return side - GLYPH + 1


def _paste(images: Tensor, glyphs: Tensor, places: Tensor) -> Tensor:
    """Return images ``(N, 1, H, W)`` with glyphs ``(N, 6, 6)`` at the places (row, column) of their corners."""
    offsets = torch.arange(GLYPH)
    rows, columns = places[:, 0, None] + offsets, places[:, 1, None] + offsets
    pixels = (rows[:, :, None] * images.shape[-1] + columns[:, None, :]).flatten(1)
    return images.flatten(1).scatter(1, pixels, glyphs.flatten(1)).view_as(images)


def _near(places: Tensor, side: int) -> Tensor:
    """Return ``(N, P)``: the places at which another glyph would touch the one at the given place."""
    axis = torch.arange(_places(side))
    rows = (axis - places[:, :1]).abs() < GLYPH + _GAP
    columns = (axis - places[:, 1:]).abs() < GLYPH + _GAP
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)
