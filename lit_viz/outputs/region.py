"""Segmentation: the mean logits of the classes in a region, and the shares of it that they take."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from lit_viz.errors import LitVizError, require
from lit_viz.networks.decisions import Goal
from lit_viz.networks.outputs import Output

#: Smallest share of which log-odds are computed, and of the rest of the region.
_SMALLEST_SHARE = 1e-6
#: Points of the border of a mask that figures draw.
_MOST_POINTS = 200


class Region(Output):
    """Mean logits of each class over a region of a segmentation, ``(N, K)``.

    The network returns logits ``(N, K, h, w)``: a tensor, ``"out"`` of a mapping (torchvision), or ``.logits``
    (transformers). A place of the output counts by its share in the region. The class with the largest
    mean is the decision. Seg-Grad-CAM sums the logits of the same pixels (Vinogradova et al. 2020, arXiv:2002.11434).

    Args:
        where: ``"everywhere"``; ``"predicted"``, the places where the class has the largest logit in the image that is
            evaluated, or the place of its largest logit if there is none; a box (x0, y0, x1, y1) in pixels of the
            input; or a mask of the input's size, a file, an array or a tensor ``(H, W)``, not zero in the region.

    Raises:
        LitVizError: the region is empty or extends beyond the input, or the mask has another size or can't be read.
    """

    unit = "mean logit"

    def __init__(self, where: Any = "everywhere") -> None:
        self.where = where
        self._mask: Tensor | None = None  # (H, W) in [0, 1], of a box or a mask

    def prepare(self, network: nn.Module, normalize: Callable[[Tensor], Tensor], size: tuple[int, int]) -> Region:
        prepared = copy.copy(self)
        if not isinstance(self.where, str) or self.where not in ("everywhere", "predicted"):
            mask = prepared._mask = region_mask(self.where, size)
            rows, columns = mask.nonzero().T
            x0, y0, x1, y1 = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
            if bool(mask[y0:y1, x0:x1].all()):
                prepared.box = [x0, y0, x1, y1]
            else:
                prepared.outline = _polygons(mask)
        return prepared

    def scores(self, returned: Any, images: int) -> Tensor:
        maps = dense_maps(returned, images, "Region", ("out",))
        if self._mask is None and self.where == "predicted":
            return _mean_where_predicted(maps)
        return self._mean(maps)

    def _mean(self, maps: Tensor) -> Tensor:
        """Return the means of maps ``(N, K, h, w)`` over the region, ``(N, K)``."""
        if self._mask is None:
            return maps.mean((2, 3))
        weights = place_weights(self._mask, maps)
        return (maps * weights).sum((2, 3)) / weights.sum()


class Share(Region):
    """Log-odds of the share of a region that each class takes, ``(N, K)``: whether it takes more than half of it.

    The share is the mean probability over the places of the region; success of an attack depends on the share of places
    with the largest logit for the class. The goal ``share:S`` replaces the half: a label falls to at most S of the
    region, a target rises above it.

    Args:
        where: ``"everywhere"``, a box or a mask; see :class:`Region`.

    Raises:
        LitVizError: the region is empty, or its places depend on the image.
    """

    decision = "independent"
    unit = "log-odds of the share"
    goals = ("share",)

    def __init__(self, where: Any = "everywhere") -> None:
        super().__init__(where)
        if isinstance(where, str) and where == "predicted":
            raise LitVizError("where of Share must be everywhere, a box or a mask, got 'predicted'")

    def goal(self, kind: str, value: float) -> Goal:
        require(0 < value < 1, "goal share:V must have V between 0 and 1", value, is_argument=False)
        return Goal(math.log(value) - math.log1p(-value))

    def scores(self, returned: Any, images: int) -> Tensor:
        maps = dense_maps(returned, images, "Share", ("out",))
        return torch.logit(self._mean(maps.softmax(1)), eps=_SMALLEST_SHARE)

    def final(self, returned: Any, images: int) -> Tensor:
        """Return the log-odds of the share of places where each class is predicted, ``(N, K)``."""
        maps = dense_maps(returned, images, "Share", ("out",))
        predicted = functional.one_hot(maps.argmax(1), maps.shape[1]).movedim(3, 1).to(maps)
        return torch.logit(self._mean(predicted), eps=_SMALLEST_SHARE)


def _mean_where_predicted(maps: Tensor) -> Tensor:
    """Return the mean of each class over the places where it is predicted ``(N, K)``."""
    classes = maps.shape[1]
    predicted = functional.one_hot(maps.detach().argmax(1), classes).movedim(3, 1).to(maps)
    counts = predicted.sum((2, 3))
    means = (maps * predicted).sum((2, 3)) / counts.clamp(min=1)
    return torch.where(counts > 0, means, maps.amax((2, 3)))


def dense_maps(returned: Any, images: int, owner: str, keys: Sequence[str]) -> Tensor:
    """Return the maps ``(N, K, h, w)`` in a network's return value.

    Raises:
        LitVizError: there are none.
    """
    logits = returned
    if isinstance(returned, Mapping):
        logits = next((returned[key] for key in (*keys, "logits") if key in returned), None)
    elif hasattr(returned, "logits"):
        logits = returned.logits
    elif isinstance(returned, (tuple, list)) and returned:
        logits = returned[0]
    if not isinstance(logits, Tensor) or logits.ndim != 4 or len(logits) != images:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(returned).__name__}"
        raise LitVizError(f"{owner} requires a network that returns maps (N, K, h, w), got {got}")
    return logits


def _polygons(mask: Tensor) -> list[list[list[float]]]:
    """Return the borders of a mask ``(H, W)`` as closed polygons (x, y), of at most some hundred points each."""
    from matplotlib.figure import Figure  # takes half a second

    padded = functional.pad(mask, [1] * 4).numpy()  # so that a border at the edge of the image is closed
    polygons = []
    for line in Figure().add_subplot().contour(padded, [0.5]).allsegs[0]:
        step = math.ceil(len(line) / _MOST_POINTS)
        points = [*line[:-1:step], line[-1]] - np.array(1.0)
        polygons.append(points.round(2).tolist())
    return polygons


def place_weights(mask: Tensor, maps: Tensor) -> Tensor:
    """Return the share of each place of maps ``(N, K, h, w)`` inside a mask ``(H, W)`` of the input, ``(h, w)``."""
    sides = maps.shape[2:]
    return functional.interpolate(mask[None, None].to(maps), sides, mode="area")[0, 0]


def region_mask(where: Any, size: tuple[int, int]) -> Tensor:
    """Return a region as a mask ``(H, W)`` of 0 and 1, float32.

    Args:
        where: a box (x0, y0, x1, y1) in pixels of the input, or a mask: a file, an array or a tensor ``(H, W)``.
        size: height and width of the input.

    Raises:
        LitVizError: the region is empty or extends beyond the input, the mask has another size, or it is neither.
    """
    height, width = size
    if isinstance(where, list) and isinstance(where[0], list):  # as a configuration has a small mask
        where = torch.tensor(where)
    if isinstance(where, (str, Path)):
        mask = _read_mask(where)
    elif isinstance(where, (Tensor, np.ndarray)) and where.ndim == 2:
        mask = torch.as_tensor(where).float().ne(0).float()
    else:
        x0, y0, x1, y1 = _box(where)
        check_inside((x0, y0, x1, y1), size)
        mask = torch.zeros(size)
        mask[round(y0) : round(y1), round(x0) : round(x1)] = 1
    rows, columns = mask.shape
    is_fitting = (rows, columns) == size
    require(
        is_fitting,
        f"a mask must have the input's size {height} x {width} (H x W)",
        f"{rows} x {columns}",
        is_argument=False,
    )
    require(
        bool(mask.any()),
        f"the region must contain pixels of the input ({height} x {width})",
        repr(where),
        is_argument=False,
    )
    return mask


def check_inside(box: Sequence[float], size: tuple[int, int]) -> None:
    """Raise a LitVizError unless a box (x0, y0, x1, y1) is inside an input of a size (H, W)."""
    x0, y0, x1, y1 = box
    height, width = size
    inside = x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height
    require(
        inside,
        f"a box must lie in the input, x from 0 to {width} and y from 0 to {height}",
        repr(box),
        is_argument=False,
    )


def _box(where: Any) -> tuple[float, float, float, float]:
    try:
        x0, y0, x1, y1 = map(float, where)
    except (TypeError, ValueError) as error:
        raise LitVizError(
            f"where must be everywhere, predicted, a box (x0, y0, x1, y1) or a mask (H, W), got {where!r}"
        ) from error
    require(
        x0 < x1 and y0 < y1,
        "a box must have x0 < x1 and y0 < y1, in pixels of the input",
        repr(where),
        is_argument=False,
    )
    return x0, y0, x1, y1


def _read_mask(path: str | Path) -> Tensor:
    try:
        with Image.open(path) as file:
            levels = np.asarray(file.convert("L"))
    except OSError as error:
        raise LitVizError(
            f"mask {str(path)!r} can't be read as an image: give everywhere, predicted or a box"
        ) from error
    return torch.from_numpy(levels.copy()).ne(0).float()
