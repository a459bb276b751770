"""The rule ``libra`` of backward: attention weights, deviations of norms and gates of activations are constants.

Mehri et al. 2025, "LibraGrad", arXiv:2411.16760. With constant factors a transformer is linear in its input,
its biases, its class token and its position embedding together: each times its gradient, they sum to the score.
Softmax, norms and gated activations are intercepted where they are called, and their values are not changed.

Of an output with a backbone, such as an answer of a network of images and text, the rule applies inside of the
backbone; what is before and after it keeps its derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lit_viz.networks.fast.backward import PIECEWISE, nonlinearities, upstream
from lit_viz.networks.fast.frozen import RuledNetwork
from lit_viz.networks.layers import hooked, in_module, modules_of, readable_layers
from lit_viz.networks.outputs import Output

#: Computes a function of torch, which is its first argument, with the rule.
Rule: TypeAlias = Callable[..., Any]

#: Gates at zero of activations ``x * gate(x)``.
_GATES: Mapping[Callable[..., Tensor], float] = {F.gelu: 0.5, F.silu: 0.5, F.hardswish: 0.5, F.mish: 0.6}


class LibraNetwork(RuledNetwork):
    """A frozen network with the rule; it shares the attributes and layers of ``network``."""

    def forward(self, x: Tensor, layers: Sequence[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits and activations of :meth:`FrozenNetwork.forward`, with gradients of the rule."""
        network = self._network()
        with libra(network, self.output):
            return super().forward(x, layers)


@contextmanager
def libra(network: nn.Module, output: Output) -> Iterator[None]:
    """Apply the rule to the calls of the body that have a gradient; inside of the backbone if the output has one."""
    backbone = _backbone_of(network, output)
    if backbone is None:
        with Libra():
            yield
        return
    mode = Libra(is_active=False)

    def enter(name: str, module: nn.Module, args: Any) -> None:
        mode.is_active = True

    def leave(name: str, module: nn.Module, args: Any, returned: Any) -> None:
        mode.is_active = False

    modules = modules_of(network, [backbone])
    with hooked(modules, enter, before=True), hooked(modules, leave), mode:
        yield


def _backbone_of(network: nn.Module, output: Output) -> str | None:
    """Return the name of the backbone of an output in a network; None without one."""
    name = output.backbone
    if name is None or name not in dict(network.named_modules()):
        return None
    return name


class Libra(TorchFunctionMode):
    """Apply the rule to the calls of the body that have a gradient, while it is active."""

    def __init__(self, *, is_active: bool = True) -> None:
        super().__init__()
        self.is_active = is_active

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        rule = _RULES.get(func) if self.is_active else None
        if rule is None or not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        return rule(func, *args, **(kwargs or {}))


def nonlinear_layer(network: nn.Module, x: Tensor, output: Output) -> tuple[str, str] | None:
    """Return the first layer that computes anything non-linear with the rule, and what; None if there is none.

    Of an output with a backbone, the layers inside of it are searched. Piecewise-linear functions, such as ReLU and
    maxima, keep their derivative. The layer is ``""`` for the network itself.
    """
    values: list[tuple[str, Tensor]] = []
    running = [""]
    backbone = _backbone_of(network, output)
    visited: set[Node] = set()

    def record(arguments: Any) -> None:
        if running[-1] != backbone and not in_module(running[-1], backbone):
            return
        for value in tree_leaves(arguments):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                values.append((running[-1], value))

    def enter(name: str, module: nn.Module, args: Any, options: Any) -> None:
        record((args, options))
        if name == backbone:
            for value in tree_leaves((args, options)):
                upstream(getattr(value, "grad_fn", None), visited)  # what is before the backbone
        running.append(name)

    def leave(name: str, module: nn.Module, args: Any, returned: Any) -> None:
        record(returned)
        running.pop()

    layers = readable_layers(network)
    with libra(network, output), hooked(layers, enter, before=True, with_kwargs=True), hooked(layers, leave):
        scores = output.with_graph(network, x)[1]
    record(scores)
    used = upstream(scores.grad_fn)  # without what attention weights depend on
    for name, value in values:
        if value.grad_fn in used:
            for kind in nonlinearities(value, keep=PIECEWISE, visited=visited):
                return name, kind
    return None


class _WithValue(torch.autograd.Function):
    """A tensor with the graph of ``linear`` and exactly these values, which those of ``linear`` may differ from by
    rounding."""

    handled = True  # by nonlinearities()

    @staticmethod
    def forward(ctx: Any, linear: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _with_value(linear: Tensor, value: Tensor) -> Tensor:
    result: Tensor = _WithValue.apply(linear, value)  # type: ignore[no-untyped-call]
    return result


def _gated(func: Any, input: Tensor, *args: Any, **options: Any) -> Tensor:
    with torch.no_grad():
        value = func(input.clone(), *args, **options)  # may be in place
        gate = torch.where(input == 0, _GATES[func], value / input)
    return _with_value(input * gate, value)


def _product(func: Any, input: Any, other: Any, **options: Any) -> Any:
    """Multiply by a sigmoid as by a constant: it is the gate of QuickGELU, ``x * sigmoid(1.702 * x)``."""
    if _is_sigmoid(other) and not _is_sigmoid(input):
        other = other.detach()
    elif _is_sigmoid(input) and not _is_sigmoid(other):
        input = input.detach()
    return func(input, other, **options)


def _is_sigmoid(factor: Any) -> bool:
    step = getattr(factor, "grad_fn", None)
    return step is not None and step.name().startswith("SigmoidBackward")


def _softmax(func: Any, *args: Any, **options: Any) -> Tensor:
    weights: Tensor = func(*args, **options)
    return weights.detach()


def _attention(func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
    mixed: Tensor = func(query.detach(), key.detach(), value, *args, **options)
    return mixed


def _multi_head(
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    weight: Tensor | None,
    bias: Tensor | None,
    *args: Any,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute :class:`nn.MultiheadAttention` without the gradient through queries and keys."""
    with torch.no_grad():
        mixed, weights = func(query, key, value, width, heads, weight, bias, *args, **options)
    of_values = _of_values(weight, width), _of_values(bias, width)
    linear = func(query.detach(), key.detach(), value, width, heads, *of_values, *args, **options)[0]
    return _with_value(linear, mixed), weights


def _of_values(parameters: Tensor | None, width: int) -> Tensor | None:
    """Return the parameters of queries, keys and values, with a gradient of those of the values alone."""
    if parameters is None:
        return None
    return torch.cat([parameters[:-width].detach(), parameters[-width:]])


def _layer_norm(
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    with torch.no_grad():
        value = func(input, normalized_shape, weight, bias, eps)
    dims = tuple(range(-len(normalized_shape), 0))
    normalized = _scaled(input - input.mean(dims, keepdim=True), dims, eps)
    return _with_value(_affine(normalized, weight, bias), value)


def _rms_norm(
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    with torch.no_grad():
        value = func(input, normalized_shape, weight, eps)
    if eps is None:
        eps = torch.finfo(input.dtype).eps
    dims = tuple(range(-len(normalized_shape), 0))
    return _with_value(_affine(_scaled(input, dims, eps), weight, None), value)


def _group_norm(
    func: Any,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    with torch.no_grad():
        value = func(input, num_groups, weight, bias, eps)
    groups = input.reshape(len(input), num_groups, -1)
    normalized = _scaled(groups - groups.mean(-1, keepdim=True), (-1,), eps).view(*input.shape[:2], -1)
    of_channels = []
    for parameter in (weight, bias):
        of_channels.append(None if parameter is None else parameter[:, None])
    return _with_value(_affine(normalized, *of_channels).view(input.shape), value)


def _scaled(values: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """Divide by the root mean square over some dimensions, a constant."""
    return values * values.detach().square().mean(dims, keepdim=True).add(eps).rsqrt()


def _affine(values: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        values = values * weight
    if bias is not None:
        values = values + bias
    return values


_RULES: dict[Callable[..., Any], Rule] = {
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.softmax: _softmax,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    **dict.fromkeys(_GATES, _gated),
    **dict.fromkeys([torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__], _product),
}
