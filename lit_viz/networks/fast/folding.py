"""Batch norm folding: a batch norm becomes part of the convolution before it; the others become a scale and a shift.

Also :func:`links`, which finds the pairs of layers that can be merged.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lit_viz.networks.layers import CONV2D_SAME, hooked, timm_types
from lit_viz.networks.outputs import LOGITS, Output

_NORM = "timm.layers.norm_act.BatchNormAct2d"


class Link(NamedTuple):
    """Names of two layers: ``reader`` receives the unchanged output of ``writer``, which nothing else uses."""

    writer: str
    reader: str


class _Uses(TorchFunctionMode):
    """Counts, by identity and version, how often a tensor is an argument of a function that returns a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[int, int]] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        used = list(map(_state, _tensors((args, kwargs))))
        result = func(*args, **(kwargs or {}))
        if _tensors(result):  # excludes reads of the shape
            self.counts.update(used)
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _state(tensor: Tensor) -> tuple[int, int]:
    return id(tensor), tensor._version


def links(
    network: nn.Module,
    x: Tensor,
    writes: Callable[[nn.Module], bool],
    reads: Callable[[nn.Module], bool],
    output: Output = LOGITS,
) -> tuple[list[Link], Counter[str]]:
    """Run ``network`` on ``x`` and return the links between two kinds of layers, and how often each reader is called.

    A link is reported if the writer is called once, its output reaches the reader unchanged (not modified in place, and
    not as a view) and no other function is observed to use it. Scripted code is not observed, so every change of the
    network has to be verified afterwards.
    """
    outputs: dict[tuple[int, int], tuple[str, Tensor]] = {}  # references to the tensors keep their ids unique
    writer_calls: Counter[str] = Counter()
    reader_calls: Counter[str] = Counter()
    candidates: list[tuple[Link, tuple[int, int]]] = []

    def write(name: str, module: nn.Module, args: Any, output: Any) -> None:
        writer_calls[name] += 1
        if isinstance(output, Tensor):
            outputs[_state(output)] = (name, output)
            uses.counts[_state(output)] = 0  # drop the count of an earlier tensor with this id

    def read(name: str, module: nn.Module, args: Any) -> None:
        reader_calls[name] += 1
        if args and isinstance(args[0], Tensor) and _state(args[0]) in outputs:
            candidates.append((Link(outputs[_state(args[0])][0], name), _state(args[0])))

    with (
        hooked(_chosen(network, writes), write),
        hooked(_chosen(network, reads), read, before=True),
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),  # compiled code is not observed
        _Uses() as uses,
    ):
        output.returned(network, x)
    chosen = [link for link, state in candidates if writer_calls[link.writer] == 1 and uses.counts[state] == 1]
    return chosen, reader_calls


def _chosen(network: nn.Module, chooses: Callable[[nn.Module], bool]) -> dict[str, nn.Module]:
    return {name: module for name, module in network.named_modules() if chooses(module)}


class FrozenBatchNorm(nn.Sequential):
    """A batch norm in eval mode that is not folded, as a scale and a shift; the dropout and activation of timm's stay.

    torch's backward of a batch norm is slower, because it also handles statistics that change.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(OrderedDict(norm.named_children()))
        scale, shift = _scale_and_shift(norm)
        self.weight = nn.Parameter(scale.view(-1, 1, 1), requires_grad=False)
        self.bias = nn.Parameter(shift.view(-1, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, C, H, W)``, normalized and, if the norm has an activation, activated."""
        x = torch.addcmul(self.bias, x, self.weight)
        for layer in self:
            x = layer(x)
        return x


def is_plain_convolution(module: nn.Module) -> bool:
    """Return whether the module computes ``nn.Conv2d`` from its own weight, with or without timm's "same" padding.

    Subclasses with another forward (weight standardization), parametrized weights and scripted layers are excluded.
    """
    plain = isinstance(module, nn.Conv2d) and _has_forward_of(module, nn.Conv2d, CONV2D_SAME)
    return plain and "weight" in module._parameters


def _is_plain_batch_norm(module: nn.Module) -> bool:
    if not isinstance(module, nn.BatchNorm2d) or module.running_mean is None or module.running_var is None:
        return False
    return _has_forward_of(module, _BatchNorm, _NORM)


def _has_forward_of(module: nn.Module, kind: type[nn.Module], timm_kind: str) -> bool:
    forwards = [base.forward for base in (kind, *timm_types(timm_kind))]
    return type(module).forward in forwards


def foldable_pairs(network: nn.Module, x: Tensor, keep: Collection[str], output: Output = LOGITS) -> list[Link]:
    """Return the links from convolutions to batch norms."""
    pairs, calls = links(network, x, is_plain_convolution, _is_plain_batch_norm, output)
    return [pair for pair in pairs if calls[pair.reader] == 1 and not {*pair} & set(keep)]


@torch.no_grad()
def fold_batch_norms(network: nn.Module, pairs: Iterable[Link]) -> None:
    """Fold batch norms of ``network``, which is in float64, in place.

    ``w' = w g / sqrt(v + eps)`` and ``b' = (b - m) g / sqrt(v + eps) + beta``. The dropout and activation of timm's
    batch norms stay in a container of the same name, which is empty for others.
    """
    for writer, reader in pairs:
        conv: nn.Conv2d = network.get_submodule(writer)  # type: ignore[assignment]
        norm: nn.BatchNorm2d = network.get_submodule(reader)  # type: ignore[assignment]
        scale, shift = _scale_and_shift(norm)
        # New parameters, because the convolution's may be shared with another layer.
        conv.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1), requires_grad=False)
        bias = shift if conv.bias is None else conv.bias * scale + shift
        conv.bias = nn.Parameter(bias, requires_grad=False)
        network.set_submodule(reader, nn.Sequential(OrderedDict(norm.named_children())))


def freeze_batch_norms(network: nn.Module) -> None:
    """Replace the remaining batch norms of ``network``."""
    for name, layer in list(network.named_modules()):
        if name and _is_plain_batch_norm(layer):
            network.set_submodule(name, FrozenBatchNorm(layer))


@torch.no_grad()
def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return s and t ``(C,)`` with ``norm(x) = s x + t``."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return scale.to(norm.running_mean), shift.to(norm.running_mean)
