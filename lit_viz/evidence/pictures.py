"""Comparison of the pictures in a run folder, which viewers show, with the values that they are drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.formats import PICTURE, FileFormat, format_of_map
from lit_viz.images.rasters import mask_of
from lit_viz.images.reading import to_uint8
from lit_viz.runs.results import Outcome


def different_pictures(outcome: Outcome, root: Path | None) -> Iterator[str]:
    """Yield which pictures of a task do not show its values, beyond the rounding of a level.

    They are those of a photograph, of an image that is no picture of 8 bits, and the map of a GeoTIFF.

    Args:
        outcome: of the task.
        root: its run folder; None in memory.
    """
    if root is None or outcome.record.offset is not None:  # drawn when they are shown
        return
    record, array = outcome.record, outcome.array()
    source = root / "sources" / f"{record.key}.png"
    photograph = outcome.photograph()
    if photograph is not None and source.with_suffix(".npy").exists():
        yield from different_picture(source, photograph, "the photograph")
    if record.picture is not None and record.picture != record.file:
        image = outcome.drawn()
        assert image is not None
        yield from different_picture(root / record.picture, image, "the file")
    of_photograph = FileFormat.of(record.format)
    if array is not None and of_photograph.tags:
        yield from _different_map(root / "arrays" / f"{record.key}.tif", array, outcome)


def different_picture(path: Path, drawn: Tensor, name: str) -> Iterator[str]:
    """Yield a mismatch if a file does not show the picture ``(C, H, W)`` of what is named, or can't be read."""
    try:
        found = to_uint8(PICTURE.read(path)).astype(int)
    except LitVizError as error:  # the format of a record that names the file may be forged
        yield str(error)
        return
    expected = to_uint8(drawn).astype(int)
    if found.shape != expected.shape or np.abs(found - expected).max() > 1:
        yield f"the picture {path.name} is not that of {name}"


def _different_map(path: Path, array: Tensor, outcome: Outcome) -> Iterator[str]:
    """Yield a mismatch if the GeoTIFF of a map has other values than its array."""
    record = outcome.record
    expected = array.clone()
    expected[..., mask_of(record.no_data, (array.shape[-2], array.shape[-1]))] = torch.nan
    values = format_of_map(FileFormat.of(record.format)).read(path)
    if not np.array_equal(values.numpy(), expected.numpy(), equal_nan=True):
        yield f"the values of {path.name} are not those of the map"
