"""Reading of the files of a task: images, arrays, and texts of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_viz.engine.snapshots import PerturbedImage, PerturbedImageRecord
from lit_viz.errors import LitVizError, first_line
from lit_viz.images.formats import FileFormat
from lit_viz.images.reading import IMAGE_ERRORS, decode
from lit_viz.runs import layout
from lit_viz.runs.metrics import curves_of
from lit_viz.runs.results import Outcome, R_co
from lit_viz.runs.segments import Contents
from lit_viz.runs.stored import check_inside
from lit_viz.runs.writing import TOP5
from lit_viz.types import Curve, Picture
from lit_viz.utils.checking import wrong_value
from lit_viz.utils.files import lines_with_offsets, open_regular, parse_json, parse_object, read_regular

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


class FolderOutcome(Outcome[R_co]):
    """The outcome of a task in a run folder.

    Args:
        record: its record.
        root: run folder.
        contents: returns files and rows of the task.
    """

    def __init__(self, record: R_co, root: Path, contents: Callable[[], Contents]) -> None:
        super().__init__(record)
        self._root, self._contents = root, contents

    def image(self) -> Tensor | None:
        record = self.record
        if record.file is None:
            return None
        if record.format is None or record.array is not None:
            return read_image(self._root / record.file)
        return FileFormat.of(record.format).read(self._root / record.file)

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
