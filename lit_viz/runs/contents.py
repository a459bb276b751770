"""Contents of the files of tasks in a run folder: images, arrays, and texts of images."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_viz.errors import LitVizError, first_line
from lit_viz.images.reading import IMAGE_ERRORS, decode
from lit_viz.utils.checking import wrong_value
from lit_viz.utils.files import open_regular, parse_json, read_regular

#: Name of a text in the PNG files of logged images.
TOP5 = "top5"
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
    return read_image(path) if path.exists() else None


def read_image(path: Path) -> Tensor:
    """Return the image ``(C, H, W)`` in [0, 1] of a PNG file."""
    try:
        return decode(read_regular(path))
    except IMAGE_ERRORS as error:
        raise LitVizError(f"{path} is no image ({first_line(error)})") from error


def read_array(path: Path) -> Tensor:
    """Return the array of an ``.npy`` file; errors of :func:`array_of`."""
    with open_regular(path) as file:
        return array_of(file, path)


def array_of(file: BinaryIO, path: Path) -> Tensor:
    """Return the array of an ``.npy`` file.

    Args:
        file: the file, open.
        path: its path, for the error.

    Raises:
        LitVizError: it is no array.
    """
    try:
        return torch.from_numpy(np.load(file, allow_pickle=False))
    except _ARRAY_ERRORS as error:
        raise LitVizError(f"{path} is no array ({first_line(error)})") from error


def npy_of(array: Tensor) -> bytes:
    """Return the ``.npy`` file of an array."""
    values = array.numpy()
    return _npy_header(values.dtype, values.shape) + values.tobytes()


@lru_cache
def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the start of an ``.npy`` file; it takes NumPy as long as a small map."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue()
