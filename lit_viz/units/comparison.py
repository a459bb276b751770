"""How far the units of two networks with the same layers differ, by the photographs that activate them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from lit_viz.errors import require
from lit_viz.images.rendering import standardized_ranks
from lit_viz.units.survey import LayerSurvey

_BLOCK = 2**20  # activations in memory


@dataclass(frozen=True)
class LayerDifference:
    """Differences of the units of a layer between two networks.

    A unit that is constant over the photographs has no photographs that activate it most, and no correlation: both
    figures are 1 if that holds in one of the networks, and NaN in both.

    Attributes:
        layer: name.
        photographs: ``(U,)`` 1 - Jaccard index of the photographs that activate a unit most, in [0, 1].
        activations: ``(U,)`` 1 - Spearman correlation of its activations over all photographs, in [0, 2].
    """

    layer: str
    photographs: NDArray[np.float64] = field(repr=False)
    activations: NDArray[np.float64] = field(repr=False)


def layer_difference(a: LayerSurvey, b: LayerSurvey) -> LayerDifference:
    """Return how far the units of a layer differ between two networks.

    Memory does not grow with the photographs: as many units are ranked at once as fit into a block.

    Args:
        a: survey of the layer in a network.
        b: that of the same photographs in another one.
    """
    require(
        a.activations.shape == b.activations.shape,
        "both surveys must have the same units and photographs",
        a.layer,
        is_argument=False,
    )
    count, units = a.activations.shape
    step = max(1, _BLOCK // count)
    photographs = np.empty(units)
    activations = np.empty(units)
    for first in range(0, units, step):
        block = slice(first, first + step)
        own, other = np.asarray(a.activations[:, block]), np.asarray(b.activations[:, block])
        varies = np.ptp(own, axis=0) > 0, np.ptp(other, axis=0) > 0
        activations[block] = 1 - _spearman(own, other)
        photographs[block] = 1 - _jaccard(a.top[block], b.top[block])
        both, neither = varies[0] & varies[1], ~varies[0] & ~varies[1]
        for figures in (photographs, activations):
            figures[block][~both] = 1
            figures[block][neither] = np.nan
    return LayerDifference(a.layer, photographs, activations)


def _jaccard(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the Jaccard index of each row of two arrays of indices ``(U, K)``, in which -1 is no index."""
    is_shared = (a[:, :, None] == b[:, None, :]) & (a >= 0)[:, :, None]
    shared = is_shared.sum((1, 2))
    union = (a >= 0).sum(1) + (b >= 0).sum(1) - shared
    return np.asarray(shared / np.maximum(union, 1))


def _spearman(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the Spearman correlation of each column of two arrays ``(P, U)``; ties have mean ranks."""
    ranks = [standardized_ranks(torch.from_numpy(values.T)) for values in (a, b)]
    return np.asarray((ranks[0] * ranks[1]).sum(1).numpy())
