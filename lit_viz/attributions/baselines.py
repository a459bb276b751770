"""Baselines: uninformative inputs that replace an image or parts of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lit_viz.errors import LitVizError, did_you_mean, require, value_text
from lit_viz.images.filters import gaussian_blur
from lit_viz.rng import Draws, Key

BaselineKind = Literal["black", "mean", "blurred", "random"]
#: A kind, a gray value, or an image ``(C, H, W)`` or ``(1, C, H, W)`` in [0, 1]: a tensor, an array or nested lists.
BaselineLike: TypeAlias = BaselineKind | float | Sequence[Any] | Tensor


@dataclass(frozen=True)
class Baseline:
    """A baseline in [0, 1], possibly computed from the image.

    Attributes:
        kind: ``black``; ``mean``, the image's mean color; ``blurred`` (Fong and Vedaldi 2017, arXiv:1704.03296);
            ``random``, uniform noise keyed by the task's seed; a gray value; or an image of the input's shape,
            ``(C, H, W)`` or ``(1, C, H, W)`` in [0, 1].
        sigma: of the blur, in pixels.
    """

    kind: BaselineLike
    sigma: float = 10.0

    def __post_init__(self) -> None:
        if isinstance(self.kind, (str, Real)):
            _check_kind(self.kind)
        else:
            object.__setattr__(self, "kind", _checked_image(self.kind))
        valid = 0 < self.sigma < math.inf
        require(valid, "sigma of the blurred baseline must be positive", self.sigma, hint="10 is usual")

    def __call__(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """Compute the baselines of ``x`` ``(N, ...)``, same shape.

        The mean is over all dimensions but the channels, or over all without channels; the blur requires ``(N, C, H,
        W)``.

        Raises:
            LitVizError: the baseline is an image of another shape.
        """
        if isinstance(self.kind, Tensor):
            shapes = tuple(self.kind.shape), tuple(x.shape[1:])
            require(shapes[0] == shapes[1], f"a baseline image must have the shape {shapes[1]} of the input", shapes[0])
            return self.kind.to(x).expand_as(x).clone()
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
        return torch.full_like(x, float(self.kind))  # type: ignore[arg-type]  # a number


def _check_kind(kind: str | Real) -> None:
    kinds = get_args(BaselineKind)
    near = ""
    if isinstance(kind, str):
        near = did_you_mean(kind, kinds)
        is_valid = kind in kinds
    else:
        is_valid = math.isfinite(kind) and not isinstance(kind, bool)
    if is_valid:
        return
    raise LitVizError(f"baseline must be one of {', '.join(kinds)}, a gray value or an image, got {kind!r}{near}")


def _checked_image(given: Any) -> Tensor:
    """Return an image ``(C, H, W)`` in [0, 1] that is given as a tensor, an array or nested lists.

    Raises:
        LitVizError: it has another shape, or other values.
    """
    try:
        image = torch.as_tensor(given).detach().float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise LitVizError(f"a baseline image must be numbers (C, H, W) in [0, 1], got {value_text(given)}") from error
    shape = tuple(image.shape)
    if image.ndim == 4 and len(image) == 1:
        image = image[0]
    require(image.ndim == 3 and image.numel(), "a baseline image must be (C, H, W) or (1, C, H, W)", f"shape {shape}")
    low, high = float(image.min()), float(image.max())
    require(low >= 0 and high <= 1, "a baseline image must be in [0, 1]", f"{low:.3g} to {high:.3g}")
    return image
