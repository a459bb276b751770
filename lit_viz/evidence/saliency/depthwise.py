"""Depthwise convolutions in float64 on the CPU.

PyTorch computes them channel by channel, which takes half of the time of a MobileNet or an EfficientNet in float64.
Here each weight multiplies a shifted image of all channels at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lit_viz.utils.sequences import as_list

_Pair = tuple[int, int]


class FastDepthwise(TorchFunctionMode):
    """Compute depthwise convolutions in float64 on the CPU for all channels at once, in the body.

    Other convolutions remain PyTorch's, and so do convolutions with weights that require a gradient.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = None
        if func is torch.conv2d:
            result = _depthwise(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result


def _depthwise(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """Return the convolution with these arguments of ``torch.conv2d``; None if it remains PyTorch's."""
    is_float64 = input.dtype == torch.float64 and input.device.type == "cpu" and input.dim() == 4
    is_depthwise = 1 < groups == input.shape[-3] == len(weight)
    if not (is_float64 and is_depthwise) or isinstance(padding, str) or weight.requires_grad:
        return None
    options = pair(stride), pair(padding), pair(dilation)
    y: Tensor = _Shifted.apply(input, weight, *options)  # type: ignore[no-untyped-call]
    return y if bias is None else y + bias[:, None, None]


def pair(value: Any) -> _Pair:
    """Return an argument of a layer for height and width, which may be one number for both."""
    first, *rest = as_list(value)
    return int(first), int(rest[0] if rest else first)


class _Shifted(torch.autograd.Function):
    """The sum of shifted images ``(N, C, H, W)``, each times the weights of one position; channels are last inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: _Pair, padding: _Pair, dilation: _Pair) -> Tensor:
        top, left = padding
        padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top)).contiguous()
        sides = []
        for axis in (0, 1):
            reach = dilation[axis] * (weight.shape[2 + axis] - 1) + 1
            sides.append((padded.shape[1 + axis] - reach) // stride[axis] + 1)
        y = padded.new_zeros(len(x), *sides, x.shape[1])
        for pixels, weights in _positions(weight, sides, stride, dilation):
            y.addcmul_(padded[pixels], weights)
        ctx.weight, ctx.stride, ctx.padding, ctx.dilation, ctx.shape = weight, stride, padding, dilation, padded.shape
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        gradients = gradient.permute(0, 2, 3, 1).contiguous()
        padded = gradients.new_zeros(ctx.shape)
        for pixels, weights in _positions(ctx.weight, gradients.shape[1:3], ctx.stride, ctx.dilation):
            padded[pixels].addcmul_(gradients, weights)
        (top, left), (_, height, width, _) = ctx.padding, ctx.shape
        return padded[:, top : height - top, left : width - left].permute(0, 3, 1, 2), None, None, None, None


def _positions(weight: Tensor, sides: Sequence[int], stride: _Pair, dilation: _Pair) -> Iterator[tuple[Any, Tensor]]:
    """Yield for each position of a kernel the pixels of padded images ``(N, H, W, C)`` that it reads, for an output
    ``sides`` high and wide, and its weights ``(C,)``."""
    for i, row in enumerate(weight[:, 0].permute(1, 2, 0).contiguous()):
        for j, weights in enumerate(row):
            pixels = [slice(None)]
            for axis, position in enumerate((i, j)):
                first = position * dilation[axis]
                pixels.append(slice(first, first + stride[axis] * (sides[axis] - 1) + 1, stride[axis]))
            yield tuple(pixels), weights
