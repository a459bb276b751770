"""Network outputs: the logits in what a forward returns, and prediction summaries for records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError


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
    scores = scores_in(output)
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        if isinstance(output, Tensor):
            kind = f"a tensor of {output.dtype}"
        elif isinstance(output, Mapping):
            kind = f"a {type(output).__name__} with the keys {', '.join(map(repr, output))}"
        else:
            kind = f"a {type(output).__name__}"
        raise LitVizError(f"the network must return logits (N, K), got {kind}")
    if scores.ndim < 2 and images and scores.numel() % images == 0:
        scores = scores.reshape(images, -1)
    if scores.ndim != 2:
        raise LitVizError(f"the network must return logits (N, K), got a tensor of shape {tuple(scores.shape)}")
    return torch.cat([-scores, scores], dim=1) / 2 if scores.shape[1] == 1 else scores


def scores_in(output: Any) -> Any:
    """Return the element of a network's output that should hold the logits, unchecked."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, Mapping):
        return output.get("logits")
    return output[0] if isinstance(output, (tuple, list)) and output else output


def differentiable_logits(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a copy of ``x`` that requires a gradient, and its logits with their graph."""
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        output = network(leaf * 1)  # a leaf can't be changed in place by the network
        return leaf, logits_of(output, len(x))


def prediction_summary(logits: Tensor, target: int) -> dict[str, float]:
    """Return logit, probability and rank of a class for logits ``(K,)``.

    Rank 1 is the largest logit; of equal logits the first is ahead, as in argmax. If the probability is NaN, the rank
    is the last.
    """
    value, probability = logits[target], float(torch.softmax(logits, 0)[target])
    ahead = int((logits[:target] >= value).sum() + (logits[target + 1 :] > value).sum())
    rank = len(logits) if math.isnan(probability) else ahead + 1
    return {"logit": float(value), "probability": probability, "rank": rank}


def group_summary(summaries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean probability and the worst rank of a class for the images of a group."""
    return {
        "probability": fmean(summary["probability"] for summary in summaries),
        "rank": max(summary["rank"] for summary in summaries),
    }


def top5(logits: Tensor, labels: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Return label and probability of the five most probable classes, in order of rank; all, if there are fewer."""
    probabilities, order = torch.softmax(logits, 0).tolist(), logits.argsort(descending=True, stable=True).tolist()
    return tuple((labels[i], probabilities[i]) for i in order[:5])
