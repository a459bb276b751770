"""Types of image files: values of any depth and number of bands, their lattice, and lossless encoding.

Inside, images are float32 in [0, 1]. A format maps them to the values of a file and back.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.errors import LitVizError, first_line, require
from lit_viz.images.png16 import decode_png16, encode_png16
from lit_viz.images.reading import decode, encode_png
from lit_viz.networks.bands import Bands

#: Steps from 0 to 1 of an 8-bit image.
LEVELS = 255
#: Tolerances for float32: an 8-bit image is not exactly a multiple of 1/255, nor is one of 16 bits of 1/65535.
_OFF_LATTICE, _OFF_LATTICE_SHARE = 1e-4, 2e-7  # in steps, and relative to the number of steps
_MOST_STEPS = 2**22  # of float32 in [0, 1]
#: Tags of a GeoTIFF: size of a pixel, tie points, transformation, keys with their numbers and texts, and no data.
_SCALE, _TIES, _MATRIX, _NO_DATA = 33550, 33922, 34264, 42113
GEO_TAGS = (_SCALE, _TIES, _MATRIX, 34735, 34736, 34737, _NO_DATA)


@dataclass(frozen=True)
class FileFormat:
    """How an image is written to a file without loss, by default as an 8-bit picture.

    Attributes:
        dtype: NumPy type of the values.
        suffix: ``.png``, ``.npy`` or ``.tif``.
        axes: order of the axes in an array, such as ``HWC``.
        paged: whether each band is a page of a TIFF file.
        ranges: values that map to 0 and 1, per band; empty for those of the type.
        display: indices of the drawn bands; empty if the image is drawn as it is.
        tags: tags of a TIFF file as (code, type, count, value).
    """

    dtype: str = "uint8"
    suffix: str = ".png"
    axes: str = "CHW"
    paged: bool = False
    ranges: tuple[tuple[float, float], ...] = ()
    display: tuple[int, ...] = ()
    tags: tuple[tuple[int, int, int, Any], ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> FileFormat:
        """Return the format of :meth:`to_dict`; that of pictures for None.

        Raises:
            LitVizError: the values are of no format.
        """
        if values is None:
            return PICTURE
        given = dict(values)
        try:
            given["ranges"] = tuple((float(low), float(high)) for low, high in given.get("ranges", ()))
            given["display"] = tuple(given.get("display", ()))
            given["tags"] = tuple(tuple(tag) for tag in given.get("tags", ()))
            return cls(**given)
        except (TypeError, ValueError) as error:  # of a forger
            raise LitVizError(f"a recorded format of a file must be one, got {values}: start another run") from error

    def to_dict(self) -> dict[str, Any] | None:
        """Return plain values; None for pictures of 8 bits."""
        return None if self == PICTURE else asdict(self)

    @property
    def is_float(self) -> bool:
        """Whether values are floating-point numbers, which have no lattice."""
        return bool(np.issubdtype(np.dtype(self.dtype), np.floating))

    # -- values of the file

    @property
    def no_data(self) -> float | None:
        """Value that a GeoTIFF (tag GDAL_NODATA) has in place of no data; None if it states none."""
        for code, _, _, text in self.tags:
            if code == _NO_DATA:
                try:
                    value = float(text)
                except ValueError:
                    return None
                return float(np.float32(value)) if self.dtype == "float32" else value
        return None

    @property
    def _limits(self) -> tuple[Any, Any]:
        """The values of a file that map to 0 and 1: numbers, or float64 ``(C, 1, 1)``."""
        if not self.ranges:
            return 0.0, 1.0 if self.is_float else float(np.iinfo(self.dtype).max)
        pairs = torch.tensor(self.ranges, dtype=torch.float64).view(-1, 2, 1, 1)
        return pairs[:, 0], pairs[:, 1]

    def to_values(self, image: Tensor) -> NDArray[Any]:
        """Return the values ``(C, H, W)`` of a file for an image in [0, 1]."""
        low, high = self._limits
        values = image.detach().cpu().double() * (high - low) + low
        if not self.is_float:
            kind = np.iinfo(self.dtype)
            values = values.nan_to_num(0.0).round().clamp(kind.min, kind.max)
        array: NDArray[Any] = values.numpy().astype(self.dtype)
        return array

    def to_image(self, values: NDArray[Any] | Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the image ``(C, H, W)`` of the values of a file; they may be outside of [0, 1]."""
        low, high = self._limits
        numbers = torch.as_tensor(np.asarray(values, dtype=np.float64))
        image: Tensor = ((numbers - low) / (high - low)).to(dtype)
        return image

    def draw(self, image: Tensor) -> Tensor:
        """Return the drawn bands ``(1, H, W)`` or ``(3, H, W)`` of an image ``(C, H, W)``."""
        if self.display:
            return image[list(self.display)]
        return image

    # -- the lattice

    @property
    def steps(self) -> Tensor | float:
        """Steps of the lattice from 0 to 1: a number, or float64 ``(C, 1, 1)``; 1 without a lattice."""
        if self.is_float:
            return 1.0
        low, high = self._limits
        return high - low  # type: ignore[no-any-return]

    @property
    def zero(self) -> Tensor | float:
        """Value of the file that maps to 0: a number, or float64 ``(C, 1, 1)``."""
        return self._limits[0]  # type: ignore[no-any-return]

    @property
    def reference(self) -> float:
        """Steps from 0 to 1 of the first band, the unit in which lengths are exact."""
        return float(torch.as_tensor(self.steps).flatten()[0])

    @property
    def ratio(self) -> Tensor | float:
        """Length of a step of each band in those of the first; 1 where all are equal."""
        return self.reference / self.steps

    @property
    def bounds(self) -> tuple[Tensor | float, Tensor | float]:
        """Smallest and largest level in [0, 1] that a file can hold."""
        if self.is_float:
            return 0.0, 1.0
        if not self.ranges:
            return 0, self._limits[1]
        kind = np.iinfo(self.dtype)
        low, high = self._limits
        return low.ceil().clamp(min=kind.min), high.floor().clamp(max=kind.max)

    def levels(self, image: Tensor) -> Tensor:
        """Return an image in levels, float64 on the CPU: whole numbers of the file if it is on the lattice; the image
        itself without a lattice."""
        values = image.detach().cpu().double()
        if self.is_float:
            return values
        levels = values * self.steps
        if self.ranges:
            levels = levels + self._limits[0]
        whole = levels.round()
        off = torch.clamp(torch.as_tensor(self.steps) * _OFF_LATTICE_SHARE, min=_OFF_LATTICE)
        return torch.where((levels - whole).abs() < off, whole, levels)

    def nearest(self, image: Tensor) -> Tensor:
        """Return the nearest levels in [0, 1] that a file can hold; NaN becomes black."""
        least, most = self.bounds
        levels = self.levels(image).nan_to_num(0.0)
        return within(levels if self.is_float else levels.round(), least, most)

    def image(self, levels: Tensor) -> Tensor:
        """Return levels as an image in [0, 1], float32, bit-equal to the decoded file."""
        if self.is_float:
            return self.to_image(self.to_values(levels))
        if self.dtype == "uint8" and not self.ranges:
            return levels.float() / LEVELS
        return self.to_image(levels.numpy())

    # -- files

    def encode(self, image: Tensor) -> bytes:
        """Return the file of an image ``(C, H, W)`` in [0, 1]."""
        if self.suffix == ".png" and self.dtype == "uint8" and not self.ranges:
            return encode_png(image)
        return self.encode_values(self.to_values(image))

    def encode_values(self, values: NDArray[Any]) -> bytes:
        """Return the file of values ``(C, H, W)``."""
        if self.suffix == ".png" and self.dtype == "uint8":
            return encode_png(torch.from_numpy(values))
        if self.suffix == ".png":
            return encode_png16(values)
        arranged = values[0] if "C" not in self.axes else values.transpose(["CHW".index(axis) for axis in self.axes])
        content = io.BytesIO()
        if self.suffix == ".npy":
            np.save(content, np.ascontiguousarray(arranged), allow_pickle=False)
            return content.getvalue()
        import tifffile

        options: dict[str, Any] = {"photometric": "minisblack", "metadata": None, "extratags": self.extra_tags()}
        if arranged.ndim == 3 and not self.paged:
            options["planarconfig"] = "contig" if self.axes[-1] == "C" else "separate"
        tifffile.imwrite(content, np.ascontiguousarray(arranged), **options)
        return content.getvalue()

    def extra_tags(self) -> list[tuple[int, int, int, Any, bool]]:
        """Return the tags as tifffile writes them."""
        return [(code, kind, count, value, True) for code, kind, count, value in self.tags]

    def decode(self, content: bytes) -> Tensor:
        """Return the image ``(C, H, W)``, float32 in [0, 1], of a file."""
        if self.suffix == ".png" and self.dtype == "uint8" and not self.ranges:
            return decode(content)
        return self.to_image(self.decode_values(content))

    def decode_values(self, content: bytes) -> NDArray[Any]:
        """Return the values ``(C, H, W)`` of a file."""
        if self.suffix == ".png" and self.dtype == "uint8":
            levels: NDArray[Any] = (decode(content) * LEVELS).round().byte().numpy()
            return levels
        if self.suffix == ".png":
            return decode_png16(content)
        if self.suffix == ".npy":
            values: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            import tifffile

            values = tifffile.imread(io.BytesIO(content))
        if "C" not in self.axes or values.ndim == 2:
            planes: NDArray[Any] = values[None]
        else:
            planes = values.transpose([self.axes.index(axis) for axis in "CHW"])
        return planes

    def read(self, path: str | Path) -> Tensor:
        """Return the image of a file that was written in this format.

        Raises:
            LitVizError: it is damaged.
        """
        try:
            return self.decode(Path(path).read_bytes())
        except Exception as error:  # of NumPy, Pillow and tifffile, by the kind of the damage
            raise LitVizError(f"{path} can't be read ({first_line(error)}): compute the run again") from error

    def check_lattice(self) -> None:
        """Raise an error if float32 can't hold the whole numbers of the type in the range."""
        if self.is_float:
            return
        most = float(torch.as_tensor(self.steps).max())
        require(most <= _MOST_STEPS, f"value_range of {self.dtype} files must have at most {_MOST_STEPS} steps", most)


def within(levels: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Return float64 levels clamped to bounds, which are numbers or ``(C, 1, 1)``."""
    return torch.maximum(torch.minimum(levels, torch.as_tensor(high).double()), torch.as_tensor(low).double())


#: Pictures of 8 bits in gray or RGB.
PICTURE = FileFormat()


def format_of_map(source: FileFormat) -> FileFormat:
    """Return the format of a map with the tags of its source, a GeoTIFF, and NaN as no data."""
    tags = [tag for tag in source.tags if tag[0] != _NO_DATA]
    return FileFormat("float32", ".tif", tags=(*tags, (_NO_DATA, 2, 4, "nan")))


def moved_tags(
    tags: tuple[tuple[int, int, int, Any], ...], box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[tuple[int, int, int, Any], ...]:
    """Return the tags of a GeoTIFF for the part in ``box`` (x0, y0, x1, y1), resampled to ``size`` (height, width)."""
    x0, y0, x1, y1 = box
    right, down = (x1 - x0) / size[1], (y1 - y0) / size[0]  # pixels of the original per pixel
    scale = next((value for code, _, _, value in tags if code == _SCALE), None)
    moved: list[tuple[int, int, int, Any]] = []
    for code, kind, count, value in tags:
        if code == _SCALE:
            value = [value[0] * right, value[1] * down, *value[2:]]
        elif code == _TIES and scale is not None:
            column, row, _, x, y, *_ = value
            count, value = 6, [0.0, 0.0, 0.0, x + (x0 - column) * scale[0], y - (y0 - row) * scale[1], value[5]]
        elif code == _MATRIX:
            pixels = np.array([[right, 0, 0, x0], [0, down, 0, y0], [0, 0, 1, 0], [0, 0, 0, 1]])
            value = (np.array(value).reshape(4, 4) @ pixels).flatten().tolist()
        moved.append((code, kind, count, value))
    return tuple(moved)


def format_of_result(bands: Bands) -> FileFormat:
    """Return the format of images without a source: pictures, or arrays of float32 for other bands."""
    if bands.are_pictures:
        return PICTURE
    display = () if bands.are_drawn else bands.display
    if bands.channels in (1, 3) and not bands.ranges:
        return FileFormat(display=display)
    return FileFormat("float32", ".npy", ranges=bands.ranges, display=display)
