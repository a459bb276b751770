"""The weights of a convolution that stay as they are, laid out once as oneDNN wants them and not at every call.

Of a batch of one, the late layers of a network otherwise spend as long on their weights as on the image.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_viz.classifiers.fast.rectifiers import Backprop

FEW_CHANNELS = 4  # an image, with or without an alpha channel


def computable(x: Tensor) -> bool:
    """Return whether oneDNN's kernels take ``x``: float32 on the CPU, no autocast, oneDNN not switched off."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return on_cpu and bool(torch.backends.mkldnn.enabled) and x.numel() > 0


class Activation(NamedTuple):
    """What is done to the result: ``none``, ``relu``, or ``hardtanh`` with its limits, as oneDNN calls it; and its
    backward."""

    name: str
    limits: tuple[float, ...] = ()
    backprop: Backprop = "plain"

    @property
    def top(self) -> float:
        """The largest value of a rectifier."""
        return self.limits[1] if self.limits else math.inf


NONE = Activation("none")


class Geometry(NamedTuple):
    """How a kernel lies on an image; pairs are (vertical, horizontal)."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class Kernel:
    """Computes ``conv(x)``, float32 on the CPU.

    Args:
        weight: ``(C_out, C_in / groups, h, w)``, which is not changed any more.
        bias: ``(C_out,)`` or None.
        geometry: how it lies on an image.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> None:
        self.weight, self.bias, self.geometry = weight.contiguous(memory_format=torch.channels_last), bias, geometry
        self._laid_out: tuple[tuple[Any, ...], Tensor | None] = ((), None)  # for which case, and how

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle without what was laid out, which can be neither copied nor pickled."""
        return Kernel, (self.weight, self.bias, self.geometry)

    def __call__(self, x: Tensor, activation: Activation = NONE) -> Tensor:
        """Return ``act(conv(x))``, without a graph."""
        stride, padding, dilation, groups = self.geometry
        return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
            x,
            self._weight_for(x),
            self.bias,
            padding,
            stride,
            dilation,
            groups,
            activation.name,
            list(activation.limits),
            None,
        )

    @property
    def channels(self) -> int:
        """Of ``x``."""
        return self.weight.shape[1] * self.geometry.groups

    @cached_property
    def transposed(self) -> Kernel | None:
        """The kernel whose convolution of the gradient by ``conv(x)`` is that by ``x``.

        None where it would have to jump (a stride), to crop, or to give few channels, at which oneDNN is slow.
        """
        weight, (stride, padding, dilation, groups) = self.weight, self.geometry
        reach = tuple(d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True))
        if set(stride) != {1} or min(reach) < 0 or (groups == 1 and self.channels <= FEW_CHANNELS):
            return None
        swapped = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1).flip(2, 3)
        return Kernel(swapped, None, Geometry(stride, reach, dilation, groups))

    def _weight_for(self, x: Tensor) -> Tensor:
        """Return the weight, in oneDNN's layout if ``x`` is of the shape of the one before.

        Another shape or number of threads may ask for another layout, and going from one to the other is slow.
        """
        case = (*x.shape, torch.get_num_threads())
        before, packed = self._laid_out
        if packed is None and case == before:
            stride, padding, dilation, groups = self.geometry
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, padding, stride, dilation, groups, list(x.shape)
            )
        self._laid_out = (case, packed if case == before else None)
        return self.weight if self._laid_out[1] is None else self._laid_out[1]
