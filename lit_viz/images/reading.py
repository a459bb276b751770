"""From a file to the image that the classifier sees, with the way back; and from an image to bytes.

A photograph is rounded to 8 bits once, after it was fitted. So source and result both lie on the 8-bit lattice, an
epsilon holds in the file too, and a file of the classifier's size is read as it was written.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.images.fitting import Box, Fit, place
from lit_viz.images.modes import LUMA, Plane, planes_of

PACKAGED = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle_left": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
"""Photographs that come with scikit-image: chelsea is a tabby cat, coffee an espresso."""

PACKAGED_PREFIX = "packaged:"
_LARGE = 20_000_000  # pixels; JPEG files above it are decoded at a half, quarter or eighth, still twice the wanted size
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass(frozen=True)
class Photograph:
    """A photograph as the classifier sees it.

    Attributes:
        pixels: float32 ``(C, H, W)`` in [0, 1]; each is a whole number of 255ths.
        path: what it was read from, as it was given.
        original_size: (height, width) of the file's picture, after its EXIF rotation.
        box: (left, top, right, bottom), what of the original ``pixels`` span, in its pixels; with ``fit="pad"`` it
            reaches beyond the original.

    Places are (x, y) from the upper left corner, where pixel k covers the stretch from k to k + 1.
    """

    pixels: Tensor
    path: str
    original_size: tuple[int, int]
    box: Box

    def to_original(self, places: Tensor | Sequence[float]) -> Tensor:
        """Return places of the image as places of the original.

        Args:
            places: ``(..., 2 k)``: points (x, y), boxes (left, top, right, bottom), or any row of such pairs.

        Returns:
            float64 of the same shape.
        """
        pairs, step, corner = self._in_pairs(places)
        return (pairs * step + corner).flatten(-2)

    def from_original(self, places: Tensor | Sequence[float]) -> Tensor:
        """Return places of the original as places of the image; those that were cut off lie outside of it."""
        pairs, step, corner = self._in_pairs(places)
        return ((pairs - corner) / step).flatten(-2)

    def _in_pairs(self, places: Tensor | Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the places as ``(..., k, 2)``, the size of an image's pixel, and the corner, both as (x, y)."""
        flat = torch.as_tensor(places, dtype=torch.float64)
        pairs = flat.view(*flat.shape[:-1], -1, 2)
        left, top, right, bottom = self.box
        height, width = self.pixels.shape[-2:]
        step = torch.tensor([(right - left) / width, (bottom - top) / height], dtype=torch.float64)
        return pairs, step, torch.tensor([left, top], dtype=torch.float64)


def read_photograph(path: str | Path, size: tuple[int, int], channels: int = 3, fit: Fit = "crop") -> Photograph:
    """Read a photograph and fit it to the classifier's input.

    EXIF rotation is applied, transparency is put on white, 16 bits are scaled to 8 (65535 becomes 255), and every mode
    becomes RGB, or grey (ITU-R 601 luma) for one channel. An animation gives its first frame. The resize is bicubic and
    antialiased; an image that already has the size is not resampled.

    Args:
        path: of the file, or ``"packaged:chelsea"`` for a picture that comes with scikit-image (see ``PACKAGED``).
        size: (height, width) wanted.
        channels: 3 or 1.
        fit: ``"crop"``: the largest box in the centre that has the wanted shape. ``"squash"``: everything, stretched.
            ``"pad"``: everything in its own shape, between grey borders.

    Raises:
        LitVizError: the file is missing, empty, truncated, too large or no image, or ``fit`` or ``channels`` is not
            one of these.
    """
    if fit not in get_args(Fit):
        raise LitVizError(f"fit {fit!r} is unknown: choose crop, squash or pad{did_you_mean(fit, get_args(Fit))}")
    if channels not in (1, 3):
        raise LitVizError(f"a photograph can be read with 1 or 3 channels, not with {channels}")
    if min(size) < 1:
        raise LitVizError(f"a photograph can't be read at a size of {size[0]} x {size[1]} pixels")
    with _one_sentence(path):
        planes, original_size = _decode(_locate(path), size)
        placed = place(original_size, size, fit)
        rgb = np.stack([placed.apply(plane) for plane in planes])
    levels = np.rint(_of_channels(rgb, channels)).clip(0, 255).astype(np.float32)
    return Photograph(torch.from_numpy(levels) / 255, str(path), original_size, placed.box)


def from_pil(picture: Image.Image, channels: int = 3) -> Tensor:
    """Return a picture of Pillow as ``(C, H, W)`` in [0, 1], read as a file of it is.

    Raises:
        LitVizError: its values are not understood.
    """
    with _one_sentence("init"):
        rgb = np.stack(list(planes_of(ImageOps.exif_transpose(picture))))
    return torch.from_numpy(_of_channels(rgb, channels).astype(np.float32)) / 255


def _of_channels(rgb: npt.NDArray[np.floating], channels: int) -> npt.NDArray[np.floating]:
    """Return planes R, G and B ``(3, H, W)`` as they are, or for one channel their grey ``(1, H, W)``."""
    return np.tensordot(np.asarray(LUMA), rgb, 1)[None] if channels == 1 else rgb


def fitted(picture: Tensor, size: tuple[int, int], fit: Fit = "crop") -> Tensor:
    """Return a picture ``(C, H, W)`` in [0, 1] at the size (height, width), as a photograph is fitted; not rounded."""
    placed = place((picture.shape[1], picture.shape[2]), size, fit)
    planes = [placed.apply(plane) for plane in picture.cpu().float().mul(255).numpy()]
    return torch.from_numpy(np.stack(planes).clip(0, 255)) / 255


def packaged_photograph(name: str) -> Path:
    """Return where a picture of ``PACKAGED`` lies on this machine.

    Raises:
        LitVizError: there is none of that name, or scikit-image lacks it.
    """
    if name not in PACKAGED:
        near = did_you_mean(name, PACKAGED) or f": there are {', '.join(PACKAGED)}"
        raise LitVizError(f"no packaged photograph is called {name!r}{near}")
    found = importlib.util.find_spec("skimage")
    folders = [] if found is None else found.submodule_search_locations or []
    for folder in folders:
        path = Path(folder) / "data" / PACKAGED[name]
        if path.is_file():
            return path
    raise LitVizError(f"the packaged photograph {name!r} is not here: install scikit-image, which brings it")


def to_uint8(image: Tensor) -> npt.NDArray[np.uint8]:
    """Return the image as bytes: the one place where pictures are rounded for a file or a screen.

    Args:
        image: ``(C, H, W)`` in [0, 1], or bytes already; 1 channel is repeated. What lies outside is clipped, NaN is
            black.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    bytes_ = _levels(image)
    return np.repeat(bytes_, 3, axis=2) if bytes_.shape[2] == 1 else bytes_


def encode_png(image: Tensor) -> bytes:
    """Return the PNG of an image ``(C, H, W)`` in [0, 1], rounded to 8 bits; grey where C is 1."""
    # Level 1 is a third of the time for a tenth of the size; noise doesn't compress anyway.
    return _encode(image, "PNG", compress_level=1)


def encode_jpeg(image: Tensor, quality: int) -> bytes:
    """Return the JPEG of an image ``(C, H, W)`` in [0, 1], by Pillow, which halves the resolution of the colours."""
    return _encode(image, "JPEG", quality=quality)


def decode(data: bytes) -> Tensor:
    """Return an encoded image as it is, nothing resized: float32 ``(C, H, W)`` in [0, 1], C = 1 for a grey one."""
    with Image.open(io.BytesIO(data)) as file:
        plain = file if file.mode in ("L", "RGB") else file.convert("RGB")
        levels = np.array(plain, dtype=np.float32)
    image = torch.from_numpy(levels).div_(255)
    return image[None] if image.ndim == 2 else image.permute(2, 0, 1).contiguous()


def read_png(path: str | Path) -> Tensor:
    """Return an image that was written here, as :func:`decode` does.

    Raises:
        LitVizError: the file is missing, empty, truncated or no image.
    """
    with _one_sentence(path):
        return decode(_locate(path).read_bytes())


def _levels(image: Tensor) -> npt.NDArray[np.uint8]:
    levels = image.detach().cpu()
    if levels.dtype != torch.uint8:
        levels = levels.nan_to_num(0.0).mul(255).round().clamp(0, 255).to(torch.uint8)
    bytes_: npt.NDArray[np.uint8] = levels.permute(1, 2, 0).contiguous().numpy()
    return bytes_


def _encode(image: Tensor, format: str, **options: int) -> bytes:
    levels = _levels(image)
    buffer = io.BytesIO()
    Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels).save(buffer, format=format, **options)
    return buffer.getvalue()


def missing(path: str | Path, what: str = "photograph") -> str:
    """Return the sentence that says that a file is not there, with the nearest names that are."""
    file = Path(path)
    if file.is_symlink():
        return f"{path} is a link that leads nowhere"
    siblings = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
    return f"there is no {what} {str(path)!r}{did_you_mean(file.name, siblings)}"


def _locate(path: str | Path) -> Path:
    if str(path).startswith(PACKAGED_PREFIX):
        return packaged_photograph(str(path).removeprefix(PACKAGED_PREFIX))
    file = Path(path)
    if file.is_dir():
        raise LitVizError(f"{path} is a folder, not a photograph")
    if not file.exists():
        raise LitVizError(missing(file))
    if file.is_file() and file.stat().st_size == 0:
        raise LitVizError(f"the photograph {path} is empty (0 bytes)")
    return file


def _decode(file: Path, size: tuple[int, int]) -> tuple[Iterator[Plane], tuple[int, int]]:
    """Return the planes R, G, B and the picture's (height, width), which the planes may be a fraction of."""
    with Image.open(file) as opened:
        width, height = opened.size
        if opened.getexif().get(ExifTags.Base.Orientation) in _TURNED:
            width, height = height, width
        drafted = width * height > _LARGE and opened.draft(opened.mode, (2 * max(size), 2 * max(size))) is not None
        tags = opened.tag_v2 if isinstance(opened, TiffImagePlugin.TiffImageFile) else {}
        negative = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        any_depth = opened.mode == "I" and tags.get(TiffImagePlugin.BITSPERSAMPLE) == (32,)
        upright = ImageOps.exif_transpose(opened)
        # Pillow tells the size of a TIFF as it is turned, and that of other formats as it lies in the file.
        return (
            planes_of(upright, negative=negative, any_depth=any_depth),
            (height, width) if drafted else (upright.height, upright.width),
        )


@contextmanager
def _one_sentence(path: str | Path) -> Iterator[None]:
    """Turn what Pillow raises and warns of into a sentence; its decoders raise nearly everything on a broken file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except LitVizError:
        raise
    except UnidentifiedImageError as error:
        raise LitVizError(f"{path} is not an image that Pillow can read") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise LitVizError(f"{path} is too large (more than {limit} million pixels): shrink it first") from error
    except Exception as error:
        cause = "is truncated: the file ends too early" if "truncated" in str(error) else f"can't be read: {error}"
        raise LitVizError(f"the photograph {path} {cause}") from error
