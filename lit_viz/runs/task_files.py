"""Files of a task: images, arrays and photographs."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_viz.engine.snapshots import PerturbedImage, PerturbedImageRecord, Result, Snapshot
from lit_viz.errors import LitVizError, first_line
from lit_viz.images.formats import PICTURE, FileFormat, format_of_map
from lit_viz.images.rasters import mask_of
from lit_viz.images.reading import IMAGE_ERRORS, encode_png
from lit_viz.runs import layout
from lit_viz.runs.results import Outcome, curves_of
from lit_viz.runs.segments import Contents
from lit_viz.runs.stored import check_inside
from lit_viz.types import Curve, Picture, Record, key_of
from lit_viz.utils.checking import wrong_value
from lit_viz.utils.files import json_line, lines_with_offsets, open_regular, parse_json, parse_object

#: Writes the content of a file, given its name in the run folder.
Write = Callable[[str, bytes], None]
#: Name of a text in the PNG files of logged images.
TOP5 = "top5"


def write_frames(snapshot: Snapshot, write: Write) -> None:
    """Write the images of a snapshot."""
    key, file = snapshot.task.key, f"iter_{snapshot.iteration:06d}.png"
    if snapshot.image is not None:
        texts: dict[str, str] = {}
        if snapshot.top5:
            texts[TOP5] = json.dumps([(name, round(probability, 4)) for name, probability in snapshot.top5])
        write(f"{layout.FRAMES}/{key}/{file}", encode_png(snapshot.image, texts))
    for name, image in snapshot.extra_images.items():
        write(f"{layout.FRAMES}/{key}.{name}/{file}", encode_png(image))


def write_result(result: Result, write: Write) -> Record:
    """Write the images and arrays of a finished task; return its record with the names of image and raw result."""
    key, file, array = result.task.key, None, None
    _write_source(result, write)
    if result.image is not None:
        file = _write_image(result, result.image, write)
    if result.array is not None:
        array = f"arrays/{key}.npy"
        write(array, npy_of(result.array))
        _write_geometry(result, result.array, write)
    if result.terms is not None:
        write(layout.terms_name(key), npy_of(result.terms))
    _write_perturbed_images(result, write)
    return result.record.amend(file=file, array=array)


def _write_source(result: Result, write: Write) -> None:
    """Write the photograph ``(C, H, W)`` in [0, 1] as the network received it, and off the 8-bit lattice also as an
    array."""
    image, picture, key = result.source, result.source_picture, result.task.key
    if image is None or picture is None:
        return
    levels = image.detach().cpu().double() * 255
    if result.record.format is not None or bool((levels - levels.round()).abs().max() > 1e-4):
        write(f"sources/{key}.npy", npy_of(image))
    write(f"sources/{key}.png", encode_png(picture))


def _write_image(result: Result, image: Tensor, write: Write) -> str:
    """Write a final image in its format; if that is no picture of 8 bits, also the drawn bands."""
    key, picture = result.task.key, result.picture
    if result.array is not None or result.record.format is None or picture is None:
        name = f"images/{key}.png"
        write(name, encode_png(image))
        return name
    file_format = FileFormat.of(result.record.format)
    name = f"images/{key}{file_format.suffix}"
    write(f"images/{key}.drawn.png", encode_png(picture))
    write(name, file_format.encode(image))
    return name


def _write_geometry(result: Result, array: Tensor, write: Write) -> None:
    """Write the map of a GeoTIFF also as a TIFF with its tags, so that a viewer lays it over the source."""
    source = FileFormat.of(result.record.format)
    if source.tags:
        values = array.float().cpu().clone()
        values[..., mask_of(result.record.no_data, (values.shape[-2], values.shape[-1]))] = torch.nan
        write(f"arrays/{result.task.key}.tif", format_of_map(source).encode_values(values.numpy()))


def _write_perturbed_images(result: Result, write: Write) -> None:
    """Write the photographs of a universal perturbation, and their records."""
    lines, key = [], result.task.key
    for perturbed in result.perturbed_images:
        record, image, source = perturbed.record, perturbed.image, perturbed.source
        name = f"photographs/{key}/{key_of(record.index, record.name)}"
        if isinstance(image, Tensor) and isinstance(source, Tensor):
            record = record.amend(file=f"{name}.png", original=f"{name}.original.png")
            write(f"{name}.png", encode_png(image))
            write(f"{name}.original.png", encode_png(source))
            if source.dtype != torch.uint8:  # off the 8-bit lattice, so that the PNG is rounded
                write(f"{name}.original.npy", npy_of(source))
        lines.append(json_line(record.to_dict()))
    if lines:
        write(f"photographs/{key}.jsonl", "".join(lines).encode())


def npy_of(array: Tensor) -> bytes:
    """Return the ``.npy`` file of an array, in float32 or float16."""
    values = array.detach().cpu()
    if values.dtype != torch.float16:
        values = values.float()
    content = values.numpy()
    return _npy_header(content.dtype, content.shape) + content.tobytes()


@lru_cache
def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the start of an ``.npy`` file; it takes NumPy as long as a small map."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue()


#: Exceptions of NumPy for damaged files.
_ARRAY_ERRORS = (OSError, ValueError, TypeError, EOFError)


class _Top5(TypedDict):
    """Most probable classes of a logged image."""

    top5: Sequence[tuple[str, float | None]]


def top5_of(frame: Path) -> tuple[tuple[str, float], ...]:
    """Return the most probable classes of a logged image as (name, probability), which its file contains; may be
    empty."""
    with open_regular(frame) as content:
        try:
            with Image.open(content) as file:
                text = getattr(file, "text", {}).get(TOP5)
        except IMAGE_ERRORS as error:
            raise LitVizError(f"{frame} is no image ({first_line(error)})") from error
    values = {"top5": [] if text is None else parse_json(text)}
    wrong = wrong_value(values, _Top5)
    if wrong is not None:
        raise LitVizError(f"{frame} is damaged ({wrong})")
    return tuple((name, math.nan if probability is None else probability) for name, probability in values["top5"])


def exact_image(path: Path) -> Tensor | None:
    """Return the image ``(C, H, W)`` in [0, 1] of a PNG file, or of the array beside it if it is off the 8-bit lattice;
    None without a file."""
    exact = path.with_suffix(".npy")
    if exact.exists():
        return read_array(exact)
    return PICTURE.read(path) if path.exists() else None


def read_array(path: Path) -> Tensor:
    """Return the array of an ``.npy`` file; errors of :func:`array_of`."""
    with open_regular(path) as file:
        return array_of(file, path)


def array_of(file: BinaryIO, path: Path) -> Tensor:
    """Return the array of an open ``.npy`` file; ``path`` is named in the error.

    Raises:
        LitVizError: it is no array.
    """
    try:
        return torch.from_numpy(np.load(file, allow_pickle=False))
    except _ARRAY_ERRORS as error:
        raise LitVizError(f"{path} is no array ({first_line(error)})") from error


class FolderOutcome(Outcome):
    """The outcome of a task in a run folder; ``contents`` returns its files and rows."""

    def __init__(self, record: Record, root: Path, contents: Callable[[], Contents]) -> None:
        super().__init__(record)
        self._root, self._contents = root, contents

    def image(self) -> Tensor | None:
        record = self.record
        if record.file is None:
            return None
        file_format = FileFormat.of(record.format if record.array is None else None)
        return file_format.read(self._root / record.file)

    def array(self) -> Tensor | None:
        return read_array(self._root / self.record.array) if self.record.array else None

    def terms(self) -> Tensor | None:
        path = self._root / layout.terms_name(self.record.key)
        return read_array(path) if path.exists() else None

    def source(self) -> Tensor | None:
        return exact_image(self._source)

    def pictures(self) -> tuple[Picture | None, Picture | None]:
        image = self._root / self.record.picture if self.record.picture else None
        if self.record.format is None and self._source.exists() and not self._source.with_suffix(".npy").exists():
            return self._source, image
        return self.photograph(), image

    @property
    def _source(self) -> Path:
        return self._root / "sources" / f"{self.record.key}.png"

    def perturbed_images(self) -> list[PerturbedImage]:
        images = []
        path = self._root / "photographs" / f"{self.record.key}.jsonl"
        for number, (_, line) in enumerate(lines_with_offsets(path), start=1):
            values = parse_object(line) or {}
            wrong = wrong_value(values, PerturbedImageRecord)
            if wrong is not None:
                raise LitVizError(f"{path} is damaged (line {number}: {wrong})")
            record = PerturbedImageRecord.from_dict(values)
            check_inside(record.file, record.original)
            image = None if record.file is None else self._root / record.file
            source = None if record.original is None else self._root / record.original
            images.append(PerturbedImage(record, image, source))
        return images

    def frames(self, name: str = "image") -> list[tuple[int, Picture]]:
        return [*frames_of(self._root, self.record.key, self._contents()).get(name, ())]

    def curves(self) -> dict[str, Curve]:
        return curves_of(self._contents().rows)


def frames_of(root: Path, key: str, contents: Contents) -> dict[str, list[tuple[int, Path]]]:
    """Return the logged images of a task by name (``image``, and additional ones), as (iteration, PNG file) in order of
    iteration."""
    frames: dict[str, list[tuple[int, Path]]] = {}
    for file in map(Path, contents.files):
        if file.parts[0] == layout.FRAMES:
            name = file.parent.name[len(key) + 1 :] or "image"
            frames.setdefault(name, []).append((layout.iteration_of(file), root / file))
    for logged in frames.values():
        logged.sort()
    return frames
