"""Inputs of every side: networks, photographs with their classes, the module as users pass it to other tools, loops."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.images.listing import photographs as list_photographs
from lit_viz.images.reading import read_photograph
from lit_viz.networks import Network
from lit_viz.networks.fast import SWITCHES
from lit_viz.outputs import load_network
from lit_viz.utils.files import PACKAGED
from lit_viz.utils.process import tune_allocator

from . import FOLDER

#: Name and weights; the speed of the large network is independent of its weights.
NETWORKS = {"lite0": ("efficientnet_lite0", "DEFAULT"), "resnet50": ("torchvision/resnet50", "none")}
CLASSES = ["tarantula", "goldfish", "hay", "zebra", "brown bear", "quail", "daisy", "stingray"]
PHOTOGRAPHS = 16
EPS = 4 / 255
WARM = 8  # steps of full batches before timing, while the allocator still grows


def loaded(network: str = "lite0") -> Network:
    """Load a network in a process with the default allocator."""
    name, weights = NETWORKS[network]
    return load_network(name, weights=weights)


def prepared(network: str = "lite0", *, fused: bool = True, own_kernels: bool = True) -> Network:
    """Load a network with its fast copy, in a process with a tuned allocator.

    Args:
        network: of :data:`NETWORKS`.
        fused: fuse activations into convolutions.
        own_kernels: use the kernels of lit_viz, instead of torch's on the folded network.
    """
    tune_allocator()
    SWITCHES.fusion, SWITCHES.kernels = fused, own_kernels
    net = loaded(network)
    net.fast()
    return net


def folder_files() -> list[str]:
    """Return the photographs of the folder in :data:`FOLDER`, drawn by a seed; none without it."""
    if FOLDER not in os.environ:
        return []
    files = [entry.path for entry in list_photographs([os.environ[FOLDER]]).entries]
    random.Random(0).shuffle(files)  # folders are sorted by class
    return files


def photographs(net: Network, count: int = PHOTOGRAPHS) -> tuple[Tensor, list[int]]:
    """Return images ``(count, 3, 224, 224)`` in [0, 1] on the 8-bit lattice, and their predicted classes.

    The photographs are drawn by a seed from the folder in the environment variable :data:`FOLDER`. Without a folder,
    they are Foolbox's ImageNet photographs, or crops of scikit-image's without Foolbox. They are repeated if ``count``
    is larger.
    """
    files: Sequence[str | Path] = folder_files()
    package = find_spec("foolbox")
    if not files and package is not None and package.submodule_search_locations:
        data = Path(package.submodule_search_locations[0], "data")
        files = sorted(data.glob("imagenet_*"))[:PHOTOGRAPHS]
    if files:
        images = [read_photograph(file, (224, 224)).pixels for file in files[:count]]
    else:
        images = _crops()[:count]
    x = torch.stack(images)
    repeats = -(-count // len(x))
    return x.repeat(repeats, 1, 1, 1)[:count], (net.scores(x).argmax(1).tolist() * repeats)[:count]


def _crops() -> list[Tensor]:
    """Return four crops ``(3, 224, 224)`` of each packaged photograph."""
    crops = []
    for name in PACKAGED:
        large = read_photograph(f"packaged:{name}", (300, 300)).pixels
        for y, x in ((0, 0), (0, 76), (76, 0), (76, 76)):
            crops.append(large[:, y : y + 224, x : x + 224])
    return crops


class _PlainModule(nn.Module):
    def __init__(self, net: Network) -> None:
        super().__init__()
        self.mean = torch.tensor(net.mean).view(1, 3, 1, 1)
        self.std = torch.tensor(net.std).view(1, 3, 1, 1)
        self.network = net.original.requires_grad_(True)

    def forward(self, x: Tensor) -> Any:
        return self.network((x - self.mean) / self.std)


def plain_module(net: Network) -> nn.Module:
    """Return the module as users pass it to other tools: images in [0, 1] -> logits; contiguous and not frozen."""
    return _PlainModule(net).eval()


def bare(net: Network) -> Callable[[Tensor], Any]:
    """Return the network for a loop of a user: frozen and channels-last, batch norms not folded."""
    network = net.original.requires_grad_(False).to(memory_format=torch.channels_last)
    return lambda x: network(net.normalize(x).contiguous(memory_format=torch.channels_last))


def loop(network: Callable[[Tensor], Any], forwards: int, backwards: int, batch: int) -> Callable[[], None]:
    """Return a loop over these numbers of forwards and input gradients, counted in images, after a warm-up.

    Each gradient has its own forward; if there are more gradients than forwards, they share them.
    """
    x = torch.rand(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    per_forward = max(1, round(backwards / forwards))

    def both(count: int) -> None:
        leaf = x[:count].clone(memory_format=torch.channels_last).requires_grad_()
        score = network(leaf)[:, 0].sum()
        for number in range(per_forward):
            torch.autograd.grad(score, leaf, retain_graph=number + 1 < per_forward)

    def run() -> None:
        for count in _batches(min(forwards, backwards), batch):
            both(count)
        with torch.no_grad():
            for count in _batches(max(0, forwards - backwards), batch):
                network(x[:count])

    for _ in range(WARM):
        both(batch)
    return run


def _batches(images: int, batch: int) -> list[int]:
    return [min(batch, images - first) for first in range(0, images, batch)]
