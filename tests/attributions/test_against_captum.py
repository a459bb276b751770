"""Every method that Captum has too, elementwise in float64, and that the comparison is sharp."""

from __future__ import annotations

from collections.abc import Callable

import captum.attr
import pytest
import torch
from torch import Tensor

from lit_viz.attributions.base import Attribution, attribute
from lit_viz.attributions.gradient import Gradient, InputXGradient
from lit_viz.attributions.integrated_gradients import IntegratedGradients
from lit_viz.attributions.occlusion import Occlusion
from lit_viz.attributions.smoothgrad import SmoothGrad, SmoothGradSquared, VarGrad, noise
from lit_viz.objectives import Probability
from lit_viz.rng import Key
from tests.support.attributions import SMOOTH, TARGETS, Counted, distance, photographs

SEEDS = [11, 7, 5]
SAMPLES = 20


pytestmark = pytest.mark.usefixtures("exact_captum")


def our(method: Attribution, **options: object) -> Tensor:
    return attribute(method, Counted(SMOOTH), photographs(), TARGETS, seeds=SEEDS, **options)[0]


def saliency(x: Tensor, forward: Callable[[Tensor], Tensor] = SMOOTH, absolute: bool = False) -> Tensor:
    return captum.attr.Saliency(forward).attribute(x.requires_grad_(), TARGETS, abs=absolute).detach()


def noise_tunnel(kind: str, absolute: bool = False) -> Tensor:
    """Return Captum's result with our noise: it repeats each photograph, and the network is given them noisy."""
    x = photographs()
    rows = torch.cat([noise([Key(seed, k) for k in range(SAMPLES)], x, 0.15) for seed in SEEDS])
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(lambda x: SMOOTH(x + rows)))
    options = {"nt_type": kind, "nt_samples": SAMPLES, "stdevs": 0.0, "target": TARGETS, "abs": absolute}
    return tunnel.attribute(x.requires_grad_(), **options).detach()


def mean_colour(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True).expand_as(x)


def test_gradient() -> None:
    assert distance(our(Gradient()), saliency(photographs())) < 1e-12


def test_input_x_gradient() -> None:
    reference = captum.attr.InputXGradient(SMOOTH).attribute(photographs().requires_grad_(), TARGETS)
    assert distance(our(InputXGradient()), reference.detach()) < 1e-12


@pytest.mark.parametrize(
    ("method", "kind", "factor"),
    [
        (SmoothGrad(), "smoothgrad", 1),
        (SmoothGradSquared(), "smoothgrad_sq", 1),
        (VarGrad(), "vargrad", SAMPLES / (SAMPLES - 1)),
    ],
)
def test_gradient_under_the_same_noise(method: Attribution, kind: str, factor: float) -> None:
    assert distance(our(method, evaluations=SAMPLES), factor * noise_tunnel(kind)) < 1e-8


@pytest.mark.parametrize("baseline", ["black", "mean", 0.3])
def test_integrated_gradients(baseline: str | float) -> None:
    x = photographs()
    start = mean_colour(x) if baseline == "mean" else torch.full_like(x, 0.0 if baseline == "black" else 0.3)
    reference = captum.attr.IntegratedGradients(SMOOTH).attribute(x, start, TARGETS, n_steps=50)
    assert distance(our(IntegratedGradients(baseline)), reference) < 1e-12


@pytest.mark.parametrize(
    ("window", "stride"),
    [(4, 2), (5, 4), ((6, 3), (5, 3)), (14, None), ((17, 14), 1)],
    ids=["divides neither side", "cut windows", "oblong", "half of it", "one window"],
)
def test_occlusion(window: int, stride: int | None) -> None:
    x = photographs()
    method = Occlusion(window, stride)
    windows, strides = ((3, *sides) for sides in (method.windows, method.strides))
    occlusion = captum.attr.Occlusion(SMOOTH)
    reference = occlusion.attribute(x, windows, strides=strides, target=TARGETS, baselines=mean_colour(x))
    assert distance(our(method).expand_as(x), reference) < 1e-12


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: saliency(photographs(), absolute=True),
        lambda: saliency(photographs(), lambda x: torch.softmax(SMOOTH(x), 1)),
        lambda: saliency(2 * photographs() - 1),
        lambda: saliency(photographs()).flip(0),
    ],
    ids=["absolute", "softmax", "unnormalized", "another photograph"],
)
def test_a_wrong_gradient_is_detected(wrong: Callable[[], Tensor]) -> None:
    assert distance(our(Gradient()), wrong()) > 1e-3


def test_a_mean_of_absolute_gradients_is_detected() -> None:
    wrong = noise_tunnel("smoothgrad", absolute=True)
    assert distance(our(SmoothGrad(), evaluations=SAMPLES), wrong) > 1e-3
    assert distance(our(SmoothGrad(), evaluations=SAMPLES).abs(), wrong) > 1e-3


def test_a_biased_variance_is_detected() -> None:
    assert distance(our(VarGrad(), evaluations=SAMPLES), noise_tunnel("vargrad")) > 1e-2


def test_the_objective_is_explained() -> None:
    method = Gradient()
    method.objective = Probability()
    assert distance(our(method), saliency(photographs(), lambda x: torch.softmax(SMOOTH(x), 1))) < 1e-12
