"""What every side works on: networks, photographs with their classes, the module as a user hands it to another tool."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.classifiers import Classifier, load_classifier
from lit_viz.classifiers.fast import SWITCHES
from lit_viz.images.reading import PACKAGED, read_photograph
from lit_viz.utils.process import tune_allocator

#: Name and weights; the speed of the large one does not hang on its weights.
NETWORKS = {"lite0": ("efficientnet_lite0", "DEFAULT"), "resnet50": ("torchvision/resnet50", "none")}
CLASSES = ["tarantula", "goldfish", "hay", "zebra", "brown bear", "quail", "daisy", "stingray"]
PHOTOGRAPHS = 16
EPS = 4 / 255
#: Steps of full batches before time is taken: until then the allocator still finds out how much memory is wanted.
WARM = 8


def loaded(network: str = "lite0") -> Classifier:
    """Return a classifier as published, in a process whose allocator is as it was."""
    name, weights = NETWORKS[network]
    return load_classifier(name, weights=weights)


def prepared(network: str = "lite0", *, fused: bool = True, own_kernels: bool = True) -> Classifier:
    """Return a classifier whose fast copy is made, in a process whose allocator is tuned.

    Args:
        network: of :data:`NETWORKS`.
        fused: whether its activations are fused into convolutions.
        own_kernels: whether layers are computed as lit_viz does; else it is torch's own network, folded.
    """
    tune_allocator()
    SWITCHES.fusion, SWITCHES.kernels = fused, own_kernels
    net = loaded(network)
    net.fast()
    return net


def photographs(net: Classifier, count: int = PHOTOGRAPHS) -> tuple[Tensor, list[int]]:
    """Return images ``(count, 3, 224, 224)`` in [0, 1] on the 8-bit lattice, and the classes that are seen in them.

    They are the ImageNet photographs that come with Foolbox, where it is found; else parts of scikit-image's. Of more
    than there are each comes several times.
    """
    found = find_spec("foolbox")
    if found is not None and found.submodule_search_locations:
        files = sorted(Path(found.submodule_search_locations[0], "data").glob("imagenet_*"))
        images = [read_photograph(file, (224, 224)).pixels for file in files]
    else:
        large = [read_photograph(f"packaged:{name}", (300, 300)).pixels for name in PACKAGED]
        images = [image[:, y : y + 224, x : x + 224] for image in large for y in (0, 76) for x in (0, 76)]
    x = torch.stack(images[: min(count, PHOTOGRAPHS)])
    times = -(-count // len(x))
    return x.repeat(times, 1, 1, 1)[:count], (net.logits(x).argmax(1).tolist() * times)[:count]


def as_handed(net: Classifier) -> nn.Module:
    """Return the module as a user hands it to a peer: images in [0, 1] -> logits; contiguous and not frozen."""
    return _Handed(net).eval()


class _Handed(nn.Module):
    def __init__(self, net: Classifier) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) for values in (net.mean, net.std))
        self.network = net.original.requires_grad_(True)

    def forward(self, x: Tensor) -> Any:
        return self.network((x - self.mean) / self.std)


def bare(net: Classifier) -> Callable[[Tensor], Any]:
    """Return the network as users write their own loop: frozen and channels-last, batch norms not folded."""
    network = net.original.requires_grad_(False).to(memory_format=torch.channels_last)
    return lambda x: network(net.normalize(x).contiguous(memory_format=torch.channels_last))


def loop(network: Callable[[Tensor], Any], forwards: int, backwards: int, batch: int) -> Callable[[], None]:
    """Return a loop of so many forwards and input gradients, counted in images, that does nothing else, warmed up.

    Every gradient needs a forward of its own; where more gradients than forwards were counted, they share them.
    """
    x = torch.rand(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    sharing = max(1, round(backwards / forwards))

    def both(count: int) -> None:
        leaf = x[:count].clone(memory_format=torch.channels_last).requires_grad_()
        score = network(leaf)[:, 0].sum()
        for number in range(sharing):
            torch.autograd.grad(score, leaf, retain_graph=number + 1 < sharing)

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
