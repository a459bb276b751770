"""Partitions of an image: superpixels of similar color, regions of a mask file, or bands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_viz.errors import LitVizError, first_line, require
from lit_viz.utils.files import check_regular, sha256

#: What an image is divided into.
Features = Literal["segments", "bands"]
_MOST = 1000  # regions of a mask file; more are most likely a photograph


@dataclass(frozen=True)
class Segments:
    """A partition of images ``(N, C, H, W)``.

    Attributes:
        given: maximum number of superpixels of SLIC (Achanta et al. 2012, "SLIC Superpixels", IEEE TPAMI 34:2274), in
            Lab colors; or an image file of the network's input size with a color per region, for all images.
    """

    given: int | str
    are_bands: ClassVar[bool] = False

    def __post_init__(self) -> None:
        valid = isinstance(self.given, str) or self.given > 0
        require(valid, "segments must be at least 1", self.given, hint="50 is usual")

    @cached_property
    def _file(self) -> tuple[Tensor, str]:
        """Regions of the mask file, int64 ``(H, W)`` from 0, and its checksum."""
        check_regular(str(self.given))
        try:
            with Image.open(str(self.given)) as file:
                pixels, checksum = np.array(file), sha256(str(self.given))
        except Exception as error:  # of Pillow, by the kind of the damage
            raise LitVizError(
                f"the mask {self.given} can't be read ({first_line(error)}): give an image file of colors"
            ) from error
        colors, regions = np.unique(pixels.reshape(-1, *pixels.shape[2:]), axis=0, return_inverse=True)
        require(
            len(colors) <= _MOST,
            f"the mask {self.given} must have at most {_MOST} colors",
            len(colors),
            is_argument=False,
        )
        return torch.from_numpy(regions.reshape(pixels.shape[:2]).astype(np.int64)), checksum

    @property
    def _mask(self) -> Tensor:
        return self._file[0]

    @property
    def most(self) -> int:
        """Maximum number of regions of an image."""
        if isinstance(self.given, int):
            return self.given
        return 1 + int(self._mask.max())

    def bind(self, channels: int, size: tuple[int, ...]) -> None:
        """Check that a mask file fits the images of a network."""
        self.check(size)

    def check(self, size: tuple[int, ...]) -> None:
        """Raise :class:`LitVizError` if a mask file does not have this height and width."""
        if isinstance(self.given, str):
            expected, got = "{} x {}".format(*size), "{} x {}".format(*self._mask.shape)
            constraint = f"the mask {self.given} must have the size of the network's input, {expected} pixels"
            hint = "draw it on the photograph in sources/ of a run"
            require(self._mask.shape == size, constraint, got, hint=hint, is_argument=False)

    def record_fields(self) -> dict[str, Any]:
        """Return the checksum of a mask file; nothing for superpixels."""
        if isinstance(self.given, int):
            return {}
        return {"mask_sha256": self._file[1]}

    def __call__(self, x: Tensor) -> Tensor:
        """Return the region of every pixel, int64 ``(N, 1, H, W)``, from 0.

        Superpixels are computed from the image in 8 bits, so that they do not depend on its precision.
        """
        require(x.ndim == 4, "superpixels require images (N, C, H, W)", f"shape {tuple(x.shape)}", is_argument=False)
        self.check(tuple(x.shape[2:]))
        if isinstance(self.given, str):
            return self._mask.to(x.device).expand(len(x), 1, -1, -1).clone()
        images = x.double().mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        regions = [torch.from_numpy(superpixels(image, self.most)) for image in images]
        return torch.stack(regions)[:, None].to(x.device)


class BandRegions:
    """The partition of images ``(N, C, H, W)`` into their C bands.

    Attributes:
        most: C, after :meth:`bind`.
    """

    are_bands: ClassVar[bool] = True
    most: int = 1

    def bind(self, channels: int, size: tuple[int, ...]) -> None:
        """Set the number of bands.

        Raises:
            LitVizError: there is only one.
        """
        require(channels > 1, "features=bands requires at least 2 bands", channels)
        self.most = channels

    def record_fields(self) -> dict[str, Any]:
        """Return that bands are replaced as a whole; the partition is that of every image."""
        return {"features": "bands"}

    def __call__(self, x: Tensor) -> Tensor:
        """Return the band of every value, int64 ``(N, C, H, W)``."""
        return torch.arange(self.most, device=x.device).view(-1, 1, 1).expand(x.shape).clone()


def regions_of(features: Features, segments: int | str) -> Segments | BandRegions:
    """Return the partition of images.

    Args:
        features: what an image is divided into.
        segments: number of superpixels, or a mask file.
    """
    require(features in get_args(Features), "features must be segments or bands", repr(features))
    if features == "bands":
        return BandRegions()
    return Segments(segments)


def superpixels(image: NDArray[np.uint8], most: int) -> NDArray[np.int64]:
    """Return at most ``most`` superpixels of an image ``(H, W, C)``, numbered from 0.

    The image is blurred, and compactness is twice scikit-image's default. Otherwise texture splits superpixels into
    parts that are merged with their neighbors, down to a quarter of the requested number.
    """
    from skimage.segmentation import slic

    compactness = 20.0
    if image.shape[2] == 1:  # compactness is relative to the range of Lab colors, which require three channels
        image = image.repeat(3, axis=2)
    elif image.shape[2] != 3:  # bands are in [0, 1], and Lab colors up to 100
        compactness = 0.2 * image.shape[2] ** 0.5
    count = most
    while True:  # SLIC treats the number as approximate
        result = slic(image, n_segments=count, compactness=compactness, sigma=1, start_label=0, channel_axis=-1)
        labels, regions = np.unique(result, return_inverse=True)
        if len(labels) <= most:
            return regions.reshape(image.shape[:2]).astype(np.int64)
        count = max(1, count - (len(labels) - most))
