"""Maps of networks with a closed form, and zeros where a network cannot look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_viz.attributions import ATTRIBUTIONS, FeatureAblation, Gradient, IntegratedGradients
from lit_viz.attributions.attention import AttentionMap
from scripts.rankings import closed_forms
from scripts.rankings.closed_forms import closed_form_errors, image, network_of, window

LINEAR = ["gradient", "smoothgrad", "smoothgrad_squared", "input_x_gradient", "integrated_gradients", "gradient_shap"]
LINEAR += ["expected_gradients", "deep_lift", "occlusion", "feature_ablation", "kernel_shap"]
LINEAR += ["shapley_interactions"]
QUADRATIC = ["gradient", "input_x_gradient", "integrated_gradients", "shapley_interactions"]
#: Methods whose maps are not zero beyond their reach: pooled weights, random masks, and masks of a given area.
UNBOUNDED = ["grad_cam", "grad_cam_plus_plus", "rise", "extremal_perturbation"]
APPLICABLE = [name for name, kind in ATTRIBUTIONS.items() if not issubclass(kind, AttentionMap)]


@pytest.mark.parametrize("name", APPLICABLE)
def test_maps_are_those_of_the_closed_form(name: str) -> None:
    errors = closed_form_errors(name, evaluations=32)
    assert ("linear" in errors, "quadratic" in errors) == (name in LINEAR, name in QUADRATIC)
    for form in errors.keys() & {"linear", "quadratic"}:
        assert errors[form] < 1e-12
    if name in UNBOUNDED:
        assert errors["outside"] > 0.1
    elif name == "kernel_shap":  # sampled coalitions
        assert errors["outside"] < 0.05
    elif name == "shapley_interactions":  # all coalitions, by a regression
        assert errors["outside"] < 1e-12
    else:
        assert errors["outside"] == 0


def changed(method: type, change: Callable[[Any, Tensor], Tensor]) -> Callable[..., Tensor]:
    original = method.attribution  # type: ignore[attr-defined]
    return lambda self, x, state: change(self, original(self, x, state))


@pytest.mark.parametrize(
    ("name", "kind", "change", "form"),
    [
        ("gradient", Gradient, lambda method, values: values.abs(), "linear"),
        ("integrated_gradients", IntegratedGradients, lambda method, values: 1.001 * values, "quadratic"),
        ("feature_ablation", FeatureAblation, lambda method, values: values.roll(1, -1), "linear"),
    ],
)
def test_errors_are_found(
    name: str, kind: type, change: Callable[[Any, Tensor], Tensor], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "attribution", changed(kind, change))
    assert closed_form_errors(name)[form] > 5e-4


def test_a_map_that_reaches_too_far_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_forms, "_reached", lambda method: window() & (torch.arange(12) > 4))
    assert closed_form_errors("gradient")["outside"] > 0.1


def test_the_window_is_what_the_network_reads() -> None:
    network, x = network_of("window"), image().float()
    inside = window()
    assert int(inside.sum()) == 16
    outside = torch.where(inside, x, 1 - x)
    assert torch.equal(network.scores(outside), network.scores(x))
    for row, column in inside.nonzero().tolist():
        nudged = x.clone()
        nudged[..., row, column] += 0.01
        assert not torch.equal(network.scores(nudged), network.scores(x))
