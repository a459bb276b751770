"""Baselines, windows and objectives against Captum, elementwise in float64.

``tests/evidence/saliency/test_cross_check.py`` compares the defaults of every method that Captum has.
"""

from __future__ import annotations

from collections.abc import Iterator

import captum.attr
import pytest
import torch
from torch import Tensor

from lit_viz.attributions.base import Attribution, attribute
from lit_viz.attributions.gradient import Gradient
from lit_viz.attributions.integrated_gradients import IntegratedGradients
from lit_viz.attributions.occlusion import Occlusion
from lit_viz.objectives import Probability
from tests.support.attributions import SMOOTH, TARGETS, Counted, distance, photographs


@pytest.fixture(autouse=True)
def _exact_captum(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Captum rounds the weights of a quadrature, and the maps of its occlusion, to float32: keep them in float64."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def our(method: Attribution) -> Tensor:
    return attribute(method, Counted(SMOOTH), photographs(), TARGETS)[0]


def mean_colour(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True).expand_as(x)


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


def test_the_objective_is_explained() -> None:
    method = Gradient()
    method.objective = Probability()
    saliency = captum.attr.Saliency(lambda x: torch.softmax(SMOOTH(x), 1))
    reference = saliency.attribute(photographs().requires_grad_(), TARGETS, abs=False).detach()
    assert distance(our(method), reference) < 1e-12
