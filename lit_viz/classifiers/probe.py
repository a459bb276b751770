"""Probe images: the fixed inputs on which two networks are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.classifiers.isolation import (
    device_of,
    dtype_of,
    full_float32,
    network_errors_wrapped,
    random_state_preserved,
    state_preserved,
)
from lit_viz.classifiers.outputs import logits_of, scores_in

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


def original_logits(module: nn.Module, mean: Sequence[float], std: Sequence[float], x: Tensor) -> Tensor:
    """Return the original module's logits, float32 ``(N, K)`` on the device of ``x``; its state is preserved.

    Args:
        module: the original.
        mean, std: of the normalization, one value per channel.
        x: images ``(N, C, H, W)`` in [0, 1], on any device.
    """
    with torch.inference_mode(False), torch.no_grad(), full_float32(), state_preserved(module) as network:
        images = normalize(x.to(device_of(network), dtype_of(network)), mean, std)
        with network_errors_wrapped(x):
            output = network(images)
        return logits_of(output, len(x)).to(x.device, torch.float32)


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


# Autograd nodes that do not change values.
_SHAPING_NODES = (
    "Squeeze", "Unsqueeze", "View", "UnsafeView", "Reshape", "ReshapeAlias", "Alias", "Clone", "ToCopy", "Expand",
)  # fmt: skip
_PROBABILITY_LAYERS = (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid)


def detect_probability_head(network: nn.Module, x: Tensor) -> tuple[Tensor, str | None]:
    """Run ``network`` on ``x`` and detect a final softmax or sigmoid, as a layer or a function.

    Args:
        network: in eval mode.
        x: normalized images ``(N, C, H, W)``, N >= 2.

    Returns:
        The logits ``(N, K)``; and a description of the head, such as ``ends in Softmax (layer 'head')``, or None.
    """
    calls: list[tuple[str, nn.Module, Any]] = []

    def record(name: str) -> Any:
        return lambda module, args, output: calls.append((name, module, output))

    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, _PROBABILITY_LAYERS)]
    handles = [layer.register_forward_hook(record(name)) for name, layer in layers]
    try:
        try:
            with torch.enable_grad():
                output = network(x.clone().requires_grad_() * 1)
        except Exception:  # quantized layers have no gradient; any other error is raised again
            output = network(x)
    finally:
        for handle in handles:
            handle.remove()
    scores, logits = scores_in(output), logits_of(output, len(x)).detach()
    for name, layer, result in calls[-1:]:
        if result.numel() == scores.numel() and torch.equal(result.flatten(), scores.flatten()):
            return logits, f"ends in {type(layer).__name__}" + (f" (layer {name!r})" if name else "")
    return logits, _probability_rows(scores) or _probability_function(scores)


def _probability_function(scores: Tensor) -> str | None:
    """Describe the last operation that changes values, if it returns probabilities."""
    node = scores.grad_fn
    while node is not None and type(node).__name__.startswith(_SHAPING_NODES) and node.next_functions:
        node = node.next_functions[0][0]
    last = type(node).__name__.removesuffix("0").removesuffix("Backward")
    return f"ends in {last.lower()}" if last in ("Softmax", "LogSoftmax", "Sigmoid", "LogSigmoid") else None


def _probability_rows(scores: Tensor) -> str | None:
    """Describe rows that are probabilities or log-probabilities."""
    if scores.ndim != 2 or scores.shape[1] < 2:
        return None
    scores = scores.detach().double()
    ones = torch.ones(len(scores), dtype=torch.float64, device=scores.device)
    if scores.min() >= 0 and scores.max() <= 1 and torch.allclose(scores.sum(dim=1), ones, atol=1e-3, rtol=0):
        return "returns probabilities (its rows sum to 1)"
    if scores.max() <= 0 and torch.allclose(scores.exp().sum(dim=1), ones, atol=1e-3, rtol=0):
        return "returns log-probabilities (the exponentials of its rows sum to 1)"
    return None
