"""The convolution of the fast copy: an optional fused activation and no copies for padding.

A separate activation is another pass over memory, and an in-place one copies its input for the backward. oneDNN applies
the activation while it writes the convolution's result. The backward reads the mask ``0 < y < top`` from the output.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_viz.networks.fast import backward
from lit_viz.networks.fast.folding import Link, is_plain_convolution, links
from lit_viz.networks.fast.kernels import Geometry, Kernel, computable, is_sub_pixel, sub_pixel_gradient
from lit_viz.networks.layers import CONV2D_SAME, timm_types
from lit_viz.networks.outputs import LOGITS, Output

_ACTIVATED = "_lit_viz_activated"  # attribute of an output to which the fused activation was applied


class FastConvolution(nn.Conv2d):
    """Computes ``act(conv(x))``; shares the attributes of ``conv``.

    For inputs that :func:`usable` rejects, it is the plain convolution without the activation.
    """

    def __init__(self, conv: nn.Conv2d, activation: backward.Activation | None = None) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(conv.__dict__)
        self.activation = activation
        self.same = isinstance(conv, timm_types(CONV2D_SAME))
        self.kernels: dict[tuple[int, ...], Kernel] = {}

    def forward(self, x: Tensor) -> Tensor:
        fast = usable(x)
        kernel_pads = fast and self.same and self.groups == self.in_channels > 1 and self.dilation == (1, 1)
        if self.same and not kernel_pads:
            from timm.layers.padding import pad_same  # imported already, since the convolution is timm's

            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        if not fast:
            plain: Tensor = self._conv_forward(x, self.weight, self.bias)
            return plain
        kernel = self._kernel(self._same_padding(x) if kernel_pads else ())
        y = _convolve(x, kernel, self.activation)
        if self.activation is not None:
            setattr(y, _ACTIVATED, True)
        return y

    def _kernel(self, same: tuple[int, ...]) -> Kernel:
        """Return the kernel for a "same" padding (left, right, top, bottom), or for the convolution's own padding.

        "Same" padding may need one zero less before the image than after it. The kernel is then padded with a row of
        zeros, so that the image is not copied.
        """
        key = (*same, self.weight._version)
        if key not in self.kernels:
            with torch.inference_mode(False):  # a later call may need a gradient
                weight, padding = self.weight, tuple(map(int, self.padding))
                if same:
                    left, right, top, bottom = same
                    weight, padding = F.pad(weight, (right - left, 0, bottom - top, 0)), (bottom, right)
                geometry = Geometry(self.stride, padding, self.dilation, self.groups)
                self.kernels[key] = Kernel(weight, self.bias, geometry)
        return self.kernels[key]

    def _same_padding(self, x: Tensor) -> tuple[int, ...]:
        from timm.layers.padding import pad_same_arg

        return tuple(pad_same_arg(list(x.shape[2:]), list(self.kernel_size), list(self.stride)))


class FusedActivation(nn.Module):
    """The activation after a fused convolution: the identity for marked tensors, the activation for others.

    A shared module is called in several places (ResNet has one ReLU per block), some of which do not follow a fused
    convolution.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = (activation,)  # in a tuple, so that it is no named submodule

    def forward(self, x: Tensor) -> Tensor:
        return x if x.__dict__.pop(_ACTIVATED, False) else self.activation[0](x)


def usable(x: Tensor) -> bool:
    """Return whether the kernel accepts ``x``: images that oneDNN can compute."""
    return x.dim() == 4 and computable(x)


def _replaceable(module: nn.Module) -> bool:
    if not is_plain_convolution(module):
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


def replace_convolutions(network: nn.Module, keep: Collection[str]) -> None:
    """Replace the convolutions of ``network`` that have no fused activation."""
    for name, layer in list(network.named_modules()):
        if name and name not in keep and _replaceable(layer):
            network.set_submodule(name, FastConvolution(layer))


def fuse_activations(network: nn.Module, x: Tensor, keep: Collection[str], output: Output = LOGITS) -> list[Link]:
    """Fuse the rectifiers of ``network`` in place; return the pairs (convolution, activation)."""
    candidates, _ = links(network, x, _replaceable, lambda module: backward.activation_of(module) is not None, output)
    pairs = [pair for pair in candidates if not {*pair} & set(keep)]
    replaced: dict[nn.Module, FusedActivation] = {}
    for writer, reader in pairs:
        convolution: nn.Conv2d = network.get_submodule(writer)  # type: ignore[assignment]
        rectifier = network.get_submodule(reader)
        network.set_submodule(writer, FastConvolution(convolution, backward.activation_of(rectifier)))
        replaced.setdefault(rectifier, FusedActivation(rectifier))
    for name, module in list(network.named_modules(remove_duplicate=False)):  # a module may have several names
        if module in replaced:
            network.set_submodule(name, replaced[module])
    return pairs


class _Convolution(torch.autograd.Function):
    """``y = act(conv(x))``, differentiable in ``x`` alone, any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Kernel, activation: backward.Activation | None) -> Tensor:
        y = kernel(x, activation)
        ctx.save_for_backward(x, *([] if activation is None else [y]))
        ctx.kernel, ctx.activation = kernel, activation
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, *activated = ctx.saved_tensors
        for y in activated:
            gradient = ctx.activation.gradient(gradient, y)
        return input_gradient(gradient, x, ctx.kernel), None, None


def input_gradient(gradient: Tensor, x: Tensor, kernel: Kernel) -> Tensor:
    """Return the gradient with respect to ``x`` from the gradient of ``conv(x)``; of ``x`` only the shape is read."""
    if kernel.transposed is not None:
        return _convolve(gradient, kernel.transposed)
    if is_sub_pixel(kernel.weight, kernel.geometry):
        return sub_pixel_gradient(gradient, kernel.weight, kernel.geometry, x.shape)
    stride, padding, dilation, groups = kernel.geometry
    only_input = [True, False, False]
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, x, kernel.weight, None, stride, padding, dilation, False, [0, 0], groups, only_input
    )
    return gradients[0]


def _convolve(x: Tensor, kernel: Kernel, activation: backward.Activation | None = None) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        return _Convolution.apply(x, kernel, activation)  # type: ignore[no-any-return, no-untyped-call]
    return kernel(x, activation)
