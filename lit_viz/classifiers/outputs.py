"""What a network may answer, read as logits; and the refusal of networks that answer with probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError

#: Operations that leave values as they are, as their nodes in the graph are called.
_SHAPING = (
    "Squeeze",
    "Unsqueeze",
    "View",
    "UnsafeView",
    "Reshape",
    "ReshapeAlias",
    "Alias",
    "Clone",
    "ToCopy",
    "Expand",
)
_PROBABILITIES = (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid)


def logits_of(output: Any, images: int) -> Tensor:
    """Return the logits ``(N, K)``, K >= 2, in what a network returned for N ``images``.

    Understood are a tensor, an object with ``.logits``, a mapping with ``"logits"``, and the first of a tuple or list;
    also where a dimension of one image, or one logit, was squeezed away.
    A single logit z, ``(N, 1)`` or ``(N,)``, is read as the two logits (-z/2, z/2): class 1 wins where z > 0, its
    probability is the sigmoid of z, and z is the margin.

    Raises:
        LitVizError: for anything else.
    """
    scores = _scores_in(output)
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise LitVizError(f"the network returns {_kind(output)}, in which no logits are found: return a tensor (N, K)")
    if scores.ndim < 2 and images and scores.numel() % images == 0:
        scores = scores.reshape(images, -1)
    if scores.ndim != 2:
        raise LitVizError(f"the network returns a tensor of shape {tuple(scores.shape)}: logits (N, K) are wanted")
    return torch.cat([-scores, scores], dim=1) / 2 if scores.shape[1] == 1 else scores


def traced(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a copy of ``x`` that wants a gradient, and its logits with their graph, if the network gives them one."""
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        given = network(leaf * 1)  # not the leaf itself, which a network may not change in place
        return leaf, logits_of(given, len(x))


def _scores_in(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, Mapping):
        return output.get("logits")
    return output[0] if isinstance(output, (tuple, list)) and output else output


def _kind(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of {output.dtype}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {', '.join(map(repr, output))}"
    return f"a {type(output).__name__}"


def detect_probability_head(network: nn.Module, x: Tensor) -> tuple[Tensor, str | None]:
    """Run ``network`` on ``x`` and find out whether it ends in a softmax or sigmoid.

    Args:
        network: in eval mode.
        x: normalized images ``(N, C, H, W)``, N >= 2.

    Returns:
        The logits ``(N, K)``, and None or what was seen: the last layer by name, or how the rows give it away.
    """
    called: list[tuple[str, nn.Module, Any]] = []

    def remember(name: str) -> Any:
        return lambda module, args, output: called.append((name, module, output))

    leaves = [(name, m) for name, m in network.named_modules() if isinstance(m, _PROBABILITIES)]
    handles = [m.register_forward_hook(remember(name)) for name, m in leaves]
    try:
        output = _with_graph(network, x)
    finally:
        for handle in handles:
            handle.remove()
    raw = _scores_in(output)
    for name, module, given in called[-1:]:
        if isinstance(raw, Tensor) and given.numel() == raw.numel() and torch.equal(given.flatten(), raw.flatten()):
            where = f" (layer {name!r})" if name else ""
            return logits_of(output, len(x)), f"ends in {type(module).__name__}{where}"
    logits = logits_of(output, len(x))
    return logits.detach(), _rows_of_probabilities(raw) or _last_of_graph(raw)


def _with_graph(network: nn.Module, x: Tensor) -> Any:
    """Return what the network gives, with its graph where it has one."""
    try:
        with torch.enable_grad():
            return network(x.clone().requires_grad_() * 1)
    except Exception:  # quantized layers and others that know no gradient; what is wrong for good is raised again
        return network(x)


def _last_of_graph(scores: Tensor) -> str | None:
    """Return how the last operation that changes values, also a function's, gives probabilities away."""
    node = scores.grad_fn
    while node is not None and type(node).__name__.startswith(_SHAPING) and node.next_functions:
        node = node.next_functions[0][0]
    last = type(node).__name__.removesuffix("0").removesuffix("Backward")
    return f"ends in {last.lower()}" if last in ("Softmax", "LogSoftmax", "Sigmoid", "LogSigmoid") else None


def _rows_of_probabilities(scores: Tensor) -> str | None:
    if scores.ndim != 2 or scores.shape[1] < 2:
        return None
    scores = scores.detach().double()
    one = torch.ones(len(scores), dtype=torch.float64, device=scores.device)
    if scores.min() >= 0 and scores.max() <= 1 and torch.allclose(scores.sum(dim=1), one, atol=1e-3, rtol=0):
        return "returns probabilities (its rows sum to 1)"
    if scores.max() <= 0 and torch.allclose(scores.exp().sum(dim=1), one, atol=1e-3, rtol=0):
        return "returns log-probabilities (the exponentials of its rows sum to 1)"
    return None
