"""Writing of the files of a task: images, arrays, and its photographs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.images.formats import FileFormat, format_of_map
from lit_viz.images.rasters import mask_of
from lit_viz.images.reading import encode_png
from lit_viz.runs import layout
from lit_viz.types import Record, key_of
from lit_viz.utils.files import json_line

#: Writes the content of a file, given its name in the run folder.
Write = Callable[[str, bytes], None]
#: Name of a text in the PNG files of logged images.
TOP5 = "top5"


def write_frames(snapshot: Snapshot, write: Write) -> None:
    """Write the images of a snapshot."""
    key, file = snapshot.task.key, layout.frame_name(snapshot.iteration)
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
