"""From the canvas that is trained to the picture that is shown, and on to what a network is shown of the picture."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.images.parameterizations import Canvas


def make_canvas(
    classifier: Classifier, size: int | tuple[int, int] | None, oversample: float
) -> tuple[tuple[int, int], Canvas]:
    """Return the picture's size (H, W) and the canvas that is trained.

    Raises:
        LitVizError: for a size or a factor that leaves no image.
    """
    height, width = classifier.size if size is None else (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise LitVizError(f"a picture of {height} x {width} pixels is empty: give a size such as 224.")
    if not 0.5 <= oversample <= 8:
        raise LitVizError(f"oversample {oversample} is out of range: give a factor from 0.5 to 8, such as 1.5.")
    tall, wide = round(height * oversample), round(width * oversample)
    return (height, width), Canvas(classifier.channels, tall, wide, classifier.mean, classifier.std)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the images at the size (H, W), stretched to it, antialiased; as they are where it is theirs."""
    if tuple(images.shape[-2:]) == size:
        return images
    fitted = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    return fitted.clamp(0, 1)


def centre(images: Tensor, part: float) -> Tensor:
    """Return the central part of the images' sides."""
    height, width = images.shape[-2:]
    down, across = round(height * part), round(width * part)
    top_, left = (height - down) // 2, (width - across) // 2
    return images[..., top_ : top_ + down, left : left + across]
