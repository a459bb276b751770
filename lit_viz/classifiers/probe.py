"""Probe images: the fixed inputs on which two networks are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from lit_viz.classifiers.isolation import (
    device_of,
    dtype_of,
    full_float32,
    random_state_preserved,
    state_preserved,
)
from lit_viz.classifiers.outputs import logits_of

#: Largest relative difference between the logits of equal networks; different kernels round differently.
LOGITS_TOLERANCE = 1e-4
_SIDE = 64  # pixels; the smallest side of reduced probe images


def normalize(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return ``(x - mean) / std`` for images ``(N, C, H, W)``; always a new tensor."""
    shift, scale = (torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, 1, 1) for values in (mean, std))
    return (x - shift) / scale


def probe_images(channels: int, size: tuple[int, int]) -> Tensor:
    """Return two images ``(2, channels, *size)`` in [0, 1]: dark noise and a smooth pattern."""
    noise = 0.5 * torch.rand(channels, *size, generator=torch.Generator().manual_seed(0))
    down, right = torch.linspace(0, 3, size[0])[:, None], torch.linspace(0, 4, size[1])
    phases = torch.arange(channels).view(-1, 1, 1)
    return torch.stack([noise, 0.5 + 0.5 * torch.sin(down + right + phases)])


def relative_difference(value: Tensor, reference: Tensor) -> float:
    """Return ``max |value - reference| / max |reference|``.

    Equal infinities are ignored. The result is infinite where shapes differ or any other value is not finite.
    """
    if value.shape != reference.shape:
        return math.inf
    value, reference = value.double(), reference.double()
    equal = value == reference  # true for equal infinities
    largest = reference.masked_fill(reference.isinf() & equal, 0).abs().max().clamp_min(1e-30)
    difference = (value - reference).masked_fill(equal, 0).abs().max() / largest
    return difference.item() if difference.isfinite() else math.inf


def logits_without_graph(network: nn.Module, x: Tensor) -> Tensor:
    """Return the logits ``(N, K)`` of normalized images; ``x`` is not modified."""
    with torch.no_grad():
        return logits_of(network(x.clone()), len(x))


def probe(
    module: nn.Module, mean: Sequence[float], std: Sequence[float], size: tuple[int, int], classes: int
) -> tuple[Tensor, Tensor]:
    """Evaluate the original module on normalized probe images.

    The images have a third of the input's side if the module accepts that size, which is cheaper, else the full size.

    Returns:
        The normalized images ``(2, C, h, w)`` and their logits ``(2, K)``.
    """
    reduced = tuple(max(side // 3, min(side, _SIDE)) for side in size)
    small, full = (
        normalize(probe_images(len(mean), (height, width)).to(device_of(module), dtype_of(module)), mean, std)
        for height, width in (reduced, size)
    )
    with state_preserved(module) as network:
        with suppress(Exception):  # many networks accept one size only and raise any kind of error
            logits = logits_without_graph(network, small)
            if logits.shape == (2, classes):
                return small, logits
        return full, logits_without_graph(network, full)


def probe_logits(
    module: nn.Module, mean: Sequence[float], std: Sequence[float], size: tuple[int, int], classes: int
) -> Tensor:
    """Return the original module's logits ``(2, K)`` of the probe images; empty if its forward raises.

    The random generators are seeded, so that a module that draws random numbers returns the same logits every time.
    """
    device = device_of(module)
    with torch.inference_mode(False), torch.no_grad(), full_float32(), random_state_preserved(module):
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(0)
        try:
            return probe(module, mean, std, size, classes)[1].clone()
        except Exception:  # from the user's code; the caller that needs the logits raises it again
            return torch.empty(0)
