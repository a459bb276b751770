"""Batch norm folded into the convolution before it; one that stays becomes a scale and a shift."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_viz.classifiers.fast.links import Link, links
from lit_viz.classifiers.timm_types import CONV2D_SAME, timm_types

if TYPE_CHECKING:
    from timm.layers.norm_act import BatchNormAct2d

_NORM = "timm.layers.norm_act.BatchNormAct2d"


class NormActivation(nn.Module):
    """What is left of timm's ``BatchNormAct2d`` when its batch norm is gone; its layers keep their names."""

    def __init__(self, norm: BatchNormAct2d) -> None:
        super().__init__()
        self.drop, self.act = norm.drop, norm.act

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``."""
        return self.act(self.drop(x))  # type: ignore[no-any-return]


class FrozenBatchNorm(nn.Module):
    """A batch norm in eval mode that is not folded, as a scale and a shift; its layers keep their names.

    torch computes the gradient of one as if its statistics could still move.

    Args:
        norm: ``nn.BatchNorm2d``, or timm's with an activation.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        for name, layer in norm.named_children():  # of timm's: dropout, and the activation
            self.add_module(name, layer)
        scale, shift = _scale_and_shift(norm)
        self.weight = nn.Parameter(scale.view(-1, 1, 1), requires_grad=False)
        self.bias = nn.Parameter(shift.view(-1, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, C, H, W)`` normalized and, where the norm has one, activated."""
        x = torch.addcmul(self.bias, x, self.weight)
        for layer in self.children():
            x = layer(x)
        return x


def plain_convolution(module: nn.Module) -> bool:
    """Return whether the module computes what ``nn.Conv2d`` does (with timm's "same" padding or without).

    A subclass that computes something else from its weight (weight standardization, a parametrization) does not.
    """
    if not isinstance(module, nn.Conv2d):
        return False
    return _computes_as(module, nn.Conv2d, CONV2D_SAME) and "weight" in module._parameters


def _plain_batch_norm(module: nn.Module) -> bool:
    if not isinstance(module, nn.BatchNorm2d) or module.running_mean is None or module.running_var is None:
        return False
    return _computes_as(module, _BatchNorm, _NORM)


def _computes_as(module: nn.Module, kind: type[nn.Module], of_timm: str) -> bool:
    """Return whether the module's forward is that of torch's kind, or of timm's: no subclass has put another there."""
    return any(type(module).forward is known.forward for known in (kind, *timm_types(of_timm)))


def foldable_pairs(network: nn.Module, x: Tensor, keep: Collection[str]) -> list[Link]:
    """Return the convolutions whose output goes into a batch norm and nowhere else, with it, by name.

    Args:
        network: in eval mode.
        x: any normalized input that it takes.
        keep: names of layers that stay; neither they nor their partners are folded.
    """
    found, calls = links(network, x, plain_convolution, _plain_batch_norm)
    return [pair for pair in found if calls[pair.taker] == 1 and not {pair.giver, pair.taker} & set(keep)]


def fold_batch_norms(network: nn.Module, pairs: Iterable[Link]) -> None:
    """Fold the batch norms of ``network``, a private copy in float64 (so that it costs no digit), in place.

    ``conv`` then gives what ``norm`` gave: ``w' = w g / sqrt(v + eps)``, ``b' = (b - m) g / sqrt(v + eps) + beta``, and
    an identity (or the activation alone) stands under the name of the batch norm.
    """
    for pair in pairs:
        norm = network.get_submodule(pair.taker)
        _fold(network.get_submodule(pair.giver), norm)  # type: ignore[arg-type]
        network.set_submodule(
            pair.taker, NormActivation(norm) if isinstance(norm, timm_types(_NORM)) else nn.Identity()
        )


def freeze_batch_norms(network: nn.Module) -> int:
    """Replace the batch norms that ``network``, a private copy in eval mode, still has; return how many."""
    found = [(n, m) for n, m in network.named_modules() if n and _plain_batch_norm(m)]
    for name, norm in found:
        network.set_submodule(name, FrozenBatchNorm(norm))
    return len(found)


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    scale, shift = _scale_and_shift(norm)
    # New parameters: those of the convolution may be shared with another layer.
    conv.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1), requires_grad=False)
    bias = shift if conv.bias is None else conv.bias * scale + shift
    conv.bias = nn.Parameter(bias, requires_grad=False)


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
