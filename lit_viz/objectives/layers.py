"""Objectives on what a layer gives: one unit, a channel, or all of it."""

from __future__ import annotations

from abc import abstractmethod
from math import isqrt
from typing import Literal

import torch
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.classifiers.layouts import Layout, layout
from lit_viz.errors import LitVizError
from lit_viz.objectives.base import Objective, Outputs
from lit_viz.utils.device import to_list

#: What a channel of a layer of tokens is: a feature of all tokens, or a token with all its features.
Axis = Literal["feature", "token"]


class LayerObjective(Objective):
    """An objective on one layer, whose output is read as maps of channels over places.

    ============== ================ =========================== ======================================
    layer          gives            axis                        read as
    ============== ================ =========================== ======================================
    convolution    (N, C, H, W)     None                        C channels, H x W places
    tokens         (N, T, D)        ``feature``                 D channels, places of the patch tokens
    tokens         (N, T, D)        ``token``                   a channel a patch token, D places
    channels-last  (N, H, W, D)     ``feature`` or ``token``    as tokens, with T = H * W
    vector         (N, D)           None                        D channels, one place
    ============== ================ =========================== ======================================

    Class tokens and registers stand for no place and are left out. Places of patch tokens are a square where their
    number is one, else a row.

    Args:
        layer: its name, as ``lit-viz layers`` lists it.
        axis: what a channel is in a layer of tokens, where "channel 5" could mean feature 5 or token 5.
    """

    def __init__(self, layer: str, axis: Axis | None = None) -> None:
        self.layer, self.axis = layer, axis
        self.layers = (layer,)
        self._prefix = 0

    def bind(self, classifier: Classifier) -> None:
        """Find how the layer lays out what it gives.

        Raises:
            LitVizError: a layer that the network doesn't have or call, that doesn't give a row an image, or that has
                tokens while no axis was named.
        """
        found = layout(classifier, self.layer)
        self._check(found)
        self._prefix = found.prefix
        self._fit(found.tokens if self.axis == "token" else found.channels)

    def maps(self, outputs: Outputs) -> Tensor:
        """Return the layer's activation as channels over places, ``(M, C, H, W)``."""
        activation = outputs.activations[self.layer]
        if activation.ndim == 2:
            return activation[:, :, None, None]
        if self.axis is None and activation.ndim == 4:
            return activation
        if activation.ndim == 4:
            tokens, places = activation.flatten(1, 2), (activation.shape[1], activation.shape[2])
        else:
            tokens = activation[:, self._prefix :]
            side = isqrt(tokens.shape[1])
            places = (side, side) if side * side == tokens.shape[1] else (1, tokens.shape[1])
        if self.axis == "token":
            return tokens[..., None]
        return tokens.transpose(1, 2).reshape(len(tokens), -1, *places)

    @property
    def _reads_channels(self) -> bool:
        """Whether it matters what a channel is."""
        return True

    def _fit(self, channels: int) -> None:
        """Take the number of channels that there are."""

    def _check(self, found: Layout) -> None:
        shape = tuple(found.shape)
        if found.kind == "other":
            raise LitVizError(
                f"layer {self.layer!r} gives {shape}, which holds no channels of one image: take the layer before or "
                "behind it (lit-viz layers lists what each gives)."
            )
        if self.axis is not None and not found.has_tokens:
            raise LitVizError(f"layer {self.layer!r} gives {shape}, no tokens: leave out --axis {self.axis}.")
        if self.axis is None and found.has_tokens and self._reads_channels:
            raise LitVizError(
                f"layer {self.layer!r} gives {found.tokens} tokens of {found.channels} features, so a channel could be "
                "a feature of all tokens (--axis feature) or a token with all its features (--axis token): say which."
            )


class Layer(LayerObjective):
    """Half the mean square of everything that the layer gives: what it sees already is raised (DeepDream: Mordvintsev,
    Olah and Tyka 2015, "Inceptionism").

    Class tokens and registers are left out.
    """

    def __init__(self, layer: str) -> None:
        super().__init__(layer)

    @property
    def _reads_channels(self) -> bool:
        return False

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return ``mean(a ** 2) / 2`` ``(M,)``, 0 or more."""
        activation = outputs.activations[self.layer][:, self._prefix :]
        return activation.flatten(1).square().mean(1) / 2


class _ChannelObjective(LayerObjective):
    """On one channel of a layer.

    Args:
        layer, axis: see :class:`LayerObjective`.
        channel: from 0; that of the task unless given.
    """

    def __init__(self, layer: str, channel: int | None = None, axis: Axis | None = None) -> None:
        super().__init__(layer, axis)
        self.channel = channel
        self.task_fields = frozenset({"channel"} if channel is None else ())

    @abstractmethod
    def of_map(self, maps: Tensor) -> Tensor:
        """Return the scores ``(M,)`` of the channel's maps ``(M, H, W)``."""

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the scores ``(M,)``, in the units of the activation."""
        maps = self.maps(outputs)
        if self.channel is not None:
            return self.of_map(maps[:, self.channel])
        if outputs.channels is None or any(channel < 0 for channel in to_list(outputs.channels)):
            raise LitVizError(f"no channel of layer {self.layer!r} was named: give one by --channel.")
        return self.of_map(maps[torch.arange(len(maps), device=maps.device), outputs.channels])

    def _fit(self, channels: int) -> None:
        if self.channel is None:
            self.channels = channels
        else:
            check_channel(self.channel, channels, self.layer)


class Channel(_ChannelObjective):
    """The mean of a channel over all places (Olah, Mordvintsev and Schubert 2017, "Feature Visualization")."""

    def of_map(self, maps: Tensor) -> Tensor:
        """Return the means."""
        return maps.mean((1, 2))


class Neuron(_ChannelObjective):
    """A channel at one place (Erhan et al. 2009, "Visualizing Higher-Layer Features of a Deep Network").

    Args:
        layer, channel, axis: see :class:`Channel`.
        place: row and column; the centre unless given.
    """

    def __init__(
        self,
        layer: str,
        channel: int | None = None,
        place: tuple[int, int] | None = None,
        axis: Axis | None = None,
    ) -> None:
        super().__init__(layer, channel, axis)
        self.place = place

    def _check(self, found: Layout) -> None:
        if found.kind == "vector":
            raise LitVizError(
                f"layer {self.layer!r} gives {found.channels} numbers and has no places: leave out --neuron; each "
                "channel is one neuron."
            )
        super()._check(found)

    def of_map(self, maps: Tensor) -> Tensor:
        """Return what is at the place.

        Raises:
            LitVizError: a place beyond the map.
        """
        height, width = maps.shape[1:]
        row, column = (height // 2, width // 2) if self.place is None else self.place
        if not (0 <= row < height and 0 <= column < width):
            raise LitVizError(
                f"layer {self.layer!r} has no place {row},{column}: its map is {height} x {width}, so give row,column "
                f"from 0,0 to {height - 1},{width - 1}."
            )
        return maps[:, row, column]


def check_channel(channel: int, channels: int, layer: str) -> None:
    """Raise :class:`LitVizError` unless the layer has the channel."""
    if not 0 <= channel < channels:
        raise LitVizError(f"layer {layer!r} has no channel {channel}: it has {channels}, from 0 to {channels - 1}.")
