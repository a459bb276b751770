"""What the score loses when a part of the photograph is hidden."""

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

#: Sides of a picture that a window is a part of, unless it is given: 32 of 224 pixels.
_USUAL, _PART = 32, 7


class Occlusion(Estimator):
    """``score(x) - score(x with a window hidden)``, at every pixel the mean over the windows that cover it (Zeiler and
    Fergus 2014, arXiv:1311.2901, section 4.2).

    Windows start at every multiple of the stride until one reaches the far edge; what would stand out beyond it is cut
    off, so the last ones may be smaller. Evaluation 0 is the photograph itself, then the windows follow in reading
    order, forward only. Where no window has been yet the map is zero.

    Args:
        window: side in pixels, or height and width (in general, one number a dimension besides the channels).
        stride: from window to window, at most the window; half of it unless given.
        baseline: what is put in the window; see :class:`~lit_viz.attributions.baselines.Baseline`.
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
        self.windows, self.strides = self._moving(_USUAL if window is None else window, stride)
        self.baseline = Baseline(baseline, sigma)

    @staticmethod
    def _moving(window: int | Sequence[int], stride: int | Sequence[int] | None) -> tuple[list[int], list[int]]:
        """Return the sides of the windows and their strides."""
        windows = _several(window)
        strides = [max(1, side // 2) for side in windows] if stride is None else _several(stride)
        if len(strides) == 1:
            strides = strides * len(windows)
        if len(windows) != len(strides) or not all(1 <= s <= w for w, s in zip(windows, strides, strict=True)):
            raise LitVizError(
                f"an occlusion window of {window} pixels can't move by {stride}: "
                "give a window of 1 or more and a stride from 1 to the window."
            )
        return windows, strides

    def bind(self, classifier: Classifier) -> None:
        """Fit the window to the classifier's input, unless it was given, and count the windows on it."""
        if self._given[0] is None:
            self.windows, self.strides = self._moving(max(1, round(min(classifier.size) / _PART)), self._given[1])
        self.evaluations = self.default_evaluations((classifier.channels, *classifier.size))

    def default_evaluations(self, shape: Sequence[int]) -> int:
        """Return one more than there are windows."""
        return 1 + math.prod(count for _, _, _, count in self._grid(shape))

    @property
    def fixed(self) -> bool:
        """A map with windows left out would say of their places that they don't matter."""
        return True

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the baselines, and neither losses nor windows."""
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
        """Return how many windows the next step hides: not more than there are."""
        return torch.minimum(super().advance(state), state["total"] - state["iteration"])

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Hide windows, and spread over them what the score has lost."""
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
        """Return the mean loss over the windows so far."""
        return state["losses"] / state["windows"].clamp_min(1)

    def converged(self, x: Tensor, state: State) -> Tensor:
        """Return where every window has been."""
        return state["iteration"] >= state["total"]

    def masks(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Return what is hidden in evaluations, bool ``(M, 1, H, W)`` (for ``x`` ``(N, C, H, W)``): nothing in 0."""
        grid = self._grid(x.shape[1:])
        places = torch.unravel_index((numbers - 1).clamp_min(0), [count for _, _, _, count in grid])
        hidden = numbers.view(-1, *[1] * (x.ndim - 1)) > 0
        for axis, (place, (length, window, stride, _)) in enumerate(zip(places, grid, strict=True), x.ndim - len(grid)):
            along = torch.arange(length, device=x.device) - stride * place[:, None]
            shape = [len(numbers) if d == 0 else length if d == axis else 1 for d in range(x.ndim)]
            hidden = hidden & ((along >= 0) & (along < window)).view(shape)
        return hidden

    def _grid(self, shape: Sequence[int]) -> list[tuple[int, int, int, int]]:
        """Return length, window, stride and number of windows in each dimension but the channels."""
        lengths = shape[1:] if len(shape) > 1 else shape
        windows, strides = (v * len(lengths) if len(v) == 1 else v for v in (self.windows, self.strides))
        if len(windows) != len(lengths) or any(w > length for w, length in zip(windows, lengths, strict=True)):
            raise LitVizError(
                f"an occlusion window of {_by(self.windows)} doesn't fit an input of {_by(lengths)}: "
                "give a smaller window."
            )
        sizes = zip(lengths, windows, strides, strict=True)
        return [(length, w, s, 1 + math.ceil((length - w) / s)) for length, w, s in sizes]


def _several(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes)) + " pixels"
