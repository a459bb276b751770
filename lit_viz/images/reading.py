"""Reading photographs at the classifier's size, and encoding images as bytes.

A photograph is rounded to 8 bits once, after fitting. Source and result therefore lie on the 8-bit lattice, an epsilon
holds in the file, and a file of the classifier's size is read without change.
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
from lit_viz.images.fitting import LUMA, Box, Fit, Plane, place, planes_of

PACKAGED = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle_left": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
"""Photographs of scikit-image: chelsea is a tabby cat, coffee an espresso."""

PACKAGED_PREFIX = "packaged:"
_LARGE = 20_000_000  # pixels; larger JPEG files are decoded at 1/2, 1/4 or 1/8, at least twice the requested size
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass(frozen=True)
class Photograph:
    """A photograph at the classifier's size.

    Positions are (x, y) from the upper left corner; pixel k covers the interval from k to k + 1.

    Attributes:
        pixels: float32 ``(C, H, W)`` in [0, 1], multiples of 1/255.
        path: source as given.
        original_size: (height, width) of the file after EXIF rotation.
        box: (left, top, right, bottom) of ``pixels`` in pixels of the original; with ``fit="pad"`` it exceeds the
            original.
    """

    pixels: Tensor
    path: str
    original_size: tuple[int, int]
    box: Box

    def to_original(self, places: Tensor | Sequence[float]) -> Tensor:
        """Convert positions in the image to positions in the original.

        Args:
            places: ``(..., 2 k)``: points (x, y), boxes (left, top, right, bottom), or other sequences of pairs.

        Returns:
            float64, same shape.
        """
        pairs, step, corner = self._pairs(places)
        return (pairs * step + corner).flatten(-2)

    def from_original(self, places: Tensor | Sequence[float]) -> Tensor:
        """Convert positions in the original to positions in the image; cropped positions are outside of it."""
        pairs, step, corner = self._pairs(places)
        return ((pairs - corner) / step).flatten(-2)

    def _pairs(self, places: Tensor | Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the positions as ``(..., k, 2)``, and the pixel size and the corner of the image as (x, y)."""
        flat = torch.as_tensor(places, dtype=torch.float64)
        pairs = flat.view(*flat.shape[:-1], -1, 2)
        left, top, right, bottom = self.box
        height, width = self.pixels.shape[-2:]
        step = torch.tensor([(right - left) / width, (bottom - top) / height], dtype=torch.float64)
        return pairs, step, torch.tensor([left, top], dtype=torch.float64)


def read_photograph(path: str | Path, size: tuple[int, int], channels: int = 3, fit: Fit = "crop") -> Photograph:
    """Read a photograph and fit it to the classifier's input.

    EXIF rotation is applied, transparency is composited on white, 16 bits are scaled to 8 (65535 becomes 255), and all
    modes become RGB, or gray (ITU-R 601 luma) for one channel. The first frame of an animation is read. Resizing is
    bicubic with antialiasing; an image of the requested size is not resampled.

    Args:
        path: file, or ``"packaged:chelsea"`` for a photograph of scikit-image (see ``PACKAGED``).
        size: (height, width) of the result.
        channels: 3 or 1.
        fit: ``"crop"``: largest centered box with the requested aspect ratio. ``"squash"``: whole picture, stretched.
            ``"pad"``: whole picture with gray borders.

    Raises:
        LitVizError: if the file is missing, empty, truncated, too large or not an image, or an argument is invalid.
    """
    if fit not in get_args(Fit):
        raise LitVizError(f"fit must be crop, squash or pad, got {fit!r}{did_you_mean(fit, get_args(Fit))}")
    if channels not in (1, 3):
        raise LitVizError(f"channels must be 1 or 3, got {channels}")
    if min(size) < 1:
        raise LitVizError(f"size must be at least 1 x 1, got {size[0]} x {size[1]}")
    with _translate_image_errors(path):
        planes, original_size = _decode(_locate(path), size)
        placement = place(original_size, size, fit)
        rgb = np.stack([placement.apply(plane) for plane in planes])
    levels = np.rint(_to_channels(rgb, channels)).clip(0, 255).astype(np.float32)
    return Photograph(torch.from_numpy(levels) / 255, str(path), original_size, placement.box)


def from_pil(picture: Image.Image, channels: int = 3) -> Tensor:
    """Convert a Pillow image to ``(C, H, W)`` in [0, 1], with the same rules as for files.

    Raises:
        LitVizError: if its values are out of range.
    """
    with _translate_image_errors("init"):
        rgb = np.stack(list(planes_of(ImageOps.exif_transpose(picture))))
    return torch.from_numpy(_to_channels(rgb, channels).astype(np.float32)) / 255


def _to_channels(rgb: npt.NDArray[np.floating], channels: int) -> npt.NDArray[np.floating]:
    """Return planes ``(3, H, W)`` unchanged, or their luma ``(1, H, W)`` for one channel."""
    return np.tensordot(np.asarray(LUMA), rgb, 1)[None] if channels == 1 else rgb


def fitted(picture: Tensor, size: tuple[int, int], fit: Fit = "crop") -> Tensor:
    """Fit a picture ``(C, H, W)`` in [0, 1] to (height, width) like a photograph, without rounding."""
    placement = place((picture.shape[1], picture.shape[2]), size, fit)
    planes = [placement.apply(plane) for plane in picture.cpu().float().mul(255).numpy()]
    return torch.from_numpy(np.stack(planes).clip(0, 255)) / 255


def packaged_photograph(name: str) -> Path:
    """Return the path of a photograph of ``PACKAGED``.

    Raises:
        LitVizError: if the name is unknown, or scikit-image does not contain it.
    """
    if name not in PACKAGED:
        hint = did_you_mean(name, PACKAGED) or f": there are {', '.join(PACKAGED)}"
        raise LitVizError(f"no packaged photograph is called {name!r}{hint}")
    spec = importlib.util.find_spec("skimage")
    for folder in (spec and spec.submodule_search_locations) or []:
        path = Path(folder) / "data" / PACKAGED[name]
        if path.is_file():
            return path
    raise LitVizError(f"the packaged photograph {name!r} requires scikit-image, which is not installed")


def to_uint8(image: Tensor) -> npt.NDArray[np.uint8]:
    """Round an image to bytes for a file or a figure.

    Args:
        image: ``(C, H, W)`` in [0, 1], or uint8; one channel is repeated. Values are clipped; NaN is black.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    levels = _levels(image)
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels


def encode_png(image: Tensor) -> bytes:
    """Encode an image ``(C, H, W)`` in [0, 1] as PNG with 8 bits, gray for C = 1."""
    # Level 1 takes a third of the time for 10 % larger files.
    return _encode(image, "PNG", compress_level=1)


def encode_jpeg(image: Tensor, quality: int) -> bytes:
    """Encode an image ``(C, H, W)`` in [0, 1] as JPEG with Pillow's chroma subsampling."""
    return _encode(image, "JPEG", quality=quality)


def decode(data: bytes) -> Tensor:
    """Decode an image without resizing: float32 ``(C, H, W)`` in [0, 1], C = 1 for gray."""
    with Image.open(io.BytesIO(data)) as file:
        image = file if file.mode in ("L", "RGB") else file.convert("RGB")
        levels = np.array(image, dtype=np.float32)
    pixels = torch.from_numpy(levels).div_(255)
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def read_png(path: str | Path) -> Tensor:
    """Read an image file as :func:`decode` does.

    Raises:
        LitVizError: if the file is missing, empty, truncated or not an image.
    """
    with _translate_image_errors(path):
        return decode(_locate(path).read_bytes())


def _levels(image: Tensor) -> npt.NDArray[np.uint8]:
    levels = image.detach().cpu()
    if levels.dtype != torch.uint8:
        levels = levels.nan_to_num(0.0).mul(255).round().clamp(0, 255).to(torch.uint8)
    array: npt.NDArray[np.uint8] = levels.permute(1, 2, 0).contiguous().numpy()
    return array


def _encode(image: Tensor, format: str, **options: int) -> bytes:
    levels = _levels(image)
    buffer = io.BytesIO()
    Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels).save(buffer, format=format, **options)
    return buffer.getvalue()


def missing_file_error(path: str | Path, what: str = "photograph") -> str:
    """Return the error message for a missing file, with similar names in its folder."""
    file = Path(path)
    if file.is_symlink():
        return f"{path} is a broken link"
    siblings = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
    return f"there is no {what} {str(path)!r}{did_you_mean(file.name, siblings)}"


def _locate(path: str | Path) -> Path:
    if str(path).startswith(PACKAGED_PREFIX):
        return packaged_photograph(str(path).removeprefix(PACKAGED_PREFIX))
    file = Path(path)
    if file.is_dir():
        raise LitVizError(f"{path} is a folder, not a photograph")
    if not file.exists():
        raise LitVizError(missing_file_error(file))
    if file.is_file() and file.stat().st_size == 0:
        raise LitVizError(f"the photograph {path} is empty (0 bytes)")
    return file


def _decode(file: Path, size: tuple[int, int]) -> tuple[Iterator[Plane], tuple[int, int]]:
    """Return the planes R, G, B and (height, width) of the picture; the planes can be downsampled."""
    with Image.open(file) as opened:
        width, height = opened.size
        if opened.getexif().get(ExifTags.Base.Orientation) in _TRANSPOSED:
            width, height = height, width
        drafted = width * height > _LARGE and opened.draft(opened.mode, (2 * max(size), 2 * max(size))) is not None
        tags = opened.tag_v2 if isinstance(opened, TiffImagePlugin.TiffImageFile) else {}
        negative = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        any_depth = opened.mode == "I" and tags.get(TiffImagePlugin.BITSPERSAMPLE) == (32,)
        upright = ImageOps.exif_transpose(opened)
        # Pillow's size of a TIFF file includes the rotation; that of other formats does not.
        return (
            planes_of(upright, negative=negative, any_depth=any_depth),
            (height, width) if drafted else (upright.height, upright.width),
        )


@contextmanager
def _translate_image_errors(path: str | Path) -> Iterator[None]:
    """Convert exceptions and warnings of Pillow to a LitVizError; its decoders raise many types on invalid files."""
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
        raise LitVizError(f"{path} is too large (more than {limit} million pixels): downsize it first") from error
    except Exception as error:
        cause = "is truncated: the file ends too early" if "truncated" in str(error) else f"can't be read: {error}"
        raise LitVizError(f"the photograph {path} {cause}") from error
