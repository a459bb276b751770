"""Maps of networks with a closed form, and zeros where a network cannot look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tests.support.closed_forms as closed_forms
from lit_viz.attributions import ATTRIBUTIONS, FeatureAblation, Gradient, IntegratedGradients
from lit_viz.attributions.attention import AttentionMap
from tests.support.closed_forms import (
    UNITS,
    closed_form_errors,
    image,
    network_of,
    unit_errors,
    unit_network,
    window,
)

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


#: Differences of maps from the Shapley values of the units, by the definitions of the methods; None: nothing is shown.
INTERACTION = {"gradient": 0.5, "input_x_gradient": 0, "integrated_gradients": 0, "deep_lift": 0, "grad_cam": 0.5}
INTERACTION |= {"hires_cam": 0, "occlusion": 0, "feature_ablation": 0, "kernel_shap": 0, "expected_gradients": 0}
CANCELLATION = {"gradient": None, "input_x_gradient": None, "integrated_gradients": None, "deep_lift": None}
CANCELLATION |= {"occlusion": 1, "feature_ablation": 1, "kernel_shap": 0, "gradient_shap": None, "libra_gradient": None}
SATURATION = {"gradient": None, "input_x_gradient": None, "integrated_gradients": 0, "deep_lift": 0, "gradient_shap": 0}
SATURATION |= {"occlusion": None, "feature_ablation": None, "kernel_shap": 0, "hires_cam": None, "smoothgrad": None}
EXPECTED = {"interaction": INTERACTION, "cancellation": CANCELLATION, "saturation": SATURATION}


@pytest.mark.parametrize("name", sorted({*INTERACTION, *CANCELLATION, *SATURATION}))
def test_units_of_two_pixels(name: str) -> None:
    errors = unit_errors(name)
    for unit, of_methods in EXPECTED.items():
        if name not in of_methods:
            continue
        expected = of_methods[name]
        if expected is None:
            assert errors[unit] is None
        else:
            assert errors[unit] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", UNITS)
def test_shapley_values_of_units_are_means_over_both_orders(name: str) -> None:
    unit, place = UNITS[name], closed_forms._PAIR

    def score(*visible: int) -> float:
        x = torch.zeros(1, 1, 12, 12)
        for index in visible:
            row, column = place[index]
            x[0, 0, row, column] = unit.pixels[index]
        return float(unit_network(name).scores(x)[0, 1])

    first = (score(0) - score() + score(0, 1) - score(1)) / 2
    second = (score(1) - score() + score(0, 1) - score(0)) / 2
    assert (first, second) == pytest.approx(unit.shapley, abs=1e-6)


def test_methods_that_do_not_apply_to_a_unit_have_no_error() -> None:
    assert "interaction" not in unit_errors("guided_backprop")
    assert unit_errors("legrad") == {}
