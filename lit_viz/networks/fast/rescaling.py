"""Rescale rule of DeepLIFT (Shrikumar et al. 2017, arXiv:1704.02685): multipliers in place of derivatives.

:class:`RescaledNetwork` evaluates a frozen network on images and then their baselines in one batch. The calls of
non-linear functions are intercepted, not their modules, so that reused modules and functions are handled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.networks.fast.frozen import RuledNetwork
from lit_viz.networks.fast.interception import Call, Interception, Pooling
from lit_viz.networks.summaries import relative_difference

_SMALLEST = 1e-10  # difference of inputs below which the derivative is used, as in Captum
_ROUNDING = 0.01  # relative difference of equal rows of a batch, which kernels may compute in another order


class RescaledNetwork(RuledNetwork):
    """A frozen network with the rescale rule: maps pairs of an image and a baseline to the outputs of the images.

    Shares the attributes and layers of ``network``, in which no activation is fused.
    """

    def forward(self, x: Tensor, layers: Sequence[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits and the activations of the images. Their gradients are multipliers.

        Args:
            x: pairs ``(N, 2, C, H, W)`` of an image and its baseline, in [0, 1].
            layers: as of :meth:`FrozenNetwork.forward`.
        """
        with Rescaling():
            logits, activations = super().forward(torch.cat(x.unbind(1)), layers)
        image, baseline = logits.chunk(2)
        # The rows of the baselines have the same gradient, which the rule for max pooling reads.
        logits = image + (baseline - baseline.detach())
        of_images = {name: activation.chunk(2)[0] for name, activation in activations.items()}
        return logits, of_images


class Rescaling(Interception):
    """Apply the rescale rule to the calls of the body."""

    def elementwise(self, z: Tensor, call: Call) -> Tensor:
        """Return the function of ``z`` with the gradient of a multiplication by ``delta y / delta z``."""
        y: Tensor = _Elementwise.apply(z, call)  # type: ignore[no-untyped-call]
        return y

    def maxima(self, z: Tensor, pooling: Pooling) -> Tensor:
        """Return the maxima, with the gradient of Captum's rule for max pooling."""
        _, places = pooling(z.detach())
        rows, columns = z.flatten(-pooling.axes), places.flatten(-pooling.axes)
        selected: Tensor = _Maxima.apply(rows, columns)  # type: ignore[no-untyped-call]
        return selected.view(places.shape)


class EqualHalves(Rescaling):
    """Check of the calls of the body, in which baselines equal their images, in that order of rows.

    Activations that start with another dimension, such as the tokens, have other halves.
    """

    def check(self, z: Tensor) -> None:
        """Raise :class:`ValueError` unless the halves of ``z`` are equal."""
        halves = z.detach().chunk(2) if z.ndim else ()
        if len(halves) != 2 or relative_difference(*halves) > _ROUNDING:
            raise ValueError("its activations don't have images as their first dimension")


class _Elementwise(torch.autograd.Function):
    """A call of an element-wise function, with the ratio of the differences of its output and input as derivative.

    The ratio is computed in the forward, because later operations may change input and output in place.
    """

    handled = True  # by nonlinearities()

    @staticmethod
    def forward(ctx: Any, z: Tensor, call: Call) -> Tensor:
        delta = baseline_difference(z)
        is_equal = delta.abs() < _SMALLEST
        leaf = None
        if is_equal.any():  # before a call in place
            positions = is_equal.nonzero(as_tuple=True)
            leaf = z.clone() if call.varies else z.chunk(2)[0][positions]
        y = call.function(z)
        if y is z:
            ctx.mark_dirty(z)
        multiplier = baseline_difference(y).div_(delta)
        if leaf is not None:
            with torch.enable_grad():
                leaf.requires_grad_()
                (derivative,) = torch.autograd.grad(call.function(leaf.clone()).sum(), leaf)
            multiplier[positions] = derivative.chunk(2)[0][positions] if call.varies else derivative
        ctx.save_for_backward(multiplier)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (multiplier,) = ctx.saved_tensors
        rescaled = torch.empty_like(gradient)
        for rows, result in zip(gradient.chunk(2), rescaled.chunk(2), strict=True):
            torch.mul(rows, multiplier, out=result)
        return rescaled, None


def baseline_difference(batch: Tensor) -> Tensor:
    """Return the images less the baselines, ``(N, ...)`` of a batch ``(2 N, ...)``."""
    image, baseline = batch.chunk(2)
    return image - baseline


class _Maxima(torch.autograd.Function):
    """The values of rows ``(2 N, ..., P)`` at the places of their maxima ``(2 N, ..., Q)``.

    Of the difference of the maxima, the part up to the larger one belongs to the position of the image's maximum,
    and the rest to that of the baseline's.
    """

    handled = True  # by nonlinearities()

    @staticmethod
    def forward(ctx: Any, z: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(z, places)
        return z.gather(-1, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        z, places = ctx.saved_tensors
        image, baseline = z.gather(-1, places).chunk(2)
        largest = torch.maximum(image, baseline)
        parts = torch.cat([largest - baseline, image - largest])

        def placed(values: Tensor) -> Tensor:
            zeros = torch.zeros_like(z, memory_format=torch.contiguous_format)
            return zeros.scatter_add(-1, places, values)

        image, baseline = placed(gradient * parts).chunk(2)
        total, derivative = image + baseline, placed(gradient).chunk(2)[0]
        delta = baseline_difference(z)
        multiplier = torch.where(delta.abs() < _SMALLEST, derivative, total / delta)
        return torch.cat([multiplier, multiplier]), None
