from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lit_viz.networks.fast.convolution import FastConvolution
from lit_viz.networks.fast.kernels import Geometry, Kernel, kernels_available

pytestmark = pytest.mark.skipif(not kernels_available(), reason="this build of torch has no fused kernel")


class Layouts(TorchDispatchMode):
    """Counts how often weights are laid out, and how often a convolution is given what was."""

    def __init__(self) -> None:
        super().__init__()
        self.made = self.used = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.made += name == "_reorder_convolution_weight"
        self.used += name == "_convolution_pointwise" and args[1].is_mkldnn
        return func(*args, **(kwargs or {}))


def fast(**options: Any) -> FastConvolution:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FastConvolution(nn.Conv2d(8, 6, 3, **options).requires_grad_(False))


def image(images: int, side: int) -> Tensor:
    x = torch.randn(images, 8, side, side, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def test_weights_are_reordered_once_per_repeated_shape() -> None:
    conv, x = fast(), image(2, 9)
    with Layouts() as layouts:
        first = conv(x)
        assert (layouts.made, layouts.used) == (0, 0)
        assert torch.equal(conv(x), first)
        assert torch.equal(conv(x), first)
        assert (layouts.made, layouts.used) == (1, 2)
        assert torch.allclose(conv(x[:1]), first[:1], atol=1e-6)
        assert (layouts.made, layouts.used) == (1, 2)


def test_another_number_of_threads_needs_another_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = fast(), image(2, 9)
    conv(x), conv(x)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    with Layouts() as layouts:
        conv(x)
    assert layouts.used == 0


def test_changed_weights_are_reordered_again() -> None:
    conv, x = fast(bias=False), image(2, 9)
    first = [conv(x) for _ in range(3)][-1]
    conv.weight.mul_(2)
    assert torch.allclose(conv(x), 2 * first, atol=1e-5)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda conv: pickle.loads(pickle.dumps(conv))])
def test_a_convolution_that_has_run_is_copied_and_pickled(duplicate: Any) -> None:
    conv, x = fast(), image(2, 9)
    y = [conv(x) for _ in range(3)][-1]
    other = duplicate(conv)
    assert torch.equal(other(x), y)
    assert torch.equal(other(x), y)
    assert list(other.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("padding", "dilation"), [((0, 0), (1, 1)), ((1, 0), (2, 1))])
def test_the_transposed_kernel_is_the_adjoint_and_twice_transposed_the_same(
    groups: int, padding: tuple[int, int], dilation: tuple[int, int]
) -> None:
    kernel = Kernel(fast(groups=groups).weight, None, Geometry((1, 1), padding, dilation, groups))
    x = image(2, 9)
    y = torch.randn_like(kernel(x))
    back = kernel.transposed
    assert back is not None
    assert torch.allclose((kernel(x) * y).sum(), (x * back(y)).sum(), rtol=1e-4, atol=1e-4)
    again = back.transposed
    assert again is not None
    assert torch.equal(again.weight, kernel.weight)
    assert again.geometry == kernel.geometry


@pytest.mark.parametrize("geometry", [Geometry((1, 2), (0, 0), (1, 1), 1), Geometry((1, 1), (0, 3), (1, 1), 1)])
def test_strided_and_overpadded_kernels_have_no_transposed_kernel(geometry: Geometry) -> None:
    assert Kernel(fast().weight, None, geometry).transposed is None


def test_the_gradient_can_be_differentiated_after_a_first_call_in_inference_mode() -> None:
    conv, x = fast(stride=2), image(1, 9)
    with torch.inference_mode():
        conv(x)
    x.requires_grad_()
    (first_gradient,) = torch.autograd.grad(conv(x).pow(3).sum(), x, create_graph=True)
    torch.autograd.grad(first_gradient.square().sum(), x)
