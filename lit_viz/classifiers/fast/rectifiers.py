"""Rectifiers with the plain backward, guided backpropagation or deconvolution; detection of other non-linearities.

A hook on ``nn.ReLU`` modules has no effect where a network rectifies by a function or uses another activation. Every
step of the backward graph is therefore compared with a list of steps that no method changes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

from lit_viz.classifiers.fast.rows import (
    mark_exclusive,
    pop_exclusive,
    pop_recorded_rows,
    record_source,
    runs,
    scatter_rows,
)
from lit_viz.classifiers.outputs import differentiable_logits

#: Backward of a rectifier. ``plain`` passes the gradient where the input was in the linear range; ``guided`` where the
#: gradient is also positive (Springenberg et al. 2015, arXiv:1412.6806, section 3.4); ``deconvolution`` wherever the
#: gradient is positive (Zeiler & Fergus 2014, arXiv:1311.2901, section 2.1).
Backprop = Literal["plain", "guided", "deconvolution"]

# Steps that no method changes: linear in the image, selecting values, or normalizing. The names of torch's own steps
# end in a number, unlike the names of custom autograd functions.
_LINEAR = re.compile(
    r"(Add|Sub|Rsub|Neg|Sum|Mean|View|UnsafeView|ReshapeAlias|Permute|Transpose|T|Expand|Repeat|Squeeze|Unsqueeze|Select"
    r"|Slice|Split|SplitWithSizes|UnsafeSplit|Unbind|Cat|Stack|IndexSelect|Roll|Flip|Clone|Copy|ToCopy|Alias|AsStrided"
    r"|ConstantPadNd|ReflectionPad2D|ReplicationPad2D|PixelShuffle|PixelUnshuffle|UpsampleNearest2D|UpsampleBilinear2D"
    r"|AvgPool2D|AdaptiveAvgPool2D|MaxPool2DWithIndices|AdaptiveMaxPool2D|Amax|Max"
    r"|NativeBatchNorm|CudnnBatchNorm|MiopenBatchNorm|NativeGroupNorm|NativeLayerNorm)Backward\d|.*::AccumulateGrad"
)
# Linear if only one factor depends on the image.
_PRODUCT = re.compile(r"(Mul|Div|Addcmul|Mm|Bmm|Addmm|Linear|Convolution)Backward\d")


class _Rectify(torch.autograd.Function):
    """``y = min(max(x, 0), top)`` with the backward of a :data:`Backprop` rule."""

    row_sparse = True

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float, backprop: Backprop, inplace: bool, sole_reader: bool) -> Tensor:
        ctx.top, ctx.backprop = top, backprop
        record_source(ctx, x, sole_reader)
        if inplace:
            ctx.mark_dirty(x)
        y = x.clamp_(0, top) if inplace else x.clamp(0, top)
        if backprop != "deconvolution":
            # As in torch: the output of ReLU6 may be changed in place afterwards, unless ReLU6 works in place.
            ctx.save_for_backward(y if inplace or top == math.inf else x)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        exclusive, sparse = pop_exclusive(gradient), pop_recorded_rows(gradient)
        (y,) = ctx.saved_tensors or (gradient,)
        if sparse is None:
            result = rectifier_gradient(gradient, y, ctx.top, ctx.backprop, inplace=exclusive)
        else:
            rows, part = sparse
            part = rectifier_gradient_rows(part, y, rows, ctx.top, ctx.backprop)
            result = scatter_rows(part, rows, len(gradient), placeholder=ctx.sole_reader)
        return mark_exclusive(ctx, result), None, None, None, None


def rectifier_gradient(gradient: Tensor, y: Tensor, top: float, backprop: Backprop, *, inplace: bool = False) -> Tensor:
    """Return the gradient with respect to ``x`` of ``y = min(max(x, 0), top)``.

    Args:
        gradient: with respect to ``y``.
        y: output or input of the rectifier, which select the same values; not read by ``deconvolution``.
        top: largest output.
        backprop: rule of the backward.
        inplace: overwrite ``gradient``, which takes a third less time.
    """
    if backprop != "plain":
        gradient = gradient.clamp_min_(0) if inplace else gradient.clamp_min(0)
        inplace = inplace or not torch.is_grad_enabled()
    if backprop == "deconvolution":
        return gradient
    out = {"grad_input": gradient} if inplace else {}
    if top < math.inf:
        return torch.ops.aten.hardtanh_backward(gradient, y, 0.0, top, **out)  # type: ignore[no-any-return]
    return torch.ops.aten.threshold_backward(gradient, y, 0, **out)  # type: ignore[no-any-return]


def rectifier_gradient_rows(gradient: Tensor, y: Tensor, rows: Tensor, top: float, backprop: Backprop) -> Tensor:
    """Return :func:`rectifier_gradient` for the gradient ``(R, ...)`` of the rows ``rows`` of ``y``, in place."""
    for part, whole in runs(rows):
        rectifier_gradient(gradient[part], y[whole], top, backprop, inplace=True)
    return gradient


class Rectifier(nn.Module):
    """Replacement of a ReLU or ReLU6 module with a selectable, row-sparse backward."""

    def __init__(self, activation: nn.Module, backprop: Backprop) -> None:
        super().__init__()
        self.top = rectifier_top(activation)
        self.inplace: bool = activation.inplace  # type: ignore[assignment]
        self.backprop = backprop
        self.sole_reader = False  # whether no other operation reads its input

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``."""
        # Not in place for a view, where torch's graph hides the step from hidden_nonlinearity().
        inplace = self.inplace and not x._is_view()
        if torch.is_grad_enabled() and x.requires_grad:
            return _Rectify.apply(x, self.top, self.backprop, inplace, self.sole_reader)  # type: ignore[no-any-return, no-untyped-call]
        return x.clamp_(0, self.top) if inplace else x.clamp(0, self.top)


def is_rectifier(module: nn.Module) -> bool:
    """Return whether the module computes ``min(max(x, 0), top)``, as ReLU and ReLU6 do."""
    if isinstance(module, nn.Hardtanh):  # includes nn.ReLU6
        return type(module).forward is nn.Hardtanh.forward and module.min_val == 0
    return isinstance(module, nn.ReLU) and type(module).forward is nn.ReLU.forward


def rectifier_top(activation: nn.Module) -> float:
    """Return the largest output of a rectifier."""
    return getattr(activation, "max_val", math.inf)


def replace_rectifiers(network: nn.Module, backprop: Backprop) -> None:
    """Replace the rectifiers of ``network`` in place; a shared module stays shared."""
    replaced: dict[nn.Module, Rectifier] = {}
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is not None and is_rectifier(child):
                parent._modules[name] = replaced.setdefault(child, Rectifier(child, backprop))


def hidden_nonlinearity(network: nn.Module, x: Tensor) -> str | None:
    """Run ``network`` on ``x`` and describe the first non-linearity that is not a :class:`Rectifier`.

    Steps are compared with a list of allowed ones, so custom autograd functions and compiled code are reported too.

    Returns:
        For example ``layer 'act' (GELU) computes gelu``; None if there is none.
    """
    for step, name in _layers_of_steps(network, x).items():
        factors = sum(source is not None for source, _ in step.next_functions)
        product = _PRODUCT.fullmatch(step.name()) is not None
        if (product and factors == 1) or _LINEAR.fullmatch(step.name()):
            continue
        if getattr(step, "_forward_cls", None) is _Rectify:
            continue
        kind = re.sub(r"Backward\d*$", "", step.name().rsplit("::")[-1])
        kind = "attention" if kind.startswith("ScaledDotProduct") else kind.lower()
        layer = f"layer {name!r} ({type(network.get_submodule(name)).__name__})" if name else "its forward"
        return f"{layer} computes {'a product of activations' if product else kind}"
    return None


def _layers_of_steps(network: nn.Module, x: Tensor) -> dict[Node, str]:
    """Return the steps of the backward graph, each with the innermost layer that created it.

    Raises:
        RuntimeError: the logits have no gradient.
    """
    creators: dict[Node, str] = {}
    stack = [""]  # names of the layers that are running

    def assign(tensors: Any) -> None:
        """Assign all unassigned steps that lead to ``tensors`` to the innermost running layer."""
        steps = [t.grad_fn for t in tree_leaves(tensors) if isinstance(t, Tensor)]
        while steps:
            step = steps.pop()
            if step is not None and step not in creators:
                creators[step] = stack[-1]
                steps += [source for source, _ in step.next_functions]

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            assign((args, kwargs))
            stack.append(name)

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        assign(output)
        stack.pop()

    # Scripted layers accept no hooks; their steps are assigned to the layer around them.
    layers = [(n, layer) for n, layer in network.named_modules() if n and not isinstance(layer, torch.jit.ScriptModule)]
    handles = [layer.register_forward_pre_hook(enter(name), with_kwargs=True) for name, layer in layers]
    handles += [layer.register_forward_hook(leave) for _, layer in layers]
    try:
        _, logits = differentiable_logits(network, x)
    finally:
        for handle in handles:
            handle.remove()
    assign(logits)
    if logits.grad_fn is None:
        raise RuntimeError("its logits have no gradient")
    return creators
