"""Backward of the fast copy: rows with a gradient, rectifiers, and detection of other non-linearities.

All images of a batch share a forward, but a score may read only some of them, and torch's backward computes every row.
The fast convolutions and rectifiers detect zero rows, compute the other rows and pass their indices on. They also mark
gradients that no other operation reads, so that the next step writes its result into the same memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

_FRACTION: ContextVar[float] = ContextVar("fraction", default=1.0)  # of the rows that the score reads
_ROWS = "_lit_viz_rows"  # attribute of a gradient: its version and the result of nonzero_rows()
_EXCLUSIVE = "_lit_viz_exclusive"  # attribute of a gradient that may be overwritten

#: Row indices ``(R,)`` and the gradient's rows ``(R, C, H, W)``.
Rows = tuple[Tensor, Tensor]


@contextmanager
def sparse_backward(rows: Tensor | None) -> Iterator[None]:
    """Allow backwards in the body to skip zero rows, if the score reads the rows ``rows``, bool ``(N,)``; None for all.

    Detecting zero rows costs a pass over each gradient, so it is limited to scores that read few rows, on CPUs.
    """
    fraction = float(rows.double().mean()) if rows is not None and rows.is_cpu else 1.0
    token = _FRACTION.set(fraction)
    try:
        yield
    finally:
        _FRACTION.reset(token)


def record_source(ctx: Any, x: Tensor, sole_reader: bool) -> None:
    """Record in a forward whether its input is the direct output of another row-sparse function.

    The gradient with respect to such an input is a new tensor that only that function reads, since torch sums gradients
    into new tensors. A function in between, such as the copy of a layer that is read, breaks this.
    """
    ctx.direct = hasattr(getattr(x.grad_fn, "_forward_cls", None), "row_sparse")
    ctx.sole_reader = sole_reader and ctx.direct


def mark_exclusive(ctx: Any, gradient: Tensor) -> Tensor:
    """Mark a backward's result as exclusive to the preceding function, if it is; return it."""
    if ctx.direct and not torch.is_grad_enabled():
        setattr(gradient, _EXCLUSIVE, True)
    return gradient


def pop_exclusive(gradient: Tensor) -> bool:
    """Remove the mark of an exclusive gradient; return whether it was set."""
    return bool(gradient.__dict__.pop(_EXCLUSIVE, False))


def nonzero_rows(gradient: Tensor, threshold: float) -> Rows | None:
    """Return the rows of a gradient ``(N, C, H, W)`` that are not zero; None for all rows.

    The rows are detected rather than passed in, because a network may reorder or multiply the rows of its batch. They
    are detected if the score reads at most a fraction ``threshold`` of the rows.
    """
    recorded = pop_recorded_rows(gradient)
    if recorded is not None:
        return recorded
    if _FRACTION.get() > threshold or torch.is_grad_enabled():
        return None
    inner = tuple(range(1, gradient.ndim))
    zero = (gradient.amax(inner) == 0) & (gradient.amin(inner) == 0)  # false for NaN
    if not bool(zero.any()):
        return None
    rows = (~zero).nonzero()[:, 0]
    return rows, select_rows(gradient, rows)


def pop_recorded_rows(gradient: Tensor) -> Rows | None:
    """Remove and return the rows recorded by :func:`scatter_rows`; None if the gradient was changed since."""
    version, rows = gradient.__dict__.pop(_ROWS, (None, None))
    return rows if version == gradient._version else None


def runs(rows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield consecutive row indices as slices of ``rows`` and of the whole batch, which index without a copy."""
    indices = rows.tolist()
    start = 0
    for stop in range(1, len(indices) + 1):
        if stop == len(indices) or indices[stop] != indices[stop - 1] + 1:
            yield slice(start, stop), slice(indices[start], indices[stop - 1] + 1)
            start = stop


def select_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Return ``x[rows]`` of ``(N, C, H, W)``, channels-last."""
    return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def scatter_rows(x: Tensor, rows: Tensor, count: int, *, placeholder: bool = False) -> Tensor:
    """Return a gradient ``(count, C, H, W)`` with the rows of ``x`` at the indices ``rows`` and zeros elsewhere.

    The rows are recorded for the preceding function. A ``placeholder`` has no values; it is for a function that reads
    the recorded rows only.
    """
    if placeholder:
        whole = x.new_full((), torch.nan).expand(count, *x.shape[1:])
    else:
        inner = x.permute(0, 2, 3, 1)
        whole = inner.new_zeros(count, *inner.shape[1:]).index_copy_(0, rows, inner).permute(0, 3, 1, 2)
    setattr(whole, _ROWS, (whole._version, (rows, x)))
    return whole


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

    def gradient(self, gradient: Tensor, y: Tensor, *, inplace: bool = False) -> Tensor:
        """Return the gradient with respect to ``x`` from that with respect to ``y``.

        Instead of ``y``, the input may be given, which selects the same values. ``inplace`` overwrites ``gradient``,
        which takes a third less time.
        """
        if self.backprop != "plain":
            gradient = gradient.clamp_min_(0) if inplace else gradient.clamp_min(0)
            inplace = inplace or not torch.is_grad_enabled()
        if self.backprop == "deconvolution":
            return gradient
        out = {"grad_input": gradient} if inplace else {}
        if self.top < math.inf:
            return torch.ops.aten.hardtanh_backward(gradient, y, 0.0, self.top, **out)  # type: ignore[no-any-return]
        return torch.ops.aten.threshold_backward(gradient, y, 0, **out)  # type: ignore[no-any-return]

    def gradient_rows(self, gradient: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """Return the gradient ``(R, ...)`` of the rows ``rows`` of ``y``, in place."""
        for part, whole in runs(rows):
            self.gradient(gradient[part], y[whole], inplace=True)
        return gradient


class _Rectify(torch.autograd.Function):
    row_sparse = True
    handled = True  # by nonlinearities()

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Activation, inplace: bool, sole_reader: bool) -> Tensor:
        ctx.activation = activation
        record_source(ctx, x, sole_reader)
        if inplace:
            ctx.mark_dirty(x)
        y = x.clamp_(0, activation.top) if inplace else x.clamp(0, activation.top)
        if activation.backprop != "deconvolution":
            # As in torch: the output of ReLU6 may be changed in place afterwards, unless ReLU6 works in place.
            ctx.save_for_backward(y if inplace or activation.top == math.inf else x)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        exclusive, sparse = pop_exclusive(gradient), pop_recorded_rows(gradient)
        (y,) = ctx.saved_tensors or (gradient,)
        if sparse is None:
            result = ctx.activation.gradient(gradient, y, inplace=exclusive)
        else:
            rows, part = sparse
            part = ctx.activation.gradient_rows(part, y, rows)
            result = scatter_rows(part, rows, len(gradient), placeholder=ctx.sole_reader)
        return mark_exclusive(ctx, result), None, None, None


class Rectifier(nn.Module):
    """Replacement of a ReLU or ReLU6 module with a selectable, row-sparse backward."""

    def __init__(self, module: nn.Module, backprop: Backprop) -> None:
        super().__init__()
        self.activation = Activation(getattr(module, "max_val", math.inf), backprop)
        self.inplace: bool = module.inplace  # type: ignore[assignment]
        self.sole_reader = False  # whether no other operation reads its input

    def forward(self, x: Tensor) -> Tensor:
        # Not in place for a view, where torch's graph hides the step from nonlinearities().
        inplace = self.inplace and not x._is_view()
        if torch.is_grad_enabled() and x.requires_grad:
            return _Rectify.apply(x, self.activation, inplace, self.sole_reader)  # type: ignore[no-any-return, no-untyped-call]
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
