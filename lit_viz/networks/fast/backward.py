"""Backward of the fast copy: rectifiers, and detection of other non-linearities."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

#: Backward of a rectifier. ``plain`` passes the gradient where the input was in the linear range; ``guided`` where the
#: gradient is also positive (Springenberg et al. 2015, arXiv:1412.6806, section 3.4); ``deconvolution`` wherever the
#: gradient is positive (Zeiler & Fergus 2014, arXiv:1311.2901, section 2.1). ``rescale`` replaces no module: batches of
#: pairs of an image and a baseline ``(N, 2, C, H, W)`` are evaluated with the rescale rule of DeepLIFT
#: (:mod:`~lit_viz.networks.fast.rescaling`). ``libra`` replaces no module either: attention weights, deviations of
#: norms and gates of activations have no gradient (:mod:`~lit_viz.networks.fast.libra`).
Backprop = Literal["plain", "guided", "deconvolution", "rescale", "libra"]


class Activation(NamedTuple):
    """The rectifier ``y = min(max(x, 0), top)`` with a rule of its backward."""

    top: float = math.inf
    backprop: Backprop = "plain"

    def gradient(self, gradient: Tensor, y: Tensor) -> Tensor:
        """Return the gradient by ``x`` from that by ``y``; instead of ``y``, ``x`` may be given."""
        if self.backprop != "plain":
            gradient = gradient.clamp_min(0)
        if self.backprop == "deconvolution":
            return gradient
        if self.top < math.inf:
            return torch.ops.aten.hardtanh_backward(gradient, y, 0.0, self.top)  # type: ignore[no-any-return]
        return torch.ops.aten.threshold_backward(gradient, y, 0)  # type: ignore[no-any-return]


class _Rectify(torch.autograd.Function):
    handled = True  # by nonlinearities()

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Activation, inplace: bool) -> Tensor:
        ctx.activation = activation
        if inplace:
            ctx.mark_dirty(x)
        y = x.clamp_(0, activation.top) if inplace else x.clamp(0, activation.top)
        if activation.backprop != "deconvolution":
            # As in torch: the output of ReLU6 may be changed in place afterwards, unless ReLU6 works in place.
            ctx.save_for_backward(y if inplace or activation.top == math.inf else x)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors or (gradient,)
        return ctx.activation.gradient(gradient, y), None, None


def rectify(x: Tensor, activation: Activation, inplace: bool) -> Tensor:
    """Return ``min(max(x, 0), top)`` with the backward of the activation, in ``x`` itself if ``inplace``."""
    return _Rectify.apply(x, activation, inplace)  # type: ignore[no-any-return, no-untyped-call]


class Rectifier(nn.Module):
    """Replacement of a ReLU or ReLU6 module with a selectable backward."""

    def __init__(self, module: nn.Module, backprop: Backprop) -> None:
        super().__init__()
        self.activation = Activation(getattr(module, "max_val", math.inf), backprop)
        self.inplace: bool = module.inplace  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        # Not in place for a view, where torch's graph hides the step from nonlinearities().
        inplace = self.inplace and not x._is_view()
        if torch.is_grad_enabled() and x.requires_grad:
            return rectify(x, self.activation, inplace)
        return x.clamp_(0, self.activation.top) if inplace else x.clamp(0, self.activation.top)


def is_rectifier(module: nn.Module) -> bool:
    """Return whether the module computes ``min(max(x, 0), top)``, as ReLU and ReLU6 do."""
    if isinstance(module, nn.Hardtanh):  # includes nn.ReLU6
        return type(module).forward is nn.Hardtanh.forward and module.min_val == 0
    return isinstance(module, nn.ReLU) and type(module).forward is nn.ReLU.forward


def activation_of(module: nn.Module) -> Activation | None:
    """Return what a rectifier computes; None for other modules."""
    if isinstance(module, Rectifier):
        return module.activation
    return Activation(getattr(module, "max_val", math.inf)) if is_rectifier(module) else None


def replace_rectifiers(network: nn.Module, backprop: Backprop) -> None:
    """Replace the rectifiers of ``network`` in place; a shared module stays shared."""
    replaced: dict[nn.Module, Rectifier] = {}
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is not None and is_rectifier(child):
                parent._modules[name] = replaced.setdefault(child, Rectifier(child, backprop))


# Steps that are linear in the image. The names of torch's own steps end in a number, unlike those of custom autograd
# functions.
_LINEAR = re.compile(
    r"(Add|Sub|Rsub|Neg|Sum|Mean|View|UnsafeView|ReshapeAlias|Permute|Transpose|T|Expand|Repeat|Squeeze|Unsqueeze|Select"
    r"|Slice|Split|SplitWithSizes|UnsafeSplit|Unbind|Cat|Stack|IndexSelect|Roll|Flip|Clone|Copy|ToCopy|Alias|AsStrided"
    r"|ConstantPadNd|ReflectionPad2D|ReplicationPad2D|PixelShuffle|PixelUnshuffle|UpsampleNearest2D|UpsampleBilinear2D"
    r"|AvgPool2D|AdaptiveAvgPool2D|NativeBatchNorm|CudnnBatchNorm|MiopenBatchNorm)Backward\d|.*::AccumulateGrad|.*CopyBackwards"
)
#: Steps that select values or normalize, which keep their derivative in guided backpropagation.
SELECTING = re.compile(
    r"(MaxPool2DWithIndices|AdaptiveMaxPool2D|Amax|Max|NativeGroupNorm|NativeLayerNorm|(Native|Cudnn|Miopen)BatchNorm)Backward\d"
)
#: Steps that are linear between kinks, or move values.
PIECEWISE = re.compile(
    r"(Relu|LeakyRelu|PreluKernel|Threshold|Hardtanh|Clamp|ClampMin|ClampMax|Abs|Max|Min|Amax|Amin|Maximum|Minimum"
    r"|MaxPool2DWithIndices|AdaptiveMaxPool2D|Where|MaskedFill|Index|Gather)Backward\d"
)
# Linear if only one factor depends on the image; of a quotient the dividend, of attention the values.
_PRODUCT = re.compile(r"(Mul|Div|Addcmul|Mm|Bmm|Addmm|Linear|Convolution|ScaledDotProduct\w+)Backward\d")


def nonlinearities(
    logits: Tensor, *, keep: re.Pattern[str] | None = None, visited: set[Node] | None = None
) -> Iterator[str]:
    """Yield the non-linear operations of a forward, such as ``gelu``, in order, except operations with an own backward.

    Custom functions and compiled code are included.

    Args:
        logits: the output, with its graph.
        keep: names of operations that are not yielded, such as :data:`SELECTING`.
        visited: steps that are not yielded again; those of the forward are added.
    """
    if logits.grad_fn is None:
        raise RuntimeError("its logits have no gradient")
    for step in sorted(upstream(logits.grad_fn, visited), key=lambda step: step._sequence_nr()):
        by_statistics = getattr(step, "_saved_training", False)  # an instance norm, which torch computes as batch norm
        if _is_linear_product(step) or (_LINEAR.fullmatch(step.name()) and not by_statistics):
            continue
        if keep is not None and keep.fullmatch(step.name()):
            continue
        if getattr(getattr(step, "_forward_cls", None), "handled", False):
            continue
        kind = re.sub(r"^Native|Backward\d*$", "", step.name().rsplit("::")[-1]).lower()
        if "dotproduct" in kind:
            kind = "attention"
        elif _PRODUCT.fullmatch(step.name()):
            kind = "a product of activations"
        elif by_statistics:
            kind = "instancenorm"
        yield kind


def _is_linear_product(step: Node) -> bool:
    if _PRODUCT.fullmatch(step.name()) is None:
        return False
    factors = []
    for place, (source, _) in enumerate(step.next_functions):
        if source is not None:
            factors.append(place)
    if step.name().startswith("Div"):
        return factors == [0]
    if step.name().startswith("ScaledDotProduct"):
        return factors == [2]
    return len(factors) == 1


def upstream(node: Node | None, visited: set[Node] | None = None) -> set[Node]:
    """Return a step of the backward graph and all steps before it, except visited ones, which they are added to."""
    found: set[Node] = set()
    seen = found if visited is None else visited
    pending = [node]
    while pending:
        if (node := pending.pop()) is not None and node not in seen:
            found.add(node)
            seen.add(node)
            pending += [previous for previous, _ in node.next_functions]
    return found
