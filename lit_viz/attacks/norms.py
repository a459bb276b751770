"""Where an image may go (a ball around the photograph, inside [0, 1]), and the steepest way up in that ball's norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.optim.rule import chosen, norm, per_slot, unit
from lit_viz.rng import Draws, Key

#: How a perturbation is measured: by its largest value, or by its Euclidean length.
Norm = Literal["linf", "l2"]
#: A length may pass its bound by so much, in units of [0, 1], by rounding alone.
ROUNDING = 1e-6

_EXACT = 40  # Newton steps at most; three to six are usual


def project(x: Tensor, source: Tensor, eps: Tensor, ball: Norm) -> Tensor:
    """Return the nearest images that are in [0, 1] and no further than eps from the photographs.

    Args:
        x: images ``(N, C, H, W)``.
        source: the photographs, in [0, 1].
        eps: radii ``(N,)``.
        ball: the norm.
    """
    if ball == "linf":
        radius = per_slot(eps, x)
        return torch.minimum(torch.maximum(x, source - radius), source + radius).clamp_(0, 1)
    low, high = (-source).clamp(max=0), (1 - source).clamp(min=0)
    return (source + shortened(x - source, low, high, eps)).clamp(0, 1)


def shortened(change: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
    """Return the nearest changes within ``low <= 0 <= high`` that are no longer than eps.

    By the conditions of Karush, Kuhn and Tucker it is ``clip(t * change)`` for one t in (0, 1] an image: 1 where that
    is short enough (nothing is ever scaled up), else where the length is eps. The squared length is concave and
    piecewise linear in t^2, so Newton's method from below reaches it in finitely many steps, and never passes it.
    """
    squared = eps.to(change.dtype).square()
    whole = change.clamp(low, high)
    fits = norm(whole) <= eps
    if bool(fits.all()):
        return whole
    t = torch.zeros_like(squared)
    for _ in range(_EXACT):
        scaled = per_slot(t, change) * change
        free = (scaled >= low) & (scaled <= high)
        slope = norm(torch.where(free, change, 0)).square()
        clipped = norm(torch.where(free, 0, scaled.clamp(low, high))).square()
        before, step = t, ((squared - clipped) / slope).clamp(min=0).sqrt().nan_to_num(1.0).clamp(max=1)
        t = torch.maximum(step, before)  # a row that has arrived stays, however long others take
        if bool((t <= before).all()):
            break
    return chosen(fits, whole, (per_slot(t, change) * change).clamp(low, high))


def checked_norm(ball: Norm) -> Norm:
    """Return the norm, if it is one.

    Raises:
        LitVizError: it is none.
    """
    if ball not in get_args(Norm):
        raise LitVizError(f"there is no norm '{ball}': take linf or l2.")
    return ball


def extent(change: Tensor, ball: Norm) -> Tensor:
    """Return how long changes are in the norm ``(N,)``."""
    return change.flatten(1).abs().amax(1) if ball == "linf" else norm(change)


def steepest(gradient: Tensor, ball: Norm) -> Tensor:
    """Return the change of norm 1 that raises the score most to first order: the sign, or the gradient over its length.

    Where the gradient is zero it is zero, and where it is no number it is none (torch has 0 for the sign of that).
    """
    if ball == "l2":
        return unit(gradient)
    sign = gradient.sign()
    # One pass, where to look for NaN and to choose takes three; but to ask a GPU is to wait for it.
    finite = gradient.is_cpu and bool(gradient.sum().isfinite())
    return sign if finite else torch.where(gradient.isnan(), gradient, sign)


def random_start(source: Tensor, seeds: Sequence[int], restarts: Sequence[int], eps: Tensor, ball: Norm) -> Tensor:
    """Return images at random in the ball, uniformly, then projected into [0, 1].

    Args:
        source: the photographs ``(N, C, H, W)``.
        seeds: of the tasks.
        restarts: which start it is, each with its own draw.
        eps: radii ``(N,)``.
        ball: the norm.
    """
    keys = [Key(seed, 0, restart) for seed, restart in zip(seeds, restarts, strict=True)]
    draws = Draws(keys, source.device).scoped("attack")
    shape = source.shape[1:]
    if ball == "linf":
        change = draws.uniform("start", -1, 1, shape).to(source.dtype)
    else:
        length = draws.uniform("radius").to(source.dtype) ** (1 / shape.numel())
        change = unit(draws.normal("start", shape).to(source.dtype)) * per_slot(length, source)
    return project(source + per_slot(eps, source) * change, source, eps, ball)


def distance_to_boundary(gap: Tensor, slope: Tensor, ball: Norm) -> Tensor:
    """Return the distances ``|gap| / ||slope||`` ``(N,)`` at which a linear gap closes, infinite where nothing slopes.

    Args:
        gap: differences of two logits ``(N,)``.
        slope: their gradients ``(N, C, H, W)``, measured in the dual of the norm: L1 for linf, L2 for l2.
        ball: the norm of the distances.
    """
    steepness = norm(slope, 1 if ball == "linf" else 2)
    return torch.where(steepness > 0, gap.abs() / steepness, torch.inf)


def ways(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest slopes up which the pixels of ``x`` ``(N, C, H, W)`` can go.

    Slopes clamped to them are zero where a way up them would leave [0, 1] at once, at black pixels down and at white
    ones up: a pixel that can't go along brings no boundary nearer.
    """
    x = x.contiguous(memory_format=torch.channels_last)  # as a network's slopes are
    return torch.where(x <= 0, 0, -torch.inf), torch.where(x >= 1, 0, torch.inf)
