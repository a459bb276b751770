"""Occlusion: decrease of the score when a window of the image is replaced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attributions.base import Estimator, add_rows, gather_rows
from lit_viz.attributions.baselines import Baseline, Kind
from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.optim import Evaluate, State
from lit_viz.types import Task
from lit_viz.utils.device import to_device, to_list

#: Default window: 32 pixels, or 1/7 of the classifier's input (32 of 224) once the method is bound.
_WINDOW, _FRACTION = 32, 7


class Occlusion(Estimator):
    """``score(x) - score(x with a replaced window)``, averaged at every pixel over its windows (Zeiler and
    Fergus 2014, arXiv:1311.2901, section 4.2).

    Windows start at multiples of the stride until one reaches the far edge; the last ones are cropped to the image.
    Evaluation 0 is the image itself, then windows follow in reading order, forward only. Pixels without an evaluated
    window are zero.

    Args:
        window: side in pixels, or height and width (in general, one number per dimension except the channels).
        stride: at most the window; default: half of it.
        baseline: replacement of the window; see :class:`~lit_viz.attributions.baselines.Baseline`.
        sigma: of the blurred baseline, in pixels.
    """

    spatial: ClassVar[bool] = True
    reducer: ClassVar[str] = "positive"

    def __init__(
        self,
        window: int | Sequence[int] | None = None,
        stride: int | Sequence[int] | None = None,
        baseline: Kind | float = "mean",
        sigma: float = 10.0,
    ) -> None:
        self._given = window, stride
        self.windows, self.strides = self._window_and_stride(_WINDOW if window is None else window, stride)
        self.baseline = Baseline(baseline, sigma)

    @staticmethod
    def _window_and_stride(
        window: int | Sequence[int], stride: int | Sequence[int] | None
    ) -> tuple[list[int], list[int]]:
        """Return the sides of the window and its strides, one per dimension."""
        windows = _as_list(window)
        strides = [max(1, side // 2) for side in windows] if stride is None else _as_list(stride)
        if len(strides) == 1:
            strides = strides * len(windows)
        if len(windows) != len(strides) or not all(1 <= s <= w for w, s in zip(windows, strides, strict=True)):
            raise LitVizError(
                f"stride of Occlusion must be between 1 and the window, got window {window} and stride {stride}"
            )
        return windows, strides

    def bind(self, classifier: Classifier) -> None:
        """Set the default window for the classifier's input size, and count its windows."""
        if self._given[0] is None:
            self.windows, self.strides = self._window_and_stride(
                max(1, round(min(classifier.size) / _FRACTION)), self._given[1]
            )
        self.evaluations = self.default_evaluations((classifier.channels, *classifier.size))

    def default_evaluations(self, shape: Sequence[int]) -> int:
        """Return the number of windows + 1."""
        return 1 + math.prod(count for _, _, _, count in self._grid(shape))

    @property
    def fixed(self) -> bool:
        """True: pixels of omitted windows would appear irrelevant."""
        return True

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the baselines, and zero sums of score decreases and windows."""
        empty = torch.zeros_like(x[:, :1] if x.ndim > 2 else x)
        return {
            **super().init(x, tasks),
            "baseline": self.baseline(x, [task.seed for task in tasks]),
            "score": x.new_zeros(len(x)),
            "total": torch.full((len(x),), self.default_evaluations(x.shape[1:]), device=x.device),
            "losses": empty,
            "windows": empty.clone(),
        }

    def advance(self, state: State) -> Tensor:
        """Return the number of windows of the next step, at most the remaining ones."""
        return torch.minimum(super().advance(state), state["total"] - state["iteration"])

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Evaluate windows, and add the decrease of the score to their pixels."""
        hidden = self.masks(x, numbers)
        inputs = torch.where(hidden, gather_rows(state["baseline"], slots), gather_rows(x, slots))
        scores = evaluate(inputs, gradient=False, slots=slots).score.to(x.dtype)
        first = to_device([m for m, k in enumerate(to_list(numbers)) if k == 0], x.device, torch.long)
        if len(first):
            state["score"] = state["score"].index_copy(0, slots[first], scores[first])
        losses = (state["score"][slots] - scores).view(-1, *[1] * (x.ndim - 1))
        state["losses"] = add_rows(state["losses"], slots, losses * hidden)
        state["windows"] = add_rows(state["windows"], slots, hidden)
        return state

    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Return the mean decrease over the evaluated windows."""
        return state["losses"] / state["windows"].clamp_min(1)

    def converged(self, x: Tensor, state: State) -> Tensor:
        """Return which maps have evaluated all windows."""
        return state["iteration"] >= state["total"]

    def masks(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Return the replaced pixels of evaluations, bool ``(M, 1, H, W)`` for images; none in evaluation 0."""
        grid = self._grid(x.shape[1:])
        positions = torch.unravel_index((numbers - 1).clamp_min(0), [count for _, _, _, count in grid])
        hidden = numbers.view(-1, *[1] * (x.ndim - 1)) > 0
        for axis, (position, size) in enumerate(zip(positions, grid, strict=True), x.ndim - len(grid)):
            length, window, stride, _ = size
            offset = torch.arange(length, device=x.device) - stride * position[:, None]
            shape = [len(numbers) if d == 0 else length if d == axis else 1 for d in range(x.ndim)]
            hidden = hidden & ((offset >= 0) & (offset < window)).view(shape)
        return hidden

    def _grid(self, shape: Sequence[int]) -> list[tuple[int, int, int, int]]:
        """Return length, window, stride and number of windows of each dimension except the channels."""
        lengths = shape[1:] if len(shape) > 1 else shape
        windows, strides = (v * len(lengths) if len(v) == 1 else v for v in (self.windows, self.strides))
        if len(windows) != len(lengths) or any(w > length for w, length in zip(windows, lengths, strict=True)):
            raise LitVizError(
                f"window of Occlusion must be at most the input of {_by(lengths)}, got {_by(self.windows)}"
            )
        sizes = zip(lengths, windows, strides, strict=True)
        return [(length, w, s, 1 + math.ceil((length - w) / s)) for length, w, s in sizes]


def _as_list(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes)) + " pixels"
