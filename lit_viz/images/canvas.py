"""Sizes of images: the optimized canvas, octaves of the network's input, and groups of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lit_viz.errors import require
from lit_viz.networks import Network
from lit_viz.networks.bands import MOST_SIDE

_MAX_GAP = 4  # pixels between the images of a group


@dataclass(frozen=True)
class Canvas:
    """Shape ``(C, H, W)`` of the optimized images, and normalization of the network.

    The input of the network is ``(image - mean) / std`` per channel. Only red, green and blue are correlated.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_rgb: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width

    def normalization(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std as ``(C, 1, 1)`` with the dtype and device of ``like``."""
        mean, std = like.new_tensor(self.mean), like.new_tensor(self.std)
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)


def make_canvas(
    network: Network, size: int | tuple[int, int] | None, oversample: float
) -> tuple[tuple[int, int], Canvas]:
    """Return (height, width) of the saved picture, and the canvas; its sides are ``oversample`` times as long."""
    if size is None:
        size = network.size
    elif isinstance(size, int):
        size = (size, size)
    height, width = size
    require(min(height, width) >= 1, "size must be at least 1 x 1", f"{height} x {width}")
    require(max(height, width) <= MOST_SIDE, f"size must be at most {MOST_SIDE}", f"{height} x {width}")
    require(0.5 <= oversample <= 8, "oversample must be between 0.5 and 8", oversample)
    rows, columns = max(1, round(height * oversample)), max(1, round(width * oversample))
    return (height, width), Canvas(network.channels, rows, columns, network.mean, network.std, network.bands.are_rgb)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images to (height, width), bilinear with antialiasing; images of this size are returned unchanged."""
    if tuple(images.shape[-2:]) == size:
        return images
    return interpolate(images, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def center_crop(images: Tensor, fraction: float) -> Tensor:
    """Crop images to the central ``fraction`` of their sides."""
    height, width = images.shape[-2:]
    crop_height, crop_width = round(height * fraction), round(width * fraction)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return images[..., top : top + crop_height, left : left + crop_width]


@dataclass(frozen=True)
class Octaves:
    """Input sizes of the network that grow over the iterations (Mordvintsev, Olah and Tyka 2015, "Inceptionism: Going
    Deeper into Neural Networks").

    The canvas is downsampled before it enters the network, less in each octave; in the last one it has its own size.
    The gradient of a coarse octave is therefore upsampled and smooth, and a photograph keeps its detail. DeepDream
    instead optimizes small images and adds their change to the photograph. Evaluations of a small input cost less: with
    3 octaves of scale 1.5, 55 % of the evaluations at full size.

    Args:
        count: number of octaves; each takes an equal share of the iterations.
        scale: ratio of the sizes of successive octaves.
    """

    count: int = 4
    scale: float = 1.4

    def __post_init__(self) -> None:
        valid = self.count >= 1 and self.scale > 1
        require(valid, "Octaves: count must be at least 1 and scale above 1", self.count, self.scale)

    def at(self, iteration: int, iterations: int) -> int:
        """Return the octave of an iteration, from 0 to count - 1."""
        return min(iteration * self.count // iterations, self.count - 1)

    def size(self, canvas: tuple[int, int], octave: int) -> tuple[int, int]:
        """Return the input size (H, W) for a canvas in an octave."""
        factor = self.scale ** (octave + 1 - self.count)
        return max(1, round(canvas[0] * factor)), max(1, round(canvas[1] * factor))

    def __call__(self, images: Tensor, octave: int) -> Tensor:
        """Downsample images ``(N, C, H, W)`` for an octave with antialiasing; differentiable."""
        height, width = images.shape[-2:]
        size = self.size((height, width), octave)
        if size == (height, width):
            return images
        return interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def _gap(width: int) -> int:
    return max(1, min(_MAX_GAP, width // 32))  # fewer pixels for small images, which figures enlarge


def join_group(images: Tensor) -> Tensor:
    """Join images ``(G, C, H, W)`` to one picture ``(C, H, G * W + (G - 1) * gap)`` with white gaps."""
    gap = images.new_ones(*images.shape[1:3], _gap(images.shape[3]))
    pieces = [images[0]]
    for image in images[1:]:
        pieces += [gap, image]
    return torch.cat(pieces, dim=2)


def split_group(picture: Tensor, group: int) -> Tensor:
    """Split a picture of :func:`join_group` into its images ``(G, C, H, W)``."""
    for gap in range(1, _MAX_GAP + 1):
        width = (picture.shape[2] - (group - 1) * gap) // group
        if _gap(width) == gap:
            break
    return torch.stack([picture[..., g * (width + gap) :][..., :width] for g in range(group)])
