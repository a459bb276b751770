"""The frozen network: what methods optimize an image against."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lit_viz.classifiers.fast.compiling import Compiled, CompileMode
from lit_viz.classifiers.fast.residual import damp
from lit_viz.classifiers.fast.scaling import Scale
from lit_viz.classifiers.isolation import (
    device_of,
    dtype_of,
    network_errors_wrapped,
    random_state_preserved,
    state_preserved,
)
from lit_viz.classifiers.layers import is_statistics, layer_of, reading
from lit_viz.classifiers.outputs import logits_of
from lit_viz.errors import NO_GRADIENT, LitVizError


class FrozenNetwork(nn.Module):
    """Images in [0, 1] -> logits and the activations asked for, differentiable in the images alone.

    Made by :meth:`Classifier.fast`. It normalizes, stays in eval mode whatever a trainer asks for, and has no
    parameter that wants a gradient.

    Args:
        network: a private copy; or, with ``is_original``, the user's module, whose state is preserved.
        mean, std: of the normalization, one value a channel.
        modified_layers: names of the layers whose output differs from the original's, because a batch norm was folded
            into them or an activation fused; reading one is an error.
        kept: names of the layers that are given what they are given in the original, so that the moments of it may be
            asked for; all, unless given.
        is_original: the network is the user's module.
        non_differentiable: it is known to give no gradient.
        draws: the network draws random numbers even in eval mode; the global random state is put back.
        notes: what is worth saying about the copy, in sentences.
        folded, fused: how many batch norms and activations have gone into convolutions.
    """

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
        folded: int = 0,
        fused: int = 0,
    ) -> None:
        super().__init__()
        # A guest is hidden in a tuple: nobody who moves, trains or saves this module reaches it.
        self._original: tuple[nn.Module, ...] = (network,) if is_original else ()
        self._own = None if is_original else network
        self._compiled: Compiled | None = None
        self.non_differentiable = non_differentiable
        self.modified_layers, self.draws, self.notes = frozenset(modified_layers), draws, tuple(notes)
        self.kept = None if kept is None else frozenset(kept)
        self.folded, self.fused = folded, fused
        scale = 1 / torch.tensor(std, dtype=torch.float64)
        shift = -torch.tensor(mean, dtype=torch.float64) * scale
        dtype, device = dtype_of(network), device_of(network)
        self.register_buffer("scale", scale.view(1, -1, 1, 1).to(device, dtype), persistent=False)
        self.register_buffer("shift", shift.view(1, -1, 1, 1).to(device, dtype), persistent=False)
        self.scale: Tensor
        self.shift: Tensor
        super().train(False)

    def forward(self, x: Tensor, layers: Sequence[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits and the outputs of the named layers.

        Logits can be differentiated by these outputs, too: the network goes on from them.

        Args:
            x: images ``(N, C, H, W)`` in [0, 1].
            layers: names as in :func:`~lit_viz.classifiers.layer_names`, or of
                :func:`~lit_viz.classifiers.layers.statistics_of`; of a layer that is called several times, the last
                output is returned.

        Returns:
            Logits ``(N, K)`` (float32, or float64 if the network is), and the activations by name, with their graph.

        Raises:
            LitVizError: a layer that the network doesn't have (the near names are listed), or that was folded because
                it was not named in ``keep``; or a gradient is wanted, and the network's own code runs without.
        """
        for layer in layers:
            unknown = is_statistics(layer) and self.kept is not None and layer_of(layer) not in self.kept
            if layer in self.modified_layers or unknown:
                raise LitVizError(f"layer {layer!r} is folded in this copy: make it with fast(keep=[{layer!r}])")
        with (
            self._running() as network,
            reading(network, layers) as activations,
            _going_on(network, activations, layers, x.device),
        ):
            layout = torch.contiguous_format if self._own is None else torch.channels_last
            dtype = dtype_of(network)
            scale = Scale() if dtype == torch.float16 and not layers and torch.is_grad_enabled() else None
            images = x.to(device_of(network))
            images = images.to(dtype) if scale is None else scale.lowered(images, dtype)
            images = images.contiguous(memory_format=layout)
            call = network if self._compiled is None or layers else self._compiled
            normalized = torch.addcmul(self.shift.to(images), images, self.scale.to(images))
            with network_errors_wrapped(x):
                output = call(normalized)
        logits = logits_of(output, len(x))
        if torch.is_grad_enabled() and x.requires_grad and (self.non_differentiable or not logits.requires_grad):
            raise LitVizError(NO_GRADIENT)
        if logits.dtype != torch.float64:
            logits = logits.float() if scale is None else scale.raised(logits)
        return logits.to(x.device), {name: activation.to(x.device) for name, activation in activations.items()}

    @property
    def is_original(self) -> bool:
        """Whether the network is somebody else's."""
        return self._own is None

    def damp(self, branches: Sequence[str], factor: float) -> None:
        """Let the gradient by these layers' output come back multiplied by ``factor``; values stay. Of a copy only."""
        assert self._own is not None
        damp(self._own, branches, factor)

    def compile_as(self, mode: CompileMode | None) -> None:
        """Call the network compiled from now on, or None: as it is; also where layers are read, which is by hooks. Of a
        copy only."""
        assert self._own is not None
        self._compiled = None if mode is None else Compiled(self._own, mode)

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Do nothing: a frozen network stays in eval mode."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> FrozenNetwork:
        """Do nothing: a frozen network stays frozen."""
        return self

    @contextmanager
    def _running(self) -> Iterator[nn.Module]:
        if self._own is None:
            with state_preserved(self._original[0]) as network:
                yield network
        elif self.draws:
            with random_state_preserved(self._own):
                yield self._own
        else:
            yield self._own


@contextmanager
def _going_on(
    network: nn.Module, found: dict[str, Tensor], layers: Sequence[str], device: torch.device
) -> Iterator[None]:
    """Let the forward in the body go on from what was read of the layers, so that they are on the way to the logits.

    From another tensor of the same values, because many networks change it in place right afterwards, and from the
    images' device, for a network may live on another.
    """

    def replace(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            found[name] = found[name].to(device)
            first = output if isinstance(output, Tensor) else output[0]
            other = found[name].to(first.device, copy=True)
            return tree_map(lambda leaf: other if leaf is first else leaf, output)

        return hook

    outputs = [name for name in layers if not is_statistics(name)]
    handles = [network.get_submodule(name).register_forward_hook(replace(name)) for name in outputs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
