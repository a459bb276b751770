"""Maps of large images, stitched from those of their tiles.

Tiles are blended row by row, so that no more than the rows of one tile are in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.images.formats import FileFormat
from lit_viz.images.tiles import blend_weights
from lit_viz.runs.results import Outcome
from lit_viz.types import Tile, key_of
from lit_viz.utils.files import atomic_write

#: Folder of the stitched maps in a run folder.
MAPS = "maps"
_STRIP = 64  # rows of a TIFF file that are written at once
#: Consecutive rows ``(C, h, W)`` of an image.
Rows = Iterator[NDArray[np.float32]]


@dataclass(frozen=True)
class TiledImage:
    """The outcomes of the tiles of an image, row by row, by one method."""

    outcomes: Sequence[Outcome]

    @property
    def name(self) -> str:
        """Name of the image."""
        return self.outcomes[0].record.name.removesuffix(self._tile(0).suffix)

    @property
    def key(self) -> str:
        """``0000_slide``: name of the image in files, with the index of its first tile."""
        return key_of(self.outcomes[0].record.index, self.name)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels that the tiles cover."""
        tiles = [self._tile(place) for place in range(len(self.outcomes))]
        return max(tile.rows.stop for tile in tiles), max(tile.columns.stop for tile in tiles)

    @cached_property
    def rows(self) -> list[int]:
        """First rows of the tiles, ascending."""
        return sorted({self._tile(place).row for place in range(len(self.outcomes))})

    @cached_property
    def columns(self) -> list[int]:
        """First columns of the tiles, ascending."""
        return sorted({self._tile(place).column for place in range(len(self.outcomes))})

    def _tile(self, place: int) -> Tile:
        tile = self.outcomes[place].record.tile
        assert tile is not None
        return tile

    def blend(self, read: Callable[[Outcome], Tensor | None]) -> Rows:
        """Yield the rows of the image, blended linearly where tiles overlap; NaN where no tile has values.

        Args:
            read: returns the values ``(C, h, w)`` of a tile, which may be padded at the bottom and on the right; None
                without any.
        """
        height, width = self._tile(0).height, self._tile(0).width
        down, across = blend_weights(self.rows, height), blend_weights(self.columns, width)
        in_rows: dict[int, list[Outcome]] = defaultdict(list)
        for place, outcome in enumerate(self.outcomes):
            in_rows[self._tile(place).row].append(outcome)
        total, weight = np.zeros((1, height, self.size[1])), np.zeros((1, height, self.size[1]))
        for index, row in enumerate(self.rows):
            for outcome in in_rows[row]:
                values = read(outcome)
                tile = outcome.record.tile
                if values is None or tile is None:
                    continue
                if len(total) < len(values):
                    total = np.repeat(total, len(values), axis=0)
                weights = np.outer(down[index], across[self.columns.index(tile.column)])
                part = values[:, :height, :width].double().numpy()
                total[:, :, tile.columns] += weights * part
                weight[:, :, tile.columns] += weights
            until = self.rows[index + 1] if index + 1 < len(self.rows) else self.size[0]
            done = until - row
            with np.errstate(invalid="ignore"):
                yield (total[:, :done] / weight[:, :done]).astype(np.float32)
            total, weight = _shifted(total, done), _shifted(weight, done)

    def map_rows(self) -> Rows:
        """Yield the rows ``(1, h, W)`` of the map, reduced as in the figure."""
        return self.blend(reduced_map)

    def scores(self) -> Tensor:
        """Return the score of each tile ``(rows, columns)``; NaN without one."""
        scores = torch.full((len(self.rows), len(self.columns)), torch.nan)
        for place, outcome in enumerate(self.outcomes):
            tile, metrics = self._tile(place), outcome.record.metrics
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
            self._write_geotiff(file, file_format)

    def _write_geotiff(self, file: Path, file_format: FileFormat) -> None:
        import tifffile

        with atomic_write(file.with_suffix(".tif")) as temporary:
            tifffile.imwrite(
                temporary,
                rows_of(file, _STRIP),
                shape=self.size,
                dtype=np.float32,
                rowsperstrip=_STRIP,
                photometric="minisblack",
                metadata=None,
                extratags=file_format.extra_tags(),
            )


def _shifted(buffer: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """Return rows ``(C, h, W)`` without the first ones, and zeros at the end."""
    shifted = np.zeros_like(buffer)
    shifted[:, : buffer.shape[1] - rows] = buffer[:, rows:]
    return shifted


def reduced_map(outcome: Outcome) -> Tensor | None:
    """Return the map ``(1, h, w)`` of a tile, reduced by the ``reducer`` of its record; None without one."""
    array = outcome.array()
    if array is None:
        return None
    return reduce_channels(array, getattr(outcome.record, "reducer", "max_abs"))


def rows_of(file: Path, count: int) -> Iterator[NDArray[np.float32]]:
    """Yield ``count`` rows at once of an array ``(H, W)`` in a file; none of them remains in memory."""
    height = np.load(file, mmap_mode="r").shape[0]
    for row in range(0, height, count):
        yield np.array(np.load(file, mmap_mode="r")[row : row + count])


def tiled_images(outcomes: Sequence[Outcome]) -> list[TiledImage | None]:
    """Return the images of a run by tiles, by each method, in order; None for an image that has no tiles since it can't
    be read. Without tiles there is no image."""
    images: list[TiledImage | None] = []
    group: list[Outcome] = []
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
    """Write the maps of a run by tiles to its folder.

    Raises:
        LitVizError: the disk is full.
    """
    for image in tiled_images(outcomes):
        if image is not None and any(outcome.record.array is not None for outcome in image.outcomes):
            image.write_map(folder)
