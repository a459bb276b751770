"""The convolution of the fast copy: activation and convolution in one kernel, and nothing padded in depthwise layers.

An activation is otherwise a pass over memory of its own, and one in place copies its input for the backward. oneDNN
applies it while it writes the convolution's result; the gradient passes where ``0 < y`` (and ``y < 6``), which the
output tells; in guided backpropagation only where it is positive, besides.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_viz.classifiers.fast.folding import plain_convolution
from lit_viz.classifiers.fast.input_gradient import input_gradient
from lit_viz.classifiers.fast.kernels import NONE, Activation, Geometry, Kernel, computable
from lit_viz.classifiers.fast.links import links
from lit_viz.classifiers.fast.rectifiers import Rectifier, rectified, rectified_rows
from lit_viz.classifiers.fast.rows import begin, end, is_ours, put_back, rows_of, sparse_backward
from lit_viz.classifiers.outputs import traced
from lit_viz.classifiers.timm_types import CONV2D_SAME, timm_types

#: To leave rows of a batch out of a backward pays where so many are wanted at most, by the times of EfficientNet-Lite0
#: and ResNet-50; the first where convolutions give their rows straight to each other, else the second.
_FEW_IN_CHAINS, _FEW = 0.8, 0.4


class FastConvolution(nn.Conv2d):
    """Computes ``act(conv(x))``; it takes over the attributes of ``conv``.

    Where :func:`usable` says no it is the plain convolution, and the activation does its own work.
    """

    def __init__(self, conv: nn.Conv2d, activation: Activation) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(conv.__dict__)
        self.activation = activation
        self.few = _FEW  # rows, of all, at most
        self.alone = False  # whether nothing else takes what it is given; see :func:`find_chains`
        self.same = isinstance(conv, timm_types(CONV2D_SAME))
        self.kernels: dict[tuple[int, ...], Kernel] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Return ``act(conv(x))``, or ``conv(x)``."""
        fast = usable(x)
        centred = self.same and fast and self.groups == self.in_channels > 1 and self.dilation == (1, 1)
        if self.same and not centred:
            from timm.layers.padding import pad_same  # whose convolution it was

            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        if not fast:
            plain: Tensor = self._conv_forward(x, self.weight, self.bias)
            return plain
        return _convolve(
            x, self._kernel(self._same_padding(x) if centred else ()), self.activation, self.few, self.alone
        )

    def _kernel(self, same: tuple[int, ...]) -> Kernel:
        """Return the weights; ``same``: the zeros left, right, above and below of "same" padding, if it is centred.

        That may ask for one zero less before ``x`` than after it. A row of zeros before the kernel takes up one more.
        """
        key = (*same, self.weight._version)
        if key not in self.kernels:
            with torch.inference_mode(False):  # a later call may want a gradient
                weight, padding = self.weight, tuple(int(p) for p in self.padding)
                if same:
                    left, right, above, below = same
                    weight, padding = F.pad(weight, (right - left, 0, below - above, 0)), (below, right)
                geometry = Geometry(self.stride, padding, self.dilation, self.groups)
                self.kernels[key] = Kernel(weight, self.bias, geometry)
        return self.kernels[key]

    def _same_padding(self, x: Tensor) -> tuple[int, ...]:
        from timm.layers.padding import pad_same_arg  # as above

        return tuple(pad_same_arg(list(x.shape[2:]), list(self.kernel_size), list(self.stride)))


def usable(x: Tensor) -> bool:
    """Return whether the fused kernel takes ``x``: images that oneDNN can compute."""
    return x.dim() == 4 and computable(x)


def replaceable(module: nn.Module) -> bool:
    """Return whether a module is a convolution that :class:`FastConvolution` can stand for."""
    if not plain_convolution(module):
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


def replace_convolutions(network: nn.Module, keep: Collection[str]) -> int:
    """Replace the convolutions of ``network`` that have no activation after them; return how many.

    Args:
        network: a private copy in eval mode.
        keep: names of layers that stay.
    """
    found = [(n, m) for n, m in network.named_modules() if n and n not in keep and replaceable(m)]
    for name, convolution in found:
        network.set_submodule(name, FastConvolution(convolution, NONE))
    return len(found)


def find_chains(network: nn.Module, x: Tensor, keep: Collection[str] = ()) -> None:
    """Find the convolutions and rectifiers that alone take what another one gives, by watching a forward; and prove it
    by a backward.

    Args:
        network: a private copy in eval mode, in which none was found before.
        x: any normalized input that it takes, of two images at least.
        keep: names of layers whose input may be read as well.
    """

    def ours(module: nn.Module) -> bool:
        return isinstance(module, (FastConvolution, Rectifier))

    found, calls = links(network, x, ours, ours)
    takers = {link.taker for link in found if calls[link.taker] == 1} - {*keep}
    chained = {network.get_submodule(taker) for taker in takers}
    convolutions = [module for module in network.modules() if isinstance(module, FastConvolution)]
    few = _FEW_IN_CHAINS if 2 * len(chained & {*convolutions}) > len(convolutions) else _FEW
    for convolution in convolutions:
        convolution.few = few
    for step in chained:
        step.alone = True  # type: ignore[assignment]
    leaf, logits = traced(network, x)
    with sparse_backward(torch.arange(100) == 0):  # so few that rows are left out everywhere
        (gradient,) = torch.autograd.grad(logits[:1].sum(), leaf)
    if not bool(gradient.isfinite().all()):  # what nobody was seen to look at was looked at
        for step in chained:
            step.alone = False  # type: ignore[assignment]


class _Convolution(torch.autograd.Function):
    """``y = act(conv(x))``; differentiable in ``x`` alone, any number of times."""

    takes_rows = True

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Kernel, activation: Activation, few: float, alone: bool) -> Tensor:
        y = kernel(x, activation)
        ctx.save_for_backward(x, *([] if activation == NONE else [y]))
        ctx.kernel, ctx.activation = kernel, activation
        ctx.few = few
        begin(ctx, x, alone)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, *activated = ctx.saved_tensors
        top, backprop = ctx.activation.top, ctx.activation.backprop
        ours = is_ours(gradient)
        fewer = rows_of(gradient, ctx.few)
        if fewer is None:
            for y in activated:
                gradient = rectified(gradient, y, top, backprop, ours=ours)
            result = _back(gradient, x, ctx.kernel)
        elif len(fewer[0]):  # of x the shape alone is asked for
            rows, gradient = fewer
            for y in activated:
                gradient = rectified_rows(gradient, y, rows, top, backprop)
            result = put_back(ctx, _back(gradient, x[: len(rows)], ctx.kernel), rows, len(x))
        else:
            result = torch.zeros_like(x)
        return end(ctx, result), None, None, None, None


def _back(gradient: Tensor, x: Tensor, kernel: Kernel) -> Tensor:
    if kernel.transposed is not None:
        return _convolve(gradient, kernel.transposed)
    return input_gradient(gradient, x, kernel)


def _convolve(
    x: Tensor, kernel: Kernel, activation: Activation = NONE, few: float = _FEW, alone: bool = False
) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        return _Convolution.apply(x, kernel, activation, few, alone)  # type: ignore[no-any-return, no-untyped-call]
    return kernel(x, activation)
