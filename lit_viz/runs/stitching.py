"""Maps of large images, stitched from those of their tiles.

Tiles are blended row by row, so that no more than the rows of one tile are in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.images.formats import FileFormat, format_of_map
from lit_viz.images.rasters import mask_of
from lit_viz.images.tiles import blend_weights
from lit_viz.runs.results import Outcome, R, R_co
from lit_viz.types import Tile, key_of
from lit_viz.utils.files import atomic_write

#: Folder of the stitched maps in a run folder.
MAPS = "maps"
#: Consecutive rows ``(C, h, W)`` of an image.
Rows = Iterator[NDArray[np.float32]]


@dataclass(frozen=True)
class TiledImage(Generic[R_co]):
    """The outcomes of the tiles of an image, row by row, by one method."""

    outcomes: Sequence[Outcome[R_co]]

    @property
    def name(self) -> str:
        """Name of the image."""
        return self.outcomes[0].record.name.removesuffix(self.tile.suffix)

    @property
    def key(self) -> str:
        """``0000_slide``: name of the image in files, with the index of its first tile."""
        return key_of(self.outcomes[0].record.index, self.name)

    @property
    def tile(self) -> Tile:
        """The first tile."""
        return tile_of(self.outcomes[0])

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels that the tiles cover."""
        return self.rows[-1] + self.tile.height, self.columns[-1] + self.tile.width

    @cached_property
    def rows(self) -> list[int]:
        """First rows of the tiles, ascending."""
        return sorted({tile_of(outcome).row for outcome in self.outcomes})

    @cached_property
    def columns(self) -> list[int]:
        """First columns of the tiles, ascending."""
        return sorted({tile_of(outcome).column for outcome in self.outcomes})

    def blend(self, read: Callable[[Outcome], Tensor | None]) -> Rows:
        """Yield the rows of the image, blended linearly where tiles overlap; NaN where no tile has values.

        Args:
            read: returns the values ``(C, h, w)`` of a tile, which may be padded at the bottom and on the right; None
                without any.
        """
        height, width = self.tile.height, self.tile.width
        down, across = blend_weights(self.rows, height), blend_weights(self.columns, width)
        in_rows: dict[int, list[Outcome[R_co]]] = defaultdict(list)
        for outcome in self.outcomes:
            in_rows[tile_of(outcome).row].append(outcome)
        known = (values for values in map(read, self.outcomes) if values is not None)
        channels = len(next(known, torch.empty(1)))
        total, weight = np.zeros((channels, height, self.size[1])), np.zeros((1, height, self.size[1]))
        for index, row in enumerate(self.rows):
            for outcome in in_rows[row]:
                values, tile = read(outcome), tile_of(outcome)
                if values is None:
                    continue
                weights = np.outer(down[index], across[self.columns.index(tile.column)])
                part = values[:, :height, :width].double().numpy()
                total[:, :, tile.columns] += weights * part
                weight[:, :, tile.columns] += weights
            until = self.rows[index + 1] if index + 1 < len(self.rows) else self.size[0]
            done = until - row
            with np.errstate(invalid="ignore"):
                yield (total[:, :done] / weight[:, :done]).astype(np.float32)
            for plane in (*total, *weight):
                plane[: height - done] = plane[done:]
                plane[height - done :] = 0

    def map_rows(self, how: str | None = None) -> Rows:
        """Yield the rows ``(1, h, W)`` of the map, reduced by a reducer, or by that of the records."""
        return self.blend(lambda outcome: reduced_map(outcome, how))

    def shrunk(self, rows: Rows, factor: int) -> Tensor:
        """Return the mean of each block of ``factor`` x ``factor`` pixels of rows of the image, ``(C, h, w)``."""
        height, width = self.size
        sums: list[NDArray[np.float64]] = []
        columns = np.arange(0, width, factor)
        first = 0
        for band in rows:
            for values in np.add.reduceat(band.astype(np.float64), columns, axis=2).transpose(1, 0, 2):
                if first % factor == 0:
                    sums.append(np.zeros_like(values))
                sums[-1] += values
                first += 1
        counts = np.minimum(height - np.arange(0, height, factor), factor)[:, None]
        counts = counts * np.minimum(width - columns, factor)
        return torch.from_numpy(np.stack(sums, axis=1) / counts).float()

    @property
    def has_arrays(self) -> bool:
        """Whether a tile has a map."""
        return any(outcome.record.array is not None or outcome.array() is not None for outcome in self.outcomes)

    def scores(self) -> Tensor:
        """Return the score of each tile ``(rows, columns)``; NaN without one."""
        scores = torch.full((len(self.rows), len(self.columns)), torch.nan)
        for outcome in self.outcomes:
            tile, metrics = tile_of(outcome), outcome.record.metrics
            score = metrics.get("score", metrics.get("logit"))
            if score is not None:
                scores[self.rows.index(tile.row), self.columns.index(tile.column)] = score
        return scores

    def map_file(self, folder: Path) -> Path:
        """Return the file of the map in a run folder."""
        return folder / MAPS / f"{self.key}.npy"

    def map(self, folder: Path | None) -> Tensor:
        """Return the map ``(H, W)``: memory-mapped if it is in the run folder, without one computed."""
        if folder is None or not self.map_file(folder).exists():
            return torch.from_numpy(np.concatenate(list(self.map_rows()), axis=1)[0])
        # Writable in memory, since torch warns of arrays that are not; the file does not change.
        mapped: Tensor = torch.from_numpy(np.load(self.map_file(folder), mmap_mode="c"))
        return mapped

    def write_map(self, folder: Path) -> None:
        """Write the map to a run folder as ``maps/KEY.npy``, of a GeoTIFF also as a TIFF file with its tags."""
        file = self.map_file(folder)
        file.parent.mkdir(exist_ok=True)
        header = {"descr": "<f4", "fortran_order": False, "shape": self.size}
        with atomic_write(file) as temporary, temporary.open("wb") as opened:
            np.lib.format.write_array_header_1_0(opened, header)
            for rows in self.map_rows():
                opened.write(np.ascontiguousarray(rows[0], "<f4").tobytes())
        file_format = FileFormat.of(self.outcomes[0].record.format)  # of the tile at the corner
        if file_format.tags:
            self._write_geotiff(file.with_suffix(".tif"), format_of_map(file_format))

    def _write_geotiff(self, file: Path, file_format: FileFormat) -> None:
        """Write the map row by row, with NaN at pixels without data."""
        import tifffile

        rows = (row for band in self.blend(_with_no_data) for row in band[0])
        with atomic_write(file) as temporary:
            tifffile.imwrite(
                temporary,
                rows,
                shape=self.size,
                dtype=np.float32,
                rowsperstrip=1,
                photometric="minisblack",
                metadata=None,
                extratags=file_format.extra_tags(),
            )


def tile_of(outcome: Outcome) -> Tile:
    """Return the tile of an outcome of a run by tiles."""
    tile = outcome.record.tile
    assert tile is not None
    return tile


def reduced_map(outcome: Outcome, how: str | None = None) -> Tensor | None:
    """Return the map ``(1, h, w)`` of a tile, reduced by a reducer, or by that of its record; None without a map."""
    array = outcome.array()
    if array is None:
        return None
    if how is None:
        how = str(getattr(outcome.record, "reducer", "max_abs"))
    return reduce_channels(array, how)


def _with_no_data(outcome: Outcome) -> Tensor | None:
    """Return :func:`reduced_map` with NaN at pixels without data."""
    values, runs = reduced_map(outcome), outcome.record.no_data
    if values is None or runs is None:
        return values
    size = values.shape[-2], values.shape[-1]
    return values.masked_fill(mask_of(runs, size), torch.nan)


def tiled_images(outcomes: Sequence[Outcome[R]]) -> list[TiledImage[R] | None]:
    """Return the images of a run by tiles, by each method, in order; None for an image that has no tiles since it can't
    be read. Without tiles there is no image."""
    images: list[TiledImage[R] | None] = []
    group: list[Outcome[R]] = []
    before: Tile | None = None
    for outcome in outcomes:
        tile = outcome.record.tile
        if tile is None:
            images.append(None)
        elif before is None or not before.precedes(tile):
            group = [outcome]
            images.append(TiledImage(group))
        else:
            group.append(outcome)
        before = tile
    return images if group else []


def write_maps(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write the maps of a run by tiles to its folder."""
    for image in tiled_images(outcomes):
        if image is not None and image.has_arrays:
            image.write_map(folder)
