"""Extremal perturbation: an optimized mask of given area that preserves the class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lit_viz.attributions.base import Attribution
from lit_viz.errors import require
from lit_viz.images.filters import gaussian_blur
from lit_viz.objectives import LogProbability, Objective
from lit_viz.optim import Evaluate, State, StepRule
from lit_viz.optim.rule import never, per_slot, unit
from lit_viz.types import Task

_TEMPERATURE = 0.05  # of the smooth maximum
_LEVELS = 4  # blur levels in addition to the image
_MOMENTUM = 0.9
_FIRST = 0.95  # area of the first mask
_SECANTS = 4
_MAX_CHANGE = 10.0  # of the offset per step
_MIN_AREA = 1e-4  # areas are clamped to [_MIN_AREA, 1 - _MIN_AREA] before the logit
_SHRUNK = 0.5  # fraction of the evaluations after which the mask has its final area


class ExtremalPerturbation(Attribution):
    """Smooth mask ``m`` of a given area that maximizes the class score when the rest of the image is blurred.
    Fong, Patrick and Vedaldi 2019, arXiv:1910.08485, the preservation game.

    Gradient ascent with momentum on the score of :func:`perturbed` images. A coarse mask ``sigmoid(w - b)`` is smoothed
    by :func:`smoothed`; ``w`` is optimized, and ``b`` is always such that the mask has its area. The update therefore
    ascends the gradient along masks of equal area, with a length that is independent of the scale of the score. One
    evaluation with its backward per iteration.

    The paper enforces the final area by a penalty on the sorted values of the mask. Here the area shrinks over the
    first half of the iterations, so that the initial mask has a gradient; then the best mask is kept.

    The score is the log probability. Logits can exceed that of the image by far, and a mask optimized for the logit
    follows whatever raises it.

    Args:
        area: of the mask, as a fraction of the image.
        sigma: radius in pixels within which a coarse mask of 1 stays 1: the smallest structure of the mask.
        cell: side of a cell of the coarse mask, in pixels.
        blur: standard deviation of the blur where the mask is 0, in pixels.
        lr: learning rate: change of ``w`` per iteration, root mean square over the cells, for constant gradients.
    """

    evaluations = 300
    spatial = True
    reducer: ClassVar[str] = "positive"
    objective: Objective = LogProbability()

    def __init__(
        self, area: float = 0.2, sigma: float = 8.0, cell: int = 7, blur: float = 10.0, lr: float = 0.3
    ) -> None:
        require(0 < area < 1, "area of ExtremalPerturbation must be between 0 and 1", area, hint="0.2 is usual")
        valid = cell >= 1 and all(0 < value < math.inf for value in (sigma, blur, lr))
        got = f"{sigma}, {cell}, {blur} and {lr}"
        require(valid, "sigma, cell, blur and lr of ExtremalPerturbation must be positive", got)
        self.area, self.sigma, self.cell, self.blur, self.lr = area, sigma, cell, blur, lr

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        require(x.ndim == 4, "ExtremalPerturbation requires images (N, C, H, W)", f"shape {tuple(x.shape)}")
        height, width = math.ceil(x.shape[2] / self.cell), math.ceil(x.shape[3] / self.cell)
        weights = x.new_zeros(len(x), 1, height, width)
        return super().init(x, tasks) | {
            "weights": weights,
            "velocity": weights.clone(),
            "offset": x.new_full((len(x), 1, 1, 1), math.log(1 / _FIRST - 1)),
            "best": x.new_full((len(x),), -torch.inf),
            "best_weights": weights.clone(),
            "blurs": pyramid(x, self.blur, _LEVELS),
        }

    advance = StepRule.advance  # one evaluation per slot

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        area = self._area(state).to(x.dtype).view(-1, 1, 1, 1)
        offset = self._track_offset(state["weights"], area, state["offset"])
        with torch.enable_grad():
            weights = state["weights"].clone().requires_grad_()
            mask = self._mask(weights, offset)
            inputs = perturbed(state["blurs"], upsampled(mask, x))
            evaluation = evaluate(inputs.detach())
            (gain,) = torch.autograd.grad(inputs, weights, evaluation.gradient, retain_graph=True)
            (growth,) = torch.autograd.grad(mask.sum(), weights)
        # b compensates the change of area, unless all masks are 0 or 1.
        total_gain, total_growth = gain.sum((1, 2, 3), keepdim=True), growth.sum((1, 2, 3), keepdim=True)
        gradient = gain - growth * (total_gain / total_growth).nan_to_num(0, 0, 0)
        cells = math.prod(weights.shape[1:])
        velocity = torch.lerp(math.sqrt(cells) * unit(gradient).to(x.dtype), state["velocity"], _MOMENTUM)
        score = evaluation.score.to(x.dtype)
        is_better = (area.flatten() <= self.area) & (score > state["best"])
        updated = {
            "weights": state["weights"] + self.lr * velocity,
            "velocity": velocity,
            "offset": offset,
            "best": torch.where(is_better, score, state["best"]),
            "best_weights": torch.where(is_better.view(-1, 1, 1, 1), state["weights"], state["best_weights"]),
        }
        return x, state | updated, never(x)

    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Return the masks in [0, 1]: the best one of the final area, or the current one before."""
        shrunk = state["best"].isfinite()
        weights = torch.where(shrunk.view(-1, 1, 1, 1), state["best_weights"], state["weights"])
        area = self._area(state).to(x.dtype).masked_fill(shrunk, self.area).view(-1, 1, 1, 1)
        offset = self._bisect_offset(weights, area)
        return upsampled(self._mask(weights, offset), x) * per_slot(state["iteration"] > 0, x)

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Return ``area_error``, the difference of the mask's mean and ``area``, as a fraction of the image.

        The difference to the optimal mask can't be estimated.
        """
        error = (self.attribution(x, state).flatten(1).mean(1) - self.area).abs()
        return {"area_error": torch.where(state["iteration"] > 0, error, torch.inf)}

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)`` that are blurred where a mask ``(N, 1, H, W)`` is 0."""
        return perturbed(pyramid(x, self.blur, _LEVELS), mask)

    def _area(self, state: State) -> Tensor:
        """Return the area ``(N,)`` of the current masks: exponential decrease, then constant."""
        progress = (state["iteration"].double() / state["iterations"] / _SHRUNK).clamp_max(1)
        first = max(_FIRST, self.area)
        return torch.where(progress < 1, first * (self.area / first) ** progress, self.area)

    def _mask(self, weights: Tensor, offset: Tensor) -> Tensor:
        return smoothed((weights - offset).sigmoid(), self.sigma / self.cell)

    def _covered(self, weights: Tensor, offset: Tensor) -> Tensor:
        """Compute the area of the masks ``(N, 1, 1, 1)``, as a fraction of the image."""
        return self._mask(weights, offset).mean((1, 2, 3), keepdim=True)

    def _track_offset(self, weights: Tensor, area: Tensor, before: Tensor) -> Tensor:
        """Compute the offset ``(N, 1, 1, 1)`` of masks of approximately this area, near the offset of the last step.

        Secant steps on the logit of the area, which is linear in the offset for uniform masks; a step that leaves the
        bracketing interval is replaced by its midpoint.
        """
        target, low, high = area.logit(), before - _MAX_CHANGE, before + _MAX_CHANGE
        last, offset, last_residual, slope = before, before, torch.zeros_like(area), torch.full_like(area, -1.0)
        for _ in range(_SECANTS):
            residual = self._covered(weights, offset).logit(_MIN_AREA) - target
            low, high = torch.where(residual > 0, offset, low), torch.where(residual > 0, high, offset)
            slope = torch.where(offset == last, slope, (residual - last_residual) / (offset - last))
            last, last_residual = offset, residual
            secant = offset - residual / slope
            offset = torch.where((secant >= low) & (secant <= high), secant, (low + high) / 2)
        return offset

    def _bisect_offset(self, weights: Tensor, area: Tensor) -> Tensor:
        """Compute the offset ``(N, 1, 1, 1)`` of masks of this area by bisection."""
        low, high = weights.amin((1, 2, 3), keepdim=True), weights.amax((1, 2, 3), keepdim=True)
        offset, width = (low + high) / 2, (high - low).max() + 40
        for _ in range(40):
            width = width / 2
            larger = self._covered(weights, offset) > area
            offset = offset + width * (2 * larger.to(offset.dtype) - 1)
        return offset


def smoothed(mask: Tensor, sigma: float, temperature: float = _TEMPERATURE) -> Tensor:
    """Compute the smooth max-convolution ``m(u) = smax over v of k(u - v) mask(v)`` of masks ``(N, 1, h, w)``.

    ``smax f = sum of f exp(f / T) / sum of exp(f / T)``; T is at least 0.02 in float32. ``k(d) = exp(-max(0, |d| /
    sigma - 1)^2 / 4)`` is 1 up to sigma, in cells, so it dilates the mask, and decreases like a Gaussian beyond. ``v``
    is in the square of radius ``4 sigma`` around u; the border is replicated, so that no position is preferred.
    """
    weights, index = _kernel(sigma, mask.dtype, mask.device)
    terms = F.pad(mask, [len(index) // 2] * 4, mode="replicate") * weights.view(1, -1, 1, 1)
    exponentials = ((terms - 1) / temperature).exp()
    sums = _window_sum(torch.stack([terms * exponentials, exponentials]), index)
    return sums[0] / sums[1]


@cache
def _kernel(sigma: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Compute the distinct weights ``(D,)`` of k, and their index for each offset ``(2 r + 1, 2 r + 1)``.

    The 121 offsets of the default sigma have 19 distances; a term depends on its cell and the distance only.
    """
    radius = math.ceil(4 * sigma)
    with torch.inference_mode(False):  # later calls can require a gradient
        offsets = torch.arange(-radius, radius + 1, dtype=dtype, device=device)
        distance = torch.hypot(offsets[:, None], offsets) / sigma
        kernel = torch.exp(-(distance - 1).clamp_min(0).square() / 4)
        weights, index = torch.unique(kernel, return_inverse=True)
    return weights, index


def _window_sum(maps: Tensor, index: Tensor) -> Tensor:
    """Compute ``sum over v of maps[index(v)](u + v)``: ``(2, N, D, h + 2 r, w + 2 r)`` -> ``(2, N, 1, h, w)``."""
    if maps.is_cpu:
        return _WindowSum.apply(maps, index)  # type: ignore[no-any-return, no-untyped-call]
    weight = (index == torch.arange(maps.shape[2], device=index.device).view(-1, 1, 1))[None].to(maps)
    total = F.conv2d(maps.flatten(0, 1), weight)
    return total.view(*maps.shape[:2], *total.shape[1:])


class _WindowSum(torch.autograd.Function):
    """Sum of shifted maps in the cache: a quarter of the time of torch's convolution to one channel on a CPU."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, index: Tensor) -> Tensor:
        ctx.index, ctx.shape = index.tolist(), maps.shape
        height, width = _window_size(maps, ctx.index)
        total = maps.new_zeros(*maps.shape[:2], 1, height, width)
        for window in _windows(maps, ctx.index):
            total += window
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        maps = gradient.new_zeros(ctx.shape)
        for window in _windows(maps, ctx.index):
            window += gradient
        return maps, None


def _windows(maps: Tensor, index: list[list[int]]) -> Iterator[Tensor]:
    """Yield the window ``(..., 1, h, w)`` of the maps for each offset."""
    height, width = _window_size(maps, index)
    for y, row in enumerate(index):
        for x, d in enumerate(row):
            yield maps[..., d : d + 1, y : y + height, x : x + width]


def _window_size(maps: Tensor, index: list[list[int]]) -> tuple[int, int]:
    margin = len(index) - 1
    return maps.shape[-2] - margin, maps.shape[-1] - margin


def upsampled(mask: Tensor, x: Tensor) -> Tensor:
    """Upsample masks ``(N, 1, h, w)`` to the height and width of ``x``, bilinear."""
    return F.interpolate(mask, x.shape[2:], mode="bilinear", align_corners=False)


def pyramid(x: Tensor, blur: float, levels: int) -> Tensor:
    """Blur images ``(N, C, H, W)`` by ``blur * k / levels`` for k = 0 ... levels: ``(N, levels + 1, C, H, W)``."""
    blurs = []
    for level in range(levels + 1):
        sigma = blur * level / levels
        blurs.append(gaussian_blur(x, torch.full((len(x),), sigma)))
    return torch.stack(blurs, dim=1)


def perturbed(blurs: Tensor, mask: Tensor) -> Tensor:
    """Blur images at each pixel by ``1 - mask`` ``(N, 1, H, W)`` times the largest blur, between levels of the
    :func:`pyramid`."""
    last = blurs.shape[1] - 1
    depth = (1 - mask) * last
    above = depth.detach().floor().clamp(0, last - 1)
    index = above.long()[:, None].expand(-1, -1, blurs.shape[2], -1, -1)
    sharper, softer = blurs.gather(1, index).squeeze(1), blurs.gather(1, index + 1).squeeze(1)
    return sharper + (depth - above) * (softer - sharper)
