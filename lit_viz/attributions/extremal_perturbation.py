"""A mask in training: which part of the photograph, of a given area, keeps the class best?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_viz.attributions.base import Attribution
from lit_viz.engine.tasks import Task
from lit_viz.errors import LitVizError
from lit_viz.images.gaussian import gaussian_blur
from lit_viz.objectives import LogProbability, Objective
from lit_viz.optim import Evaluate, State
from lit_viz.optim.rule import never, per_slot

_TEMPERATURE = 0.05  # of the smooth maximum
_LEVELS = 4  # of blur besides the photograph
_START = 0.5  # of the coarse mask, everywhere
_MOMENTUM = 0.9
_GROWTH = 32.0  # of the area's weight, from the first evaluation to the last


class ExtremalPerturbation(Attribution):
    """The smooth mask ``m`` of a given area that keeps the class most probable when all else is blurred (Fong, Patrick
    and Vedaldi 2019, arXiv:1910.08485, the preservation game).

    Gradient ascent with momentum on ``score(perturbed(photograph, m)) - weight * R(m)``: ``m`` is made of a coarse mask
    by :func:`smoothed`, ``R`` is :func:`area_penalty` and its weight grows, so that at first the mask finds its place
    and in the end has its area. One evaluation an iteration, with its backward.

    The score is the log probability. A logit can be raised far above that of the photograph, and a mask that is trained
    for it goes after whatever does so.

    Args:
        area: of the mask, as a fraction of the image.
        sigma: how far around its cell a coarse mask of 1 reaches undiminished, in pixels: no part of the mask is finer.
        cell: side of a cell of the coarse mask, in pixels.
        blur: standard deviation of the blur where the mask is 0, in pixels.
        lr: learning rate; that of a cell is so many times larger as there are cells, for their share in the area is
            so much smaller.
        weight: of the area in the end, in units of the score.
    """

    evaluations = 400
    spatial: ClassVar[bool] = True
    reducer: ClassVar[str] = "positive"
    objective: Objective = LogProbability()

    def __init__(
        self,
        area: float = 0.2,
        sigma: float = 8.0,
        cell: int = 7,
        blur: float = 10.0,
        lr: float = 1e-5,
        weight: float = 500.0,
    ) -> None:
        if not 0 < area < 1:
            raise LitVizError(f"a mask covers a fraction of the image between 0 and 1, not {area}: 0.2 is usual.")
        if cell < 1 or not all(0 < value < math.inf for value in (sigma, blur, lr, weight)):
            raise LitVizError(
                f"sigma {sigma}, cell {cell}, blur {blur}, lr {lr} and weight {weight} of an extremal perturbation "
                "have to be positive numbers: leave out what you don't want to change."
            )
        self.area, self.sigma, self.cell, self.blur, self.lr, self.weight = area, sigma, cell, blur, lr, weight

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return a coarse mask ``(N, 1, h, w)`` without a preference, its velocity, and the photographs' blurs.

        Raises:
            LitVizError: x is no batch of images.
        """
        if x.ndim != 4:
            raise LitVizError(
                f"an extremal perturbation blurs images (N, C, H, W), not {tuple(x.shape)}: choose another method."
            )
        height, width = (math.ceil(side / self.cell) for side in x.shape[2:])
        mask = x.new_full((len(x), 1, height, width), _START)
        blurs = pyramid(x, self.blur, _LEVELS)
        return {**super().init(x, tasks), "mask": mask, "velocity": torch.zeros_like(mask), "blurs": blurs}

    def advance(self, state: State) -> Tensor:
        """Return one, for every slot."""
        return torch.ones_like(state["iteration"])

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Evaluate what the masks let through, and move them up."""
        with torch.enable_grad():
            coarse = state["mask"].clone().requires_grad_()
            mask = self._smoothed(coarse)
            inputs = perturbed(state["blurs"], enlarged(mask, x))
            slope = evaluate(inputs.detach()).gradient
            # Sorted before it is enlarged, which keeps the mean: fifty times fewer values.
            penalty = self._weight(state).to(x.dtype) * area_penalty(mask, self.area)
            (gradient,) = torch.autograd.grad((slope * inputs).sum() - penalty.sum(), coarse)
        velocity = _MOMENTUM * state["velocity"] + gradient
        moved = (state["mask"] + self.lr * coarse[0].numel() * velocity).clamp(0, 1)
        return x, {**state, "mask": moved, "velocity": velocity}, never(x)

    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Return the masks, in [0, 1]."""
        return enlarged(self._smoothed(state["mask"]), x) * per_slot(state["iteration"] > 0, x)

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Return how far the mean of the mask is from the area that was asked for, as a fraction of the image.

        Nothing tells how far another mask of that area would do better.
        """
        error = (self.attribution(x, state).flatten(1).mean(1) - self.area).abs()
        return {"area_error": torch.where(state["iteration"] > 0, error, torch.inf)}

    def _smoothed(self, coarse: Tensor) -> Tensor:
        return smoothed(coarse, self.sigma / self.cell)

    def _weight(self, state: State) -> Tensor:
        """Return the weight of the area ``(N,)``: none at first, where all pixels are equal and have no order yet."""
        progress = state["iteration"].double() / state["iterations"]
        return self.weight * _GROWTH ** (progress - 1) * (state["iteration"] > 0)


def smoothed(mask: Tensor, sigma: float, temperature: float = _TEMPERATURE) -> Tensor:
    """Return the smooth max-convolution ``m(u) = smax over v of k(u - v) mask(v)`` (of the paper).

    ``smax f = sum of f exp(f / T) / sum of exp(f / T)``. ``k(d) = exp(-max(0, |d| / sigma - 1)^2 / 4)`` is 1 up to
    sigma, so it widens what is 1 and leaves it 1, and falls like a Gaussian beyond. ``v`` runs over the square around u
    that reaches to ``4 sigma``; beyond the border the mask goes on as it is there, so that no place is preferred.

    Args:
        mask: ``(N, 1, h, w)``.
        sigma: in cells of the mask.
        temperature: T; towards 0 it is the maximum, and the larger it is the more it is the mean.
    """
    radius = math.ceil(4 * sigma)
    along = torch.arange(-radius, radius + 1, dtype=mask.dtype, device=mask.device)
    distance = torch.hypot(along[:, None], along) / sigma
    kernel = torch.exp(-(distance - 1).clamp_min(0).square() / 4)
    around = F.unfold(F.pad(mask, [radius] * 4, mode="replicate"), len(along))
    terms = around * kernel.view(1, -1, 1)
    return (terms * (terms / temperature).softmax(1)).sum(1).view_as(mask)


def enlarged(mask: Tensor, x: Tensor) -> Tensor:
    """Return masks ``(N, 1, h, w)`` bilinearly enlarged to the height and width of ``x``."""
    return F.interpolate(mask, x.shape[2:], mode="bilinear", align_corners=False)


def area_penalty(mask: Tensor, area: float) -> Tensor:
    """Return the mean square of ``sorted values - (0 ... 0 1 ... 1)`` with a fraction ``area`` of ones, ``(N,)``.

    It is 0 only for a mask of zeros and ones that has this area (of the paper).

    Args:
        mask: ``(N, 1, H, W)``.
        area: in (0, 1).
    """
    ordered = mask.flatten(1).sort(dim=1).values
    count = ordered.shape[1]
    reference = torch.arange(count, device=mask.device) >= round((1 - area) * count)
    return (ordered - reference.to(mask.dtype)).square().mean(1)


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
    above = depth.floor().clamp(0, last - 1)
    index = above.long()[:, None].expand(-1, -1, blurs.shape[2], -1, -1)
    sharper, softer = (blurs.gather(1, index + k).squeeze(1) for k in (0, 1))
    return sharper + (depth - above) * (softer - sharper)
