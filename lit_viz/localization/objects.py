"""The object that a saliency map points at: its box and mask, in the image and in its original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.images.fitting import Box
from lit_viz.images.reading import Photograph
from lit_viz.localization.reference_boxes import iou
from lit_viz.localization.segmentation import SEEDS, Seeds, Segment, segment


def localize(photograph: Photograph, values: Tensor, seeds: Seeds = SEEDS) -> Segment:
    """Return the object that a map points at; what is no part of the original (``fit="pad"``) takes no part in it.

    Args:
        photograph: as the network saw it.
        values: the map ``(H, W)``; what is higher speaks for the object.
        seeds: where the map is sure.

    Raises:
        LitVizError: see :func:`~lit_viz.localization.segmentation.segment`.
    """
    height, width = photograph.original_size
    inner = _within(photograph.from_original([0, 0, width, height]).round(), values.shape)
    left, top, right, bottom = map(int, inner)
    found = segment(photograph.pixels[:, top:bottom, left:right], values[top:bottom, left:right], seeds)
    border = (top, len(values) - bottom), (left, len(values[0]) - right)
    x, y, x_end, y_end = found.box
    box = (x + left, y + top, x_end + left, y_end + top)
    return Segment(np.pad(found.seeds, border), np.pad(found.mask, border), box)


def box_in_original(photograph: Photograph, box: Box) -> Box:
    """Return a box of the image as a box of the original, cut at its edges."""
    return _within(photograph.to_original(box), photograph.original_size)


def _within(ends: Tensor, size: Sequence[int]) -> Box:
    """Return the part of a box that lies in a picture of (height, width)."""
    height, width = size
    left, top, right, bottom = ends.clamp(min=0).minimum(ends.new_tensor([width, height, width, height])).tolist()
    return left, top, right, bottom


def mask_in_original(photograph: Photograph, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask ``(H, W)`` of the image in the size of the original; each of its pixels asks the nearest one.

    What the image doesn't span, because it was cut off, is no part of the mask.
    """
    height, width = photograph.original_size
    centres = torch.arange(max(height, width), dtype=torch.float64) + 0.5
    columns, rows = photograph.from_original(torch.stack([centres, centres], 1)).floor().long().unbind(1)
    framed = np.pad(mask, 1)  # whatever lies outside finds the frame
    down, across = (
        places[:side].clamp(-1, end).add(1).numpy()
        for places, side, end in zip((rows, columns), (height, width), mask.shape, strict=True)
    )
    of_original: NDArray[np.bool_] = framed[np.ix_(down, across)]
    return of_original


@dataclass(frozen=True)
class LocalizedMap:
    """What came of one map.

    Attributes:
        photograph: as the network saw it.
        values: the map ``(H, W)``.
        segment: the object, or None where ``error`` says why there is none.
        error: what is wrong with the map or its true boxes, or None.
        truth: the true boxes, in pixels of the original; empty where none are known.
    """

    photograph: Photograph
    values: Tensor
    segment: Segment | None
    error: str | None
    truth: tuple[Box, ...]

    @property
    def box(self) -> Box | None:
        """In pixels of the original."""
        return None if self.segment is None else box_in_original(self.photograph, self.segment.box)

    @property
    def iou(self) -> float | None:
        """With the true box that is nearest; None where none is known, 0 where none was found."""
        return self._nearest(self.box)

    @property
    def whole(self) -> float | None:
        """The IoU of all that the network saw of the photograph: what a box is worth that knows nothing."""
        height, width = self.photograph.pixels.shape[-2:]
        return self._nearest(box_in_original(self.photograph, (0, 0, width, height)))

    def _nearest(self, box: Box | None) -> float | None:
        if not self.truth:
            return None
        return 0.0 if box is None else max(iou(box, true) for true in self.truth)
