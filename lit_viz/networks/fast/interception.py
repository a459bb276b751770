"""Interception of non-linear functions where they are called: element-wise functions, and maxima.

Functions that are made of these are decomposed. Each replacement has the arguments of the function after the mode, and
returns NotImplemented for a call that it does not replace.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

#: Element-wise functions by their name in torch, of one tensor and constants; in place with ``_``.
ELEMENTWISE = {
    "relu", "relu6", "hardtanh", "leaky_relu", "prelu", "rrelu", "threshold", "elu", "selu", "celu", "gelu",
    "silu", "mish", "hardswish", "hardsigmoid", "hardshrink", "softshrink", "tanhshrink", "softplus",
    "softsign", "sigmoid", "logsigmoid", "log_sigmoid", "tanh", "clip", "clamp", "clamp_min", "clamp_max",
    "exp", "log", "sqrt", "rsqrt", "square", "pow", "abs", "erf",
}  # fmt: skip


class Call(NamedTuple):
    """A call of an element-wise function.

    Attributes:
        function: the function, of a tensor; in place, it returns its argument.
        varies: whether it has constants per channel or position, so that it accepts no other shape.
    """

    function: Callable[[Tensor], Tensor]
    varies: bool


class Pooling(NamedTuple):
    """A max pooling.

    Attributes:
        function: of torch, which returns maxima and their places, flat in the pooled axes.
        axes: number of pooled axes, the last ones.
        options: arguments of the function: those of ``torch.nn.MaxPool2d``, or the ``output_size`` of an adaptive one.
    """

    function: Callable[..., tuple[Tensor, Tensor]]
    axes: int
    options: Mapping[str, Any]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maxima of ``z`` and their places."""
        return self.function(z, **self.options)


class Interception(TorchFunctionMode):
    """Base class of modes that replace calls of element-wise functions and of maxima on gradients' paths.

    Functions that are made of these are decomposed: logsumexp and power-average pooling.
    """

    def check(self, z: Tensor) -> None:
        """Raise an error unless the call with the argument ``z`` can be replaced."""

    @abstractmethod
    def elementwise(self, z: Tensor, call: Call) -> Tensor:
        """Return the function of ``z``, which is ``z`` itself if it works in place."""

    @abstractmethod
    def maxima(self, z: Tensor, pooling: Pooling) -> Tensor:
        """Return the max pooling of ``z`` ``(N, ...)``."""

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        replacement = _REPLACEMENTS.get(name)
        if replacement is None and name.rstrip("_") not in ELEMENTWISE:
            return func(*args, **kwargs)
        z = args[0] if args else kwargs.get("input")
        rest, options = args[1:], {key: value for key, value in kwargs.items() if key != "input"}
        if not torch.is_grad_enabled() or not any(map(_has_gradient, (z, *rest, *options.values()))):
            return func(*args, **kwargs)
        if replacement is not None and isinstance(z, Tensor):
            replaced = replacement(self, z, *rest, **options)
            return func(*args, **kwargs) if replaced is NotImplemented else replaced
        if not isinstance(z, Tensor) or not z.requires_grad:
            return func(*args, **kwargs)
        self.check(z)
        varies = any(isinstance(value, Tensor) and value.numel() > 1 for value in (*rest, *options.values()))
        # The function must not refer to z: the graph of a call in place would refer to itself, and not be freed.
        return self.elementwise(z, Call(lambda x: func(x, *rest, **options), varies))


def _has_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _max_pool(axes: int, mode: Interception, z: Tensor, *args: Any, **options: Any) -> Any:
    function = getattr(functional, f"max_pool{axes}d_with_indices")
    return _pooled(mode, z, Pooling(function, axes, _pooling_options(*args, **options)))


def _max_pool_with_indices(axes: int, mode: Interception, z: Tensor, *args: Any, **options: Any) -> Any:
    function = getattr(functional, f"max_pool{axes}d_with_indices")
    pooling = Pooling(function, axes, _pooling_options(*args, **options))
    return _pooled(mode, z, pooling), pooling(z.detach())[1]


def _pooling_options(
    kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False, **_: Any
) -> dict[str, Any]:
    """Return the arguments of a max pooling by name."""
    return {
        "kernel_size": kernel_size,
        "stride": stride or kernel_size,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": ceil_mode,
    }


def _adaptive_pool(axes: int, mode: Interception, z: Tensor, output_size: Any, *_: Any, **options: Any) -> Any:
    return _pooled(mode, z, _adaptive(axes, output_size))


def _adaptive_pool_with_indices(axes: int, mode: Interception, z: Tensor, output_size: Any, *_: Any, **__: Any) -> Any:
    pooling = _adaptive(axes, output_size)
    return _pooled(mode, z, pooling), pooling(z.detach())[1]


def _adaptive(axes: int, output_size: Any) -> Pooling:
    function = getattr(functional, f"adaptive_max_pool{axes}d_with_indices")
    return Pooling(function, axes, {"output_size": output_size})


def _pooled(mode: Interception, z: Tensor, pooling: Pooling) -> Tensor:
    mode.check(z)
    return mode.maxima(z, pooling)


def _amax(mode: Interception, z: Tensor, dim: Any = (), keepdim: bool = False) -> Any:
    dims = _dims_of(z, dim)
    return NotImplemented if dims is None else _largest(mode, z, dims, keepdim)


def _amin(mode: Interception, z: Tensor, dim: Any = (), keepdim: bool = False) -> Any:
    largest = _amax(mode, -z, dim, keepdim)
    return NotImplemented if largest is NotImplemented else -largest


def _max(mode: Interception, z: Tensor, *args: Any, **options: Any) -> Any:
    other = options.get("other", args[0] if args else None)
    if isinstance(other, Tensor):
        return _maximum(mode, z, other)
    return _along_dim(mode, z, 1, torch.return_types.max, *args, **options)


def _min(mode: Interception, z: Tensor, *args: Any, **options: Any) -> Any:
    other = options.get("other", args[0] if args else None)
    if isinstance(other, Tensor):
        return _minimum(mode, z, other)
    return _along_dim(mode, z, -1, torch.return_types.min, *args, **options)


def _along_dim(
    mode: Interception, z: Tensor, sign: int, kind: Any, dim: int | None = None, keepdim: bool = False
) -> Any:
    """Return the largest or smallest values in one dimension, and their places."""
    dims = None if dim is None else _dims_of(z, dim)
    if dims is None:
        return NotImplemented
    values = sign * _largest(mode, sign * z, dims, keepdim)
    return kind((values, (sign * z.detach()).argmax(dims[0], keepdim)))


def _dims_of(z: Tensor, dim: Any) -> tuple[int, ...] | None:
    """Return the dimensions of a reduction, ascending; None if it mixes the images."""
    dims = sorted({d % max(z.ndim, 1) for d in ([dim] if isinstance(dim, int) else dim)})
    return None if not dims or 0 in dims else tuple(dims)


def _largest(mode: Interception, z: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    """Return the largest values of ``z`` ``(N, ...)`` in some dimensions."""
    mode.check(z)
    last = tuple(range(-len(dims), 0))
    rows = z.movedim(dims, last).flatten(-len(dims))
    largest = mode.maxima(rows.reshape(len(z), -1, rows.shape[-1]), _adaptive(1, 1)).view(rows.shape[:-1])
    if keepdim:
        for dim in dims:
            largest = largest.unsqueeze(dim)
    return largest


def _maximum(mode: Interception, z: Tensor, other: Tensor, **_: Any) -> Any:
    shape = torch.broadcast_shapes(z.shape, other.shape)  # type: ignore[no-untyped-call]
    dtype = torch.result_type(z, other)
    pair = torch.stack([z.expand(shape).to(dtype), other.expand(shape).to(dtype)], -1)
    return _largest(mode, pair, (pair.ndim - 1,), keepdim=False)


def _minimum(mode: Interception, z: Tensor, other: Tensor, **_: Any) -> Any:
    return -_maximum(mode, -z, -other)


def _logsumexp(mode: Interception, z: Tensor, dim: Any, keepdim: bool = False, **_: Any) -> Any:
    dims = _dims_of(z, dim)
    if dims is None:
        return NotImplemented
    mode.check(z)
    exact = z.double()  # the exponentials of image and baseline may differ by more than the range of float32
    largest = exact.detach().amax(dims, keepdim=True)
    if len(z) % 2 == 0:
        shift = torch.maximum(*largest.chunk(2)).repeat(2, *[1] * (z.ndim - 1))
    else:
        shift = largest
    shift = shift.masked_fill(shift.isinf(), 0)
    total = mode.elementwise(exact - shift, Call(torch.exp, varies=False)).sum(dims, keepdim=True)
    result = (mode.elementwise(total, Call(torch.log, varies=False)) + shift).to(z.dtype)
    return result if keepdim else result.squeeze(dims)


def _lp_pool(
    axes: int,
    mode: Interception,
    z: Tensor,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
) -> Any:
    """Return the power-average pooling ``(sum of x ** p) ** (1 / p)``."""
    mode.check(z)
    sides = [kernel_size] * axes if isinstance(kernel_size, int) else list(kernel_size)
    mean: Callable[..., Tensor] = getattr(functional, f"avg_pool{axes}d")
    powers = mode.elementwise(z, Call(lambda x: x.pow(norm_type), varies=False))
    means = mean(powers, kernel_size, stride or kernel_size, 0, ceil_mode)

    def root(x: Tensor) -> Tensor:
        # As torch computes it, whose gradient at 0 is 0.
        return (torch.sign(x) * functional.relu(torch.abs(x)) * math.prod(sides)).pow(1 / norm_type)

    return mode.elementwise(means, Call(root, varies=False))


#: By name: a function of the mode and the arguments of the function.
_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "amax": _amax,
    "amin": _amin,
    "max": _max,
    "min": _min,
    "maximum": _maximum,
    "minimum": _minimum,
    "fmax": _maximum,
    "fmin": _minimum,
    "logsumexp": _logsumexp,
    "special_logsumexp": _logsumexp,
}
for _axes in (1, 2, 3):
    _REPLACEMENTS[f"max_pool{_axes}d"] = partial(_max_pool, _axes)
    _REPLACEMENTS[f"max_pool{_axes}d_with_indices"] = partial(_max_pool_with_indices, _axes)
    _REPLACEMENTS[f"adaptive_max_pool{_axes}d"] = partial(_adaptive_pool, _axes)
    _REPLACEMENTS[f"adaptive_max_pool{_axes}d_with_indices"] = partial(_adaptive_pool_with_indices, _axes)
    _REPLACEMENTS[f"lp_pool{_axes}d"] = partial(_lp_pool, _axes)
