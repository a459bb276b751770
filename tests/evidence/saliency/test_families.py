"""Maps that are verified by their recorded terms, and maps without a method in Captum: correct ones pass, broken ones
fail the gate that is about the mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.attributions import (
    ATTRIBUTIONS,
    Attribution,
    GradientShap,
    IntegratedGradients,
    KernelShap,
    Occlusion,
    Sampling,
    SmoothGrad,
    base,
    smoothgrad,
)
from lit_viz.attributions.baselines import Baseline
from lit_viz.attributions.extremal_perturbation import perturbed, pyramid
from lit_viz.evidence.saliency import captum_reference
from lit_viz.evidence.saliency.cross_check import cross_check
from lit_viz.networks import Network
from lit_viz.runs.evidence import MEAN_OF_IMAGES, NOT_IN_CAPTUM, ORIGINAL, SCALAR_TERMS, WHOLE_MAP, MapAgreement
from lit_viz.runs.memory import MemoryOutcome
from tests.support.attributions import MASK
from tests.support.marks import slow
from tests.support.networks import NAMES, Attending, rectified
from tests.support.verdicts import captum, reasons

IMAGES = (torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(7)) * 255).round() / 255
#: Options and evaluations of the methods with recorded terms.
OPTIONS: dict[str, dict[str, Any]] = {
    "smoothgrad": {},
    "smoothgrad_squared": {},
    "integrated_gradients": {"baseline": "mean"},
    "gradient_shap": {"sigma": 0.1},
    "expected_gradients": {"baseline": IMAGES},
    "occlusion": {"window": (6, 5), "stride": 4},
    "feature_ablation": {"segments": MASK},
    "kernel_shap": {"segments": MASK},
    "rise": {"grid": 4},
}
COUNT = 60


def explained(network: Network, method: Attribution, captum: str = "captum", **options: Any) -> Any:
    return lv.saliency(network, IMAGES[:1], target=2, method=method, iterations=COUNT, captum=captum, **options)


def agreement_of(run: Any) -> MapAgreement:
    (agreement,) = captum(run).maps
    return agreement


@pytest.mark.parametrize("network", [slow("smooth"), "rectified"])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_correct_map_passes(name: str, network: str, smooth: Network) -> None:
    classifier = smooth if network == "smooth" else rectified()
    run = explained(classifier, ATTRIBUTIONS[name](**OPTIONS[name]))
    agreement = agreement_of(run)
    assert agreement.passed
    assert agreement.sum is not None
    assert agreement.sum.difference is not None
    assert agreement.sum.difference < 2e-6
    assert agreement.recomputed == 8
    assert agreement.terms == run.records[0]["iterations"]
    assert agreement.family == (SCALAR_TERMS if ATTRIBUTIONS[name]().spatial else MEAN_OF_IMAGES)
    assert agreement.reference == (ORIGINAL if name == "rise" else "Captum")
    assert (agreement.formula, agreement.similarity) == (None, None)
    assert set(agreement.controls) == {"another class", "randomized network", "random map"}
    for control in agreement.controls.values():
        assert control.difference is not None
        assert control.difference > 0.05


def test_whole_maps_are_compared_after_the_run(smooth: Network, tmp_path: Path) -> None:
    run = explained(smooth, SmoothGrad(), out=tmp_path / "run", wandb="disabled")
    assert agreement_of(run).family == MEAN_OF_IMAGES
    assert (tmp_path / "run" / "arrays" / "0000_image_0.terms.npy").exists()
    lv.check(tmp_path / "run", smooth)
    agreement = agreement_of(tmp_path / "run")
    assert agreement.passed
    assert (agreement.family, agreement.terms) == (WHOLE_MAP, None)


def test_maps_that_are_no_sum_of_terms_are_compared_as_a_whole(smooth: Network) -> None:
    for options in ({"method": ATTRIBUTIONS["vargrad"]()}, {"method": IntegratedGradients(), "tolerance": 1e-3}):
        agreement = agreement_of(explained(smooth, **options))
        assert agreement.passed
        assert agreement.family == WHOLE_MAP


@pytest.mark.parametrize("name", ["grad_cam_plus_plus", "layer_cam", "hires_cam"])
def test_methods_that_captum_lacks_are_computed_by_the_original_network(name: str, smooth: Network) -> None:
    agreement = agreement_of(explained(smooth, ATTRIBUTIONS[name]()))
    assert agreement.passed
    assert (agreement.family, agreement.reference) == (WHOLE_MAP, ORIGINAL)


@pytest.mark.parametrize("name", ["attention_rollout", "attention_gradient", "legrad"])
def test_attention_maps_are_computed_by_the_original_network(name: str) -> None:
    network = lv.load_network(Attending(), labels=NAMES, mean=0.5, std=0.25, size=(16, 24))
    x = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    run = lv.saliency(network, x, target=2, method=name, captum="captum")
    agreement = agreement_of(run)
    assert agreement.passed
    assert (agreement.family, agreement.reference) == (WHOLE_MAP, ORIGINAL)


def test_area_and_score_of_an_optimized_mask_are_stated(smooth: Network) -> None:
    method = ATTRIBUTIONS["extremal_perturbation"](area=0.3, sigma=2.0, cell=2, blur=3.0)
    run = explained(smooth, method)
    assert reasons(run) == [NOT_IN_CAPTUM]
    (mask,) = captum(run).masks or ()
    assert mask.area == pytest.approx(0.3, abs=0.01)
    map_ = run.outcomes[0].array()
    assert map_ is not None
    masked = perturbed(pyramid(IMAGES[:1], 3.0, 4), map_[None])
    scores = smooth.scores(torch.cat([masked, IMAGES[:1]])).log_softmax(1)[:, 2]
    assert (mask.score, mask.score_of_photograph) == pytest.approx(scores.tolist(), abs=1e-4)
    (item,) = run.presentation.part_items(run.evidence)
    assert item.text == "No map was compared with Captum; 1 not in Captum."
    assert "a mask of 30.0% of the image" in item.notes[-1]


def other_noise(keys: Any, x: Tensor, sigma: float) -> Tensor:
    return captum_reference.noise(keys, x, 1.3 * sigma)


def one_term_less(mean: Tensor, slots: Tensor, numbers: Tensor, rows: Tensor, skipped: int = 0) -> Any:
    return WELFORD(mean, slots, numbers, rows * (numbers != 5).view(-1, 1, 1, 1), skipped)


WELFORD = base.welford_update
MEAN, SAMPLES, PARTIAL = Sampling.attribution, GradientShap.samples, IntegratedGradients.attribution
LOSSES, VALUES = Occlusion.attribution, KernelShap.attribution

#: What is replaced by what, and the gate that fails.
MISTAKES: dict[str, tuple[str, Any, str, Callable[..., Any], str]] = {
    "a term: other noise": ("smoothgrad", smoothgrad, "noise", other_noise, "terms"),
    "a term: another baseline": ("occlusion", Baseline, "__call__", lambda self, x, seeds: 0 * x, "terms"),
    "a sum: one term less": ("smoothgrad", base, "welford_update", one_term_less, "sum"),
    "a sum: another divisor": (
        "smoothgrad_squared", Sampling, "attribution", lambda *given: MEAN(*given) * COUNT / (COUNT - 1), "sum"
    ),
    "a sum: another divisor of scores": (
        "rise", Sampling, "attribution", lambda *given: MEAN(*given) * COUNT / (COUNT - 1), "sum"
    ),
    "a sign: of terms": ("gradient_shap", GradientShap, "samples", lambda *given: -SAMPLES(*given), "terms"),
    "a sign: of a sum": ("integrated_gradients", IntegratedGradients, "attribution", lambda *g: -PARTIAL(*g), "sum"),
    "a sign: of scores": ("occlusion", Occlusion, "attribution", lambda *given: -LOSSES(*given), "sum"),
    "a reduction: absolute values": ("smoothgrad", Sampling, "attribution", lambda *g: MEAN(*g).abs(), "sum"),
    "a reduction: mirrored": ("gradient_shap", Sampling, "attribution", lambda *g: MEAN(*g).flip(-1), "sum"),
    "a reduction: mean over channels": (
        "smoothgrad", Sampling, "attribution", lambda *g: MEAN(*g).mean(1, keepdim=True).expand(-1, 3, -1, -1), "sum"
    ),
    "a reduction: other superpixels": (
        "kernel_shap", KernelShap, "attribution", lambda *given: VALUES(*given).flip(-1), "sum"
    ),
    "one pixel": (
        "smoothgrad", Sampling, "attribution", lambda *g: MEAN(*g) + 1e-3 * torch.eye(16)[3] * torch.eye(16), "sum"
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_broken_map_fails(mistake: str, smooth: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    name, owner, attribute, wrong, gate = MISTAKES[mistake]
    method = ATTRIBUTIONS[name](**OPTIONS[name])
    monkeypatch.setattr(owner, attribute, wrong)
    run = explained(smooth, method, captum="none")
    monkeypatch.undo()
    method.bind(smooth)
    agreement = checked(run, {name: method}, smooth)
    assert not agreement.passed
    assert agreement.sum is not None
    assert agreement.sum.passed == (gate != "sum")
    assert agreement.delivered.passed == (gate != "terms")


def checked(run: Any, methods: dict[str, Attribution], network: Network) -> MapAgreement:
    """Compare the map of a run as at its end."""
    found, _ = cross_check(run.outcomes, methods, network, seconds=100.0)
    assert not found.unchecked
    (agreement,) = found.maps
    return agreement


def test_a_record_of_another_length_is_a_reason(smooth: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryOutcome, "terms", lambda self: torch.zeros(3, 4))
    run = explained(smooth, SmoothGrad())
    assert reasons(run) == ["not checked, since the record of a map must have 60 terms, got 3"]
