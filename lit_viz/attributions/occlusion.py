"""Occlusion: decrease of the score when a window of the image is replaced."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_viz.attributions.baselines import BaselineLike
from lit_viz.attributions.feature_ablation import Ablation
from lit_viz.errors import require
from lit_viz.networks import Network
from lit_viz.optim import State

#: Default window: 32 pixels, or 1/7 of the network's input (32 of 224) once the method is bound.
_WINDOW, _FRACTION = 32, 7


class Occlusion(Ablation):
    """``score(x) - score(x with a replaced window)``, averaged at every pixel over its windows.
    Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2.

    Windows start at multiples of the stride until one reaches the far edge; the last ones are cropped to the image.
    They are evaluated in reading order.

    Args:
        window: side in pixels, or height and width.
        stride: at most the window; default: half of it.
        baseline: replacement of the window; see :class:`~lit_viz.attributions.baselines.Baseline`.
        sigma: of the blurred baseline, in pixels.
    """

    def __init__(
        self,
        window: int | Sequence[int] | None = None,
        stride: int | Sequence[int] | None = None,
        baseline: BaselineLike = "mean",
        sigma: float = 10.0,
    ) -> None:
        super().__init__(baseline, sigma)
        self.default_window, self.stride = window is None, stride
        if window is None:
            window = _WINDOW
        self._set_window(window)

    def _set_window(self, window: int | Sequence[int]) -> None:
        """Set the sides of the window and the strides, ``[height, width]`` each."""
        self.windows = _pair(window)
        height, width = self.windows
        if self.stride is None:
            self.strides = [max(1, height // 2), max(1, width // 2)]
        else:
            self.strides = _pair(self.stride)
        down, right = self.strides
        valid = 1 <= down <= height and 1 <= right <= width
        got = f"window {window} and stride {self.stride}"
        require(valid, "stride of Occlusion must be between 1 and the window", got)

    def bind(self, network: Network) -> None:
        super().bind(network)
        if self.default_window:
            self._set_window(max(1, round(min(network.size) / _FRACTION)))
        self.evaluations = self.default_evaluations((network.channels, *network.size))

    def default_evaluations(self, shape: Sequence[int]) -> int:
        return 1 + math.prod(self.grid(shape))

    def regions(self, x: Tensor) -> State:
        return {"count": torch.full((len(x),), math.prod(self.grid(x.shape[1:])), device=x.device)}

    def masks(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor) -> Tensor:
        positions = torch.unravel_index(numbers, self.grid(x.shape[1:]))
        covered = []
        for position, length, side, stride in zip(positions, x.shape[2:], self.windows, self.strides, strict=True):
            offset = torch.arange(length, device=x.device) - stride * position[:, None]
            covered.append((offset >= 0) & (offset < side))
        rows, columns = covered
        return (rows[:, :, None] & columns[:, None])[:, None]

    def grid(self, shape: Sequence[int]) -> list[int]:
        """Return the number of windows down and across an input ``(C, H, W)``."""
        height, width = self.windows
        fits = len(shape) == 3 and height <= shape[1] and width <= shape[2]
        constraint = f"window of Occlusion must be at most the input {tuple(shape)}"
        require(fits, constraint, f"{height} x {width} pixels")
        grid = []
        for length, side, stride in zip(shape[1:], self.windows, self.strides, strict=True):
            grid.append(1 + math.ceil((length - side) / stride))
        return grid


def _pair(value: int | Sequence[int]) -> list[int]:
    if isinstance(value, int):
        return [value, value]
    require(len(value) == 2, "window and stride of Occlusion must be a side or (height, width)", value)
    return list(value)
