"""Whether a synthetic image passes through a network as natural images do.

Geirhos et al. 2024 (ICML, arXiv:2306.04719) show that a synthetic image can take another way through a network than
natural ones. The figure of a layer is the Spearman correlation of the channel means of the synthetic image and of its
natural images, on a scale where 1 is the similarity among natural images and 0 their similarity to random photographs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_viz.errors import require
from lit_viz.images.canvas import resize
from lit_viz.images.rasters import read_image
from lit_viz.images.rendering import rank_correlations
from lit_viz.networks import Network
from lit_viz.networks.layers import Layout, layouts
from lit_viz.runs.evidence import LayerNaturalness
from lit_viz.utils.limits import evenly

_BATCH = 16
_RESAMPLES = 500
_INTERVAL = (0.025, 0.975)
_LEAST_CHANNELS = 8
_MOST_LAYERS = 8
_OTHERS = 64  # photographs with which natural images are compared
_LEAST = 3  # photographs of a comparison
_LEAST_OTHERS = 8  # figures of a null distribution
_NORMAL = 1.4826  # standard deviation of a normal distribution relative to its median absolute deviation
#: An image is flagged if its figure lies so many robust standard deviations below the median of the others.
UNNATURAL = 3.0


class NaturalImages:
    """Photographs with which synthetic images are compared, by the channel means of some layers.

    They are read in batches, so that memory does not grow with their number.

    Args:
        network: the network.
        layers: layers with their layouts (:func:`compared_layers`, :func:`network_layers`).
        files: files of all photographs.
        places: places in ``files`` of the photographs that are compared.
    """

    def __init__(
        self, network: Network, layers: Mapping[str, Layout], files: Sequence[str], places: Iterable[int]
    ) -> None:
        self._network, self._layers = network, layers
        self._rows: dict[int, int] = {}  # by place
        self._means: dict[str, Tensor] = {}
        if not layers:
            return
        read = sorted(set(places))
        self._rows = dict(zip(read, range(len(read)), strict=True))
        parts: dict[str, list[Tensor]] = defaultdict(list)
        for first in range(0, len(read), _BATCH):
            images = [read_input(network, files[place]) for place in read[first : first + _BATCH]]
            for layer, means in channel_means(network, layers, torch.stack(images)).items():
                parts[layer].append(means)
        self._means = _joined(parts)

    def compare(self, image: Tensor, natural: Sequence[int], others: Sequence[int]) -> list[LayerNaturalness]:
        """Return the figure of each layer for a synthetic image ``(C, H, W)``.

        Args:
            image: in [0, 1].
            natural: places of its natural images.
            others: places of other photographs.

        Returns:
            An empty list without layers, and with fewer than three photographs of a kind.
        """
        if not self._layers or min(len(natural), len(others)) < _LEAST:
            return []
        means = channel_means(self._network, self._layers, resize(image[None], self._network.size))
        synthetic = {layer: rows[0] for layer, rows in means.items()}
        return naturalness(synthetic, self._at(natural), self._at(others))

    def _at(self, places: Sequence[int]) -> dict[str, Tensor]:
        rows = [self._rows[place] for place in places]
        return {layer: means[rows] for layer, means in self._means.items()}


def read_input(network: Network, file: str) -> Tensor:
    """Return a photograph ``(C, H, W)`` in [0, 1], fitted to the input as the network was published.

    Raises:
        LitVizError: the file can't be read.
    """
    fit: Any = network.resizing or "crop"
    return read_image(file, network.size, network.bands, fit).pixels


def compared_layers(network: Network, last: str) -> dict[str, Layout]:
    """Return layers of at least eight channels, evenly spaced through the network up to a layer, which is included.

    They have the depth of that layer in the tree of modules: blocks are compared with blocks.
    """
    layers = _layers_with_channels(network)
    names = []
    for name in layers:
        if name.count(".") == last.count("."):
            names.append(name)
        if name == last:
            break
    return _spaced(layers, names)


def network_layers(network: Network) -> dict[str, Layout]:
    """Return layers of at least eight channels, evenly spaced through the network, without its logits.

    They are its blocks, the numbered modules at the depth that has most of them; or else, all layers outside of
    another one.
    """
    layers = _layers_with_channels(network)
    blocks: dict[int, list[str]] = {}
    outer: list[str] = []
    for name in list(layers)[:-1]:
        if name.rpartition(".")[2].isdigit():
            blocks.setdefault(name.count("."), []).append(name)
        if "." not in name:
            outer.append(name)
    names = max(blocks.values(), key=len, default=outer)
    return _spaced(layers, names)


def _spaced(layers: Mapping[str, Layout], names: Sequence[str]) -> dict[str, Layout]:
    """Return the layers with these names; of many, evenly spaced ones."""
    return {name: layers[name] for name in evenly(names, _MOST_LAYERS)}


def _layers_with_channels(network: Network) -> dict[str, Layout]:
    """Return the layers of at least eight channels, in the order of the forward."""
    layers = {}
    for name, layout in layouts(network).items():
        if name and layout.kind != "other" and layout.channels >= _LEAST_CHANNELS:
            layers[name] = layout
    return layers


def other_images(count: int) -> list[int]:
    """Return the places of the images, of ``count``, with which natural images are compared: at most 64."""
    return evenly(range(count), _OTHERS)


def channel_means(classifier: Network, layers: Mapping[str, Layout], images: Tensor) -> dict[str, Tensor]:
    """Return the mean of each channel over positions, ``(N, C)`` by layer, for images ``(N, C, H, W)`` in [0, 1]."""
    network = classifier.fast(layers)
    means: dict[str, list[Tensor]] = defaultdict(list)
    with torch.no_grad():
        for part in torch.split(images, _BATCH):
            for layer, activation in network.activations(part, list(layers)).items():
                means[layer].append(_channel_mean(activation, layers[layer]).float().cpu())
    return _joined(means)


def _joined(parts: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    return {layer: torch.cat([*rows]) for layer, rows in parts.items()}


def _channel_mean(activation: Tensor, layout: Layout) -> Tensor:
    """Return the mean over positions ``(N, C)``; without tokens that have no place."""
    if layout.kind == "maps":
        return activation.mean((2, 3))
    if layout.kind == "grid":
        return activation.mean((1, 2))
    if layout.kind == "tokens":
        return activation[:, layout.prefix :].mean(1)
    return activation


def naturalness(
    synthetic: Mapping[str, Tensor], natural: Mapping[str, Tensor], random: Mapping[str, Tensor]
) -> list[LayerNaturalness]:
    """Return the figure of each layer.

    Args:
        synthetic: channel means ``(C,)`` of the synthetic image by layer.
        natural: channel means of its natural images, ``(N, C)``, N >= 3.
        random: channel means of random photographs, ``(R, C)``, R >= 2.
    """
    figures = []
    for layer, means in synthetic.items():
        figures.append(_figure(layer, means, natural[layer], random[layer]))
    return figures


def _figure(layer: str, synthetic: Tensor, natural: Tensor, random: Tensor) -> LayerNaturalness:
    require(len(natural) >= 3, "there must be at least 3 natural images", len(natural), is_argument=False)
    require(len(random) >= 2, "there must be at least 2 random photographs", len(random), is_argument=False)
    own = rank_correlations(synthetic[None], natural)[0]
    among = rank_correlations(natural, natural)
    others = rank_correlations(natural, random)
    counts, resampled_others = _drawn(len(natural), len(random))
    zeros = ((counts @ others) * resampled_others).sum(1) / (len(natural) * len(random))
    pairs = counts[:, :, None] * counts[:, None]
    pairs.diagonal(dim1=1, dim2=2).zero_()  # of different images
    kept = pairs.sum((1, 2)) > 0
    similarities = (pairs * among).sum((1, 2)) / pairs.sum((1, 2))
    gaps = (similarities - zeros)[kept]
    heights = (counts @ own / len(natural) - zeros)[kept]
    values = torch.where(gaps != 0, heights / gaps, 0.0)
    low, high = values[1:].quantile(values.new_tensor(_INTERVAL)).tolist()
    is_decidable = float(gaps[1:].quantile(_INTERVAL[0])) > 0
    return LayerNaturalness(layer=layer, value=float(values[0]), low=low, high=high, is_decidable=is_decidable)


@lru_cache(maxsize=8)
def _drawn(natural: int, random: int) -> tuple[Tensor, Tensor]:
    """Return how often each natural image is in a resample, and each random one, ``(1 + RESAMPLES, N)`` and
    ``(1 + RESAMPLES, R)`` float64; the first row is the sample itself."""
    generator = torch.Generator().manual_seed(0)
    own = [torch.ones(natural)]
    others = [torch.ones(random)]
    for _ in range(_RESAMPLES):
        own.append(torch.randint(natural, (natural,), generator=generator).bincount(minlength=natural))
        others.append(torch.randint(random, (random,), generator=generator).bincount(minlength=random))
    return torch.stack(own).double(), torch.stack(others).double()


def null_deviations(figures: Sequence[float | None]) -> list[float | None]:
    """Return the distance of each figure from the median of the other images, in robust standard deviations.

    The null distribution of an image is that of the others, the units of the same layer or the classes of the same
    network: its median, and 1.4826 times its median absolute deviation. Up to nearly half of them may be manipulated.

    Args:
        figures: of images at the same layer; None where not decidable.

    Returns:
        A deviation for each, negative for images that are less natural than others; None where the figure or, with
        fewer than eight others, the null distribution is not decidable.
    """
    decidable = [place for place, figure in enumerate(figures) if figure is not None]
    values = np.array([figures[place] for place in decidable], float)
    deviations: list[float | None] = [None] * len(figures)
    if len(values) <= _LEAST_OTHERS:
        return deviations
    for row, place in enumerate(decidable):
        others = np.delete(values, row)
        middle = np.median(others)
        spread = _NORMAL * np.median(np.abs(others - middle))
        deviations[place] = float((values[row] - middle) / max(spread, 1e-6))
    return deviations


def last_figure(figures: Sequence[LayerNaturalness]) -> float | None:
    """Return the figure of the last layer; None where it is not decidable."""
    if not figures or not figures[-1].is_decidable:
        return None
    return figures[-1].value


def best_late_figure(figures: Sequence[LayerNaturalness]) -> float | None:
    """Return the highest figure of the second half of the layers; None where none is decidable.

    A natural image is near 1 there, and single layers vary much: an image of which no figure is high shows something
    else.
    """
    late = [figure.value for figure in figures[len(figures) // 2 :] if figure.is_decidable]
    return max(late, default=None)
