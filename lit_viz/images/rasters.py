"""Reading images of any number of bands and any depth: NumPy arrays, TIFF, and PNG of 16 bits, without rounding."""

from __future__ import annotations

import logging
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags
from torch import Tensor

from lit_viz.errors import LitVizError, first_line, require
from lit_viz.images.formats import GEO_TAGS, PICTURE, FileFormat, moved_tags
from lit_viz.images.png16 import decode_png16, is_png16, png_size
from lit_viz.images.reading import (
    LUMA,
    Fit,
    Photograph,
    box_of,
    check_fit,
    decode_planes,
    decoded_once,
    image_errors,
    locate,
    padded,
    pixel_limit,
    read_photograph,
    read_window,
    resample,
    upright_size,
    window_box,
    window_levels,
)
from lit_viz.networks.bands import Bands
from lit_viz.networks.resizing import Resizing
from lit_viz.types import Tile
from lit_viz.utils.formatting import remark

#: Suffixes of arrays.
ARRAYS = (".npy", ".npz")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Types whose largest value is white where no range is given.
_TYPES_OF_PICTURES = ("uint8", "uint16")
_LEAST_WEIGHT = 1e-6  # of pixels without data in a resampled pixel that counts as such
#: Photometric interpretations of TIFF whose values are gray or RGB: 0 is black, RGB, and YCbCr, which becomes RGB.
_GRAY_OR_RGB = (1, 2, 6)
_MOST_OF_8_BITS = 255
_FEW_BITS = 2**14  # largest values below it are far below 65535, the white of 16 bits
#: Bands of which the warning about few bits was given.
_warned: set[Bands] = set()
#: A slice of each axis of an array.
Part = tuple[slice, ...]


@dataclass(frozen=True)
class FileOptions:
    """How the values of a file are read; arguments of :class:`~lit_viz.ImageTasks`.

    Attributes:
        axes: order of the axes of an array, such as ``HWC``; by default found by the number of bands.
        fill: value of the file in place of no data: NaN, and the value that a GeoTIFF names.
        clip: whether values outside of the range are clipped.
    """

    axes: str | None = None
    fill: float | None = None
    clip: bool = False

    def __post_init__(self) -> None:
        require(self.fill is None or math.isfinite(self.fill), "fill must be a finite number", self.fill)
        if self.axes is not None:
            is_valid = sorted(self.axes) in (["C", "H", "W"], ["H", "W"])
            require(is_valid, "axes must be an order of C, H and W such as HWC, or of H and W", repr(self.axes))


@dataclass(frozen=True)
class FittedImage(Photograph):
    """An image at the network's size, with what is known of its file.

    Attributes:
        format: of the file.
        clipped, filled: number of values that were outside of the range, and that were no data.
        no_data: bool ``(H, W)``: pixels without data in a band; None if there are none. Bands without any data do not
            count.
    """

    format: FileFormat = PICTURE
    clipped: int = 0
    filled: int = 0
    no_data: Tensor | None = None


@dataclass(frozen=True)
class _Raster:
    """The values of a file, which are read when they are needed.

    Attributes:
        shape: of the array in the file.
        read: returns a part of the array, by a slice of each axis.
        original: (height, width), if the bands are downsampled.
        by_windows: whether a part is read without the rest.
        is_plain: whether the values of a picture of 8 bits are gray or RGB, as they are shown.
    """

    shape: tuple[int, ...]
    format: FileFormat
    read: Callable[[Part], NDArray[Any]]
    original: tuple[int, int] | None = None
    by_windows: bool = False
    is_plain: bool = True


def read_image(
    source: str | Path | Tensor,
    size: tuple[int, int],
    bands: Bands,
    fit: Fit | Resizing = "crop",
    options: FileOptions | None = None,
    window: Tile | None = None,
) -> FittedImage:
    """Read an image and fit it to the network's input, as :func:`~lit_viz.images.reading.read_photograph` does.

    A window is neither resized nor fitted: it has the requested size, or is padded with gray to it. Arrays (``.npy``)
    and TIFF are read by windows, of any size; other files are decoded once.

    Pictures of 8 bits are read as there. Arrays (``.npy``, ``.npz``), TIFF and PNG of 16 bits keep their depth: the
    ranges of the bands, or of the type, are mapped to [0, 1], and resampled whole numbers are rounded once, to those of
    the type.

    Args:
        source: file, or values ``(C, H, W)``.
        size: (height, width) of the result.
        bands: of the network.
        fit: see :func:`~lit_viz.images.reading.read_photograph`.
        options: how the values are read.
        window: part of the image; by default the whole image.

    Raises:
        LitVizError: the file can't be read, or has other bands, values outside of the range, or no data.
    """
    options = options or FileOptions()
    raster = _raster_of(source, size if window is None else None, bands)
    if raster is None:
        if window is None:
            picture = read_photograph(source, size, bands.channels, fit)
        else:
            picture = read_window(source, window, size, bands.channels)
        return FittedImage(picture.pixels, picture.path, picture.original_size, picture.box)
    check_fit(fit)
    name, axes = str(source), options.axes
    if isinstance(source, Tensor):  # whose axes are in order
        name, axes = "the image", "CHW"
    file_format = replace(
        raster.format,
        axes=_axes(raster, bands, axes, name),
        ranges=bands.ranges,
        display=() if bands.are_drawn else bands.display,
    )
    _check_type(file_format, name)
    file_format.check_lattice()
    original = raster.original or _size(raster.shape, file_format.axes)
    if window is None or not raster.by_windows:
        _check_pixels(_size(raster.shape, file_format.axes), name)
    planes = _planes(raster, file_format.axes, bands, name, window)
    if file_format.dtype == "uint16" and not bands.ranges:
        _warn_of_few_bits(max(int(plane.max()) for plane in planes), bands, name)
    if "C" not in file_format.axes and bands.channels > 1:  # gray, which is repeated
        file_format = replace(file_format, axes=f"{file_format.axes}C")
    values = _Values(bands, options, name)
    if window is None:
        box = box_of(original, size, fit)
        is_resampled = planes[0].shape != size or box != (0.0, 0.0, size[1], size[0])
    else:
        box = window_box(window, size)
        is_resampled = planes[0].shape != size  # padded
    kind = fit.interpolation if isinstance(fit, Resizing) else "bicubic"
    is_exact = isinstance(source, Tensor) and source.dtype == torch.float64 and not is_resampled
    dtype = torch.float64 if is_exact else torch.float32
    fitted: list[Tensor] = []
    for index, plane in enumerate(planes):
        unit = values.unit(plane, index, file_format, dtype)
        if window is not None:
            unit = padded(unit, size, 0.5)
        elif is_resampled:
            unit = torch.from_numpy(resample(unit.numpy(), original, box, size, kind, border=0.5))
        fitted.append(unit)
    values.check()
    no_data = values.no_data
    if no_data is not None and window is not None:
        no_data = padded(no_data.float(), size, 0.0) > 0
    elif no_data is not None and is_resampled:
        weights = resample(no_data.float().numpy(), original, box, size, kind, border=0.0)
        no_data = torch.from_numpy(np.abs(weights) > _LEAST_WEIGHT)
    pixels = torch.stack(fitted).clamp_(0, 1)
    if is_resampled and not file_format.is_float:
        pixels = file_format.image(file_format.nearest(pixels))
    file_format = replace(file_format, tags=moved_tags(file_format.tags, box, size))
    path = "" if isinstance(source, Tensor) else str(source)
    return FittedImage(pixels, path, original, box, file_format, values.clipped, values.filled, no_data)


def image_size(source: str | Path | Tensor, bands: Bands, options: FileOptions | None = None) -> tuple[int, int]:
    """Return (height, width) of an image of which windows are read; of a file only the header is read.

    Raises:
        LitVizError: the file can't be read, or has other bands.
    """
    raster = _raster_of(source, None, bands)
    if raster is None:
        return upright_size(source)
    axes, name = (options or FileOptions()).axes, str(source)
    if isinstance(source, Tensor):
        name, axes = "the image", "CHW"
    return _size(raster.shape, _axes(raster, bands, axes, name))


def _size(shape: Sequence[int], axes: str) -> tuple[int, int]:
    return shape[axes.index("H")], shape[axes.index("W")]


class _Values:
    """Values of the bands of a file in units of [0, 1], with their extremes."""

    def __init__(self, bands: Bands, options: FileOptions, name: str) -> None:
        self.bands, self.options, self.name = bands, options, name
        self.clipped = self.filled = 0
        self.no_data: Tensor | None = None
        self._extremes: list[tuple[float, float]] = []

    def unit(self, plane: NDArray[Any], index: int, file_format: FileFormat, dtype: torch.dtype) -> Tensor:
        """Return a band ``(H, W)`` in units of [0, 1], clipped to it."""
        numbers = plane.astype(np.float64)
        missing = np.isnan(numbers)
        if file_format.no_data is not None:
            missing |= numbers == file_format.no_data
        count = int(missing.sum())
        if count:
            fill = self.options.fill
            if fill is None:
                named = "NaN"
                if file_format.no_data is not None:
                    named += f" or {file_format.no_data:g}"
                raise LitVizError(f"{self.name} has {count} values without data ({named}): give fill=VALUE for them")
            numbers[missing] = fill
            self.filled += count
        if 0 < count < missing.size:
            pixels = torch.from_numpy(missing)
            if self.no_data is not None:
                pixels = pixels | self.no_data
            self.no_data = pixels
        if not self.options.clip and bool(np.isinf(numbers).any()):
            raise LitVizError(f"{self.name} has infinite values in {self.bands.name(index)}: give clip=True")
        self._extremes.append((float(numbers.min()), float(numbers.max())))
        own_range = file_format.ranges[index : index + 1]
        unit = replace(file_format, ranges=own_range).to_image(numbers[None], dtype)[0]
        slack = 1e-6
        self.clipped += int(((unit < -slack) | (unit > 1 + slack)).sum())
        return unit.clamp_(0, 1)

    def check(self) -> None:
        """Raise an error if values are outside of the range, unless they are clipped."""
        if not self.clipped or self.options.clip:
            return
        described: list[str] = []
        for index, (low, high) in enumerate(self._extremes):
            described.append(f"{self.bands.name(index)}: {low:g} to {high:g}")
        outside = f"{self.name} has {self.clipped} values outside of the range of its bands ({', '.join(described)})"
        raise LitVizError(f"{outside}: {self._remedy()}")

    def _remedy(self) -> str:
        """Return what to do about values outside of the range. The extremes of one image are no range: mean and std
        would count in a unit of its own."""
        if self.bands.ranges:
            return "give clip=True, or load the network with a value_range that all files lie in"
        lows, highs = zip(*self._extremes, strict=True)
        if min(lows) < 0:
            return "pass arrays without normalization, which the network applies, or with normalization=(mean, std)"
        if max(highs) <= _MOST_OF_8_BITS:
            return "divide them by 255, or pass uint8"
        return "divide them by their largest possible value, or load the network with value_range in their unit"


def runs_of(mask: Tensor) -> list[int]:
    """Return the first and the last + 1 flat index of each run of true pixels of a mask ``(H, W)``, in order."""
    outside = torch.zeros(1, dtype=torch.int8)
    steps = torch.cat([outside, mask.flatten().to(torch.int8), outside]).diff()
    indices: list[int] = steps.nonzero()[:, 0].tolist()
    return indices


def mask_of(runs: Sequence[int] | None, size: tuple[int, int]) -> Tensor:
    """Return the mask ``(H, W)`` of :func:`runs_of`; none of its pixels is true without runs."""
    runs = runs or ()
    mask = torch.zeros(math.prod(size), dtype=torch.bool)
    for start, end in zip(runs[::2], runs[1::2], strict=True):
        mask[start:end] = True
    return mask.view(size)


def _raster_of(source: str | Path | Tensor, size: tuple[int, int] | None, bands: Bands) -> _Raster | None:
    """Return the values of a file that is fitted to a size, or without one read by windows; None for a picture that
    Pillow reads."""
    if isinstance(source, Tensor):
        if bands.are_pictures:
            return None
        array = source.numpy()
        return _Raster(array.shape, FileFormat(str(array.dtype), ".npy"), array.__getitem__, by_windows=True)
    file = locate(source)
    with file.open("rb") as opened:
        start = opened.read(32)
    raster: _Raster | None = None
    with image_errors(source):
        if file.suffix.casefold() in ARRAYS:
            raster = _array(file)
        elif start.startswith(_TIFF):
            raster = _tiff(file)
        elif is_png16(start):
            shape = (1 if start[25] == 0 else 3, *png_size(start))
            raster = _Raster(shape, FileFormat("uint16"), lambda part: _decoded_part(_png16, file, part))
        is_kept = raster is not None and (raster.format.dtype == "uint16" or raster.format.is_float)
        if bands.are_pictures and file.suffix.casefold() not in ARRAYS and not is_kept:
            if raster is None or size is not None:
                return None
            if not raster.is_plain:
                raise LitVizError(f"tiles of a TIFF file require gray or RGB, upright, and {source} is not: save it so")
        if raster is not None:
            return raster
        if size is None:
            shape = (1 if bands.channels == 1 else 3, *upright_size(file))
            return _Raster(shape, FileFormat(), lambda part: _levels(window_levels(file, *part[1:]), bands))
        planes, original = decode_planes(file, size)
        levels = _levels(np.stack(list(planes)), bands)
    return _Raster(levels.shape, FileFormat(), levels.__getitem__, original)


def _levels(rgb: NDArray[Any], bands: Bands) -> NDArray[np.uint8]:
    """Return RGB ``(3, H, W)`` in [0, 255] as 8 bits, in gray for one band."""
    if bands.channels == 1:
        rgb = np.tensordot(np.asarray(LUMA), rgb, 1)[None]
    levels: NDArray[np.uint8] = np.rint(rgb).clip(0, 255).astype(np.uint8)
    return levels


def _png16(file: Path) -> NDArray[Any]:
    return decode_png16(file.read_bytes())


def _npz(file: Path) -> NDArray[Any]:
    with np.load(file, allow_pickle=False) as archive:
        values: NDArray[Any] = archive[archive.files[0]]
    return values


def _decoded_part(decode: Callable[[Path], NDArray[Any]], file: Path, part: Part) -> NDArray[Any]:
    """Return a part of the array in a file that is decoded as a whole."""
    if _is_whole(part):
        return decode(file)
    values: NDArray[Any] = decoded_once(decode, file)[part]
    return values


def _is_whole(part: Part) -> bool:
    return all(axis == slice(None) for axis in part)


def _array(file: Path) -> _Raster:
    """Return an array, of which the header alone is read."""
    if file.suffix.casefold() == ".npy":
        with file.open("rb") as opened:
            shape, dtype = _header(opened)
        return _Raster(shape, _native(dtype), partial(_npy_part, file), by_windows=True)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        require(len(names) == 1, f"{file} must contain one array", ", ".join(names) or "none", is_argument=False)
        with archive.open(names[0]) as member:
            shape, dtype = _header(member)
    return _Raster(shape, _native(dtype), lambda part: _decoded_part(_npz, file, part))


def _npy_part(file: Path, part: Part) -> NDArray[Any]:
    values: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)[part]
    return values


def _header(opened: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type in the header of an array."""
    version = np.lib.format.read_magic(opened)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(opened)
    return shape, dtype


def _native(dtype: np.dtype[Any]) -> FileFormat:
    return FileFormat(dtype.newbyteorder("=").name, ".npy")


@contextmanager
def _tifffile() -> Iterator[ModuleType]:
    """Import tifffile, without its lines about damaged files on the terminal; what it raises is one sentence."""
    import tifffile

    logger = logging.getLogger("tifffile")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield tifffile
    finally:
        logger.setLevel(level)


def _tiff(file: Path) -> _Raster:
    """Return a TIFF file, of which the tags alone are read."""
    with _tifffile() as tifffile, tifffile.TiffFile(file) as opened:
        series = opened.series[0]
        page: Any = opened.pages[0]
        tags: list[tuple[int, int, int, Any]] = []
        for code in GEO_TAGS:
            tag = page.tags.get(code)
            if tag is not None:
                value = list(tag.value) if isinstance(tag.value, tuple) else tag.value
                tags.append((code, int(tag.dtype), tag.count, value))
        shape = tuple(series.shape)
        dtype = np.dtype(series.dtype).newbyteorder("=").name
        file_format = FileFormat(dtype, ".tif", paged=len(series.pages) > 1, tags=tuple(tags))
        orientation = page.tags.get(ExifTags.Base.Orientation)
        is_upright = orientation is None or orientation.value == 1
        is_plain = is_upright and int(page.photometric) in _GRAY_OR_RGB
    return _Raster(shape, file_format, partial(_tiff_part, file), by_windows=True, is_plain=is_plain)


def _tiff_part(file: Path, part: Part) -> NDArray[Any]:
    """Return a part of the first series of a TIFF file."""
    try:
        with _tifffile() as tifffile:
            if _is_whole(part):
                values: NDArray[Any] = tifffile.imread(file)
                return values
            with tifffile.TiffFile(file) as opened:
                series = opened.series[0]
                if series.dataoffset is not None:  # uncompressed, in one piece
                    mapped: NDArray[Any] = tifffile.memmap(file, mode="r")[part]
                    return mapped
                pages = series.pages
                if len(pages) > 1:
                    return np.stack([_page_part(page, part[1:]) for page in pages])
                return _page_part(pages[0], part)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raise LitVizError(
            f"{file} is compressed ({first_line(error)}): pip install 'lit-viz[science]', or save it uncompressed"
        ) from error


def _page_part(page: Any, part: Part) -> NDArray[Any]:
    """Return a part of a page, of which only the strips or tiles are decoded that it needs."""
    first: Any = page.keyframe
    axes = first.axes
    rows, columns = part[axes.index("Y")], part[axes.index("X")]
    others = tuple(axis for name, axis in zip(axes, part, strict=True) if name not in "YX")
    if rows == slice(None) or columns == slice(None) or not _is_whole(others):
        raise LitVizError("axes must have H and W along the rows and columns of a TIFF file")
    planes, _, length, width, samples = first.shaped
    height, across = first.rowsperstrip, width
    if first.is_tiled:
        height, across = first.tilelength, first.tilewidth
    in_row = -(-width // across)
    in_plane = in_row * -(-length // height)
    shape = (planes, rows.stop - rows.start, columns.stop - columns.start, samples)
    values = np.full(shape, first.nodata, first.dtype)
    for plane in range(planes):
        for row in range(rows.start // height, -(-rows.stop // height)):
            for column in range(columns.start // across, -(-columns.stop // across)):
                segment = _segment(page, plane * in_plane + row * in_row + column)
                if segment is None:  # not stored
                    continue
                top, left = row * height - rows.start, column * across - columns.start
                _paste(values[plane], segment, top, left)
    shape_of_page = list(first.shape)
    shape_of_page[axes.index("Y")], shape_of_page[axes.index("X")] = shape[1:3]
    return values.reshape(shape_of_page)


def _segment(page: Any, index: int) -> NDArray[Any] | None:
    """Return a strip or tile ``(H, W, samples)``; None if it is not stored."""
    first, file = page.keyframe, page.parent.filehandle
    count = page.databytecounts[index]
    if not count:
        return None
    file.seek(page.dataoffsets[index])
    tables = {}
    if page.jpegtables is not None:
        tables["jpegtables"] = page.jpegtables
    segment, _, _ = first.decode(file.read(count), index, **tables)
    decoded: NDArray[Any] = segment[0]
    return decoded


def _paste(canvas: NDArray[Any], segment: NDArray[Any], top: int, left: int) -> None:
    """Write a segment ``(H, W, samples)`` to a canvas at a position, which may be outside of it."""
    rows = slice(max(top, 0), min(top + segment.shape[0], canvas.shape[0]))
    columns = slice(max(left, 0), min(left + segment.shape[1], canvas.shape[1]))
    inside = segment[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    canvas[rows, columns] = inside


def _axes(raster: _Raster, bands: Bands, given: str | None, name: str) -> str:
    """Return the order of the axes of an array, given or found by the number of bands.

    Raises:
        LitVizError: the array has other bands, or several orders are possible.
    """
    shape = raster.shape
    counts = {bands.channels}
    if bands.are_pictures:  # gray and RGB are converted
        counts = {1, 3}
    wanted = " or ".join(str(count) for count in sorted(counts))
    described = " x ".join(map(str, shape))
    if given is not None:
        require(len(shape) == len(given), f"axes={given} requires {len(given)} axes in {name}", described)
        count = shape[given.index("C")] if "C" in given else 1
        require(
            count in counts,
            f"{name} must have {wanted} bands along C of axes={given}",
            f"{count} in {described}",
            is_argument=False,
        )
        axes = given
    elif len(shape) == 2:
        require(1 in counts, f"{name} must have {wanted} bands", f"an array of {described}", is_argument=False)
        axes = "HW"
    else:
        require(len(shape) == 3, f"{name} must have 2 or 3 axes", f"{len(shape)} ({described})", is_argument=False)
        first, last = shape[0] in counts, shape[2] in counts
        if first and last:
            raise LitVizError(f"the bands of {name} may be first or last in {described}: give axes=CHW or axes=HWC")
        require(
            first or last,
            f"{name} must have {wanted} bands first or last",
            described,
            hint="give axes for another order",
            is_argument=False,
        )
        axes = "CHW" if first else "HWC"
    require(0 not in shape, f"{name} must have pixels", described, is_argument=False)
    return axes


def _check_pixels(original: tuple[int, int], name: str) -> None:
    """Raise an error if an image (height, width) is too large to be read as a whole."""
    pixels = original[0] * original[1]
    limit, variable = pixel_limit()
    require(
        limit is None or pixels <= limit,
        f"{name} must have at most {limit} pixels",
        f"{pixels}: downsize it, give tile, or set {variable} in the environment",
        is_argument=False,
    )


def _check_type(file_format: FileFormat, name: str) -> None:
    dtype = np.dtype(file_format.dtype)
    is_number = np.issubdtype(dtype, np.floating) or np.issubdtype(dtype, np.integer)
    require(is_number, f"{name} must contain real numbers", dtype.name, is_argument=False)
    if not (file_format.is_float or file_format.ranges or dtype.name in _TYPES_OF_PICTURES):
        raise LitVizError(f"{name} has values of {dtype.name}: give load_network(..., value_range=(low, high))")


def _warn_of_few_bits(largest: int, bands: Bands, name: str) -> None:
    """Warn once, by bands, if the largest value of an image of 16 bits is far below white, such as one of 12 bits."""
    if largest >= _FEW_BITS or not largest or bands in _warned:
        return
    _warned.add(bands)
    remark(
        f"the largest value of {name} is {largest} of 65535, and without value_range it is divided by 65535: if files "
        "have fewer bits, or other units such as reflectances to 10000, load the network with value_range=(low, high)"
    )


def _planes(raster: _Raster, axes: str, bands: Bands, name: str, window: Tile | None) -> Sequence[NDArray[Any]]:
    """Return the bands ``(H, W)`` of an image or a window; of a picture gray or RGB as the network takes it."""
    part = [slice(None)] * len(axes)
    if window is not None:
        part[axes.index("H")], part[axes.index("W")] = window.rows, window.columns
    with image_errors(name):
        values = raster.read(tuple(part))
    if "C" not in axes:
        values, axes = values[None], f"C{axes}"
    planes = list(values.transpose([axes.index(axis) for axis in "CHW"]))
    if len(planes) == bands.channels:
        return planes
    if len(planes) == 1:
        return planes * bands.channels
    gray = np.tensordot(np.asarray(LUMA), np.stack(planes).astype(np.float64), 1)
    return [gray if raster.format.is_float else np.rint(gray).astype(planes[0].dtype)]
