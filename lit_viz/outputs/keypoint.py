"""Keypoints: values of heat maps at a place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_viz.errors import require
from lit_viz.networks.outputs import Output
from lit_viz.outputs.region import dense_maps


class Keypoint(Output):
    """Values of the heat maps of keypoints at a place, or their largest values, ``(N, K)``.

    The network returns heat maps ``(N, K, h, w)``: a tensor, ``"heatmaps"`` of a mapping, or ``.heatmaps``.

    Args:
        place: (x, y) in pixels of the input, interpolated bilinearly; the largest value of each map by default.
        names: K names of the keypoints.
    """

    decision = "number"
    unit = "heat map value"

    def __init__(self, place: Sequence[float] | None = None, *, names: Sequence[str] | None = None) -> None:
        require(place is None or len(place) == 2, "place must be (x, y) in pixels of the input", repr(place))
        self.place = place
        self._names = None if names is None else tuple(names)
        self._size: tuple[int, int] | None = None

    @property
    def names(self) -> Sequence[str] | None:
        return self._names

    def prepare(self, network: nn.Module, normalize: Callable[[Tensor], Tensor], size: tuple[int, int]) -> Keypoint:
        if self.place is not None:
            x, y = self.place
            inside = 0 <= x <= size[1] and 0 <= y <= size[0]
            require(inside, f"place must lie in the input ({size[1]} x {size[0]} pixels, x before y)", repr(self.place))
        prepared = copy.copy(self)
        prepared._size = size
        return prepared

    def scores(self, returned: Any, images: int) -> Tensor:
        maps = dense_maps(getattr(returned, "heatmaps", returned), images, "Keypoint", ("heatmaps",))
        if self.place is None or self._size is None:
            return maps.amax((2, 3))
        x, y = self.place
        # grid_sample's coordinates are -1 and 1 at the borders of the input.
        point = torch.tensor([2 * x / self._size[1] - 1, 2 * y / self._size[0] - 1]).to(maps)
        grid = point.expand(images, 1, 1, 2)
        return functional.grid_sample(maps, grid, padding_mode="border", align_corners=False)[:, :, 0, 0]
