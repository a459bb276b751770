"""Gradients that underflow in float16 equal those of float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_viz.networks import Network
from lit_viz.outputs import load_network
from tests.support.marks import slow
from tests.support.networks import Around, smooth_network


def gradient(network: Network, dtype: torch.dtype, weights: Tensor) -> Tensor:
    x = torch.rand(len(weights), 3, *network.size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits, _ = network.fast(dtype=dtype)(x)
    assert logits.dtype == torch.float32
    (scaled_gradient,) = torch.autograd.grad((weights * logits[:, 1]).sum(), x)
    assert scaled_gradient.dtype == torch.float32
    return scaled_gradient


@pytest.mark.parametrize("network", ["smooth", slow("lite0")])
def test_small_gradients_survive_float16(network: str, request: pytest.FixtureRequest) -> None:
    """Rows of different magnitudes, one of them zero; unscaled, the small ones are zero or noise."""
    classifier = request.getfixturevalue(network)
    weights = torch.tensor([1.0, 1e-5, 1e-20, 0.0])
    half, exact = (gradient(classifier, dtype, weights) for dtype in (torch.float16, torch.float32))
    assert not half[3].any()
    for half_row, exact_row in zip(half[:3], exact[:3], strict=True):
        value, expected = half_row.flatten().double(), exact_row.flatten().double()
        assert float(value @ expected / (value.norm() * expected.norm())) > 0.98  # the network itself rounds
        assert float(value.norm()) == pytest.approx(float(expected.norm()), rel=0.05)


def test_subnormal_gradients_stay_finite(smooth: Network) -> None:
    """Below the normal numbers of float32."""
    scaled_gradient = gradient(smooth, torch.float16, torch.tensor([1e-40, 1e-44, 1.0]))
    assert scaled_gradient.isfinite().all()
    assert scaled_gradient[2].any()


def test_a_float16_network_may_return_float32_logits() -> None:
    full = Around(smooth_network(), lambda net, x: net(x).float())
    scaled_gradient = gradient(load_network(full, size=16), torch.float16, torch.tensor([1.0, 1e-8]))
    exact = gradient(load_network(smooth_network(), size=16), torch.float32, torch.tensor([1.0, 1e-8]))
    torch.testing.assert_close(
        scaled_gradient[1] * 1e8, exact[1] * 1e8, rtol=0.1, atol=0.01 * float(exact[1].abs().max()) * 1e8
    )


def test_each_gradient_of_one_forward_has_its_own_scale(smooth: Network) -> None:
    x = torch.rand(2, 3, *smooth.size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits, _ = smooth.fast(dtype=torch.float16)(x)
    large, small = (
        torch.autograd.grad(weight * logits[:, 0].sum(), x, retain_graph=True)[0] for weight in (1.0, 2.0**-30)
    )
    torch.testing.assert_close(small * 2.0**30, large, rtol=1e-3, atol=0)
