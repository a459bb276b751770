"""The frozen network: evaluated by all methods, differentiable in the images alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from lit_viz.errors import NO_GRADIENT, LitVizError
from lit_viz.networks.batch_norms import LaidOutGradients
from lit_viz.networks.fast.compiling import Compiled, CompileMode
from lit_viz.networks.fast.scaling import GradientScaling
from lit_viz.networks.isolation import (
    device_of,
    dtype_of,
    network_errors_wrapped,
    random_state_preserved,
    state_preserved,
)
from lit_viz.networks.layers import STATISTICS, layer_of
from lit_viz.networks.outputs import FINAL, LOGITS, Output
from lit_viz.networks.reading import Stopped, reading
from lit_viz.networks.single_images import EachImage, join_images


class FrozenNetwork(nn.Module):
    """Maps images in [0, 1] to logits and activations.

    It normalizes, stays in eval mode, and has no parameter with ``requires_grad``.

    Args:
        network: a private copy; or, with ``is_original``, the user's module; its state is preserved in each forward.
        mean, std: of the normalization, one value per channel.
        modified_layers: names of layers with another output than the original's, because a batch norm was folded into
            them or an activation fused. They can't be read.
        kept: names of layers with the original's input, so that its statistics can be read; None for all.
        is_original: whether ``network`` is the user's module.
        non_differentiable: whether it gives no gradient.
        draws: whether the network draws random numbers in eval mode; the global random state is then preserved.
        notes: messages about the copy.
        output: what is scored; by default the logits.
        memory_format: layout of the images that the copy receives; the user's module receives torch's default layout.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        modified_layers: Collection[str] = (),
        kept: Collection[str] | None = None,
        is_original: bool = False,
        non_differentiable: bool = False,
        draws: bool = False,
        notes: Sequence[str] = (),
        output: Output = LOGITS,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        super().__init__()
        self.output = output
        self._memory_format = torch.contiguous_format if is_original else memory_format
        self.is_original = is_original
        # The original is no submodule, so that a trainer does not move, train or save it.
        self._original: tuple[nn.Module, ...] = (network,) if is_original else ()
        # The name of the copy is part of the keys of random draws (randomization test).
        self._own = None if is_original else network
        self._compiled: Compiled | None = None
        self._count: int | None = None  # of the scores
        self._stopping: set[frozenset[str]] = set()  # layers at whose last a forward may stop
        self.non_differentiable = non_differentiable
        self.modified_layers = frozenset(modified_layers)
        self.kept = None if kept is None else frozenset(kept)
        self.draws = draws
        self.notes = tuple(notes)
        scale = 1 / torch.tensor(std, dtype=torch.float64)
        shift = -torch.tensor(mean, dtype=torch.float64) * scale
        dtype, device = dtype_of(network), device_of(network)
        self.register_buffer("scale", scale.view(1, -1, 1, 1).to(device, dtype), persistent=False)
        self.register_buffer("shift", shift.view(1, -1, 1, 1).to(device, dtype), persistent=False)
        super().train(False)

    def activations(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return the activations of the named layers; the forward stops at the last of them.

        Arguments and errors as of :meth:`forward`. The first forward of these layers is complete: it shows whether each
        is called once, since the last output of a layer is returned.
        """
        if self._is_of_each_image(x, layers):
            read_by_image = [self.activations(image, layers) for image in torch.split(x, 1)]
            return _joined(read_by_image)
        key = frozenset(layers)
        self._check_unmodified(layers)
        with self._running() as network, reading(network, layers, x.device, stops=key in self._stopping) as read:
            images = self._normalized(x.to(device_of(network)), dtype_of(network))
            with network_errors_wrapped(x.shape), suppress(Stopped):
                self.output.returned(network, images)
        if read.can_stop:
            self._stopping.add(key)
        if torch.is_grad_enabled() and x.requires_grad and self.non_differentiable:
            raise LitVizError(NO_GRADIENT)
        return {name: activation.to(x.device) for name, activation in read.outputs.items()}

    def forward(self, x: Tensor, layers: Sequence[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits and the activations of the named layers.

        The logits are computed from the returned activations and can be differentiated with respect to them.

        Args:
            x: images ``(N, C, H, W)`` in [0, 1].
            layers: names as in :func:`~lit_viz.networks.layer_names`, :data:`~lit_viz.networks.outputs.FINAL` for the
                final scores, without a graph, or names of
                :func:`~lit_viz.networks.layers.statistics_of`, :func:`~lit_viz.networks.layers.attention_of` and
                :func:`~lit_viz.networks.layers.block_logits_of`. Of a layer that is called several times, the last
                output is returned.

        Returns:
            Logits ``(N, K)``, float32, or float64 if the network is; and activations by name.

        Raises:
            LitVizError: a layer is unknown or modified, or a gradient is required and the network gives none.
        """
        if self._is_of_each_image(x, layers):
            outputs = [self(image, layers) for image in torch.split(x, 1)]
            scores = torch.cat([scores for scores, _ in outputs])
            return scores, _joined([read for _, read in outputs])
        reads_final = FINAL in layers
        layers = [layer for layer in layers if layer != FINAL]
        self._check_unmodified(layers)
        with self._running() as network, reading(network, layers, x.device) as read:
            dtype = dtype_of(network)
            scaling = GradientScaling(dtype == torch.float16 and not layers and torch.is_grad_enabled())
            images = self._normalized(scaling.input(x.to(device_of(network))), dtype)
            call = network if self._compiled is None or layers else self._compiled
            with network_errors_wrapped(x.shape):
                returned = self.output.returned(call, images)
        logits = self.output.scores(returned, len(x) * read.rows)
        self._check_count(logits.shape[1])
        requires_gradient = torch.is_grad_enabled() and x.requires_grad
        if requires_gradient and (self.non_differentiable or not logits.requires_grad):
            raise LitVizError(NO_GRADIENT)
        if logits.dtype != torch.float64:
            logits = scaling.output(logits.float())
        logits, activations = read.split(logits.to(x.device))
        if reads_final:
            with torch.no_grad():
                final = self.output.final(returned, len(x) * read.rows)
            activations[FINAL] = read.split(final.to(logits))[0]
        return logits, {name: activation.to(x.device) for name, activation in activations.items()}

    def _network(self) -> nn.Module:
        if self._own is None:
            return self._original[0]
        return self._own

    def _is_of_each_image(self, x: Tensor, layers: Sequence[str]) -> bool:
        """Return whether layers are read that are called once for each image."""
        network = self._network()
        return isinstance(network, EachImage) and len(x) > 1 and any(layer != FINAL for layer in layers)

    def _check_count(self, count: int) -> None:
        """Raise an error if the number of scores differs from that of the first evaluation."""
        if self._count is None:
            self._count = count
        if count != self._count:
            raise LitVizError(
                f"the network must give equally many scores in every evaluation, got {count} after {self._count}: "
                "remove from its forward what depends on earlier calls"
            )

    @torch.no_grad()
    def final_scores(self, x: Tensor) -> Tensor:
        """Return the scores ``(N, K)`` that determine the success of an attack; see :meth:`forward`."""
        _, read = self.forward(x, layers=[FINAL])
        return read[FINAL]

    def _check_unmodified(self, layers: Sequence[str]) -> None:
        for layer in layers:
            has_other_input = self.kept is not None and layer_of(layer) not in self.kept
            if layer in self.modified_layers or (layer.endswith(STATISTICS) and has_other_input):
                raise LitVizError(f"layer {layer!r} is folded in this copy: make it with fast(keep=[{layer!r}])")

    def _normalized(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the network's input for images on its device."""
        images = images.to(dtype).contiguous(memory_format=self._memory_format)
        return torch.addcmul(self.shift.to(images), images, self.scale.to(images))

    def layer(self, name: str) -> nn.Module:
        """Return a layer of the network by its name, to hook it."""
        return self._network().get_submodule(name)

    def add_note(self, note: str) -> None:
        """Append a message about the copy."""
        self.notes = (*self.notes, note)

    def compile_as(self, mode: CompileMode | None) -> None:
        """Compile the network in a mode, or use it uncompiled (None); only for copies.

        Forwards that read layers always run uncompiled, because layers are read by hooks.
        """
        self._compiled = None if mode is None else Compiled(self.get_submodule("_own"), mode)

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Do nothing: a frozen network stays in eval mode."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> FrozenNetwork:
        """Do nothing: a frozen network stays frozen."""
        return self

    @contextmanager
    def _running(self) -> Iterator[nn.Module]:
        if self._own is None:
            with state_preserved(self._original[0]) as network, LaidOutGradients():
                yield network
        elif self.draws:
            with random_state_preserved(self._own):
                yield self._own
        else:
            yield self._own


def _joined(read_by_image: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the activations of several images, of those of each, ``(1, ...)``."""
    joined: dict[str, Tensor] = {}
    for name in read_by_image[0]:
        joined[name] = join_images([read[name] for read in read_by_image])
    return joined


class RuledNetwork(FrozenNetwork):
    """Base class of frozen networks with a rule of their backward; they share attributes and layers of ``network``."""

    def __init__(self, network: FrozenNetwork) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(network.__dict__)
