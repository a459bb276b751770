"""Network outputs: logits in what a forward returns, final probabilities, prediction summaries, and probe images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError

#: Largest relative difference between the logits of equal networks; different kernels round differently.
LOGITS_TOLERANCE = 1e-4
# Autograd nodes that do not change values.
_SHAPING_NODES = (
    "Squeeze", "Unsqueeze", "View", "UnsafeView", "Reshape", "ReshapeAlias", "Alias", "Clone", "ToCopy", "Expand",
)  # fmt: skip


def logits_of(output: Any, images: int) -> Tensor:
    """Return the logits ``(N, K)``, K >= 2, in the output of a network.

    A single logit z, ``(N, 1)`` or ``(N,)``, is converted to the two logits (-z/2, z/2): class 1 is predicted where
    z > 0, its probability is the sigmoid of z, and z is the margin.

    Args:
        output: a tensor, an object with ``.logits``, a mapping with ``"logits"``, or a tuple or list that starts with
            the logits. A squeezed dimension of one image or one logit is restored.
        images: N.

    Raises:
        LitVizError: for any other output.
    """
    scores = _scores_in(output)
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        kind = f"a {type(output).__name__}"
        if isinstance(output, Tensor):
            kind = f"a tensor of {output.dtype}"
        elif isinstance(output, Mapping):
            kind += f" with the keys {', '.join(map(repr, output))}"
        raise LitVizError(f"the network must return logits (N, K), got {kind}")
    if scores.ndim < 2 and images and scores.numel() % images == 0:
        scores = scores.reshape(images, -1)
    if scores.ndim != 2 or not scores.shape[1]:
        raise LitVizError(f"the network must return logits (N, K), got a tensor of shape {tuple(scores.shape)}")
    if scores.shape[1] == 1:
        return torch.cat([-scores, scores], dim=1) / 2
    return scores


def _scores_in(output: Any) -> Any:
    """Return the element of a network's output that should hold the logits, unchecked."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, Mapping):
        return output.get("logits")
    if isinstance(output, (tuple, list)) and output:
        return output[0]
    return output


def forward(network: Callable[[Tensor], Any], x: Tensor) -> Any:
    """Return the output of a network; ``sys.exit`` in its code is an error like any other."""
    try:
        return network(x)
    except SystemExit as error:
        raise RuntimeError("it calls sys.exit") from error


def logits_without_graph(network: nn.Module, x: Tensor) -> Tensor:
    """Return the logits ``(N, K)`` of normalized images; ``x`` is not modified."""
    with torch.no_grad():
        return logits_of(forward(network, x.clone()), len(x))


def differentiable_logits(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a copy of ``x`` that requires a gradient, and its logits with their graph."""
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        output = forward(network, leaf * 1)  # a leaf can't be changed in place by the network
        return leaf, logits_of(output, len(x))


def detect_probability_head(network: nn.Module, x: Tensor) -> tuple[Tensor, str | None]:
    """Return the logits ``(N, K)`` of normalized images, and a description of a final softmax or sigmoid, or None."""
    try:
        with torch.enable_grad():
            output = forward(network, x.clone().requires_grad_() * 1)
    except Exception:  # quantized layers have no gradient; any other error is raised again
        output = forward(network, x)
    scores, logits = _scores_in(output), logits_of(output, len(x)).detach()
    node = scores.grad_fn
    while node is not None and type(node).__name__.startswith(_SHAPING_NODES) and node.next_functions:
        node = node.next_functions[0][0]
    last = type(node).__name__.removesuffix("0").removesuffix("Backward")
    if last in ("Softmax", "LogSoftmax", "Sigmoid", "LogSigmoid"):
        return logits, f"ends in {last.lower()}"
    if scores.ndim == 2 and scores.shape[1] > 1:  # rows of a network without a graph
        values, ones = scores.detach().double(), scores.new_ones(len(scores), dtype=torch.float64)
        if values.min() >= 0 and values.max() <= 1 and torch.allclose(values.sum(1), ones, atol=1e-3, rtol=0):
            return logits, "returns probabilities (its rows sum to 1)"
        if values.max() <= 0 and torch.allclose(values.exp().sum(1), ones, atol=1e-3, rtol=0):
            return logits, "returns log-probabilities (the exponentials of its rows sum to 1)"
    return logits, None


def decision_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits ``(N, K)`` of the decisions on one label ``(N,)`` per row, for logits of a multi-label network.

    The label has its logit z, one other class has 0, and the rest can't be predicted: the label is predicted where
    z > 0, its softmax is the sigmoid of z, and its margin is z.
    """
    decisions = torch.full_like(logits, -1e9).scatter(1, (labels[:, None] + 1) % logits.shape[1], 0.0)
    return decisions.scatter(1, labels[:, None], logits.gather(1, labels[:, None]))


#: What captions state of a multi-label network.
MULTI_LABEL_CAPTION = (
    "Multi-label network: p is the sigmoid of one logit; probabilities of several labels do not sum to 1. "
    "Fooled: the decision on one label, p > 0.5, is reversed."
)


def probabilities(logits: Tensor, *, multi_label: bool = False) -> Tensor:
    """Return the probabilities ``(..., K)``: the softmax of the logits, or of a multi-label network the sigmoids."""
    return logits.sigmoid() if multi_label else logits.softmax(-1)


def prediction_summary(logits: Tensor, target: int, *, multi_label: bool = False) -> dict[str, float]:
    """Return logit, probability and rank of a class for logits ``(K,)``.

    Rank 1 is the largest logit, also of a multi-label network; of equal logits the first is ahead, as in argmax. If the
    probability is NaN, the rank is the last.
    """
    value, probability = logits[target], float(probabilities(logits, multi_label=multi_label)[target])
    rank = len(logits)
    if not math.isnan(probability):
        rank = 1 + int((logits[:target] >= value).sum() + (logits[target + 1 :] > value).sum())
    return {"logit": float(value), "probability": probability, "rank": rank}


def group_summary(summaries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean probability and the worst rank of a class for the images of a group."""
    return {
        "probability": fmean(summary["probability"] for summary in summaries),
        "rank": max(summary["rank"] for summary in summaries),
    }


def top5(logits: Tensor, labels: Sequence[str], *, multi_label: bool = False) -> tuple[tuple[str, float], ...]:
    """Return label and probability of the five most probable classes, in order of rank; all, if there are fewer."""
    values = probabilities(logits, multi_label=multi_label).tolist()
    return tuple((labels[i], values[i]) for i in logits.argsort(descending=True, stable=True).tolist()[:5])


def probe_images(channels: int, size: tuple[int, int]) -> Tensor:
    """Return two fixed images ``(2, channels, *size)`` in [0, 1], for comparisons: dark noise and a smooth pattern."""
    noise = 0.5 * torch.rand(channels, *size, generator=torch.Generator().manual_seed(0))
    down, right = torch.linspace(0, 3, size[0])[:, None], torch.linspace(0, 4, size[1])
    phases = torch.arange(channels).view(-1, 1, 1)
    return torch.stack([noise, 0.5 + 0.5 * torch.sin(down + right + phases)])


def relative_difference(value: Tensor, reference: Tensor) -> float:
    """Return ``max |value - reference| / max |reference|``.

    Equal infinities are ignored. The result is infinite where shapes differ or any other value is not finite.
    """
    if value.shape != reference.shape or not value.numel():
        return 0.0 if value.shape == reference.shape else math.inf
    value, reference = value.double(), reference.double()
    equal = value == reference  # true for equal infinities
    largest = reference.masked_fill(reference.isinf() & equal, 0).abs().max().clamp_min(1e-30)
    difference = (value - reference).masked_fill(equal, 0).abs().max() / largest
    return difference.item() if difference.isfinite() else math.inf
