"""Objectives on the activations of layers: a unit, a channel, a direction, all values, or their statistics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError, require
from lit_viz.networks import Network
from lit_viz.networks.layers import Layout, layer_name, layout, layouts, statistics_of
from lit_viz.objectives.base import Objective, Outputs
from lit_viz.objectives.classes import ClassScore
from lit_viz.utils.device import to_list

#: Channel of a layer of tokens: a feature of all tokens, or all features of one token.
Axis = Literal["feature", "token"]
#: Position in a channel: row and column, or the center.
Place = tuple[int, int] | Literal["center"] | None
_EPS = 1e-24  # under the square root: keeps the gradient finite where the activation is 0


class LayerObjective(Objective):
    """Base class of objectives on one layer. Its activation is interpreted as channels over positions.

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
        layer: name as listed by ``lit-viz layers``, or the module itself, which :meth:`bind` replaces by its name.
        axis: required for layers of tokens, where a channel can be a feature or a token.
    """

    reads_logits = False
    completed = ("layer",)

    def __init__(self, layer: str | nn.Module, axis: Axis | None = None) -> None:
        self.layer: str = layer  # type: ignore[assignment]  # a module until it is bound
        self.axis = axis
        self._prefix = 0

    @property
    def layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """The layer."""
        return (self.layer,)

    def bind(self, network: Network) -> None:
        self.layer = layer_name(self.layer, network.original)
        layer_layout = layout(network, self.layer)
        self._check_layout(layer_layout)
        self._prefix = layer_layout.prefix
        channels = layer_layout.tokens if self.axis == "token" else layer_layout.channels
        self._bind_channels(channels)

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

    def _bind_channels(self, channels: int) -> None:
        """Validate or store the number of channels."""

    def _check_layout(self, layout: Layout) -> None:
        shape = tuple(layout.shape)
        hint = "choose the layer before or after it (lit-viz layers lists the shapes)"
        constraint = f"layer {self.layer!r} must have channels for each image"
        require(layout.kind != "other", constraint, f"shape {shape}", hint=hint)
        got = f"layer {self.layer!r} of shape {shape}"
        require(self.axis is None or layout.has_tokens, "axis requires a layer of tokens", got)
        if self.axis is None and layout.has_tokens and not isinstance(self, Layer):
            raise LitVizError(
                f"layer {self.layer!r} has {layout.tokens} tokens of {layout.channels} features: give axis feature (a "
                "channel is a feature of all tokens) or axis token (a channel is a token)"
            )


class Layer(LayerObjective):
    """Half the mean square of the activation of a layer: amplifies what the layer detects.
    DeepDream: Mordvintsev, Olah and Tyka 2015, "Inceptionism".

    Class tokens and registers are excluded.
    """

    def __init__(self, layer: str | nn.Module) -> None:
        super().__init__(layer)

    def __call__(self, outputs: Outputs) -> Tensor:
        activation = outputs.activations[self.layer][:, self._prefix :]
        return activation.flatten(1).square().mean(1) / 2


class _ChannelObjective(LayerObjective):
    """Base class of objectives on one channel of a layer.

    Args:
        layer, axis: see :class:`LayerObjective`.
        channel: index from 0; default: the channel of each task.
    """

    def __init__(self, layer: str | nn.Module, channel: int | None = None, axis: Axis | None = None) -> None:
        super().__init__(layer, axis)
        self.channel = channel
        self.task_fields = frozenset({"channel"} if channel is None else ())

    @abstractmethod
    def of_map(self, maps: Tensor) -> Tensor:
        """Compute the scores ``(M,)`` from the maps ``(M, H, W)`` of the channel."""

    def __call__(self, outputs: Outputs) -> Tensor:
        maps = self.maps(outputs)
        if self.channel is not None:
            return self.of_map(maps[:, self.channel])
        if outputs.channels is None or min(to_list(outputs.channels), default=0) < 0:
            raise LitVizError(f"layer {self.layer!r} requires a channel, got none: give channel")
        return self.of_map(maps[torch.arange(len(maps), device=maps.device), outputs.channels])

    def _bind_channels(self, channels: int) -> None:
        if self.channel is None:
            self.channels = channels
        else:
            check_channel(self.channel, channels, self.layer)


class Channel(_ChannelObjective):
    """Mean of a channel over all positions (Olah, Mordvintsev and Schubert 2017, "Feature Visualization")."""

    def of_map(self, maps: Tensor) -> Tensor:
        return maps.mean((1, 2))


class Neuron(_ChannelObjective):
    """A channel at one position (Erhan et al. 2009, "Visualizing Higher-Layer Features of a Deep Network").

    Args:
        layer, channel, axis: see :class:`Channel`.
        place: row and column; default: the center.
    """

    def __init__(
        self,
        layer: str | nn.Module,
        channel: int | None = None,
        place: tuple[int, int] | None = None,
        axis: Axis | None = None,
    ) -> None:
        super().__init__(layer, channel, axis)
        self.place = place

    def of_map(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[1:]
        row, column = (height // 2, width // 2) if self.place is None else self.place
        constraint = f"neuron of layer {self.layer!r} must be between 0,0 and {height - 1},{width - 1}"
        require(0 <= row < height and 0 <= column < width, constraint, f"{row},{column}")
        return maps[:, row, column]

    def _check_layout(self, layout: Layout) -> None:
        got, hint = f"layer {self.layer!r} with {layout.channels} values", "each of its channels is one neuron"
        require(layout.kind != "vector", "neuron requires a layer with positions", got, hint=hint)
        super()._check_layout(layout)


def check_channel(channel: int, channels: int, layer: str) -> None:
    """Raise a :class:`LitVizError` unless ``0 <= channel < channels``."""
    require(0 <= channel < channels, f"channel of layer {layer!r} must be between 0 and {channels - 1}", channel)


class Direction(LayerObjective):
    """Dot product or cosine similarity of the activation and a vector, averaged over the positions.
    Olah, Mordvintsev and Schubert 2017, "Feature Visualization"; directions: Kim et al. 2018, arXiv:1711.11279.

    The dot product alone tends to raise single channels that are easy to activate. The product
    ``Direction(layer, v) * Direction(layer, v, "cosine")`` keeps the direction.

    Args:
        layer, axis: see :class:`LayerObjective`.
        vector: one number per channel, or a file: ``.npy``, or ``.pt`` with a tensor.
        kind: ``dot`` or ``cosine``; the cosine at a position without activation is 0.
    """

    def __init__(
        self,
        layer: str | nn.Module,
        vector: list[float] | str,
        kind: Literal["dot", "cosine"] = "dot",
        axis: Axis | None = None,
    ) -> None:
        super().__init__(layer, axis)
        require(kind in ("dot", "cosine"), "kind of Direction must be 'dot' or 'cosine'", repr(kind))
        if isinstance(vector, str):
            self.vector = _read_vector(vector)
        else:
            self.vector = torch.as_tensor(vector, dtype=torch.float64).detach().clone()
        valid = self.vector.ndim == 1 and bool(self.vector.isfinite().all()) and bool(self.vector.any())
        got, hint = f"shape {tuple(self.vector.shape)}", f"give one number per channel of layer {layer!r}"
        require(valid, "vector of Direction must be one finite nonzero vector", got, hint=hint)
        self.kind = kind

    def __call__(self, outputs: Outputs) -> Tensor:
        maps = self.maps(outputs)
        vector = self.vector.to(maps)
        projection = torch.einsum("mchw,c->mhw", maps, vector)
        if self.kind == "cosine":
            projection = projection / (vector.norm() * maps.square().sum(1).clamp(min=_EPS).sqrt())
        return projection.mean((1, 2))

    def _bind_channels(self, channels: int) -> None:
        constraint = f"vector of Direction must have {channels} numbers, one per channel of layer {self.layer!r}"
        require(len(self.vector) == channels, constraint, len(self.vector))


def _read_vector(file: str) -> Tensor:
    try:
        if Path(file).suffix == ".npy":
            content: Any = np.load(file, allow_pickle=False)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
        return torch.as_tensor(content).double()
    except Exception as error:  # numpy and torch raise many types for invalid files
        raise LitVizError(
            f"the direction {file} can't be read ({type(error).__name__}): give a .npy file, or a .pt file "
            "with a tensor"
        ) from error


class Diversity(LayerObjective):
    """Negative mean cosine similarity of the Gram matrices of the activations, over all pairs of images of a group.
    Olah, Mordvintsev and Schubert 2017, "Feature Visualization", section Diversity.

    With the activation ``a`` ``(C, P)`` at P positions, ``a a^T`` contains the correlations of the channels: the style
    of the image. Views with equal index are compared. Use it as a term: ``Channel(layer) + Diversity(layer)``.

    Args:
        layer, axis: see :class:`LayerObjective`.
    """

    couples = True

    def __call__(self, outputs: Outputs) -> Tensor:
        """Compute for each input the negative mean similarity to the other images of its group, in [-1, 1]."""
        members: list[int] = [] if outputs.members is None else to_list(outputs.members)
        if not any(members):
            raise LitVizError("Diversity requires a group of images, got one image per task: give group 2")
        group, views = max(members) + 1, members.index(1)
        activation = self.maps(outputs).flatten(2)
        gram = torch.nn.functional.normalize((activation @ activation.transpose(1, 2)).flatten(1), dim=1)
        gram = gram.view(-1, group, views, gram.shape[1])
        similarity = torch.einsum("tgvi,thvi->tghv", gram, gram)
        others = similarity.sum(2) - similarity.diagonal(dim1=1, dim2=2).movedim(-1, 1)
        return (others / (1 - group)).flatten()


def layer_parts(objective: Objective) -> Iterator[Any]:
    """Yield the objectives within an objective that have the argument ``layer``, itself included."""
    if "layer" in objective.arguments:
        yield objective
        return
    for term in getattr(objective, "terms", ()):
        yield from layer_parts(term)


def axis_of(objective: Objective) -> Axis | None:
    """Return the first axis that a part of an objective states."""
    for part in layer_parts(objective):
        axis: Axis | None = part.arguments.get("axis")
        if axis is not None:
            return axis
    return None


def at_layer(objective: Objective, layer: str | nn.Module, axis: Axis | None = None, neuron: Place = None) -> Objective:
    """Return an objective that reads another layer.

    Args:
        objective: objective with parts that read a layer.
        layer: name of the layer, or the module itself.
        axis: meaning of a channel in a layer of tokens; None keeps that of the objective.
        neuron: row and column, or ``center``: each :class:`Channel` becomes a :class:`Neuron`.
    """
    arguments = objective.arguments
    if "layer" not in arguments:
        terms = [at_layer(term, layer, axis, neuron) for term in getattr(objective, "terms", ())]
        if terms:
            return objective.with_arguments(terms=terms)
        return objective
    changes: dict[str, Any] = {"layer": layer}
    if axis is not None and "axis" in arguments:
        changes["axis"] = axis
    if neuron is None or not isinstance(objective, (Channel, Neuron)):
        return objective.with_arguments(**changes)
    place = None if neuron == "center" else neuron
    return Neuron(**{**arguments, **changes, "place": place})


def objective_of_layer(
    objective: Objective, layer: str | nn.Module, has_channels: bool, axis: Axis | None = None, neuron: Place = None
) -> Objective:
    """Return an objective that reads a layer, in place of one of classes or of another layer.

    Args:
        objective: score of a class, which becomes a :class:`Channel` or, without channels, a :class:`Layer`; or an
            objective of layers, which then reads this one.
        layer: name of the layer, or the module itself.
        has_channels: whether the tasks select channels.
        axis, neuron: see :func:`at_layer`.

    Raises:
        LitVizError: the objective can't read a layer.
    """
    if not any(layer_parts(objective)):
        if not isinstance(objective, ClassScore):
            raise LitVizError(
                f"layer requires an objective that reads a layer, got {type(objective).__name__}: leave one of them out"
            )
        objective = Channel(layer, axis=axis) if has_channels else Layer(layer)
    bound = at_layer(objective, layer, axis, neuron)
    if neuron is not None and not any(isinstance(part, Neuron) for part in layer_parts(bound)):
        raise LitVizError("neuron requires an objective with a Channel, and channels")
    return bound


class BatchNormStatistics(Objective):
    """Negative distance of a task's inputs to the running statistics of the network's batch norms.
    DeepInversion, Yin et al. 2020, arXiv:1912.08795, R_feature:

        - sum_l w_l (||mean_l - running_mean_l||_2 + ||variance_l - running_var_l||_2)

    Mean and variance of the input of batch norm l are per channel, over all positions and inputs of the task. The scale
    depends on the network (EfficientNet-Lite0: 6000 for eight photographs together, 10000 for one photograph, 20000 for
    noise), so use it with a small weight: ``Logit() + 0.001 * BatchNormStatistics()``.

    The statistics of few views differ from the statistics of many images for any image; use many (``views``).
    These batch norms are not folded, and an evaluation takes 1.5 times as long.

    Args:
        first: weight of the first batch norm; the others have weight 1.
    """

    couples = True

    def __init__(self, first: float = 10.0) -> None:
        require(first >= 0, "first of BatchNormStatistics must be non-negative", first)
        self.first = first
        self._running: dict[str, Tensor] = {}

    def bind(self, network: Network) -> None:
        """Read the running statistics ``(2, C)`` of the batch norms, in the order of the forward."""
        self._running = {}
        for name in layouts(network):
            module = network.original.get_submodule(name)
            if (
                isinstance(module, nn.BatchNorm2d)
                and module.running_mean is not None
                and module.running_var is not None
            ):
                running = torch.stack([module.running_mean, module.running_var]).detach().clone()
                self._running[statistics_of(name)] = running
        if not self._running:
            raise LitVizError(
                "BatchNormStatistics requires batch norms with running statistics, and "
                f"{network.name} has none: use another network, such as efficientnet_lite0"
            )
        self.layers = tuple(self._running)

    def __call__(self, outputs: Outputs) -> Tensor:
        distances = torch.stack([self._distances(outputs, name) for name in self.layers])
        weights = torch.ones_like(distances[:, :1])
        weights[0] = self.first
        return -(weights * distances).sum(0).repeat_interleave(outputs.inputs)

    def _distances(self, outputs: Outputs, name: str) -> Tensor:
        """Compute ``||mean - running_mean|| + ||variance - running_var||`` of each task, ``(M / inputs,)``."""
        statistics = outputs.activations[name]
        means, variances = statistics.view(-1, outputs.inputs, *statistics.shape[1:]).unbind(2)
        mean, between = means.mean(1), means.var(1, correction=0)
        current = torch.stack([mean, variances.mean(1) + between], dim=1)
        distances: Tensor = torch.linalg.vector_norm(current - self._running[name].to(current), dim=2).sum(1)
        return distances
