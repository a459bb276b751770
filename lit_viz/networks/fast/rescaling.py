"""Rescale rule of DeepLIFT (Shrikumar et al. 2017, arXiv:1704.02685): multipliers in place of derivatives.

:class:`RescaledNetwork` evaluates a frozen network on images and then their baselines in one batch. The calls of
non-linear functions are intercepted, not their modules, so that reused modules and functions are handled.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lit_viz.networks.fast.frozen import FrozenNetwork
from lit_viz.networks.summaries import relative_difference

#: Element-wise functions by their name in torch, of one tensor and constants; in place with ``_``.
ELEMENTWISE = {
    "relu", "relu6", "hardtanh", "leaky_relu", "prelu", "rrelu", "threshold", "elu", "selu", "celu", "gelu",
    "silu", "mish", "hardswish", "hardsigmoid", "hardshrink", "softshrink", "tanhshrink", "softplus",
    "softsign", "sigmoid", "logsigmoid", "log_sigmoid", "tanh", "clip", "clamp", "clamp_min", "clamp_max",
    "exp", "log", "sqrt", "rsqrt", "square", "pow", "abs", "erf",
}  # fmt: skip
_SMALLEST = 1e-10  # difference of inputs below which the derivative is used, as in Captum
_ROUNDING = 0.01  # relative difference of equal rows of a batch, which kernels may compute in another order


class RescaledNetwork(FrozenNetwork):
    """A frozen network with the rescale rule: maps pairs of an image and a baseline to the outputs of the images.

    Shares the attributes and layers of ``network``, in which no activation is fused.
    """

    def __init__(self, network: FrozenNetwork) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(network.__dict__)

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


class Call(NamedTuple):
    """A call of an element-wise function.

    Attributes:
        function: the function, of a tensor; in place, it returns its argument.
        varies: whether it has constants per channel or position, so that it accepts no other shape.
    """

    function: Callable[[Tensor], Tensor]
    varies: bool


class Interception(TorchFunctionMode):
    """Base class of modes that replace calls of element-wise functions and of max pooling on gradients' paths."""

    def check(self, z: Tensor) -> None:
        """Raise an error unless the call with the argument ``z`` can be replaced."""

    @abstractmethod
    def elementwise(self, z: Tensor, call: Call) -> Tensor:
        """Return the function of ``z``, which is ``z`` itself if it works in place."""

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
        if name != "max_pool2d" and name.rstrip("_") not in ELEMENTWISE:
            return func(*args, **kwargs)
        self.check(z)
        rest, options = args[1:], {key: value for key, value in kwargs.items() if key != "input"}
        if name == "max_pool2d":
            return self.max_pool(z, pooling_options(*rest, **options))
        varies = any(isinstance(value, Tensor) and value.numel() > 1 for value in (*rest, *options.values()))
        # The function must not refer to z: the graph of a call in place would refer to itself, and not be freed.
        return self.elementwise(z, Call(lambda x: func(x, *rest, **options), varies))


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

    def elementwise(self, z: Tensor, call: Call) -> Tensor:
        """Return the function of ``z`` with the gradient of a multiplication by ``delta y / delta z``."""
        y: Tensor = _Elementwise.apply(z, call)  # type: ignore[no-untyped-call]
        return y

    def max_pool(self, z: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Return the maxima, with the gradient of Captum's rule for max pooling."""
        y, indices = functional.max_pool2d(z.detach(), **options, return_indices=True)
        pooled: Tensor = _MaxPool.apply(z, y, indices)  # type: ignore[no-untyped-call]
        return pooled


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
        delta = baseline_difference(z)
        multiplier = torch.where(delta.abs() < _SMALLEST, derivative, total / delta)
        return multiplier.repeat(2, 1, 1, 1), None, None
