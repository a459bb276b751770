from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.std_conv import StdConv2d
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lit_viz.networks.fast.folding import FrozenBatchNorm, Link, fold_batch_norms, foldable_pairs, freeze_batch_norms
from lit_viz.outputs import load_network
from tests.support.networks import Residual, conv_net, trained


def folded_and_plain(net: nn.Module, side: int = 16, keep: tuple[str, ...] = ()) -> tuple[int, float]:
    """Fold a float64 copy; return the number of pairs and the relative difference of the outputs."""
    x = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    folded = copy.deepcopy(net).double().eval()
    with torch.no_grad():
        expected = folded(x)
        pairs = foldable_pairs(folded, x, keep)
        fold_batch_norms(folded, pairs)
        difference = (folded(x) - expected).abs().max() / expected.abs().max()
    return len(pairs), difference.item()


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (conv_net(), 2),
        (trained(Residual()), 2),
        (nn.Sequential(nn.Conv2d(3, 4, 3), trained(nn.BatchNorm2d(4, affine=False))), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), trained(nn.BatchNorm2d(4))), 1),
    ],
)
def test_folding_is_exact(net: nn.Module, count: int) -> None:
    assert folded_and_plain(net) == (count, pytest.approx(0, abs=1e-13))


def test_batch_norm_with_activation_of_timm_keeps_activation_and_names() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = trained(timm.create_model("test_efficientnet")).double()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    names = {name for name, _ in net.named_modules()}
    with torch.no_grad():
        expected = net(x)
        pairs = foldable_pairs(net, x, ())
        assert len(pairs) == sum(name.endswith(("bn1", "bn2", "bn3")) for name in names)
        fold_batch_norms(net, pairs)
        assert (net(x) - expected).abs().max() < 1e-11 * expected.abs().max()
    assert {name for name, _ in net.named_modules()} == names


@pytest.mark.parametrize("keep", ["0", "1"])
def test_neither_a_kept_layer_nor_its_partner_is_folded(keep: str) -> None:
    net, x = conv_net().double(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    pairs = foldable_pairs(net, x, (keep,))
    fold_batch_norms(net, pairs)
    assert pairs == [Link("3", "4")]
    assert torch.equal(net[0].weight, conv_net().double()[0].weight)
    assert isinstance(net[1], nn.BatchNorm2d)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(StdConv2d(3, 4, 3), nn.BatchNorm2d(4)),  # computes something else from its weight
        nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),  # statistics of the batch
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
    ],
)
def test_other_pairs_are_not_folded(net: nn.Module) -> None:
    assert folded_and_plain(net) == (0, 0)


def test_a_batch_norm_that_is_called_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), trained(nn.BatchNorm2d(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(torch.tanh(self.norm(self.conv(x))))

    assert folded_and_plain(Twice()) == (0, 0)


def test_a_parameter_shared_with_another_layer_is_not_changed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), trained(nn.BatchNorm2d(3)), nn.Conv2d(3, 3, 1)).double()
    net[2].weight = net[0].weight
    assert folded_and_plain(net)[1] < 1e-13


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False), BatchNormAct2d(8, act_layer=nn.ReLU6, drop_layer=nn.Dropout)],
    ids=["plain", "not affine", "timm's"],
)
def test_a_frozen_batch_norm_has_equal_values_and_gradient(norm: nn.BatchNorm2d) -> None:
    net = trained(nn.Sequential(norm)).double()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.randn(2, 8, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = net(x)
    (exact_gradient,) = torch.autograd.grad(expected, x, weights)
    names = [name for name, _ in net.named_modules()]
    freeze_batch_norms(net)
    assert isinstance(net[0], FrozenBatchNorm)
    assert [name for name, _ in net.named_modules()] == names
    y = net(x)
    assert torch.allclose(y, expected, rtol=0, atol=1e-12)
    assert torch.allclose(torch.autograd.grad(y, x, weights)[0], exact_gradient, rtol=0, atol=1e-12)


def test_a_batch_norm_without_running_statistics_is_not_frozen() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).eval()
    freeze_batch_norms(net)
    assert isinstance(net[0], nn.BatchNorm2d)


def test_the_norms_of_a_fast_copy_that_are_kept_are_frozen() -> None:
    net = load_network(conv_net(), labels=list("abcde"), mean=[0.5] * 3, std=[0.25] * 3, size=16)
    kept = net.fast(keep=["1", "4"])
    assert sum(isinstance(m, FrozenBatchNorm) for m in kept.modules()) == 2
