from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lit_viz.networks import Network
from lit_viz.networks.fast.kernels import FastLinear, kernels_available, replace_linears

pytestmark = pytest.mark.skipif(not kernels_available(), reason="this build of torch has no kernels of oneDNN")
VERSION = tuple(map(int, torch.__version__.split(".")[:2]))


def layer(bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(70, 33, bias=bias).requires_grad_(False)


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, 70, generator=torch.Generator().manual_seed(1)).requires_grad_()


def gradient(linear: nn.Module, x: Tensor, *, create_graph: bool = False) -> Tensor:
    return torch.autograd.grad(linear(x).pow(3).sum(), x, create_graph=create_graph)[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (5,), (16,), (2, 7), (1, 1), (2, 3, 4)])
def test_value_and_both_gradients_are_those_of_the_layer_in_float64(shape: tuple[int, ...], bias: bool) -> None:
    linear = layer(bias)
    fast, plain, x = FastLinear(linear), copy.deepcopy(linear).double(), rows(*shape)
    exact = x.detach().double().requires_grad_()
    assert torch.allclose(fast(x).double(), plain(exact), atol=1e-5)
    assert fast(x).shape == (*shape, 33)
    assert torch.allclose(gradient(fast, x).double(), gradient(plain, exact), rtol=1e-4, atol=1e-5)
    second = [
        torch.autograd.grad(gradient(net, at, create_graph=True).square().sum(), at)[0]
        for net, at in ((fast, x), (plain, exact))
    ]
    assert torch.allclose(second[0].double(), second[1], rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(VERSION < (2, 13), reason="with PyTorch 2.10 and older, oneDNN rounds by the number of rows")
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8, 15])
def test_a_row_is_the_same_in_every_batch(count: int) -> None:
    fast, x = FastLinear(layer()), rows(16)
    some = x[:count].detach().requires_grad_()
    assert torch.equal(fast(some), fast(x)[:count])
    assert torch.equal(gradient(fast, some), gradient(fast, x)[:count])


def test_a_slice_of_tokens_is_accepted() -> None:
    linear = layer()
    tokens = rows(4, 6)[:, 0]
    assert not tokens.is_contiguous()
    assert torch.allclose(FastLinear(linear)(tokens), linear(tokens), atol=1e-5)


def test_float64_autocast_and_empty_batches_use_torch() -> None:
    linear = layer()
    fast = FastLinear(linear)
    assert fast.double()(rows(3).double()).dtype == torch.float64
    fast.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(rows(3)).dtype == torch.bfloat16
    assert fast(rows(0)).shape == (0, 33)


def test_only_plain_linear_layers_are_replaced_and_keep_their_names() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    network = nn.Sequential(layer(), Doubled(33, 4), parametrizations.weight_norm(nn.Linear(4, 4)))
    names = [name for name, _ in network.named_modules()]
    replace_linears(network)
    assert type(network[0]) is FastLinear
    assert [name for name, _ in network.named_modules()] == names


def test_an_image_is_the_same_in_every_batch_and_on_any_number_of_threads(lite0: Network) -> None:
    """So slots and processes change no bit of a result; torch's own layers do (see the docstring of the module)."""
    fast, threads = lite0.fast(), torch.get_num_threads()
    images = torch.rand(5, 3, 128, 128, generator=torch.Generator().manual_seed(2))

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        logits, _ = fast(x)
        return logits.detach(), torch.autograd.grad(logits[:, 7].sum(), x)[0]

    try:
        logits, gradients = evaluate(images)
        for count, on in ((1, threads), (2, threads), (3, threads), (5, 1), (1, 1)):
            torch.set_num_threads(on)
            for _ in range(2):  # later calls find the weights laid out
                few, row_gradients = evaluate(images[:count])
                assert torch.equal(few, logits[:count]), (count, on)
                assert torch.equal(row_gradients, gradients[:count]), (count, on)
    finally:
        torch.set_num_threads(threads)
