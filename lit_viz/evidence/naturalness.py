"""Whether a synthetic image passes through a network as natural images do.

Geirhos et al. 2024 (ICML, arXiv:2306.04719) show that a synthetic image can take another way through a network than
natural ones. The figure of a layer is the Spearman correlation of the channel means of the synthetic image with those
of its natural images, on a scale where 1 is the similarity among these and 0 that of them with random photographs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import rankdata
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.classifiers.layers import Layout, layouts
from lit_viz.errors import require

_BATCH = 16
_RESAMPLES = 500
_INTERVAL = (0.025, 0.975)
_LEAST_CHANNELS = 8
_MOST_LAYERS = 8


@dataclass(frozen=True)
class Naturalness:
    """The figure of one layer, with its 95 % bootstrap interval over images.

    Attributes:
        layer: name.
        value: similarity of the synthetic image; 1 as among natural images, 0 as of random photographs.
        low, high: of the interval.
        is_decidable: whether natural images are more similar to one another than to random photographs: the interval of
            that difference is above 0.
    """

    layer: str
    value: float
    low: float
    high: float
    is_decidable: bool


def compared_layers(classifier: Classifier, last: str) -> list[str]:
    """Return layers of at least eight channels, evenly spaced through the network up to a layer, which is included.

    They have the depth of that layer in the tree of modules: blocks are compared with blocks.
    """
    names = []
    for name in _layers_with_channels(classifier):
        if name.count(".") == last.count("."):
            names.append(name)
        if name == last:
            break
    return _evenly(names)


def network_layers(classifier: Classifier) -> list[str]:
    """Return layers of at least eight channels, evenly spaced through the network, without its logits.

    They are its blocks, the numbered modules at the depth that has most of them; or else, all layers outside of
    another one.
    """
    blocks: dict[int, list[str]] = {}
    outer: list[str] = []
    for name in _layers_with_channels(classifier)[:-1]:
        if name.rpartition(".")[2].isdigit():
            blocks.setdefault(name.count("."), []).append(name)
        if "." not in name:
            outer.append(name)
    return _evenly(max(blocks.values(), key=len, default=outer))


def _layers_with_channels(classifier: Classifier) -> list[str]:
    """Return the layers of at least eight channels, in the order of the forward."""
    names = []
    for name, layout in layouts(classifier).items():
        if name and layout.kind != "other" and layout.channels >= _LEAST_CHANNELS:
            names.append(name)
    return names


def _evenly(names: list[str]) -> list[str]:
    """Return at most eight of some layers, evenly spaced, the first and the last included."""
    if len(names) <= _MOST_LAYERS:
        return names
    places = torch.linspace(0, len(names) - 1, _MOST_LAYERS).round().long().tolist()
    return [names[place] for place in places]


def channel_means(classifier: Classifier, layers: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """Return the mean of each channel over positions, ``(N, C)`` by layer, for images ``(N, C, H, W)`` in [0, 1]."""
    network = classifier.fast(layers)
    kinds = layouts(classifier)
    means: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with torch.no_grad():
        for part in torch.split(images, _BATCH):
            for layer, activation in network.activations(part, layers).items():
                means[layer].append(_channel_mean(activation, kinds[layer]).float().cpu())
    return {layer: torch.cat(parts) for layer, parts in means.items()}


def _channel_mean(activation: Tensor, layout: Layout) -> Tensor:
    """Return the mean over positions ``(N, C)``; tokens without a place are left out."""
    if layout.kind == "maps":
        return activation.mean((2, 3))
    if layout.kind == "grid":
        return activation.mean((1, 2))
    if layout.kind == "tokens":
        return activation[:, layout.prefix :].mean(1)
    return activation


def naturalness(
    synthetic: Mapping[str, Tensor], natural: Mapping[str, Tensor], random: Mapping[str, Tensor], seed: int = 0
) -> list[Naturalness]:
    """Return the figure of each layer.

    Args:
        synthetic: channel means ``(C,)`` of the synthetic image by layer.
        natural: those of its natural images, ``(N, C)``, N >= 3.
        random: those of random photographs, ``(R, C)``, R >= 2.
        seed: of the bootstrap.
    """
    return [_figure(layer, synthetic[layer], natural[layer], random[layer], seed) for layer in synthetic]


def _figure(layer: str, synthetic: Tensor, natural: Tensor, random: Tensor, seed: int) -> Naturalness:
    require(len(natural) >= 3, "there must be at least 3 natural images", len(natural))
    require(len(random) >= 2, "there must be at least 2 random photographs", len(random))
    own = spearman(synthetic[None], natural)[0]
    among = spearman(natural, natural)
    others = spearman(natural, random)
    generator = torch.Generator().manual_seed(seed)
    values = []
    gaps = []
    everyone, strangers = torch.arange(len(natural)), torch.arange(len(random))
    for resample in range(_RESAMPLES + 1):
        if resample:  # the first is the sample itself
            everyone = torch.randint(len(natural), (len(natural),), generator=generator)
            strangers = torch.randint(len(random), (len(random),), generator=generator)
        different = everyone[:, None] != everyone[None]
        pairs = among[everyone][:, everyone][different]
        if not len(pairs):
            continue
        zero = float(others[everyone][:, strangers].mean())
        gap = float(pairs.mean()) - zero
        gaps.append(gap)
        values.append((float(own[everyone].mean()) - zero) / gap if gap else 0.0)
    low, high = torch.tensor(values[1:]).quantile(torch.tensor(_INTERVAL)).tolist()
    least_gap = float(torch.tensor(gaps[1:]).quantile(_INTERVAL[0]))
    return Naturalness(layer, values[0], low, high, least_gap > 0)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return the Spearman correlations of the rows of ``(N, C)`` and ``(M, C)``, ``(N, M)``; ties have mean ranks."""
    correlations: Tensor = _standardized(_ranks(a)) @ _standardized(_ranks(b)).T
    return correlations


def _ranks(rows: Tensor) -> Tensor:
    """Return mean ranks of each row, float64."""
    return torch.from_numpy(rankdata(rows.numpy(), axis=1))


def _standardized(ranks: Tensor) -> Tensor:
    centered = ranks - ranks.mean(1, keepdim=True)
    lengths: Tensor = centered.norm(dim=1, keepdim=True)
    return centered / lengths.clamp(min=1e-12)
