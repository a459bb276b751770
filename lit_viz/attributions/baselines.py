"""Inputs that say nothing: what a photograph is compared with, and what hides a part of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.gaussian import gaussian_blur
from lit_viz.rng import Draws, Key

Kind = Literal["black", "mean", "blurred", "random"]


@dataclass(frozen=True)
class Baseline:
    """A baseline in [0, 1], made of the photograph where it depends on it.

    Attributes:
        kind: ``black``; ``mean``, the photograph's own mean colour; ``blurred`` (Fong and Vedaldi 2017,
            arXiv:1704.03296); ``random``, uniform noise that belongs to the task's seed; or a grey value.
        sigma: of the blur, in pixels.
    """

    kind: Kind | float
    sigma: float = 10.0

    def __post_init__(self) -> None:
        known = self.kind in get_args(Kind) if isinstance(self.kind, str) else math.isfinite(self.kind)
        if not known:
            names = ", ".join(get_args(Kind))
            raise LitVizError(f"there is no baseline {self.kind!r}: choose one of {names}, or give a grey value.")
        if not 0 < self.sigma < math.inf:
            raise LitVizError(f"a blurred baseline needs a sigma above 0 pixels, not {self.sigma}: 10 is usual.")

    def __call__(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return a baseline a row of ``x`` ``(N, ...)``, of its shape.

        The mean is over all but the channels, or over all where there are none; the blur needs images (N, C, H, W).
        """
        if self.kind == "random":
            draws = Draws([Key(seed, 0) for seed in seeds], x.device).scoped("baseline")
            return draws.uniform("random", shape=x.shape[1:]).to(x.dtype)
        if self.kind == "mean":
            return x.mean(tuple(range(min(2, x.ndim - 1), x.ndim)), keepdim=True).expand_as(x).clone()
        if self.kind == "blurred":
            if x.ndim != 4:
                raise LitVizError(
                    f"only images (N, C, H, W) can be blurred, not {tuple(x.shape)}: choose another baseline."
                )
            return gaussian_blur(x, torch.full((len(x),), self.sigma))
        return torch.full_like(x, 0.0 if self.kind == "black" else float(self.kind))
