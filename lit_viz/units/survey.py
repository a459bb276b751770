"""Activations of all units of several layers over photographs, in one streaming pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.evidence.naturalness import read_input
from lit_viz.networks import Network
from lit_viz.networks.layers import layout
from lit_viz.objectives import Channel, Outputs
from lit_viz.objectives.layers import Axis
from lit_viz.units.silence import Silence
from lit_viz.utils.files import allocate, temporary_path, translate_write_errors

_BATCH = 16
#: Photographs of each unit that are kept.
TOP = 9


@dataclass(frozen=True)
class LayerSurvey:
    """What the photographs do to the units of a layer.

    A unit is a channel, or of a layer of tokens a feature. Its activation by a photograph is the mean over positions,
    which :class:`~lit_viz.objectives.Channel` maximizes.

    Attributes:
        layer: name.
        activations: ``(P, U)`` float32 of P photographs and U units, mapped from a file.
        top: ``(U, TOP)`` indices of the photographs with the largest activations, in descending order, of equal
            ones the first; -1 for none.
        places: ``(U, TOP, 2)`` row and column of the largest value in each, as shares of the sides in [0, 1].
    """

    layer: str
    activations: NDArray[np.float32] = field(repr=False)
    top: NDArray[np.int64] = field(repr=False)
    places: NDArray[np.float32] = field(repr=False)

    def most_active(self, unit: int) -> list[int]:
        """Return the indices of the photographs that activate a unit most."""
        return [int(index) for index in self.top[unit] if index >= 0]


def channel_of(network: Network, layer: str) -> Channel:
    """Return the objective that reads a layer as channels over positions, bound to the network.

    A channel of a layer of tokens is a feature.

    Raises:
        LitVizError: the layer has none.
    """
    axis: Axis | None = "feature" if layout(network, layer).has_tokens else None
    objective = Channel(layer, axis=axis)
    objective.bind(network)
    return objective


def survey(
    classifier: Network,
    layers: Sequence[str],
    photographs: Sequence[str],
    folder: Path,
    progress: Callable[[int], None] = lambda done: None,
    silence: Silence | None = None,
) -> tuple[dict[str, LayerSurvey], list[str]]:
    """Evaluate every photograph once; return the survey of each layer, and the files that could be read.

    Memory does not grow with the photographs: activations are written to ``folder``, and nine entries kept per unit.

    Args:
        network: the network.
        layers: names of the layers.
        photographs: files; unreadable files are omitted.
        folder: receives a file of activations per layer.
        progress: called with the number of photographs after each batch.
        silence: receives the photographs as well, to find the channels that none activates.

    Raises:
        LitVizError: no photograph can be read.
    """
    objectives = {layer: channel_of(classifier, layer) for layer in layers}
    network = silence or classifier.fast(layers)
    tables: dict[str, _Table] = {}
    readable: list[str] = []
    with ExitStack() as unfinished:
        for first in range(0, len(photographs), _BATCH):
            images = _read(classifier, photographs[first : first + _BATCH], readable)
            if len(images):
                with torch.no_grad():
                    activations = network.activations(images, layers)
                for layer, objective in objectives.items():
                    empty = torch.zeros(len(images), 0)
                    maps = objective.maps(Outputs(empty, torch.zeros(len(images)), {layer: activations[layer]}))
                    table = tables.get(layer)
                    if table is None:
                        table = tables[layer] = _Table(folder / f"{layer}.npy", len(photographs), maps.shape[1])
                        unfinished.callback(table.discard)
                    table.add(maps)
            progress(min(first + _BATCH, len(photographs)))
        if not readable:
            raise LitVizError("no photograph can be read: give a folder of images")
        return {layer: table.finished(layer) for layer, table in tables.items()}, readable


def _read(network: Network, paths: Sequence[str], readable: list[str]) -> Tensor:
    """Return the photographs that can be read ``(N, C, H, W)``, and append their paths."""
    images = []
    for path in paths:
        try:
            images.append(read_input(network, path))
            readable.append(path)
        except LitVizError:
            continue
    return torch.stack(images) if images else torch.empty(0)


class _Table:
    """Activations of a layer in a file, and the largest of each unit.

    The file has a temporary name until all photographs are evaluated.
    """

    def __init__(self, path: Path, photographs: int, units: int) -> None:
        self._path, self._temporary = path, temporary_path(path)
        with translate_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                np.lib.format.open_memmap(self._temporary, "w+", np.float32, (photographs, units))
                allocate(self._temporary)
            except BaseException:
                self.discard()
                raise
        self._file = np.lib.format.open_memmap(self._temporary, "r+")
        self._count = 0
        self._values = torch.full((TOP, units), -torch.inf)
        self._top = torch.full((TOP, units), -1, dtype=torch.long)
        self._places = torch.zeros(TOP, units, 2)

    def add(self, maps: Tensor) -> None:
        """Add the maps ``(N, U, H, W)`` of the next photographs."""
        maps = maps.float().cpu()
        means = maps.mean((2, 3))
        height, width = maps.shape[2:]
        largest = maps.flatten(2).argmax(2)
        rows, columns = (largest // width + 0.5) / height, (largest % width + 0.5) / width
        indices = torch.arange(self._count, self._count + len(maps))[:, None].expand(-1, maps.shape[1])
        self._file[self._count : self._count + len(maps)] = means.numpy()
        self._count += len(maps)
        values = torch.cat([self._values, means])
        values, order = values.sort(dim=0, descending=True, stable=True)  # of equal ones the first
        self._values, order = values[:TOP], order[:TOP]
        self._top = torch.cat([self._top, indices]).gather(0, order)
        places = torch.cat([self._places, torch.stack([rows, columns], 2)])
        self._places = places.gather(0, order[..., None].expand(-1, -1, 2))

    def finished(self, layer: str) -> LayerSurvey:
        """Return the survey of the layer."""
        with translate_write_errors(self._path):
            self._file.flush()
            del self._file
            self._temporary.replace(self._path)
        activations = np.lib.format.open_memmap(self._path, "r+")[: self._count]
        return LayerSurvey(layer, activations, self._top.T.numpy(), self._places.transpose(0, 1).numpy())

    def discard(self) -> None:
        """Delete the file if it has its temporary name."""
        self._temporary.unlink(missing_ok=True)
