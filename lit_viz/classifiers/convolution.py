"""The convolution of the fast copy: activation and convolution in one kernel, and nothing padded in depthwise layers.

An activation is otherwise a pass over memory of its own, and one in place copies its input for the backward. oneDNN
applies it while it writes the convolution's result; the gradient passes where ``0 < y`` (and ``y < 6``), which the
output tells.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_viz.classifiers.folding import plain_convolution
from lit_viz.classifiers.input_gradient import FEW_CHANNELS, Geometry, input_gradient
from lit_viz.classifiers.timm_types import timm_types


class Activation(NamedTuple):
    """What is done to the result: ``none``, ``relu``, or ``hardtanh`` with its limits, as oneDNN calls it."""

    name: str
    limits: tuple[float, ...] = ()


class FastConvolution(nn.Conv2d):
    """Computes ``act(conv(x))``; it takes over the attributes of ``conv``.

    Where :func:`usable` says no it is the plain convolution, and the activation does its own work.
    """

    def __init__(self, conv: nn.Conv2d, activation: Activation) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(conv.__dict__)
        self.activation = activation
        self.same = isinstance(conv, timm_types("timm.layers.conv2d_same.Conv2dSame"))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``act(conv(x))``, or ``conv(x)``."""
        fast, weight, padding = usable(x), self.weight, tuple(int(p) for p in self.padding)
        if self.same and fast and self.groups == self.in_channels > 1 and self.dilation == (1, 1):
            weight, padding = self._centred(x)
        elif self.same:
            from timm.layers.padding import pad_same  # whose convolution it was

            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        if not fast:
            plain: Tensor = self._conv_forward(x, weight, self.bias)
            return plain
        geometry = Geometry(self.stride, padding, self.dilation, self.groups)
        tracked = torch.is_grad_enabled() and x.requires_grad
        convolve: Callable[..., Tensor] = _Convolution.apply if tracked else _convolve
        return convolve(x, weight, self.bias, geometry, self.activation)

    def _centred(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return the kernel and the padding, the same on both sides, that stand for "same" padding.

        That may ask for one zero less before ``x`` than after it. A row of zeros before the kernel takes up one more.
        """
        from timm.layers.padding import pad_same_arg  # as above

        left, right, above, below = pad_same_arg(list(x.shape[2:]), list(self.kernel_size), list(self.stride))
        return F.pad(self.weight, (right - left, 0, below - above, 0)), (below, right)


def usable(x: Tensor) -> bool:
    """Return whether the fused kernel takes ``x``: float32 images on the CPU, no autocast, oneDNN not switched off."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return on_cpu and bool(torch.backends.mkldnn.enabled) and x.dim() == 4 and x.numel() > 0


def replaceable(module: nn.Module) -> bool:
    """Return whether a module is a convolution that :class:`FastConvolution` can stand for."""
    if not plain_convolution(module):
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


def replace_convolutions(network: nn.Module, keep: Collection[str]) -> int:
    """Replace the convolutions of ``network`` that gain by it with no activation after them; return how many.

    Args:
        network: a private copy in eval mode.
        keep: names of layers that stay.
    """
    found = [(n, m) for n, m in network.named_modules() if n and n not in keep and replaceable(m) and _gains(m)]
    for name, convolution in found:
        network.set_submodule(name, FastConvolution(convolution, Activation("none")))
    return len(found)


def _gains(conv: nn.Conv2d) -> bool:
    from_image = conv.groups == 1 and conv.in_channels <= FEW_CHANNELS
    return from_image or conv.groups == conv.in_channels == conv.out_channels


class _Convolution(torch.autograd.Function):
    """``y = act(conv(x))``; differentiable in ``x`` alone, any number of times."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, activation: Activation
    ) -> Tensor:
        y = _convolve(x, weight, bias, geometry, activation)
        ctx.save_for_backward(x, weight, *([] if activation.name == "none" else [y]))
        ctx.geometry, ctx.activation = geometry, activation
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, weight, *activated = ctx.saved_tensors
        for y in activated:
            if ctx.activation.limits:
                gradient = torch.ops.aten.hardtanh_backward(gradient, y, *ctx.activation.limits)
            else:
                gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        return input_gradient(gradient, x, weight, ctx.geometry), None, None, None, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, activation: Activation) -> Tensor:
    stride, padding, dilation, groups = geometry
    return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
        x, weight, bias, padding, stride, dilation, groups, activation.name, list(activation.limits), None
    )
