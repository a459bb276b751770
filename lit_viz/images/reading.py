"""Reading photographs at the network's size, and encoding images as bytes.

A photograph is rounded to 8 bits once, after fitting. Source and result therefore lie on the 8-bit lattice, an epsilon
holds in the file, and a file of the network's size is read without change.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional

from lit_viz.errors import LitVizError, did_you_mean, first_line, require
from lit_viz.networks.resizing import Resizing
from lit_viz.types import Tile
from lit_viz.utils.files import check_regular, missing_file_error, packaged_photograph
from lit_viz.zoo import photograph_file

#: How a picture is fitted to a size: largest centered box, stretched, or with gray borders.
Fit = Literal["crop", "squash", "pad"]
#: (x0, y0, x1, y1): the upper left and the lower right corner.
Box = tuple[float, float, float, float]
_Plane = npt.NDArray[np.float32]

PACKAGED_PREFIX = "packaged:"
ZOO_PREFIX = "zoo:"
#: Prefixes of photographs that are named instead of given as a file.
NAMED_PREFIXES = (PACKAGED_PREFIX, ZOO_PREFIX)
#: Weights of R, G and B in gray images: ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)
#: Exceptions of Pillow for damaged files.
IMAGE_ERRORS = (OSError, ValueError, SyntaxError, TypeError, struct.error, Image.DecompressionBombError)
_BORDER = 128  # gray, of 255
_LARGE = 20_000_000  # pixels; larger files are downsampled to at least twice the requested size when they are decoded
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_LIMIT = "LIT_VIZ_MAX_PIXELS"  # environment variable: limit of the pixels of a file, in place of Pillow's


@dataclass(frozen=True)
class Photograph:
    """A photograph at the network's size.

    Positions are (x, y) from the upper left corner; pixel k covers the interval from k to k + 1.

    Attributes:
        pixels: float32 ``(C, H, W)`` in [0, 1]; of an 8-bit picture multiples of 1/255.
        path: source as given.
        original_size: (height, width) of the file after EXIF rotation.
        box: (x0, y0, x1, y1) of ``pixels`` in pixels of the original; with ``fit="pad"`` it exceeds the original.
    """

    pixels: Tensor
    path: str
    original_size: tuple[int, int]
    box: Box

    def to_original(self, points: Tensor | Sequence[float]) -> Tensor:
        """Convert points (x, y), or boxes, in the image to positions in the original, ``(..., 2 k)`` float64."""
        pairs, step, corner = self._pairs(points)
        return (pairs * step + corner).flatten(-2)

    def from_original(self, points: Tensor | Sequence[float]) -> Tensor:
        """Convert positions in the original to positions in the image; cropped positions are outside of it."""
        pairs, step, corner = self._pairs(points)
        return ((pairs - corner) / step).flatten(-2)

    def _pairs(self, points: Tensor | Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the points as ``(..., k, 2)``, and the pixel size and the corner of the image as (x, y)."""
        flat = torch.as_tensor(points, dtype=torch.float64)
        x0, y0, x1, y1 = self.box
        height, width = self.pixels.shape[-2:]
        step = torch.tensor([(x1 - x0) / width, (y1 - y0) / height], dtype=torch.float64)
        return flat.view(*flat.shape[:-1], -1, 2), step, torch.tensor([x0, y0], dtype=torch.float64)


def read_photograph(
    source: str | Path | Tensor, size: tuple[int, int], channels: int = 3, fit: Fit | Resizing = "crop"
) -> Photograph:
    """Read a photograph and fit it to the network's input.

    EXIF rotation is applied, transparency is composited on white, 16 bits are scaled to 8 (65535 becomes 255), and all
    modes become RGB, or gray (ITU-R 601 luma) for one channel. The first frame of an animation is read. An image of the
    requested size is neither resampled nor cropped.

    Args:
        source: file; ``"packaged:chelsea"`` for a photograph of scikit-image;
            ``"zoo:fashion/bag_18"`` for an image of :mod:`lit_viz.zoo`; or a picture
            ``(C, H, W)``, uint8 or in [0, 1], C = 3 or 1. A picture of the requested shape is not rounded.
        size: (height, width) of the result.
        channels: 3 or 1.
        fit: ``"crop"``: largest centered box with the requested aspect ratio. ``"squash"``: whole picture, stretched.
            ``"pad"``: whole picture with gray borders. All three are bicubic with antialiasing. Or the
            :class:`~lit_viz.networks.resizing.Resizing` of a network.

    Raises:
        LitVizError: if the file is missing, empty, truncated, too large or not an image, or ``fit`` is invalid.
    """
    check_fit(fit)
    if isinstance(source, Tensor) and source.is_floating_point() and source.shape == (channels, *size):
        return Photograph(source, "", size, (0.0, 0.0, size[1], size[0]))
    with image_errors(source):
        if isinstance(source, Tensor):
            path = ""
            planes, original_size = _picture(source)
        else:
            path = str(source)
            planes, original_size = decode_planes(locate(source), size)
        box = box_of(original_size, size, fit)
        kind = fit.interpolation if isinstance(fit, Resizing) else "bicubic"
        rgb = np.stack([resample(plane, original_size, box, size, kind) for plane in planes])
    return Photograph(_rounded(rgb, channels), path, original_size, box)


def _rounded(rgb: _Plane, channels: int) -> Tensor:
    """Return levels ``(3, H, W)`` as a picture ``(C, H, W)`` in [0, 1] of 8 bits, in gray for one channel."""
    gray = np.tensordot(np.asarray(LUMA), rgb, 1)[None] if channels == 1 else rgb
    return torch.from_numpy(np.rint(gray).clip(0, 255).astype(np.float32)) / 255


def read_window(source: str | Path | Tensor, window: Tile, size: tuple[int, int], channels: int = 3) -> Photograph:
    """Read a part of a photograph as :func:`read_photograph` reads one of this size, without resizing.

    A file is decoded once for all its parts. The part is padded with gray to ``size`` (height, width) at the bottom and
    on the right.

    Raises:
        LitVizError: the file can't be read.
    """
    box = window_box(window, size)
    if isinstance(source, Tensor):
        part = source[:, window.rows, window.columns]
        if part.is_floating_point() and len(part) == channels:
            return Photograph(padded(part, size, 0.5), "", upright_size(source), box)
        planes, _ = _picture(part)
        path, levels = "", np.stack(list(planes))
    else:
        path, levels = str(source), window_levels(source, window.rows, window.columns)
    rgb = padded(torch.from_numpy(levels), size, _BORDER)
    return Photograph(_rounded(rgb.numpy(), channels), path, upright_size(source), box)


def window_levels(source: str | Path, rows: slice, columns: slice) -> _Plane:
    """Return levels ``(3, H, W)`` in [0, 255] of a part of a picture, which is decoded once for all its parts."""
    with image_errors(source):
        picture: Image.Image = decoded_once(_upright, locate(source))
        part = picture.crop((columns.start, rows.start, columns.stop, rows.stop))
        return np.stack(list(_planes(part)))


def window_box(window: Tile, size: tuple[int, int]) -> Box:
    """Return the extent of a part of an image that is padded to ``size`` (height, width)."""
    return float(window.column), float(window.row), float(window.column + size[1]), float(window.row + size[0])


def padded(planes: Tensor, size: tuple[int, int], value: float) -> Tensor:
    """Return planes ``(..., H, W)`` padded to ``size`` (height, width) at the bottom and on the right."""
    below, right = size[0] - planes.shape[-2], size[1] - planes.shape[-1]
    return functional.pad(planes, (0, right, 0, below), value=value)


def upright_size(source: str | Path | Tensor) -> tuple[int, int]:
    """Return (height, width) of a picture, after EXIF rotation; of a file only the header is read.

    Raises:
        LitVizError: the file can't be read.
    """
    if isinstance(source, Tensor):
        return source.shape[-2], source.shape[-1]
    with image_errors(source), Image.open(locate(source)) as opened:
        width, height = opened.size
        is_rotated = opened.getexif().get(ExifTags.Base.Orientation) in _TRANSPOSED
    return (width, height) if is_rotated else (height, width)


def check_fit(fit: Fit | Resizing) -> None:
    """Raise :class:`LitVizError` unless this is a way to fit a picture to a size."""
    if not isinstance(fit, Resizing) and fit not in get_args(Fit):
        raise LitVizError(f"fit must be crop, squash or pad, got {fit!r}{did_you_mean(fit, get_args(Fit))}")


def from_pil(image: Image.Image) -> Tensor:
    """Convert a Pillow image to a picture ``(3, H, W)`` as files are: uint8, or in [0, 1] if it has other levels."""
    with image_errors("the Pillow image"):
        levels = torch.from_numpy(np.stack(list(_planes(ImageOps.exif_transpose(_scale_deep_gray(image))))))
    if bool((levels == levels.round()).all()):
        return levels.byte()
    return levels / 255


# -- bytes


def to_uint8(image: Tensor) -> npt.NDArray[np.uint8]:
    """Round an image to bytes for a file or a figure.

    Args:
        image: ``(C, H, W)`` in [0, 1], or uint8; one channel is repeated. Values are clipped; NaN is black.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    levels = _levels(image)
    if levels.shape[2] == 1:
        return np.repeat(levels, 3, axis=2)
    return levels


def encode_png(image: Tensor, text: Mapping[str, str] | None = None) -> bytes:
    """Encode an image ``(C, H, W)`` in [0, 1] as PNG with 8 bits, gray for C = 1, and texts by name in the file."""
    info = PngInfo()
    for name, value in (text or {}).items():
        info.add_itxt(name, value)
    # Level 1 takes a third of the time for 10 % larger files.
    return _encode(image, "PNG", compress_level=1, pnginfo=info)


def encode_jpeg(image: Tensor, quality: int) -> bytes:
    """Encode an image ``(C, H, W)`` in [0, 1] as JPEG with Pillow's chroma subsampling."""
    return _encode(image, "JPEG", quality=quality)


def decode(data: bytes) -> Tensor:
    """Decode an image without resizing: float32 ``(C, H, W)`` in [0, 1], C = 1 for gray."""
    with Image.open(io.BytesIO(data)) as file:
        image = file if file.mode in ("L", "RGB") else file.convert("RGB")
        levels = np.array(image, dtype=np.float32)
    pixels = torch.from_numpy(levels).div_(255)
    if pixels.ndim == 2:
        return pixels[None]
    return pixels.permute(2, 0, 1).contiguous()


def read_png(path: str | Path) -> Tensor:
    """Read an image file as :func:`decode` does, with errors as in :func:`read_photograph`."""
    with image_errors(path):
        return decode(locate(path).read_bytes())


def _levels(image: Tensor) -> npt.NDArray[np.uint8]:
    levels = image.detach().cpu()
    if levels.dtype != torch.uint8:
        levels = levels.nan_to_num(0.0).mul(255).round().clamp(0, 255).to(torch.uint8)
    array: npt.NDArray[np.uint8] = levels.permute(1, 2, 0).contiguous().numpy()
    return array


def _encode(image: Tensor, format: str, **options: Any) -> bytes:
    levels = _levels(image)
    if levels.shape[2] == 1:
        levels = levels[:, :, 0]
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format=format, **options)
    return buffer.getvalue()


# -- decoding


def locate(path: str | Path) -> Path:
    """Return the file of a photograph, which exists and is not empty."""
    if str(path).startswith(PACKAGED_PREFIX):
        return packaged_photograph(str(path).removeprefix(PACKAGED_PREFIX))
    if str(path).startswith(ZOO_PREFIX):
        return photograph_file(str(path).removeprefix(ZOO_PREFIX))
    file = Path(path)
    if not file.exists():
        raise LitVizError(missing_file_error(file))
    check_regular(file)
    if file.stat().st_size == 0:
        raise LitVizError(f"the photograph {path} is empty (0 bytes)")
    return file


def _picture(picture: Tensor) -> tuple[Iterator[_Plane], tuple[int, int]]:
    levels = picture.float()
    if picture.dtype != torch.uint8:
        levels = levels * 255
    return iter(levels.expand(3, -1, -1).numpy()), (picture.shape[1], picture.shape[2])


def decode_planes(file: Path, size: tuple[int, int]) -> tuple[Iterator[_Plane], tuple[int, int]]:
    """Return the planes R, G, B and (height, width) of the picture; the planes can be downsampled."""
    least = 2 * max(size)
    with Image.open(file) as opened:
        width, height = opened.size
        is_large = width * height > _LARGE
        drafted = is_large and opened.draft(opened.mode, (least, least)) is not None
        opened.load()
        rotated = opened.getexif().get(ExifTags.Base.Orientation) in _TRANSPOSED  # TIFF files are rotated by load()
        image = _scale_deep_gray(opened)
        if is_large and not drafted:
            image = _reduce(image, least)
        size = (height, width)
        if rotated:
            size = (width, height)
        return _planes(ImageOps.exif_transpose(image)), size


def decoded_once(decode: Callable[[Path], Any], file: Path) -> Any:
    """Decode a file of which parts can't be read; the last one is kept for its other parts."""
    status = file.stat()
    return _last_decoded(decode, file, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=1)
def _last_decoded(decode: Callable[[Path], Any], file: Path, version: tuple[int, int]) -> Any:
    return decode(file)


def _upright(file: Path) -> Image.Image:
    """Decode a picture at its full size."""
    with Image.open(file) as opened:
        opened.load()
        return ImageOps.exif_transpose(_scale_deep_gray(opened))


def _scale_deep_gray(image: Image.Image) -> Image.Image:
    """Convert gray levels of more than 8 bits to mode F in [0, 255]; Pillow's conversion to 8 bits clips them."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    limit = 1.0 if image.mode == "F" else 65535.0
    # 32-bit integers are often arrays of 8-bit levels. (Earlier versions of Pillow read 16-bit PNG files as I.)
    if image.mode == "I" and image.format != "PNG" and high <= 255:
        limit = 255.0
    if not (low >= 0 and high <= limit):
        raise ValueError(
            f"values of Pillow mode {image.mode} must be in [0, {limit:g}], got [{low:g}, {high:g}]: save it with "
            "8 or 16 bits"
        )
    levels = np.multiply(values, 255 / limit, dtype=np.float32, casting="unsafe")
    # Pillow inverts TIFF files in which 0 is white only up to 8 bits.
    if getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0:
        np.subtract(255, levels, out=levels)
    scaled = Image.fromarray(levels)
    scaled.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return scaled


def _reduce(image: Image.Image, least: int) -> Image.Image:
    """Downsample the shorter side to ``least`` pixels or more, before the conversion to float takes more memory."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", "F"):
        image = image.convert("RGB")
    factor = max(1, min(image.size) // least)
    width, height = image.size[0] // factor, image.size[1] // factor
    if min(width, height) < least:  # a thin picture
        longest = _LARGE // min(width, height)
        width, height = min(width, longest), min(height, longest)
    return image.resize((width, height), Image.Resampling.HAMMING, reducing_gap=2.0)  # without overshoot


def _planes(image: Image.Image) -> Iterator[_Plane]:
    """Yield the planes R, G and B of an image as float32 ``(H, W)`` in [0, 255], one at a time."""
    if image.mode == "F":
        yield from (np.asarray(image),) * 3
    elif image.has_transparency_data:
        *colors, alpha = image.convert("RGBA").split()
        opacity: _Plane = np.asarray(alpha, np.float32) / np.float32(255)
        for color in colors:
            yield np.float32(255) + (np.asarray(color, np.float32) - np.float32(255)) * opacity
    else:
        for color in image.convert("RGB").split():
            yield np.asarray(color, np.float32)


def pixel_limit() -> tuple[int | None, str]:
    """Return the maximum number of pixels of a file, None for any, and the environment variable that sets it."""
    if (given := os.environ.get(_LIMIT)) is not None:
        require(given.isdecimal(), f"{_LIMIT} must be a number of pixels such as 200000000", repr(given))
        Image.MAX_IMAGE_PIXELS = int(given)
    return Image.MAX_IMAGE_PIXELS, _LIMIT


@contextmanager
def image_errors(path: str | Path | Tensor) -> Iterator[None]:
    """Convert exceptions and warnings of Pillow to a LitVizError; its decoders raise many types on invalid files."""
    try:
        pixel_limit()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except LitVizError:
        raise
    except UnidentifiedImageError as error:
        raise LitVizError(
            f"{path} is not an image that Pillow can read: save it as PNG or JPEG, or leave it out"
        ) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise LitVizError(
            f"{path} must have at most {limit} million pixels: downsize it, or set {_LIMIT} in the environment"
        ) from error
    except Exception as error:
        cause = f"can't be read ({first_line(error)}): save it again as PNG or JPEG, or leave it out"
        if "truncated" in str(error):
            cause = "is truncated: copy or download the complete file"
        raise LitVizError(f"the photograph {path} {cause}") from error


# -- fitting


def box_of(original: tuple[int, int], size: tuple[int, int], fit: Fit | Resizing) -> Box:
    """Return the extent of an image of ``size`` (height, width) in pixels of a picture; it can exceed the picture."""
    (h, w), (height, width) = original, size
    if isinstance(fit, Resizing) and original != size:
        return fit.box(original, size)
    if fit == "squash":
        return 0.0, 0.0, w, h
    if fit != "pad":
        step = min(w / width, h / height)
        x0, y0 = max(0.0, (w - step * width) / 2), max(0.0, (h - step * height) / 2)
        return x0, y0, w - x0, h - y0
    step = max(w / width, h / height)
    rows, columns = max(1, round(h / step)), max(1, round(w / step))  # that the picture fills
    x0, y0 = -((width - columns) // 2) * w / columns, -((height - rows) // 2) * h / rows
    return x0, y0, x0 + width * w / columns, y0 + height * h / rows


def resample(
    plane: _Plane,
    original: tuple[int, int],
    box: Box,
    size: tuple[int, int],
    kind: str,
    border: float = _BORDER,
) -> _Plane:
    """Resize the part of a plane in ``box`` to ``size`` by a filter of Pillow, with gray where the box exceeds it.

    Nothing is rounded: Pillow's float mode does not round between its two passes. The plane can be a downsampled
    version of the picture of ``original`` (height, width), such as a JPEG file decoded at a fraction of its size.
    """
    sides, window, filled = [], [], []
    for axis in (1, 0):
        start, end, length, samples = box[1 - axis], box[3 - axis], original[axis], plane.shape[axis]
        low, high, first, last = max(start, 0.0), min(end, length), 0, size[axis]
        if low > start or high < end:
            step = (end - start) / size[axis]
            first = round((low - start) / step)
            last = first + max(1, round((high - low) / step))
        sides.append(last - first)
        filled.append(slice(first, last))
        window.append((low * samples / length, min(high * samples / length, samples)))
    (x0, x1), (y0, y1) = window
    resized = Image.fromarray(plane).resize((sides[0], sides[1]), Image.Resampling[kind.upper()], (x0, y0, x1, y1))
    out = np.full(size, border, np.float32)
    out[filled[1], filled[0]] = np.asarray(resized)
    return out
