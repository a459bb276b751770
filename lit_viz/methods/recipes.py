"""Recipes of class images; papers and results are in the configurations of the same names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lit_viz.engine.method import check_at_least_one
from lit_viz.errors import require
from lit_viz.images import L2, Blur, ColorShift, Flip, Fourier, Jitter, Noise, RandomCrop, Rotate, Scale, Shear
from lit_viz.images.canvas import Octaves
from lit_viz.optim import Adam
from lit_viz.utils.checking import check_fields


@dataclass(frozen=True)
class PictureOptions:
    """Size of a class visualization: result, trained canvas and network input.

    Args:
        size: height and width of the result, or one number for a square; by default the network's.
        oversample: size of the trained canvas relative to the result, for detail in cropped views.
        shown: central part of the sides of the canvas that the result shows, in [0.1, 1]. The border of the canvas
            is in fewer views and weaker.
        native: whether views have the size of the result instead of the network's input size; the network must
            accept it.
        octaves: growing sizes of the canvas and of the views; by default one size. Views of a network that accepts only
            its own input size keep that size. Without ``native``, octaves with inputs below 64 pixels are omitted.
        group: images per task. They are trained together and shown side by side; an objective can couple them
            (:class:`~lit_viz.objectives.Diversity`).
    """

    size: int | tuple[int, int] | None = None
    oversample: float = 1.0
    shown: float = 1.0
    native: bool = False
    octaves: Octaves | None = None
    group: int = 1

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least_one(group=self.group)
        require(0.1 <= self.shown <= 1, "shown must be in [0.1, 1]", self.shown)


def tarantula() -> dict[str, Any]:
    """Return the default recipe: Fourier coefficients, robust views that grow, reduced gradients."""
    return {
        "parameterization": Fourier(decay=1.15, sd=0.01, chroma=0.3),
        "step_rule": Adam(lr=0.05),
        "transforms": [
            RandomCrop(low=0.4, high=1.0),
            Shear(amount=0.2),
            Rotate(degrees=15.0),
            Flip(),
            Blur(low=0.1, high=1.6, every=2),
            ColorShift(scale=0.3, offset=0.15),
            Noise(sd=0.1),
        ],
        "views": 2,
        "residual_gradient": 0.4,
        "picture": PictureOptions(oversample=1.43, shown=0.85, octaves=Octaves(count=3, scale=1.5)),
    }


def plain() -> dict[str, Any]:
    """Return what applies to another parameterization: one view of the whole image."""
    return tarantula() | {"transforms": [], "views": 1, "residual_gradient": 1.0, "picture": PictureOptions()}


def small() -> dict[str, Any]:
    """Return the recipe of small images, which crops, flips and blur would destroy."""
    return {
        "iterations": 150,
        "slots": 16,
        "log_at": "every:10",
        "parameterization": Fourier(decay=1.0, sd=0.01),
        "transforms": [Jitter(pixels=1), Rotate(degrees=10.0), Scale(low=0.9, high=1.1), Noise(sd=0.1)],
        "priors": [L2(weight=1.0)],
        "step_rule": Adam(lr=0.05),
        "views": 4,
    }
