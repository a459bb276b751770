"""Guided backpropagation and deconvolution against Captum, elementwise in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18, squeezenet1_1

from lit_viz.attributions.base import attribute
from lit_viz.attributions.gradient import Deconvolution, Gradient, GuidedBackprop
from lit_viz.outputs import load_network
from tests.support.attributions import MEAN, STD, Normalized, made
from tests.support.marks import slow
from tests.support.networks import conv_net

pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU:UserWarning")

TARGETS = [3, 0]


def wide(net: nn.Module) -> nn.Module:
    """Let activations go beyond 6, so that ReLU6 caps some."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 8.0)
    return net


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda: wide(conv_net()), 16),
        slow(lambda: made(resnet18), 40),
        (lambda: made(squeezenet1_1), 40),
        slow(lambda: made(mobilenet_v2, width_mult=0.25), 40),
    ],
    ids=["relu6", "resnet18", "squeezenet", "mobilenet_v2"],
)
@pytest.mark.parametrize(
    ("method", "reference"),
    [(GuidedBackprop(), captum.attr.GuidedBackprop), (Deconvolution(), captum.attr.Deconvolution)],
)
def test_guided_methods_equal_captum(
    build: Callable[[], nn.Module], size: int, method: GuidedBackprop, reference: Any
) -> None:
    net = build()
    x = torch.rand(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    network = load_network(net.eval(), size=size, mean=MEAN, std=STD)
    expected = reference(Normalized(net)).attribute(x.clone().requires_grad_(), TARGETS).detach()
    (name,) = method.networks
    frozen = network.fast(dtype=torch.float64, backprop=name)  # type: ignore[arg-type]
    actual, uncertainty = attribute(method, frozen, x, TARGETS)
    assert uncertainty == {}
    assert (actual - expected).abs().max() <= 1e-8 * expected.abs().max()
    plain, _ = attribute(Gradient(), network.fast(dtype=torch.float64), x, TARGETS)
    assert (plain - expected).abs().max() > 0.1 * expected.abs().max()


def test_each_method_evaluates_its_own_copy_once() -> None:
    calls: list[str] = []
    frozen = load_network(conv_net(), size=16).fast(backprop="guided")

    def network(name: str) -> Any:
        return lambda x, layers=(): (calls.append(name), frozen(x, layers))[1]

    networks = {name: network(name) for name in ("plain", "guided", "deconvolution")}
    for method in (GuidedBackprop(), Deconvolution()):
        attribute(method, networks, torch.rand(2, 3, 16, 16), TARGETS, evaluations=3)
    assert calls == ["guided", "deconvolution"]
