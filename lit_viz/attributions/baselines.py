"""Baselines: uninformative inputs that replace an image or parts of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_viz.errors import require
from lit_viz.images.filters import gaussian_blur
from lit_viz.rng import Draws, Key

BaselineKind = Literal["black", "mean", "blurred", "random"]


@dataclass(frozen=True)
class Baseline:
    """A baseline in [0, 1], possibly computed from the image.

    Attributes:
        kind: ``black``; ``mean``, the image's mean color; ``blurred`` (Fong and Vedaldi 2017, arXiv:1704.03296);
            ``random``, uniform noise keyed by the task's seed; or a gray value.
        sigma: of the blur, in pixels.
    """

    kind: BaselineKind | float
    sigma: float = 10.0

    def __post_init__(self) -> None:
        valid = self.kind in get_args(BaselineKind) or (not isinstance(self.kind, str) and math.isfinite(self.kind))
        require(valid, f"baseline must be one of {', '.join(get_args(BaselineKind))} or a gray value", repr(self.kind))
        valid = 0 < self.sigma < math.inf
        require(valid, "sigma of the blurred baseline must be positive", self.sigma, hint="10 is usual")

    def __call__(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """Compute the baselines of ``x`` ``(N, ...)``, same shape.

        The mean is over all dimensions but the channels, or over all without channels; the blur requires ``(N, C, H,
        W)``.
        """
        if self.kind == "random":
            draws = Draws([Key(seed, 0) for seed in seeds], x.device).scoped("baseline")
            return draws.uniform("random", shape=x.shape[1:]).to(x.dtype)
        if self.kind == "mean":
            return x.mean(tuple(range(min(2, x.ndim - 1), x.ndim)), keepdim=True).expand_as(x).clone()
        if self.kind == "blurred":
            require(x.ndim == 4, "the blurred baseline requires images (N, C, H, W)", f"shape {tuple(x.shape)}")
            return gaussian_blur(x, torch.full((len(x),), self.sigma))
        if self.kind == "black":
            return torch.zeros_like(x)
        return torch.full_like(x, float(self.kind))
