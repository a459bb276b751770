"""Rescale rule of DeepLIFT (Shrikumar et al. 2017, arXiv:1704.02685): multipliers in place of derivatives.

The calls of non-linear functions are intercepted, not their modules, so that reused modules and functions are handled.
A batch holds images and then their baselines.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lit_viz.classifiers.outputs import relative_difference

#: Element-wise functions by their name in torch, of one tensor and constants; in place with ``_``.
ELEMENTWISE = {
    "relu", "relu6", "hardtanh", "leaky_relu", "prelu", "rrelu", "threshold", "elu", "selu", "celu", "gelu",
    "silu", "mish", "hardswish", "hardsigmoid", "hardshrink", "softshrink", "tanhshrink", "softplus",
    "softsign", "sigmoid", "logsigmoid", "log_sigmoid", "tanh", "clip", "clamp", "clamp_min", "clamp_max",
    "exp", "log", "sqrt", "rsqrt", "square", "pow", "abs", "erf",
}  # fmt: skip
_SMALLEST = 1e-10  # difference of inputs below which the derivative is used, as in Captum
_ROUNDING = 0.01  # relative difference of equal rows of a batch, which kernels may compute in another order


class Interception(TorchFunctionMode):
    """Base class of modes that replace calls of element-wise functions and of max pooling on gradients' paths."""

    @abstractmethod
    def elementwise(self, z: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``function(z)``; the function may change its argument."""

    @abstractmethod
    def max_pool(self, z: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Return the max pooling of ``z`` ``(N, C, H, W)`` with the arguments of ``torch.nn.MaxPool2d``."""

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        z = args[0] if args else kwargs.get("input")
        if not (torch.is_grad_enabled() and isinstance(z, Tensor) and z.requires_grad):
            return func(*args, **kwargs)
        if name == "max_pool2d":
            return self.max_pool(z, pooling_options(*args[1:], **{k: v for k, v in kwargs.items() if k != "input"}))
        if name.rstrip("_") not in ELEMENTWISE:
            return func(*args, **kwargs)
        rest = {key: value for key, value in kwargs.items() if key != "input"}
        changes: list[bool] = []

        def function(x: Tensor) -> Tensor:
            y: Tensor = func(x, *args[1:], **rest)
            changes.append(y is x)
            return y

        y = self.elementwise(z, function)
        return z.copy_(y) if changes[-1] else y


def pooling_options(
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


class Rescaling(Interception):
    """Apply the rescale rule to the calls of the body."""

    def elementwise(self, z: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``function(z)``, whose gradient is that of a multiplication by ``delta y / delta z``."""
        leaf = z.detach().requires_grad_()
        y = function(leaf.clone())
        (derivative,) = torch.autograd.grad(y.sum(), leaf)
        y = y.detach()
        delta = difference(leaf.detach())
        multiplier = torch.where(delta.abs() < _SMALLEST, derivative, difference(y) / delta)
        return y + (z - leaf.detach()) * multiplier

    def max_pool(self, z: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Return the maxima, whose gradient follows Captum's rule for max pooling."""
        y, indices = functional.max_pool2d(z.detach(), **options, return_indices=True)
        pooled: Tensor = _MaxPool.apply(z, y, indices)  # type: ignore[no-untyped-call]
        return pooled


class EqualHalves(Rescaling):
    """Check of the calls of the body, in which baselines equal their images, in that order of rows.

    Activations that start with another dimension, such as the tokens, have other halves.
    """

    def elementwise(self, z: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        _check_halves(z)
        return super().elementwise(z, function)

    def max_pool(self, z: Tensor, options: Mapping[str, Any]) -> Tensor:
        _check_halves(z)
        return super().max_pool(z, options)


def _check_halves(z: Tensor) -> None:
    halves = z.detach().chunk(2) if z.ndim else ()
    if len(halves) != 2 or relative_difference(*halves) > _ROUNDING:
        raise ValueError("its activations don't have images as their first dimension")


def difference(batch: Tensor) -> Tensor:
    """Return images less baselines, for the rows of both halves."""
    image, baseline = batch.chunk(2)
    return torch.cat([image - baseline] * 2)


class _MaxPool(torch.autograd.Function):
    """Of the difference of the maxima, the part up to the larger one belongs to the position of the image's maximum,
    and the rest to that of the baseline's."""

    handled = True  # by nonlinearities()

    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(z, y, indices)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        z, y, indices = ctx.saved_tensors
        image, baseline = y.chunk(2)
        largest = torch.maximum(image, baseline)
        parts = torch.cat([largest - baseline, image - largest])

        def unpooled(rows: Tensor) -> Tensor:
            zeros = torch.zeros_like(z, memory_format=torch.contiguous_format).flatten(2)
            whole: Tensor = zeros.scatter_add(2, indices.flatten(2), rows.flatten(2)).view(z.shape)
            return whole

        image, baseline = unpooled(gradient * parts).chunk(2)
        total, derivative = image + baseline, unpooled(gradient).chunk(2)[0]
        delta = z.chunk(2)[0] - z.chunk(2)[1]
        multiplier = torch.where(delta.abs() < _SMALLEST, derivative, total / delta)
        return multiplier.repeat(2, 1, 1, 1), None, None
