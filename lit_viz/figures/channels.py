"""What the channels of a layer look for, a tile each."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from lit_viz.figures.sheet import contact_sheet
from lit_viz.figures.tiles import pixels
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import label_with_lr, pluralize, unique_labels

_TILE = 1.2
_MOST = 1280


def channel_grid(outcomes: Sequence[Outcome]) -> Figure:
    """Draw the final picture of each channel with its number beneath, under the name of the layer.

    Args:
        outcomes: whose records hold ``layer`` and ``channel``; those without a picture are left out.

    Returns:
        a figure at which no pixel is lost; save it by :func:`lit_viz.figures.style.save_figure`.
    """
    drawn = [(outcome, picture) for outcome in outcomes if (picture := outcome.pictures()[1]) is not None]
    pictures = [picture for _, picture in drawn]
    layers = dict.fromkeys(str(outcome.record["layer"]) for outcome in outcomes)
    records = [outcome.record for outcome, _ in drawn]
    numbers = unique_labels([label_with_lr(str(record["channel"]), record) for record in records], records)
    height, width = pixels(pictures[0]).shape[:2] if pictures else (1, 1)  # those of a run are alike
    wide = width / height
    columns = None if wide == 1 else max(1, round(8 / wide))
    count = len({(record["layer"], record["channel"]) for record in records})
    axes = {str(outcome.record.get("axis") or "channel") for outcome in outcomes}
    heading = f"{', '.join(layers)} · {pluralize(count, axes.pop() if len(axes) == 1 else 'channel')}"
    return contact_sheet(pictures, numbers, columns, width=_TILE * wide, limit=_MOST, heading=heading)
