"""Does a map depend on what the network has learned? Its layers are drawn anew, from the top down."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn

from lit_viz.classifiers import FrozenNetwork
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.agreement import spearman
from lit_viz.images.difference import ssim
from lit_viz.rng import Draws, Key

#: Rank correlation with the map of the trained network, from which on a map is said not to have changed.
UNCHANGED = 0.9


@dataclass(frozen=True)
class Stage:
    """A map of a network whose upper layers were drawn anew.

    Attributes:
        layer: the lowest of them.
        layers: how many they are.
        spearman: rank correlation of ``|map|`` with that of the trained network.
        ssim: structural similarity of the two, each divided by its maximum.
    """

    layer: str
    layers: int
    spearman: float
    ssim: float


def cascading_randomization(
    explain: Callable[[Mapping[str, FrozenNetwork]], Tensor],
    networks: Mapping[str, FrozenNetwork],
    attribution: Tensor,
    *,
    seed: int = 0,
    stages: int = 6,
) -> list[Stage]:
    """Draw the layers of a private copy anew, one after another from the top down, and see what remains of a map
    (cascading randomization; Adebayo et al. 2018, arXiv:1810.03292, section 3.1).

    A map that remains is made by the photograph and the architecture, not by what the network has learned. Costs one
    map a stage.

    Args:
        explain: makes the map with the networks that it is given.
        networks: that the method asks, by name; they stay as they are.
        attribution: the map of the trained network ``(C, H, W)``.
        seed: of the draws.
        stages: looked at, evenly through the network: the first has the uppermost layer alone drawn anew, the last all.

    Raises:
        LitVizError: a network that can't be copied.
    """
    return [
        Stage(layer, count, *alike(explain(drawn), attribution))
        for layer, count, drawn in randomized(networks, seed, stages)
    ]


def unchanged(stages: Sequence[Stage]) -> Stage | None:
    """Return the last stage, from the first on, at which the map had not changed; None where it changed at once."""
    same = list(takewhile(lambda stage: stage.spearman >= UNCHANGED, stages))
    return same[-1] if same else None


def randomized(
    networks: Mapping[str, FrozenNetwork], seed: int, stages: int
) -> Iterator[tuple[str, int, Mapping[str, FrozenNetwork]]]:
    """Yield the lowest layer that is drawn anew, how many layers are, and the networks, which go on changing.

    A parameter becomes normal numbers of its own mean and spread (so one of a single value stays); buffers stay. The
    draws belong to the parameter's name, so that networks which differ in their backward alone stay equal.
    """
    for network in networks.values():
        if next(network.parameters(), None) is None:
            raise LitVizError("the network can't be copied, so its layers can't be drawn anew.")
    drawn = {name: copy.deepcopy(network) for name, network in networks.items()}
    layers = [name for name, layer in next(iter(drawn.values())).named_modules() if _own(layer)][::-1]
    counts = sorted(set(torch.linspace(1, len(layers), stages).round().int().tolist()))
    for before, count in zip([0, *counts], counts, strict=False):
        for layer in layers[before:count]:
            for network in drawn.values():
                randomize_layer(network.get_submodule(layer), layer, seed)
        yield layers[count - 1].partition(".")[2], count, drawn


def _own(layer: nn.Module) -> dict[str, nn.Parameter]:
    return dict(layer.named_parameters(recurse=False))


@torch.no_grad()
def randomize_layer(layer: nn.Module, name: str, seed: int) -> None:
    """Turn a layer's own parameters into normal numbers of their own mean and spread, drawn for its name."""
    for own, parameter in _own(layer).items():
        draws = Draws([Key(seed, 0)], parameter.device).scoped("cascade")
        noise = draws.normal(f"{name}.{own}", parameter.shape)[0].to(parameter.dtype)
        parameter.copy_(parameter.mean() + parameter.std(unbiased=False) * noise)


def alike(ours: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return Spearman's correlation and SSIM of two maps ``(C, H, W)``: of their largest absolute values over the
    channels, each divided by its maximum. NaN where a value is not finite."""
    mine, its = (_unit(a.double().abs().amax(0)) for a in (ours, reference))
    if not bool(mine.isfinite().all()):
        return float("nan"), float("nan")
    return spearman(mine, its), ssim(mine.float()[None], its.float()[None])


def _unit(saliency: Tensor) -> Tensor:
    largest = saliency.max()
    return saliency if largest == 0 else saliency / largest
