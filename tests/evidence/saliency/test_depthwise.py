"""Depthwise convolutions of the references: PyTorch's own in float64, up to the order of the sum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.evidence.saliency import depthwise
from lit_viz.evidence.saliency.depthwise import FastDepthwise
from tests.support.verdicts import verdicts

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "strided without a rest": {"kernel_size": 2, "stride": 2},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "of other sides": {"kernel_size": (5, 2), "stride": (1, 3), "padding": (2, 0), "dilation": (1, 2)},
    "without a bias": {"kernel_size": 5, "padding": 2, "bias": False},
}


def convolution(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(6, 6, groups=6, **options).double().requires_grad_(False)


def images(**options: Any) -> Tensor:
    return torch.randn(2, 6, 11, 14, dtype=torch.float64).to(**options).requires_grad_()


def is_shifted(y: Tensor) -> bool:
    """Return whether the output, with a bias or without, was computed from shifted images."""
    assert y.grad_fn is not None
    return "_Shifted" in str(y.grad_fn) + str(y.grad_fn.next_functions)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", OPTIONS)
def test_output_and_gradient_are_those_of_pytorch(name: str, layout: torch.memory_format) -> None:
    layer, x = convolution(**OPTIONS[name]), images(memory_format=layout)
    expected = layer(x)
    with FastDepthwise():
        y = layer(x)
    assert is_shifted(y)
    torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)
    weights = torch.randn_like(y)
    gradients = [torch.autograd.grad((value * weights).sum(), x)[0] for value in (y, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (convolution(kernel_size=3).float(), images(dtype=torch.float32)),
        (convolution(kernel_size=3, padding="same"), images()),
        (convolution(kernel_size=3).requires_grad_(), images()),
        (nn.Conv2d(6, 6, 3, groups=3).double().requires_grad_(False), images()),
        (nn.Conv2d(6, 12, 3, groups=6).double().requires_grad_(False), images()),
        (nn.Conv2d(6, 6, 3).double().requires_grad_(False), images()),
    ],
    ids=["float32", "same", "with gradients of weights", "groups", "two outputs of a channel", "dense"],
)
def test_others_remain_pytorchs(layer: nn.Conv2d, x: Tensor) -> None:
    with FastDepthwise():
        y = layer(x)
    assert not is_shifted(y)
    assert torch.equal(y, layer(x))


@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "smoothgrad", "occlusion", "grad_cam"])
def test_references_compute_them(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    computed, own = list[bool](), depthwise._depthwise

    def counted(*args: Any, **kwargs: Any) -> Tensor | None:
        result = own(*args, **kwargs)
        computed.append(result is not None)
        return result

    monkeypatch.setattr(depthwise, "_depthwise", counted)
    parts = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6), nn.ReLU()]
    network = nn.Sequential(*parts, nn.Conv2d(6, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = lv.load_network(network.eval(), size=16, mean=0.5, std=0.5)
    run = lv.saliency(classifier, torch.rand(2, 3, 16, 16), target=2, method=method, iterations=12, captum="captum")
    assert verdicts(run) == [True, True]
    assert any(computed)
