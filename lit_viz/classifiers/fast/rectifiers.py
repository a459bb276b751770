"""Rectifiers with another backward (guided backpropagation, deconvolution), and the proof that no other non-linearity
is left.

A hook on ``nn.ReLU`` modules alone gives the plain gradient, without a word, wherever a network rectifies by a function
or uses GELU. So every step of the backward is looked at, and what is not known to be harmless is found.
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

from lit_viz.classifiers.fast.rows import begin, end, is_ours, known_rows, put_back, runs
from lit_viz.classifiers.outputs import traced

#: What a rectifier makes of the gradient that comes back to it: lets it pass where its input was in the linear range
#: (``plain``), there and where it is positive (``guided``: Springenberg et al. 2015, arXiv:1412.6806, section 3.4), or
#: wherever it is positive (``deconvolution``: Zeiler & Fergus 2014, arXiv:1311.2901, section 2.1).
Backprop = Literal["plain", "guided", "deconvolution"]

# Steps that no method gives another backward: linear in the image, choosing among values, or normalizing. The names of
# torch's own steps end in a number, so nobody's autograd function is taken for one of them.
_HARMLESS = re.compile(
    r"(Add|Sub|Rsub|Neg|Sum|Mean|View|UnsafeView|ReshapeAlias|Permute|Transpose|T|Expand|Repeat|Squeeze|Unsqueeze|Select"
    r"|Slice|Split|SplitWithSizes|UnsafeSplit|Unbind|Cat|Stack|IndexSelect|Roll|Flip|Clone|Copy|ToCopy|Alias|AsStrided"
    r"|ConstantPadNd|ReflectionPad2D|ReplicationPad2D|PixelShuffle|PixelUnshuffle|UpsampleNearest2D|UpsampleBilinear2D"
    r"|AvgPool2D|AdaptiveAvgPool2D|MaxPool2DWithIndices|AdaptiveMaxPool2D|Amax|Max"
    r"|NativeBatchNorm|CudnnBatchNorm|MiopenBatchNorm|NativeGroupNorm|NativeLayerNorm)Backward\d|.*::AccumulateGrad"
)
# Linear as long as one factor alone depends on the image.
_PRODUCT = re.compile(r"(Mul|Div|Addcmul|Mm|Bmm|Addmm|Linear|Convolution)Backward\d")


class _Rectify(torch.autograd.Function):
    """``y = min(max(x, 0), top)`` with a backward of the papers, or the plain one."""

    takes_rows = True

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float, backprop: Backprop, inplace: bool, alone: bool) -> Tensor:
        ctx.top, ctx.backprop = top, backprop
        begin(ctx, x, alone)
        if inplace:
            ctx.mark_dirty(x)
        y = x.clamp_(0, top) if inplace else x.clamp(0, top)
        if backprop != "deconvolution":
            # As torch does: only ReLU6 that doesn't work in place lets others change its output in place afterwards.
            ctx.save_for_backward(y if inplace or top == math.inf else x)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        ours, fewer = is_ours(gradient), known_rows(gradient)
        if fewer is None:
            (y,) = ctx.saved_tensors or (gradient,)
            result = rectified(gradient, y, ctx.top, ctx.backprop, ours=ours)
        else:
            rows, part = fewer
            (y,) = ctx.saved_tensors or (gradient,)
            result = put_back(ctx, rectified_rows(part, y, rows, ctx.top, ctx.backprop), rows, len(gradient))
        return end(ctx, result), None, None, None, None


def rectified(gradient: Tensor, y: Tensor, top: float, backprop: Backprop, *, ours: bool = False) -> Tensor:
    """Return the gradient by ``x`` from that by ``y = min(max(x, 0), top)``.

    A rectifier lets through the same gradients whether it is asked about its input or its output.

    Args:
        gradient: by ``y``.
        y: what was computed; not looked at in ``deconvolution``.
        top: the largest value of ``y``.
        backprop: what passes.
        ours: nobody else gets this gradient, so that the result is written over it: a third faster.
    """
    if backprop != "plain":
        gradient = gradient.clamp_min_(0) if ours else gradient.clamp_min(0)
        ours = ours or not torch.is_grad_enabled()
    if backprop == "deconvolution":
        return gradient
    into = {"grad_input": gradient} if ours else {}
    if top < math.inf:
        return torch.ops.aten.hardtanh_backward(gradient, y, 0.0, top, **into)  # type: ignore[no-any-return]
    return torch.ops.aten.threshold_backward(gradient, y, 0, **into)  # type: ignore[no-any-return]


def rectified_rows(gradient: Tensor, y: Tensor, rows: Tensor, top: float, backprop: Backprop) -> Tensor:
    """Return what :func:`rectified` does of the gradient of some rows of ``y``, written over it."""
    for some, of_all in runs(rows):
        rectified(gradient[some], y[of_all], top, backprop, ours=True)
    return gradient


class Rectifier(nn.Module):
    """Takes the place of a ReLU or ReLU6, in place or not: its backward may be another, and takes and gives rows.

    Args:
        activation: which; see :func:`is_rectifier`.
        backprop: of which kind.
    """

    def __init__(self, activation: nn.Module, backprop: Backprop) -> None:
        super().__init__()
        self.top = top_of(activation)
        self.inplace: bool = activation.inplace  # type: ignore[assignment]
        self.backprop = backprop
        self.alone = False  # as of a :class:`~lit_viz.classifiers.fast.convolution.FastConvolution`

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``."""
        # A view is left alone: torch hides who changed it in place from those who look at the backward.
        inplace = self.inplace and not x._is_view()
        if torch.is_grad_enabled() and x.requires_grad:
            return _Rectify.apply(x, self.top, self.backprop, inplace, self.alone)  # type: ignore[no-any-return, no-untyped-call]
        return x.clamp_(0, self.top) if inplace else x.clamp(0, self.top)


def is_rectifier(module: nn.Module) -> bool:
    """Return whether the module computes ``min(max(x, 0), top)``, as ReLU and ReLU6 do."""
    if isinstance(module, nn.Hardtanh):  # and nn.ReLU6, which is one
        return type(module).forward is nn.Hardtanh.forward and module.min_val == 0
    return isinstance(module, nn.ReLU) and type(module).forward is nn.ReLU.forward


def top_of(activation: nn.Module) -> float:
    """Return the largest value that a rectifier gives."""
    return getattr(activation, "max_val", math.inf)


def replace_rectifiers(network: nn.Module, backprop: Backprop) -> None:
    """Replace the rectifiers of ``network``, a private copy, in place; one that has several names stays one."""
    replaced: dict[nn.Module, Rectifier] = {}
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is not None and is_rectifier(child):
                parent._modules[name] = replaced.setdefault(child, Rectifier(child, backprop))


def hidden_nonlinearity(network: nn.Module, x: Tensor) -> str | None:
    """Run ``network`` once on ``x`` and say which non-linearity is none of our rectifiers; None if there is none.

    A list of what is allowed, not of what is forbidden: an autograd function that nobody knows is one, and so is
    compiled or scripted code.

    Returns:
        ``layer 'act' (GELU) computes gelu``.
    """
    for step, name in _makers(network, x).items():
        factors = sum(giver is not None for giver, _ in step.next_functions)
        linear = _PRODUCT.fullmatch(step.name()) is not None and factors == 1
        if linear or _HARMLESS.fullmatch(step.name()) or getattr(step, "_forward_cls", None) is _Rectify:
            continue
        where = f"layer {name!r} ({type(network.get_submodule(name)).__name__})" if name else "its forward"
        return f"{where} computes {_in_words(step)}"
    return None


def _in_words(step: Node) -> str:
    if _PRODUCT.fullmatch(step.name()):
        return "a product of activations"
    kind = re.sub(r"Backward\d*$", "", step.name().rsplit("::")[-1])
    return "attention" if kind.startswith("ScaledDotProduct") else kind.lower()


def _makers(network: nn.Module, x: Tensor) -> dict[Node, str]:
    """Return the steps of the backward from the logits to ``x``, each with the innermost layer whose forward made it.

    Raises:
        RuntimeError: the logits have no gradient.
    """
    makers: dict[Node, str] = {}
    inside = [""]

    def claim(tensors: Any) -> None:
        """Note that what leads to ``tensors`` and was not there before was made by the layer that is running."""
        steps = [t.grad_fn for t in tree_leaves(tensors) if isinstance(t, Tensor)]
        while steps:
            step = steps.pop()
            if step is not None and step not in makers:
                makers[step] = inside[-1]
                steps += [giver for giver, _ in step.next_functions]

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            claim((args, kwargs))
            inside.append(name)

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        claim(output)
        inside.pop()

    # Scripted layers take no hooks; what they do counts as done by the layer around them.
    layers = [(n, layer) for n, layer in network.named_modules() if n and not isinstance(layer, torch.jit.ScriptModule)]
    handles = [layer.register_forward_pre_hook(enter(name), with_kwargs=True) for name, layer in layers]
    handles += [layer.register_forward_hook(leave) for _, layer in layers]
    try:
        _, logits = traced(network, x)
    finally:
        for handle in handles:
            handle.remove()
    claim(logits)
    if logits.grad_fn is None:
        raise RuntimeError("its logits have no gradient")
    return makers
