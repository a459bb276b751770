"""The frozen network: evaluated by all methods, differentiable in the images alone, with modified gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lit_viz.classifiers.attention import reading_attention, scoring_blocks
from lit_viz.classifiers.fast.backward import upstream
from lit_viz.classifiers.fast.rescaling import Rescaling
from lit_viz.classifiers.isolation import (
    device_of,
    dtype_of,
    network_errors_wrapped,
    random_state_preserved,
    state_preserved,
)
from lit_viz.classifiers.layers import (
    ATTENTION,
    LOGITS,
    STATISTICS,
    attention_of,
    block_logits_of,
    hooked,
    layer_of,
    readable_layers,
    reading,
)
from lit_viz.classifiers.outputs import differentiable_logits, forward, logits_of
from lit_viz.errors import NO_GRADIENT, LitVizError

#: Modes of ``torch.compile``. ``reduce-overhead`` and ``max-autotune`` replay CUDA graphs.
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class FrozenNetwork(nn.Module):
    """Maps images in [0, 1] to logits and activations.

    It normalizes, stays in eval mode, and has no parameter with ``requires_grad``.

    Args:
        network: a private copy; or, with ``is_original``, the user's module, whose state is preserved in each forward.
        mean, std: of the normalization, one value per channel.
        modified_layers: names of layers whose output differs from the original's, because a batch norm was folded into
            them or an activation fused. They can't be read.
        kept: names of layers whose input is the original's, so that its statistics can be read; None for all.
        is_original: whether ``network`` is the user's module.
        non_differentiable: whether it is known to give no gradient.
        draws: whether the network draws random numbers in eval mode; the global random state is then preserved.
        notes: messages about the copy.
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
    ) -> None:
        super().__init__()
        self.is_original = is_original
        # The original is no submodule, so that a trainer does not move, train or save it.
        self._original: tuple[nn.Module, ...] = (network,) if is_original else ()
        # The name of the copy is part of the keys of random draws (randomization test).
        self._own = None if is_original else network
        self._compiled: Compiled | None = None
        self.non_differentiable = non_differentiable
        self.modified_layers, self.draws, self.notes = frozenset(modified_layers), draws, tuple(notes)
        self.kept = None if kept is None else frozenset(kept)
        scale = 1 / torch.tensor(std, dtype=torch.float64)
        shift = -torch.tensor(mean, dtype=torch.float64) * scale
        dtype, device = dtype_of(network), device_of(network)
        self.register_buffer("scale", scale.view(1, -1, 1, 1).to(device, dtype), persistent=False)
        self.register_buffer("shift", shift.view(1, -1, 1, 1).to(device, dtype), persistent=False)
        super().train(False)

    def forward(self, x: Tensor, layers: Sequence[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits and the activations of the named layers.

        The logits are computed from the returned activations and can be differentiated with respect to them.

        Args:
            x: images ``(N, C, H, W)`` in [0, 1]; in a copy with the rescale rule also pairs of an image and a baseline
                ``(N, 2, C, H, W)``. The outputs are then those of the images, and gradients are multipliers.
            layers: names as in :func:`~lit_viz.classifiers.layer_names`, or of
                :func:`~lit_viz.classifiers.layers.statistics_of`, :func:`~lit_viz.classifiers.layers.attention_of` and
                :func:`~lit_viz.classifiers.layers.block_logits_of`. Of a layer that is called several times, the last
                output is returned.

        Returns:
            Logits ``(N, K)``, float32, or float64 if the network is; and activations by name.

        Raises:
            LitVizError: a layer is unknown or modified, or a gradient is required and the network gives none.
        """
        if x.ndim == 5:
            with Rescaling():
                logits, activations = self(torch.cat(x.unbind(1)), layers)
            image, baseline = logits.chunk(2)
            # The rows of the baselines have the same gradient, which the rule for max pooling reads.
            logits = image + (baseline - baseline.detach())
            return logits, {name: activation.chunk(2)[0] for name, activation in activations.items()}
        for layer in layers:
            other_input = layer.endswith(STATISTICS) and self.kept is not None and layer_of(layer) not in self.kept
            if layer in self.modified_layers or other_input:
                raise LitVizError(f"layer {layer!r} is folded in this copy: make it with fast(keep=[{layer!r}])")
        attention = [layer_of(name) for name in layers if name.endswith(ATTENTION)]
        blocks = [layer_of(name) for name in dict.fromkeys(layers) if name.endswith(LOGITS)]
        outputs = [name for name in layers if not name.endswith((ATTENTION, LOGITS))]
        with (
            self._running() as network,
            reading(network, outputs, x.device) as activations,
            reading_attention(network, attention, x.device) as maps,
            scoring_blocks(network, blocks),
        ):
            memory_format = torch.contiguous_format if self.is_original else torch.channels_last
            dtype = dtype_of(network)
            scaling = GradientScaling() if dtype == torch.float16 and not layers and torch.is_grad_enabled() else None
            images = x.to(device_of(network))
            images = images if scaling is None else scaling.input(images)
            images = images.to(dtype).contiguous(memory_format=memory_format)
            call = network if self._compiled is None or layers else self._compiled
            normalized = torch.addcmul(self.shift.to(images), images, self.scale.to(images))
            with network_errors_wrapped(x.shape):
                output = forward(call, normalized)
        logits = logits_of(output, len(x) * (1 + len(blocks)))
        if torch.is_grad_enabled() and x.requires_grad and (self.non_differentiable or not logits.requires_grad):
            raise LitVizError(NO_GRADIENT)
        if logits.dtype != torch.float64:
            logits = logits.float() if scaling is None else scaling.output(logits.float())
        logits, *block_logits = logits.to(x.device).chunk(1 + len(blocks))
        activations |= {attention_of(name): values for name, values in maps}
        activations |= zip(map(block_logits_of, blocks), block_logits, strict=True)
        return logits, {name: activation.to(x.device) for name, activation in activations.items()}

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
            with state_preserved(self._original[0]) as network:
                yield network
        elif self.draws:
            with random_state_preserved(self._own):
                yield self._own
        else:
            yield self._own


class Compiled:
    """A network, in eval mode and frozen, compiled once for an image size and any batch size."""

    def __init__(self, network: nn.Module, mode: CompileMode) -> None:
        # A graph may be used for several backwards, so its saved tensors can't be reused. The setting is read in every
        # backward and belongs to a thread (to the process in older versions of torch).
        torch._functorch.config.donated_buffer = False
        self._call: Any = torch.compile(network, mode=mode)

    def __call__(self, x: Tensor) -> Any:
        """Return the network's output for normalized images ``(N, C, H, W)``."""
        rows = torch.cat([x, x]) if len(x) == 1 else x  # torch specializes on a batch of one
        torch._dynamo.maybe_mark_dynamic(rows, 0)
        output = self._call(rows)
        # Cloned, because CUDA graphs write the next output to the same memory.
        return torch.utils._pytree.tree_map_only(Tensor, lambda leaf: leaf[: len(x)].clone(), output)


class GradientScaling:
    """Scales the gradient of each image through a float16 network, so that small values do not underflow.

    As loss scaling in mixed precision (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2), but with a power of
    two per image, computed from the gradient of its logits. The rows of a network in eval mode are independent.
    """

    def __init__(self) -> None:
        self._factor = torch.ones(())  # (N,), set at the start of each backward and divided out at its end

    def input(self, x: Tensor) -> Tensor:
        """Return images ``(N, ...)`` at which a backward divides the factor out."""
        x = x.view_as(x)
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient / self._factor.view(-1, *[1] * (gradient.ndim - 1)))  # type: ignore[no-untyped-call]
        return x

    def output(self, logits: Tensor) -> Tensor:
        """Return float32 logits ``(N, K)`` at which a backward multiplies its gradient by the factor."""
        if logits.requires_grad:
            logits.register_hook(self._scaled)  # type: ignore[no-untyped-call]
        return logits

    def _scaled(self, gradient: Tensor) -> Tensor:
        largest = gradient.flatten(1).abs().amax(1)
        normal = (largest > 0) & largest.isfinite()
        exponents = torch.frexp(torch.where(normal, largest, 1)).exponent
        powers = (1 - exponents).clamp(max=126)  # scales the largest value to [1, 2), except subnormal numbers
        self._factor = torch.ldexp(torch.ones_like(largest), powers)
        return gradient * self._factor[:, None]


def residual_branches(network: nn.Module, x: Tensor) -> list[str]:
    """Return the names of the layers whose output is added to a tensor that it was computed from, in forward order.

    The additions are searched in the backward graph, so their form in the code does not matter. Blocks with a computed
    shortcut (a change of size) and layers that are called more than once are excluded.
    """
    writers: dict[Node, str] = {}  # the last of several layers that pass a tensor on
    calls: Counter[str] = Counter()

    def record(name: str, module: nn.Module, args: Any, output: Any) -> None:
        calls[name] += 1
        if isinstance(output, Tensor) and output.grad_fn is not None:
            writers[output.grad_fn] = name

    with hooked(readable_layers(network), record):
        _, logits = differentiable_logits(network, x)
    ends: set[Node] = set()
    for node in upstream(logits.grad_fn):
        if type(node).__name__ == "AddBackward0":
            terms = [term for term, _ in node.next_functions if term is not None]
            ends |= {end for end in terms if any(term is not end and term in upstream(end) for term in terms)}
    return [name for node, name in writers.items() if node in ends and calls[name] == 1]


def scale_branches(network: nn.Module, layers: Sequence[str], factor: float) -> None:
    """Multiply the gradient of these layers' outputs by a factor; their values stay.

    The output of a residual branch is more specific to the network than its shortcut. A gradient that passes through
    the shortcuts more than through the branches transfers better (skip gradient method: Wu et al. 2020, "Skip
    Connections Matter", arXiv:2002.05990).
    """
    for name in layers:
        network.get_submodule(name).register_forward_hook(_ScaledGradient(factor))


class _ScaledGradient:
    """Forward hook; a module would add a layer with a name of its own, and a closure could not be copied."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * self.factor)  # type: ignore[no-untyped-call]
