"""Norms of perturbations: length, dual norm, projection, steepest step, random start and display.

A norm is added here alone: a subclass of :class:`Norm`, its name in ``NormName`` and an instance in ``NORMS``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lit_viz.errors import LitVizError, require
from lit_viz.networks.bands import Bands
from lit_viz.optim.rule import chosen, per_slot, unit
from lit_viz.optim.rule import norm as p_norm
from lit_viz.rng import Draws, Key

#: Names in configurations and records.
NormName = Literal["linf", "l2"]
#: Excess of a length over its bound, in units of [0, 1], that floating-point rounding may cause.
TOLERANCE = 1e-6

_NEWTON_STEPS = 40  # upper bound; three to six are typical


#: Word after a length in the unit of the files, as in ``"20 file"``.
FILE_UNIT = "file"


def is_in_file_units(value: object) -> bool:
    """Return whether a length is given in the unit of the files."""
    return isinstance(value, str) and value.strip().endswith(FILE_UNIT)


def parse_radius(value: float | str, bands: Bands | None = None) -> float:
    """Return a length in units of [0, 1], which may be given as a fraction such as ``"4/255"``, or in the unit of the
    files as ``"20 file"``.

    Args:
        value: the length.
        bands: of the network, whose ``value_range`` defines the unit of the files; NaN without it.

    Raises:
        LitVizError: it is no number, or the bands have different ranges.
    """
    if is_in_file_units(value):
        length = parse_radius(str(value).strip().removesuffix(FILE_UNIT))
        return math.nan if bands is None else bands.radius(length)
    try:
        if not isinstance(value, str):
            return float(value)
        numerator, slash, denominator = value.partition("/")
        if slash:
            return float(numerator) / float(denominator)
        return float(value)
    except ZeroDivisionError as error:
        raise LitVizError(f"the denominator of a radius must not be 0, got {value}") from error
    except (TypeError, ValueError) as error:
        raise LitVizError(f"a radius must be a number such as 0.0157 or 4/255, got {value!r}") from error


class Norm(ABC):
    """A norm in which perturbations are measured and bounded.

    Attributes:
        name: in configurations and records.
        symbol: in figures and messages.
        default_eps: default radius of attacks, in units of [0, 1].
        universal_eps: default radius of universal perturbations.
        large_eps: radius at which every image can be misclassified.
        max_eps: largest meaningful radius.
        display_scale: factor from units of [0, 1] to displayed units.
    """

    name: ClassVar[NormName]
    symbol: ClassVar[str]
    default_eps: ClassVar[float]
    universal_eps: ClassVar[float]
    large_eps: ClassVar[float]
    max_eps: ClassVar[float] = math.inf
    display_scale: ClassVar[float] = 1.0

    def __repr__(self) -> str:
        return self.symbol

    @property
    def axis_label(self) -> str:
        """Symbol with the displayed unit."""
        if self.display_scale == 1:
            return self.symbol
        return f"{self.symbol} (/{self.display_scale:g})"

    def format(self, value: float) -> str:
        """Return a length as users write it."""
        return f"{value:.4g}"

    @abstractmethod
    def length(self, change: Tensor) -> Tensor:
        """Return the norm of each row of ``(N, ...)``, ``(N,)``."""

    @abstractmethod
    def dual_length(self, gradient: Tensor) -> Tensor:
        """Return the dual norm of each row, ``(N,)``: the rate of ascent along :meth:`steepest`."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the changes of norm 1 that raise the score most to first order; 0 for gradient 0, NaN for NaN."""

    @abstractmethod
    def shorten(self, change: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
        """Return the nearest changes of length at most ``eps`` ``(N,)`` in the box ``low <= 0 <= high``."""

    @abstractmethod
    def random_change(self, draws: Draws, like: Tensor) -> Tensor:
        """Return changes that are uniform in the unit ball, shaped like ``like`` ``(N, ...)``."""

    def value_bound(self, eps: float) -> float:
        """Return the bound on each value that defines the ball; infinite where no such bound does."""
        return math.inf

    def excess(self, change: Tensor, eps: float) -> float:
        """Return the amount by which a change ``(C, H, W)`` exceeds the ball, beyond :meth:`value_bound`."""
        return 0.0

    def excess_removed(self, change: Tensor, step: Tensor | float = 1.0) -> Tensor:
        """Return the reduction of :meth:`excess` when each value of ``change`` shrinks by a step."""
        return torch.zeros_like(change)

    def project(self, x: Tensor, source: Tensor, eps: Tensor) -> Tensor:
        """Return the nearest images ``(N, C, H, W)`` in [0, 1] at a distance of at most eps ``(N,)`` from the
        sources."""
        low, high = (-source).clamp(max=0), (1 - source).clamp(min=0)
        return (source + self.shorten(x - source, low, high, eps)).clamp(0, 1)

    def random_start(self, source: Tensor, seeds: Sequence[int], restarts: Sequence[int], eps: Tensor) -> Tensor:
        """Return images drawn uniformly from the balls, then projected into [0, 1]; each restart has its own draw."""
        keys = [Key(seed, iteration=0, view=restart) for seed, restart in zip(seeds, restarts, strict=True)]
        change = self.random_change(Draws(keys, source.device).scoped("attack"), source)
        return self.project(source + per_slot(eps, source) * change, source, eps)

    def distance_to_boundary(self, gap: Tensor, gradient: Tensor) -> Tensor:
        """Return the distances ``|gap| / ||gradient||_dual`` ``(N,)`` at which a linear gap of two logits closes;
        infinite where the gradient is zero."""
        rate = self.dual_length(gradient)
        return torch.where(rate > 0, gap.abs() / rate, torch.inf)


class LInfNorm(Norm):
    """Largest absolute value."""

    name = "linf"
    symbol = "L∞"
    default_eps = 4 / 255  # RobustBench, ImageNet
    universal_eps = 10 / 255  # Moosavi-Dezfooli et al. 2017, section 3.1
    large_eps = 0.5  # reaches mid-gray from any image
    max_eps = 1.0
    display_scale = 255.0

    def format(self, value: float) -> str:
        return f"{value * 255:.3g}/255"

    def length(self, change: Tensor) -> Tensor:
        return change.flatten(1).abs().amax(1)

    def dual_length(self, gradient: Tensor) -> Tensor:
        return p_norm(gradient, 1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the sign, which torch defines as 0 for NaN."""
        sign = gradient.sign()
        # One pass over finite gradients on the CPU; the test would synchronize a GPU.
        if gradient.is_cpu and bool(gradient.sum().isfinite()):
            return sign
        return torch.where(gradient.isnan(), gradient, sign)

    def shorten(self, change: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
        radius = per_slot(eps, change)
        return change.clamp(torch.maximum(low, -radius), torch.minimum(high, radius))

    def project(self, x: Tensor, source: Tensor, eps: Tensor) -> Tensor:
        radius = per_slot(eps, x)
        return torch.minimum(torch.maximum(x, source - radius), source + radius).clamp_(0, 1)

    def random_change(self, draws: Draws, like: Tensor) -> Tensor:
        return draws.uniform("start", -1, 1, like.shape[1:]).to(like.dtype)

    def value_bound(self, eps: float) -> float:
        return eps


class L2Norm(Norm):
    """Euclidean length."""

    name = "l2"
    symbol = "L2"
    default_eps = 1.0
    universal_eps = 2000 / 255  # Moosavi-Dezfooli et al. 2017, section 3.1
    large_eps = 100.0  # at 224 pixels, a quarter of the range in every value

    def length(self, change: Tensor) -> Tensor:
        return p_norm(change)

    def dual_length(self, gradient: Tensor) -> Tensor:
        return p_norm(gradient)

    def steepest(self, gradient: Tensor) -> Tensor:
        return unit(gradient)

    def shorten(self, change: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
        """Return ``clip(t * change)`` of length eps, or t = 1 where that is short enough (Karush-Kuhn-Tucker).

        The squared length is concave and piecewise linear in t^2: Newton's method from below reaches t in finitely many
        steps and never exceeds it.
        """
        squared = eps.to(change.dtype).square()
        clipped = change.clamp(low, high)
        fits = p_norm(clipped) <= eps
        if bool(fits.all()):
            return clipped
        t = torch.zeros_like(squared)
        for _ in range(_NEWTON_STEPS):
            scaled = per_slot(t, change) * change
            free = (scaled >= low) & (scaled <= high)
            rate = p_norm(torch.where(free, change, 0)).square()
            at_bounds = p_norm(torch.where(free, 0, scaled.clamp(low, high))).square()
            previous, t = t, ((squared - at_bounds) / rate).clamp(min=0).sqrt().nan_to_num(1.0).clamp(max=1)
            t = torch.maximum(t, previous)  # a converged row is independent of the others
            if bool((t <= previous).all()):
                break
        return chosen(fits, clipped, (per_slot(t, change) * change).clamp(low, high))

    def random_change(self, draws: Draws, like: Tensor) -> Tensor:
        """Draw a direction from the sphere and a radius r with density proportional to ``r^(d - 1)``."""
        shape = like.shape[1:]
        length = draws.uniform("radius").to(like.dtype) ** (1 / shape.numel())
        return unit(draws.normal("start", shape).to(like.dtype)) * per_slot(length, like)

    def excess(self, change: Tensor, eps: float) -> float:
        return float(change.square().sum()) - eps**2

    def excess_removed(self, change: Tensor, step: Tensor | float = 1.0) -> Tensor:
        """Return ``d^2 - (|d| - s)^2 = (2 |d| - s) s``."""
        return (2 * change.abs() - step) * step


LINF, L2 = LInfNorm(), L2Norm()
#: In the order of record keys.
NORMS: Mapping[str, Norm] = {norm.name: norm for norm in (L2, LINF)}


def norm_of(name: str) -> Norm:
    """Return the norm of a name; raise :class:`LitVizError` if there is none."""
    require(name in NORMS, f"norm must be {' or '.join(NORMS)}", repr(name))
    return NORMS[name]


def lengths(change: Tensor) -> dict[str, float]:
    """Return the length of one change ``(C, H, W)`` in every norm, by name."""
    return {name: float(norm.length(change[None])) for name, norm in NORMS.items()}


def format_distance(value: float | None, norm: str) -> str:
    """Return a length in the norm of this name as users write it: ``4/255`` or ``0.5``; a dash for None."""
    if value is None:
        return "-"
    return NORMS[norm].format(value)
