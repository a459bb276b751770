"""From a saliency map to an object's mask and box (Simonyan et al. 2014, arXiv:1312.6034, section 3.2).

A map marks the parts of an object that decide, not all of it. So its highest pixels only say what colours the object
has, its lowest what colours lie around it, and a graph cut (Boykov & Jolly 2001) follows the colours from there.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.fitting import Box
from lit_viz.images.gaussian import gaussian_blur
from lit_viz.images.reading import to_uint8


@dataclass(frozen=True)
class Seeds:
    """Where a map is sure of object and background.

    Attributes:
        foreground, background: pixels from this quantile of the map upwards, and from that one downwards, are seeds.
        smoothing: width (sigma) of the Gaussian that the map is blurred with before, as a part of the shorter side;
            0 for none. Single pixels of a gradient are noise; the paper averages the maps of ten crops instead.
    """

    foreground: float = 0.95
    background: float = 0.30
    smoothing: float = 1 / 200

    def of(self, values: Tensor) -> NDArray[np.int8]:
        """Return the seeds of a map ``(H, W)``: 1 foreground, -1 background, 0 neither.

        Raises:
            LitVizError: the map is not finite, or constant.
        """
        bad = int((~values.isfinite()).sum())
        if bad:
            raise LitVizError(f"the map has {bad} pixel{'s' if bad > 1 else ''} that are not finite, so it has no box")
        if values.max() == values.min():
            raise LitVizError("the map is the same everywhere, so it has no box")
        sigma = torch.tensor([self.smoothing * min(values.shape)], dtype=torch.float64)
        smooth = gaussian_blur(values[None, None].double().cpu(), sigma)[0, 0].numpy()
        low, high = np.quantile(smooth, [self.background, self.foreground])
        seeds = np.zeros(smooth.shape, np.int8)
        seeds[smooth <= low] = -1
        # Of a map that is mostly zero both quantiles are zero: only what is above it is foreground then.
        seeds[(smooth >= high) if high > low else (smooth > low)] = 1
        return seeds


SEEDS = Seeds()


@dataclass(frozen=True)
class Segment:
    """An object found in an image.

    Attributes:
        seeds: int8 ``(H, W)``: 1 foreground, -1 background, 0 neither.
        mask: bool ``(H, W)``.
        box: (left, top, right, bottom) around the mask, in pixels of the image; whole numbers.
    """

    seeds: NDArray[np.int8]
    mask: NDArray[np.bool_]
    box: Box


def opencv() -> ModuleType:
    """Return OpenCV, which has the graph cut.

    Raises:
        LitVizError: it is not installed.
    """
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise LitVizError(
            "boxes of maps want OpenCV, which is not here: pip install 'lit-viz[localization]'"
        ) from error


def segment(photograph: Tensor, values: Tensor, seeds: Seeds = SEEDS) -> Segment:
    """Return the object that a map points at: the largest connected part of the graph cut's foreground.

    Two mixtures of five Gaussians model the colours, one of each kind of seeds and of nothing else, and one cut with
    these models decides. Foreground seeds are foreground for sure; background seeds only lend their colours, as the map
    is low within objects, too. OpenCV's generator of random numbers is seeded: the result depends on nothing
    that was called before.

    Args:
        photograph: ``(C, H, W)`` in [0, 1].
        values: the map ``(H, W)``, one number a pixel; what is higher speaks for the object.
        seeds: where the map is sure.

    Raises:
        LitVizError: OpenCV is missing or refuses the image, or the map is constant or not finite.
    """
    cv2 = opencv()
    marked = seeds.of(values)
    try:
        mask = _largest(_cut(to_uint8(photograph), marked, cv2), cv2)
    except cv2.error as error:
        raise LitVizError(
            f"OpenCV could not cut the photograph ({' '.join(str(error).split())}), so it has no box"
        ) from error
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return Segment(marked, mask, box)


def _cut(pixels: NDArray[np.uint8], seeds: NDArray[np.int8], cv2: ModuleType) -> NDArray[np.bool_]:
    """Return the foreground. The order of the channels, which OpenCV has otherwise, makes no difference to it."""
    labels = np.where(seeds > 0, np.uint8(cv2.GC_FGD), np.uint8(cv2.GC_PR_BGD))
    cv2.setRNGSeed(0)  # k-means draws from it
    sure = seeds != 0
    # A picture one pixel high of the seeds alone, and no iteration: this only makes the colour models. Made on the
    # whole image they would take all that is undecided for background.
    nothing = np.zeros((1, 65))
    _, background, foreground = cv2.grabCut(
        pixels[sure][None], labels[sure][None], None, nothing, nothing.copy(), 0, cv2.GC_INIT_WITH_MASK
    )
    labels, _, _ = cv2.grabCut(pixels, labels, None, background, foreground, 1, cv2.GC_EVAL_FREEZE_MODEL)
    return np.isin(labels, [cv2.GC_FGD, cv2.GC_PR_FGD])


def _largest(mask: NDArray[np.bool_], cv2: ModuleType) -> NDArray[np.bool_]:
    """Return the largest connected part (pixels that touch at a corner are connected); there is one, the seeds'."""
    _, parts, numbers, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    part = 1 + int(np.argmax(numbers[1:, cv2.CC_STAT_AREA]))
    return np.asarray(parts == part)
