"""A mask in training: which part of the photograph, of a given area, keeps the class best?"""

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
from lit_viz.errors import LitVizError
from lit_viz.images.gaussian import gaussian_blur
from lit_viz.objectives import LogProbability, Objective
from lit_viz.optim import Evaluate, State
from lit_viz.optim.rule import never, per_slot, unit
from lit_viz.types import Task

_TEMPERATURE = 0.05  # of the smooth maximum
_LEVELS = 4  # of blur besides the photograph
_MOMENTUM = 0.9
_FIRST = 0.95  # area of the first mask
_SECANTS = 4
_FARTHEST = 10.0  # that an offset moves in a step
_LEAST = 1e-4  # area of which a logit is taken; the largest is 1 less that
_SHRUNK = 0.5  # share of the evaluations after which the mask has its area


class ExtremalPerturbation(Attribution):
    """The smooth mask ``m`` of a given area that keeps the class most probable when all else is blurred (Fong, Patrick
    and Vedaldi 2019, arXiv:1910.08485, the preservation game).

    Gradient ascent with momentum on the score of :func:`perturbed` photographs. A coarse mask ``sigmoid(w - b)`` is
    smoothed by :func:`smoothed`; ``w`` is trained, and ``b`` is always such that the mask has its area. So the gradient
    along masks of equal area is ascended, at a length that doesn't depend on the score's scale. One evaluation an
    iteration, with its backward.

    It departs from the paper in how the area is held: there the mask has it in the end, by a penalty on its sorted
    values. Here it shrinks, and what matters least is lost first: a mask that has to find its place from afar, where
    the class can't be seen, finds it beside the object. Once it has shrunk, the best mask so far is kept.

    The score is the log probability. A logit can be raised far above that of the photograph, and a mask that is trained
    for it goes after whatever does so.

    Args:
        area: of the mask, as a fraction of the image.
        sigma: how far around its cell a coarse mask of 1 reaches undiminished, in pixels: no part of the mask is finer.
        cell: side of a cell of the coarse mask, in pixels.
        blur: standard deviation of the blur where the mask is 0, in pixels.
        lr: learning rate: how far ``w`` moves in an iteration, root mean square over the cells, where all agree.
    """

    evaluations = 300
    spatial: ClassVar[bool] = True
    reducer: ClassVar[str] = "positive"
    objective: Objective = LogProbability()

    def __init__(
        self, area: float = 0.2, sigma: float = 8.0, cell: int = 7, blur: float = 10.0, lr: float = 0.3
    ) -> None:
        if not 0 < area < 1:
            raise LitVizError(f"a mask covers a fraction of the image between 0 and 1, not {area}: 0.2 is usual.")
        if cell < 1 or not all(0 < value < math.inf for value in (sigma, blur, lr)):
            raise LitVizError(
                f"sigma {sigma}, cell {cell}, blur {blur} and lr {lr} of an extremal perturbation have to be positive "
                "numbers: leave out what you don't want to change."
            )
        self.area, self.sigma, self.cell, self.blur, self.lr = area, sigma, cell, blur, lr

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return weights ``(N, 1, h, w)`` without a preference, their velocity, and the photographs' blurs.

        Raises:
            LitVizError: x is no batch of images.
        """
        if x.ndim != 4:
            raise LitVizError(
                f"an extremal perturbation blurs images (N, C, H, W), not {tuple(x.shape)}: choose another method."
            )
        height, width = (math.ceil(side / self.cell) for side in x.shape[2:])
        weights = x.new_zeros(len(x), 1, height, width)
        return {
            **super().init(x, tasks),
            "weights": weights,
            "velocity": weights.clone(),
            "offset": x.new_full((len(x), 1, 1, 1), math.log(1 / _FIRST - 1)),
            "best": x.new_full((len(x),), -torch.inf),
            "best_weights": weights.clone(),
            "blurs": pyramid(x, self.blur, _LEVELS),
        }

    def advance(self, state: State) -> Tensor:
        """Return one, for every slot."""
        return torch.ones_like(state["iteration"])

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Evaluate what the masks let through, and move them up."""
        area = self._area(state).to(x.dtype).view(-1, 1, 1, 1)
        offset = self._following(state["weights"], area, state["offset"])
        with torch.enable_grad():
            weights = state["weights"].clone().requires_grad_()
            mask = self._mask(weights, offset)
            inputs = perturbed(state["blurs"], enlarged(mask, x))
            evaluation = evaluate(inputs.detach())
            (gain,) = torch.autograd.grad(inputs, weights, evaluation.gradient, retain_graph=True)
            (growth,) = torch.autograd.grad(mask.sum(), weights)
        # b makes good what w adds to the area, where the masks are not all 0 or 1.
        gradient = gain - growth * (_total(gain) / _total(growth)).nan_to_num(0, 0, 0)
        cells = math.prod(weights.shape[1:])
        velocity = torch.lerp(math.sqrt(cells) * unit(gradient).to(x.dtype), state["velocity"], _MOMENTUM)
        score = evaluation.score.to(x.dtype)
        better = (area.flatten() <= self.area) & (score > state["best"])
        moved = {
            "weights": state["weights"] + self.lr * velocity,
            "velocity": velocity,
            "offset": offset,
            "best": torch.where(better, score, state["best"]),
            "best_weights": torch.where(better.view(-1, 1, 1, 1), state["weights"], state["best_weights"]),
        }
        return x, {**state, **moved}, never(x)

    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Return the masks, in [0, 1]: the best of those that have shrunk, or the present ones before."""
        shrunk = state["best"].isfinite()
        weights = torch.where(shrunk.view(-1, 1, 1, 1), state["best_weights"], state["weights"])
        area = self._area(state).to(x.dtype).masked_fill(shrunk, self.area).view(-1, 1, 1, 1)
        offset = self._bisected(weights, area)
        return enlarged(self._mask(weights, offset), x) * per_slot(state["iteration"] > 0, x)

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Return how far the mean of the mask is from the area that was asked for, as a fraction of the image.

        Nothing tells how far another mask of that area would do better.
        """
        error = (self.attribution(x, state).flatten(1).mean(1) - self.area).abs()
        return {"area_error": torch.where(state["iteration"] > 0, error, torch.inf)}

    def _area(self, state: State) -> Tensor:
        """Return the area ``(N,)`` of the present masks: it shrinks by a constant factor, and then stays."""
        progress = (state["iteration"].double() / state["iterations"] / _SHRUNK).clamp_max(1)
        first = max(_FIRST, self.area)
        return torch.where(progress < 1, first * (self.area / first) ** progress, self.area)

    def _mask(self, weights: Tensor, offset: Tensor) -> Tensor:
        return smoothed((weights - offset).sigmoid(), self.sigma / self.cell)

    def _following(self, weights: Tensor, area: Tensor, before: Tensor) -> Tensor:
        """Return the offset ``(N, 1, 1, 1)`` of masks of about this area, not far from that of the step before.

        By secants through the area's logit, in which a mask without a preference is linear; one that leaves the
        interval that holds the offset is replaced by its middle.
        """
        wanted, low, high = area.logit(), before - _FARTHEST, before + _FARTHEST
        last, offset, missed_last, slope = before, before, torch.zeros_like(area), torch.full_like(area, -1.0)
        for _ in range(_SECANTS):
            missed = self._covered(weights, offset).logit(_LEAST) - wanted
            low, high = torch.where(missed > 0, offset, low), torch.where(missed > 0, high, offset)
            slope = torch.where(offset == last, slope, (missed - missed_last) / (offset - last))
            last, missed_last = offset, missed
            met = offset - missed / slope
            offset = torch.where((met >= low) & (met <= high), met, (low + high) / 2)
        return offset

    def _bisected(self, weights: Tensor, area: Tensor) -> Tensor:
        """Return the offset ``(N, 1, 1, 1)`` of masks of this area, by halving an interval that holds it."""
        low, high = weights.amin((1, 2, 3), keepdim=True), weights.amax((1, 2, 3), keepdim=True)
        offset, width = (low + high) / 2, (high - low).max() + 40
        for _ in range(40):
            width = width / 2
            larger = self._covered(weights, offset) > area
            offset = offset + width * (2 * larger.to(offset.dtype) - 1)
        return offset

    def _covered(self, weights: Tensor, offset: Tensor) -> Tensor:
        """Return the area of the masks ``(N, 1, 1, 1)``, as a fraction of the image."""
        return self._mask(weights, offset).mean((1, 2, 3), keepdim=True)


def _total(values: Tensor) -> Tensor:
    return values.sum((1, 2, 3), keepdim=True)


def smoothed(mask: Tensor, sigma: float, temperature: float = _TEMPERATURE) -> Tensor:
    """Return the smooth max-convolution ``m(u) = smax over v of k(u - v) mask(v)`` (of the paper).

    ``smax f = sum of f exp(f / T) / sum of exp(f / T)``. ``k(d) = exp(-max(0, |d| / sigma - 1)^2 / 4)`` is 1 up to
    sigma, so it widens what is 1 and leaves it 1, and falls like a Gaussian beyond. ``v`` runs over the square around u
    that reaches to ``4 sigma``; beyond the border the mask goes on as it is there, so that no place is preferred.

    Args:
        mask: ``(N, 1, h, w)`` in [0, 1].
        sigma: in cells of the mask.
        temperature: T, 0.02 at least in float32; towards 0 it is the maximum, and the larger it is the more it is the
            mean.
    """
    weights, place = _kernel(sigma, mask.dtype, mask.device)
    terms = F.pad(mask, [len(place) // 2] * 4, mode="replicate") * weights.view(1, -1, 1, 1)
    shares = ((terms - 1) / temperature).exp()
    weighed = _around(torch.stack([terms * shares, shares]), place)
    return weighed[0] / weighed[1]


@cache
def _kernel(sigma: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the weights ``(D,)`` in k, and for each place around a cell which is its own ``(2 r + 1, 2 r + 1)``.

    The 121 places of the usual sigma have 19 distances: what a term is depends on its own cell and on that alone.
    """
    radius = math.ceil(4 * sigma)
    with torch.inference_mode(False):  # a later call may want a gradient
        along = torch.arange(-radius, radius + 1, dtype=dtype, device=device)
        distance = torch.hypot(along[:, None], along) / sigma
        kernel = torch.exp(-(distance - 1).clamp_min(0).square() / 4)
        weights, place = torch.unique(kernel, return_inverse=True)
    return weights, place


def _around(maps: Tensor, place: Tensor) -> Tensor:
    """Return ``sum over v of maps[place(v)](u + v)``, ``(..., 1, h, w)``.

    Args:
        maps: ``(2, N, D, h + 2 r, w + 2 r)``.
        place: ``(2 r + 1, 2 r + 1)``, which of the D each v takes.
    """
    if maps.is_cpu:
        return _Around.apply(maps, place)  # type: ignore[no-any-return, no-untyped-call]
    weight = (place == torch.arange(maps.shape[2], device=place.device).view(-1, 1, 1))[None].to(maps)
    total = F.conv2d(maps.flatten(0, 1), weight)
    return total.view(*maps.shape[:2], *total.shape[1:])


class _Around(torch.autograd.Function):
    """By sums of shifted maps, which the cache holds: a fourth of the time of torch's convolution to one channel."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, place: Tensor) -> Tensor:
        ctx.place, ctx.shape = place.tolist(), maps.shape
        height, width = (side - len(place) + 1 for side in maps.shape[-2:])
        total = maps.new_zeros(*maps.shape[:2], 1, height, width)
        for part in _shifts(maps, ctx.place):
            total += part
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        maps = gradient.new_zeros(ctx.shape)
        for part in _shifts(maps, ctx.place):
            part += gradient
        return maps, None


def _shifts(maps: Tensor, place: list[list[int]]) -> Iterator[Tensor]:
    """Yield the windows ``(..., 1, h, w)`` of the maps that the places around a cell see."""
    height, width = (side - len(place) + 1 for side in maps.shape[-2:])
    for y, along in enumerate(place):
        for x, d in enumerate(along):
            yield maps[..., d : d + 1, y : y + height, x : x + width]


def enlarged(mask: Tensor, x: Tensor) -> Tensor:
    """Return masks ``(N, 1, h, w)`` bilinearly enlarged to the height and width of ``x``."""
    return F.interpolate(mask, x.shape[2:], mode="bilinear", align_corners=False)


def pyramid(x: Tensor, blur: float, levels: int) -> Tensor:
    """Return the images ``(N, C, H, W)`` blurred by 0, 1 ... ``levels`` parts of ``blur``: ``(N, levels + 1, ...)``."""
    sigmas = [blur * level / levels for level in range(levels + 1)]
    return torch.stack([gaussian_blur(x, torch.full((len(x),), sigma)) for sigma in sigmas], dim=1)


def perturbed(blurs: Tensor, mask: Tensor) -> Tensor:
    """Return the images blurred at every pixel by ``1 - mask`` of the widest blur (of the paper).

    Args:
        blurs: ``(N, levels + 1, C, H, W)``, between whose neighbours it is interpolated; see :func:`pyramid`.
        mask: ``(N, 1, H, W)`` in [0, 1].
    """
    last = blurs.shape[1] - 1
    depth = (1 - mask) * last
    above = depth.detach().floor().clamp(0, last - 1)
    index = above.long()[:, None].expand(-1, -1, blurs.shape[2], -1, -1)
    sharper, softer = (blurs.gather(1, index + k).squeeze(1) for k in (0, 1))
    return sharper + (depth - above) * (softer - sharper)
