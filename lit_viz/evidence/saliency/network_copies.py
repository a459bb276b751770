"""Copies of a network as the references of saliency maps need them: in float64, randomized, or with hooks."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.metrics import randomize_layer
from lit_viz.networks import Network, isolation
from lit_viz.networks.fast.interception import Call, Interception, Pooling
from lit_viz.networks.fast.libra import libra


@dataclass(frozen=True)
class Weights:
    """Change of the weights of a copy of the network.

    Attributes:
        rounding_seed: if not 0, perturb them by float32 rounding errors of this seed.
        rounding_steps: largest perturbation, in units of the float32 epsilon.
        randomized: replace them by random weights of the same mean and standard deviation per parameter.
    """

    rounding_seed: int = 0
    rounding_steps: int = 1
    randomized: bool = False

    def change(self, network: nn.Module) -> None:
        """Change the weights of a network in place."""
        if self.randomized:
            for name, layer in network.named_modules():
                randomize_layer(layer, name, seed=0)
        if self.rounding_seed:
            for parameter in network.parameters():
                real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
                real.copy_(add_rounding(real, self.rounding_seed, self.rounding_steps))


#: Copies of a network by precision, and by the change of their weights.
NetworkCopies = dict[tuple[torch.dtype, Weights], nn.Module]


class OriginalNetwork(nn.Module):
    """A frozen copy of the original network in eval mode: images ``(N, C, H, W)`` in [0, 1] -> logits ``(N, K)``.

    If the target is contrasted with another class (``against``), ``gamma`` times its logit is subtracted from each.

    With ``libra`` its gradients are those of the rule.

    Args:
        weights: change of the weights.
        copies: copies of this network that exist already; a new one is added.
        column: the only score that is required; None for all.

    Raises:
        LitVizError: the network can't be copied.
    """

    def __init__(
        self,
        network: Network,
        dtype: torch.dtype,
        *,
        libra: bool,
        against: int | None,
        gamma: float,
        weights: Weights,
        copies: NetworkCopies,
        column: int | None = None,
    ) -> None:
        super().__init__()
        self._normalize, self.against, self.gamma = network.normalize, against, gamma
        self.output, self.libra = network.output, libra
        self._columns = None if column is None else [column]
        key = dtype, weights
        if key not in copies:
            copies[key] = self._copied(network, dtype)
            weights.change(copies[key])
        self.copy = copies[key]

    def _copied(self, classifier: Network, dtype: torch.dtype) -> nn.Module:
        # Without a fast copy, the network's own hooks change its output and must be kept.
        memo = {} if classifier.any_fast().is_original else isolation.memo_without_hooks(classifier.original)
        try:
            network = isolation.private_copy(classifier.original, memo)
        except Exception as error:  # raised by the network's own code
            raise LitVizError(f"{classifier.name} can't be copied for Captum: {error}") from error
        return isolation.cast(network, dtype).eval().requires_grad_(False)

    def scores(self, x: Tensor) -> Tensor:
        """Return the scores ``(N, K)`` of the classes, without the contrast."""
        with libra(self.copy, self.output) if self.libra else nullcontext(), self.output.about(self._columns):
            scores: Tensor = self.output(self.copy, self._normalize(x))
        return scores

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits = self.scores(x)
        return logits if self.against is None else logits - self.gamma * logits[:, self.against, None]


def add_rounding(values: Tensor, seed: int, steps: int) -> Tensor:
    """Return values with random rounding errors of at most ``steps`` units of the float32 epsilon."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(values.shape, generator=generator, dtype=torch.float64).to(values.device)
    return (values.double() * (1 + steps * (2 * unit - 1) * torch.finfo(torch.float32).eps)).to(values.dtype)


class UnsharedNetwork(nn.Module):
    """A network with one module per call of a non-linear function, as Captum's DeepLIFT requires.

    Captum hooks modules of some types, and fails on one that is called twice (Captum's issues 199, 578 and 934). Of
    two modules in sequence, it ignores the rule of the second: their tensors are therefore separated by a copy. It does
    not hook the network itself, which is no submodule.

    Args:
        network: the network.
        x: images ``(N, C, H, W)`` of a first forward, which records the calls.
    """

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        super().__init__()
        self._network = (network,)
        self.calls = nn.ModuleList()
        with torch.enable_grad():
            self(x.detach().clone().requires_grad_())

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output."""
        if torch.is_grad_enabled() and not x.requires_grad:
            x = x.detach().requires_grad_()  # calls without a gradient are not intercepted
        with _Calls(self.calls):
            logits: Tensor = self._network[0](x)
        return logits


class _Calls(Interception):
    """Pass the i-th call to the i-th module, which is appended in the first forward."""

    def __init__(self, modules: nn.ModuleList) -> None:
        super().__init__()
        self._modules, self._count = modules, 0

    def elementwise(self, z: Tensor, call: Call) -> Tensor:
        """Call the next module with the function, which may change its argument."""
        module, in_place = self._next(nn.ReLU), list[bool]()

        def forward(x: Tensor) -> Tensor:
            argument = x.clone()
            result = call.function(argument)
            in_place.append(result is argument)
            return result

        module.forward = forward
        y: Tensor = module(z.clone())
        return z.copy_(y) if in_place[-1] else y

    def maxima(self, z: Tensor, pooling: Pooling) -> Tensor:
        """Call the next module with the windows as rows: overlapping ones overwrite each other in Captum's rule."""
        sides = pooling(z[:1].detach())[0].shape[-pooling.axes :]
        windows = z
        for axis, side in enumerate(sides):
            windows = _windows(windows, z.ndim - pooling.axes + axis, side, _places(z, pooling, axis, side))
        rows = windows.flatten(-pooling.axes).flatten(1, -2)
        y: Tensor = self._next(nn.MaxPool1d, rows.shape[-1])(rows)
        return y.view(*z.shape[: -pooling.axes], *sides)

    def _next(self, kind: type[nn.Module], *options: Any) -> Any:
        if self._count == len(self._modules):
            self._modules.append(kind(*options))
        self._count += 1
        return self._modules[self._count - 1]


def _places(z: Tensor, pooling: Pooling, axis: int, side: int) -> Tensor:
    """Return the positions in one axis of each window ``(side, width)``; those of the padding are outside."""
    length, options = z.shape[axis - pooling.axes], pooling.options
    windows = torch.arange(side)[:, None]
    if "output_size" in options:
        first, end = windows * length // side, -(-(windows + 1) * length // side)
        places = first + torch.arange(int((end - first).max()))
        return places.masked_fill(places >= end, -1)
    kernel, stride, padding, dilation = (
        _of_axis(options[name], axis) for name in ("kernel_size", "stride", "padding", "dilation")
    )
    return windows * stride - padding + dilation * torch.arange(kernel)


def _of_axis(value: Any, axis: int) -> int:
    """Return an argument of a layer for an axis, which may be one number for all."""
    if isinstance(value, int):
        return value
    values = list(value)
    return int(values[axis if len(values) > 1 else 0])


def _windows(z: Tensor, dim: int, side: int, places: Tensor) -> Tensor:
    """Return ``z`` with a dimension as windows, of which the positions are added as the last dimension."""
    places = places.to(z.device)
    is_outside = (places < 0) | (places >= z.shape[dim])
    taken = z.index_select(dim, places.masked_fill(is_outside, 0).flatten())
    shape = (*z.shape[:dim], *places.shape, *z.shape[dim + 1 :])
    windows = taken.reshape(shape).movedim(dim + 1, -1)
    outside = is_outside.view(side, *[1] * (windows.ndim - dim - 2), places.shape[1])
    return windows.masked_fill(outside, -torch.inf)
