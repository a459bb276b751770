"""What was changed in an image, as a picture: signed, on one honest scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.reading import to_uint8

#: By how much differences are magnified in frames and figures, beside those as they are.
MAGNIFIED = 10.0
_TOLERANCE = 1e-6  # what float32 leaves of a difference that ends at the scale's end


def difference(image: Tensor, source: Tensor, times: float = 1.0) -> tuple[Tensor, float]:
    """Return ``0.5 + times * (image - source)``, what lies outside [0, 1] clipped: mid-grey where nothing was changed.

    Args:
        image: ``(C, H, W)`` in [0, 1], C = 3 or 1.
        source: of the same shape.
        times: by how much the difference is magnified.

    Returns:
        the picture ``(3, H, W)`` float32 in [0, 1], and the share of the C*H*W values that don't fit into it. One that
        is not finite counts as clipped; NaN is black.

    Raises:
        LitVizError: the shapes differ.
    """
    if image.shape != source.shape:
        shapes = [" x ".join(map(str, shape)) for shape in (image.shape, source.shape)]
        raise LitVizError(f"an image of {shapes[0]} has no difference to one of {shapes[1]}: give both the same shape")
    change = times * (image.detach().cpu().double() - source.detach().cpu().double())
    fits = change.abs() <= 0.5 + _TOLERANCE
    picture = (0.5 + change).nan_to_num(0.0).clamp(0, 1).float()
    return picture.expand(3, -1, -1), 1.0 - float(fits.double().mean())


def gray_levels(picture: Tensor) -> NDArray[np.uint8]:
    """Return a difference ``(3, H, W)`` as bytes ``(H, W, 3)``: 128 is zero, and a level of change is a level of grey.

    Bytes have no middle. Rounded as any picture, 127.5 and one level more could become the same grey.
    """
    return to_uint8((128 + (picture.double() - 0.5).mul(255).round()) / 255)


def outside(image: Tensor) -> float:
    """Return the share of an image's values that lie outside [0, 1] or are not finite, and show as something else."""
    values = image.detach().cpu().double()
    return 1.0 - float(((values >= -_TOLERANCE) & (values <= 1 + _TOLERANCE)).double().mean())
