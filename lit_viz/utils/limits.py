"""Numbers of items in figures and printed tables. Captions refer to the files of the run for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

#: Images or maps with a row of their own on a page of a figure. No more comparisons and localizations are kept.
MOST_ROWS = 12
#: Photographs on the pages of a figure.
MOST_PHOTOGRAPHS = 60
#: Images of a contact sheet.
MOST_IMAGES = 200
#: Images of channels.
MOST_CHANNELS = 1280
#: Curves in one plot.
MOST_CURVES = 100
#: Tasks with a row of images by iteration; more are drawn by their last image.
MOST_EVOLUTIONS = 6
#: Tasks of an animation, and of a figure by epoch.
MOST_TILES = 16
#: Frames of an animation.
MOST_FRAMES = 80
#: Epochs of a figure.
MOST_EPOCHS = 10
#: Photographs beneath a robustness curve, or beside a universal perturbation.
MOST_EXAMPLES = 4
#: Photographs with a universal perturbation in a report.
MOST_PERTURBED = 8
#: Tasks in the grids of a logger, whose page more grids make unusable.
MOST_IN_GRIDS = 256
#: Files named in a printed text; evidence.json has all of them.
MOST_NAMES = 10
#: Rows of a printed table; results.jsonl and evidence.json have all of them.
MOST_PRINTED = 40
#: Images of a printed summary by class, or of the summary of a logger, whose records are in memory at the same time.
MOST_SUMMARIZED = 10_000
#: Printed notes on ambiguous reference boxes.
MOST_NOTES = 3


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most ``most`` items, evenly spaced, the first and the last included; of one, the last."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    distance = (len(items) - 1) / (most - 1)
    return [items[round(place * distance)] for place in range(most)]


def page_count(count: int, per_page: int) -> int:
    """Return the number of pages of the first :data:`MOST_PHOTOGRAPHS` of ``count`` items, at least one."""
    return max(1, -(-min(count, MOST_PHOTOGRAPHS) // per_page))


def on_page(items: Sequence[T], page: int, per_page: int) -> Sequence[T]:
    """Return the items of a page, from 1, of the first :data:`MOST_PHOTOGRAPHS`."""
    return items[:MOST_PHOTOGRAPHS][(page - 1) * per_page : page * per_page]
