"""Segmentation of the object that a saliency map indicates: map -> seeds -> mask -> box.

The most and the least salient pixels are seeds for the colors of object and background, and a graph cut (Boykov & Jolly
2001) segments the object (Simonyan et al. 2014, arXiv:1312.6034, section 3.2).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.fitting import Box
from lit_viz.images.gaussian import gaussian_blur
from lit_viz.images.reading import Photograph, to_uint8


@dataclass(frozen=True)
class Seeds:
    """Thresholds of the seeds.

    Attributes:
        foreground, background: quantiles of the map above and below which pixels are seeds.
        smoothing: sigma of a Gaussian blur of the map, relative to the shorter side. It removes the noise of single
            pixels, for which the paper averages the maps of ten crops.
    """

    foreground: float = 0.95
    background: float = 0.30
    smoothing: float = 1 / 200

    def of(self, values: Tensor) -> NDArray[np.int8]:
        """Return the seeds of a map ``(H, W)``: 1 foreground, -1 background, 0 neither.

        Raises:
            LitVizError: the map is not finite, or constant.
        """
        if bad := int((~values.isfinite()).sum()):
            raise LitVizError(f"no box: {bad} of {values.numel()} pixels of the map are not finite")
        if values.max() == values.min():
            raise LitVizError("no box: the map is constant")
        sigma = torch.tensor([self.smoothing * min(values.shape)], dtype=torch.float64)
        smooth = gaussian_blur(values[None, None].double().cpu(), sigma)[0, 0].numpy()
        low, high = np.quantile(smooth, [self.background, self.foreground])
        seeds = np.zeros(smooth.shape, np.int8)
        seeds[smooth <= low] = -1
        # In a map that is mostly zero both quantiles are zero, and all positive pixels are foreground.
        seeds[(smooth >= high) if high > low else (smooth > low)] = 1
        return seeds


SEEDS = Seeds()


@dataclass(frozen=True)
class Segment:
    """A segmented object.

    Attributes:
        seeds: int8 ``(H, W)``: 1 foreground, -1 background, 0 neither.
        mask: bool ``(H, W)``.
        box: (left, top, right, bottom) of the mask in pixels of the image.
    """

    seeds: NDArray[np.int8]
    mask: NDArray[np.bool_]
    box: Box


def import_opencv() -> ModuleType:
    """Return OpenCV.

    Raises:
        LitVizError: OpenCV is not installed.
    """
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise LitVizError("boxes of maps need OpenCV: pip install 'lit-viz[localization]'") from error


def segment(photograph: Tensor, values: Tensor, seeds: Seeds = SEEDS) -> Segment:
    """Return the largest connected part of the graph cut's foreground.

    Foreground seeds are fixed. Background seeds only provide colors, since the map is also low inside objects. The
    result is deterministic.

    Args:
        photograph: ``(C, H, W)`` in [0, 1].
        values: map ``(H, W)``; high values indicate the object.
        seeds: thresholds.

    Raises:
        LitVizError: OpenCV is not installed or fails, or the map is constant or not finite.
    """
    cv2 = import_opencv()
    marked = seeds.of(values)
    try:
        foreground = _graph_cut(to_uint8(photograph), marked, cv2).astype(np.uint8)
        _, parts, statistics, _ = cv2.connectedComponentsWithStats(foreground)  # includes diagonal neighbors
    except cv2.error as error:
        raise LitVizError(f"no box: OpenCV failed on the photograph ({' '.join(str(error).split())})") from error
    mask = np.asarray(parts == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA])))
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return Segment(marked, mask, box)


def _graph_cut(pixels: NDArray[np.uint8], seeds: NDArray[np.int8], cv2: ModuleType) -> NDArray[np.bool_]:
    labels = np.where(seeds > 0, np.uint8(cv2.GC_FGD), np.uint8(cv2.GC_PR_BGD))
    cv2.setRNGSeed(0)  # of the k-means initialization
    seeded = seeds != 0
    # Fit the color models, mixtures of five Gaussians, to the seeds only: an image of one row and no iteration. Fitted
    # to the whole image, they would count all other pixels as background.
    empty = np.zeros((1, 65))
    _, background, foreground = cv2.grabCut(
        pixels[seeded][None], labels[seeded][None], None, empty, empty.copy(), 0, cv2.GC_INIT_WITH_MASK
    )
    labels, _, _ = cv2.grabCut(pixels, labels, None, background, foreground, 1, cv2.GC_EVAL_FREEZE_MODEL)
    return np.isin(labels, [cv2.GC_FGD, cv2.GC_PR_FGD])


def localize(photograph: Photograph, values: Tensor, seeds: Seeds = SEEDS) -> Segment:
    """Segment the object that a map indicates, without the padding of ``fit="pad"``.

    Args:
        photograph: as the network sees it.
        values: map ``(H, W)``; high values indicate the object.
        seeds: thresholds.

    Raises:
        LitVizError: see :func:`segment`.
    """
    height, width = photograph.original_size
    inner = _clip(photograph.from_original([0, 0, width, height]).round(), values.shape)
    left, top, right, bottom = map(int, inner)
    found = segment(photograph.pixels[:, top:bottom, left:right], values[top:bottom, left:right], seeds)
    padding = (top, len(values) - bottom), (left, len(values[0]) - right)
    x0, y0, x1, y1 = found.box
    box = (x0 + left, y0 + top, x1 + left, y1 + top)
    return Segment(np.pad(found.seeds, padding), np.pad(found.mask, padding), box)


def box_in_original(photograph: Photograph, box: Box) -> Box:
    """Return a box of the image in pixels of the original, clipped to it."""
    return _clip(photograph.to_original(box), photograph.original_size)


def mask_in_original(photograph: Photograph, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask ``(H, W)`` of the image at the size of the original, by nearest pixels.

    Pixels of the original that the image does not contain are False.
    """
    height, width = photograph.original_size
    centers = torch.arange(max(height, width), dtype=torch.float64) + 0.5
    columns, rows = photograph.from_original(torch.stack([centers, centers], 1)).floor().long().unbind(1)
    framed = np.pad(mask, 1)  # pixels outside of the image map to the frame
    y, x = (
        places[:side].clamp(-1, end).add(1).numpy()
        for places, side, end in zip((rows, columns), (height, width), mask.shape, strict=True)
    )
    resized: NDArray[np.bool_] = framed[np.ix_(y, x)]
    return resized


def _clip(box: Tensor, size: Sequence[int]) -> Box:
    height, width = size
    left, top, right, bottom = box.clamp(min=0).minimum(box.new_tensor([width, height, width, height])).tolist()
    return left, top, right, bottom
