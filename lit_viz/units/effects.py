"""Receptive fields of layers, and the classes that a unit raises and lowers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lit_viz.networks import Network
from lit_viz.networks.layers import first_tensor, hooked
from lit_viz.objectives import Channel, Outputs
from lit_viz.units.survey import channel_of

_RANDOM_IMAGES = 2
_BATCH = 32


def receptive_field(network: Network, layer: str) -> tuple[int, int]:
    """Return height and width of the part of the input that the central position of a layer depends on, in pixels.

    It is the support of the gradient, measured on random images. Behind attention, squeeze-and-excitation or a pooling
    of the whole image it is the whole input.
    """
    objective = channel_of(network, layer)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(_RANDOM_IMAGES, network.channels, *network.size, generator=generator)
    images.requires_grad_()
    activations = network.fast([layer]).activations(images, [layer])
    maps = objective.maps(Outputs(torch.zeros(len(images), 0), torch.zeros(len(images)), activations))
    row, column = maps.shape[2] // 2, maps.shape[3] // 2
    (gradient,) = torch.autograd.grad(maps[:, :, row, column].abs().sum(), images)
    used = gradient.ne(0).flatten(0, 1).any(0)
    rows, columns = used.any(1).nonzero()[:, 0], used.any(0).nonzero()[:, 0]
    if not len(rows):
        return network.size
    return int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1


def crop_box(place: Sequence[float], field: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box (x0, y0, x1, y1) of a receptive field around a place, moved into the image.

    Args:
        place: row and column as shares of the sides.
        field: height and width of the receptive field in pixels.
        size: height and width of the image.
    """
    corners = []
    for share, extent, side in zip(place, field, size, strict=True):
        extent = min(extent, side)
        first = round(share * side - extent / 2)
        first = max(0, min(first, side - extent))
        corners.append((first, first + extent))
    (y0, y1), (x0, x1) = corners
    return x0, y0, x1, y1


class ClassEffects:
    """How the units of a layer change the scores of classes on photographs, each of which is evaluated once without
    a change.

    Args:
        network: the network.
        objective: of the layer (:func:`~lit_viz.units.survey.channel_of`).
    """

    def __init__(self, network: Network, objective: Channel) -> None:
        self._network = network.fast([objective.layer])
        self._objective = objective
        self._unchanged: dict[int, Tensor] = {}

    def of(self, unit: int, photographs: Mapping[int, Tensor], mean: float) -> Tensor:
        """Return the mean decrease of the scores of photographs when a unit is set to its mean, ``(K,)``.

        Args:
            unit: channel or feature.
            photographs: with the largest activations of the unit, ``(C, H, W)`` in [0, 1] by place.
            mean: its mean activation over all photographs.
        """
        layer = self._objective.layer
        module = self._network.layer(layer)
        is_map = self._objective.axis is None

        def replace(name: str, module: object, args: object, output: object) -> object:
            tensor = first_tensor(output)
            if not isinstance(output, Tensor) or tensor is None:
                return output
            changed = output.clone()
            if is_map:
                changed[:, unit] = mean
            else:
                changed[..., unit] = mean
            return changed

        missing = [place for place in photographs if place not in self._unchanged]
        if missing:
            scores = self._scores(torch.stack([photographs[place] for place in missing]))
            self._unchanged.update(zip(missing, scores, strict=True))
        with hooked({layer: module}, replace):
            changed = self._scores(torch.stack([*photographs.values()]))
        unchanged = torch.stack([self._unchanged[place] for place in photographs])
        return (unchanged - changed).mean(0)

    def _scores(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self._network(part)[0] for part in torch.split(images, _BATCH)])
