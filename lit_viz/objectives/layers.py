"""Objectives on the activation of a layer: one unit, a channel, or all values."""

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

#: Channel of a layer of tokens: a feature of all tokens, or all features of one token.
Axis = Literal["feature", "token"]


class LayerObjective(Objective):
    """Base class of objectives on one layer, whose activation is interpreted as channels over positions.

    ============== ================ =========================== ==========================================
    layer          activation       axis                        interpretation
    ============== ================ =========================== ==========================================
    convolution    (N, C, H, W)     None                        C channels, H x W positions
    tokens         (N, T, D)        ``feature``                 D channels, positions of the patch tokens
    tokens         (N, T, D)        ``token``                   one channel per patch token, D positions
    channels-last  (N, H, W, D)     ``feature`` or ``token``    as tokens, with T = H * W
    vector         (N, D)           None                        D channels, one position
    ============== ================ =========================== ==========================================

    Class tokens and registers are excluded. Patch tokens form a square if their number is a square, else a row.

    Args:
        layer: name as listed by ``lit-viz layers``.
        axis: required for layers of tokens, where a channel can be a feature or a token.
    """

    def __init__(self, layer: str, axis: Axis | None = None) -> None:
        self.layer, self.axis = layer, axis
        self.layers = (layer,)
        self._prefix = 0

    def bind(self, classifier: Classifier) -> None:
        """Read the layout of the layer's activation.

        Raises:
            LitVizError: if the network does not have or call the layer, if its activation has no row per image, or if
                it has tokens and ``axis`` is None.
        """
        found = layout(classifier, self.layer)
        self._check_layout(found)
        self._prefix = found.prefix
        self._bind_channels(found.tokens if self.axis == "token" else found.channels)

    def maps(self, outputs: Outputs) -> Tensor:
        """Return the activation as channels over positions, ``(M, C, H, W)``."""
        activation = outputs.activations[self.layer]
        if activation.ndim == 2:
            return activation[:, :, None, None]
        if self.axis is None and activation.ndim == 4:
            return activation
        if activation.ndim == 4:
            tokens, size = activation.flatten(1, 2), (activation.shape[1], activation.shape[2])
        else:
            tokens = activation[:, self._prefix :]
            side = isqrt(tokens.shape[1])
            size = (side, side) if side * side == tokens.shape[1] else (1, tokens.shape[1])
        if self.axis == "token":
            return tokens[..., None]
        return tokens.transpose(1, 2).reshape(len(tokens), -1, *size)

    @property
    def _requires_axis(self) -> bool:
        """Whether the objective depends on what a channel of a layer of tokens is."""
        return True

    def _bind_channels(self, channels: int) -> None:
        """Validate or store the number of channels."""

    def _check_layout(self, found: Layout) -> None:
        shape = tuple(found.shape)
        if found.kind == "other":
            raise LitVizError(
                f"layer {self.layer!r} must have channels for each image, got shape {shape}: choose the layer before "
                "or after it (lit-viz layers lists the shapes)"
            )
        if self.axis is not None and not found.has_tokens:
            raise LitVizError(f"--axis requires a layer of tokens, got layer {self.layer!r} of shape {shape}")
        if self.axis is None and found.has_tokens and self._requires_axis:
            raise LitVizError(
                f"layer {self.layer!r} has {found.tokens} tokens of {found.channels} features: give --axis feature (a "
                "channel is a feature of all tokens) or --axis token (a channel is a token)"
            )


class Layer(LayerObjective):
    """Half the mean square of the activation of a layer: amplifies what the layer detects (DeepDream: Mordvintsev, Olah
    and Tyka 2015, "Inceptionism").

    Class tokens and registers are excluded.
    """

    def __init__(self, layer: str) -> None:
        super().__init__(layer)

    @property
    def _requires_axis(self) -> bool:
        return False

    def __call__(self, outputs: Outputs) -> Tensor:
        """Compute ``mean(a ** 2) / 2`` ``(M,)``."""
        activation = outputs.activations[self.layer][:, self._prefix :]
        return activation.flatten(1).square().mean(1) / 2


class _ChannelObjective(LayerObjective):
    """Base class of objectives on one channel of a layer.

    Args:
        layer, axis: see :class:`LayerObjective`.
        channel: index from 0; default: the channel of each task.
    """

    def __init__(self, layer: str, channel: int | None = None, axis: Axis | None = None) -> None:
        super().__init__(layer, axis)
        self.channel = channel
        self.task_fields = frozenset({"channel"} if channel is None else ())

    @abstractmethod
    def of_map(self, maps: Tensor) -> Tensor:
        """Compute the scores ``(M,)`` from the maps ``(M, H, W)`` of the channel."""

    def __call__(self, outputs: Outputs) -> Tensor:
        """Compute the scores ``(M,)``, in units of the activation."""
        maps = self.maps(outputs)
        if self.channel is not None:
            return self.of_map(maps[:, self.channel])
        if outputs.channels is None or any(channel < 0 for channel in to_list(outputs.channels)):
            raise LitVizError(f"layer {self.layer!r} requires a channel, got none: give --channel")
        return self.of_map(maps[torch.arange(len(maps), device=maps.device), outputs.channels])

    def _bind_channels(self, channels: int) -> None:
        if self.channel is None:
            self.channels = channels
        else:
            check_channel(self.channel, channels, self.layer)


class Channel(_ChannelObjective):
    """Mean of a channel over all positions (Olah, Mordvintsev and Schubert 2017, "Feature Visualization")."""

    def of_map(self, maps: Tensor) -> Tensor:
        """Compute the means ``(M,)``."""
        return maps.mean((1, 2))


class Neuron(_ChannelObjective):
    """A channel at one position (Erhan et al. 2009, "Visualizing Higher-Layer Features of a Deep Network").

    Args:
        layer, channel, axis: see :class:`Channel`.
        place: row and column; default: the center.
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

    def _check_layout(self, found: Layout) -> None:
        if found.kind == "vector":
            raise LitVizError(
                f"--neuron requires a layer with positions, got layer {self.layer!r} with {found.channels} values: "
                "each of its channels is one neuron"
            )
        super()._check_layout(found)

    def of_map(self, maps: Tensor) -> Tensor:
        """Return the values at the position, ``(M,)``.

        Raises:
            LitVizError: if the position is outside the map.
        """
        height, width = maps.shape[1:]
        row, column = (height // 2, width // 2) if self.place is None else self.place
        if not (0 <= row < height and 0 <= column < width):
            raise LitVizError(
                f"--neuron of layer {self.layer!r} must be between 0,0 and {height - 1},{width - 1}, got {row},{column}"
            )
        return maps[:, row, column]


def check_channel(channel: int, channels: int, layer: str) -> None:
    """Raise a :class:`LitVizError` unless ``0 <= channel < channels``."""
    if not 0 <= channel < channels:
        raise LitVizError(f"channel of layer {layer!r} must be between 0 and {channels - 1}, got {channel}")
