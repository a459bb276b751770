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
        window: side in pixels, or height and width.
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
        self.default_window, self.stride = window is None, stride
        self.baseline = Baseline(baseline, sigma)
        self._set_window(_WINDOW if window is None else window)

    def _set_window(self, window: int | Sequence[int]) -> None:
        """Set the sides of the window and the strides, ``[height, width]`` each."""
        self.windows = _pair(window)
        self.strides = [max(1, side // 2) for side in self.windows] if self.stride is None else _pair(self.stride)
        if not all(1 <= stride <= side for stride, side in zip(self.strides, self.windows, strict=True)):
            raise LitVizError(
                f"stride of Occlusion must be between 1 and the window, got window {window} and stride {self.stride}"
            )

    def bind(self, classifier: Classifier) -> None:
        """Set the default window for the classifier's input size, and count its windows."""
        if self.default_window:
            self._set_window(max(1, round(min(classifier.size) / _FRACTION)))
        self.evaluations = self.default_evaluations((classifier.channels, *classifier.size))

    def default_evaluations(self, shape: Sequence[int]) -> int:
        """Return the number of windows + 1."""
        return 1 + math.prod(self._grid(shape))

    @property
    def fixed(self) -> bool:
        """True: pixels of omitted windows would appear irrelevant."""
        return True

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the baselines, and zero sums of score decreases and windows."""
        return {
            **super().init(x, tasks),
            "baseline": self.baseline(x, [task.seed for task in tasks]),
            "score": x.new_zeros(len(x)),
            "total": torch.full((len(x),), self.default_evaluations(x.shape[1:]), device=x.device),
            "losses": self.zero_map(x),
            "windows": self.zero_map(x),
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
        losses = (state["score"][slots] - scores).view(-1, 1, 1, 1)
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
        """Return the replaced pixels of evaluations, bool ``(M, 1, H, W)``; none in evaluation 0."""
        positions = torch.unravel_index((numbers - 1).clamp_min(0), self._grid(x.shape[1:]))
        covered = []
        for position, length, side, stride in zip(positions, x.shape[2:], self.windows, self.strides, strict=True):
            offset = torch.arange(length, device=x.device) - stride * position[:, None]
            covered.append((offset >= 0) & (offset < side))
        rows, columns = covered
        return ((numbers > 0)[:, None, None] & rows[:, :, None] & columns[:, None])[:, None]

    def _grid(self, shape: Sequence[int]) -> list[int]:
        """Return the number of windows down and across an input ``(C, H, W)``."""
        if len(shape) != 3 or any(side > length for side, length in zip(self.windows, shape[1:], strict=True)):
            window = " x ".join(map(str, self.windows))
            raise LitVizError(f"window of Occlusion must be at most the input {tuple(shape)}, got {window} pixels")
        sizes = zip(shape[1:], self.windows, self.strides, strict=True)
        return [1 + math.ceil((length - side) / stride) for length, side, stride in sizes]


def _pair(value: int | Sequence[int]) -> list[int]:
    pair = [value] * 2 if isinstance(value, int) else list(value)
    if len(pair) != 2:
        raise LitVizError(f"window and stride of Occlusion must be a side or (height, width), got {value}")
    return pair
