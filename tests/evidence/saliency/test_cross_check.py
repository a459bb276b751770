"""The gates pass correct maps and reject common mistakes; time limit, order and messages of the cross-check."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lit_viz as lv
from lit_viz.attributions import (
    ATTRIBUTIONS,
    RISE,
    Attribution,
    ExtremalPerturbation,
    Gradient,
    IntegratedGradients,
    SmoothGrad,
    VarGrad,
    attribute,
)
from lit_viz.attributions.smoothgrad import noise
from lit_viz.errors import LitVizError
from lit_viz.evidence import saliency_map
from lit_viz.evidence.saliency import cross_check as module
from lit_viz.evidence.saliency import families
from lit_viz.evidence.saliency.agreement import largest_difference, similarity_of
from lit_viz.evidence.saliency.captum_reference import CaptumReference, counterpart_of
from lit_viz.evidence.saliency.cross_check import cross_check
from lit_viz.evidence.saliency.families import check_map
from lit_viz.evidence.saliency.metrics import random_map
from lit_viz.evidence.saliency.network_copies import OriginalNetwork
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.presentations.saliency_map import SaliencyMapPresentation
from lit_viz.rng import Key
from lit_viz.runs.evidence import NOT_CHECKED, NOT_IN_CAPTUM, SaliencyEvidence
from lit_viz.runs.records import SaliencyRecord
from lit_viz.utils.limits import MOST_ROWS
from tests.support.attributions import MASK
from tests.support.marks import slow
from tests.support.networks import NAMES, Around, rectified, smooth_network
from tests.support.verdicts import reasons

SEED, TARGET = 5, 2


def photograph() -> Tensor:
    return (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(4)) * 255).round() / 255


def made(name: str) -> Attribution:
    options: dict[str, dict[str, Any]] = {"occlusion": {"window": 6}, "gradient_shap": {"sigma": 0.1}}
    options |= {key: {"segments": MASK} for key in ("feature_ablation", "kernel_shap")}
    return ATTRIBUTIONS[name](**options.get(name, {}))


def compared(method: Attribution, network: Network, x: Tensor, values: Tensor, count: int) -> Any:
    reference = CaptumReference(method, network, x[None].double(), TARGET, SEED, count)
    return check_map(reference, values, outcome(0, "any", count).record).with_formula().with_controls().agreement


def delivered(method: Attribution, network: Network, count: int) -> Tensor:
    networks = {name: network.fast(method.layers if name == "plain" else (), backprop=name) for name in method.networks}
    maps, _ = attribute(method, networks, photograph()[None], [TARGET], evaluations=count, seeds=[SEED])
    return maps[0]


def checked(name: str, network: Network, change: Callable[[Tensor], Tensor] = lambda m: m) -> Any:
    method = made(name)
    method.bind(network)
    count = 60 if name == "kernel_shap" else method.evaluations if method.fixed else 16
    return compared(method, network, photograph(), change(delivered(method, network, count)), count)


def is_of_captum(method: Attribution) -> bool:
    counterpart = counterpart_of(method)
    return counterpart is not None and counterpart.name != ""


OF_CAPTUM = [name for name, kind in ATTRIBUTIONS.items() if is_of_captum(kind())]


@pytest.mark.parametrize("kind", [slow(nn.ReLU), nn.ReLU6])
@pytest.mark.parametrize("name", OF_CAPTUM)
def test_every_method_of_captum_passes_both_gates(name: str, kind: type[nn.Module]) -> None:
    agreement = checked(name, rectified(kind))
    assert agreement.formula.passed
    assert agreement.formula.allowed == 1e-8 or name in ("integrated_gradients", "occlusion")  # Captum's are in float32
    assert agreement.passed
    assert agreement.similarity.spearman > 0.999
    assert set(agreement.controls) == {"another class", "randomized network", "random map"}
    assert all(control.difference > 1e-3 for control in agreement.controls.values())


def test_one_copy_of_the_network_and_controls_of_one_map_per_method(
    monkeypatch: pytest.MonkeyPatch, smooth: Network
) -> None:
    copied: list[torch.dtype] = []
    original = OriginalNetwork._copied

    def copy(self: OriginalNetwork, network: Network, dtype: torch.dtype) -> nn.Module:
        copied.append(dtype)
        return original(self, network, dtype)

    monkeypatch.setattr(OriginalNetwork, "_copied", copy)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    run = lv.saliency(smooth, images, target=2, method=["gradient", "smoothgrad"], iterations=4, captum="captum")
    assert run.evidence.captum is not None
    agreements = run.evidence.captum.maps
    assert all(agreement.passed for agreement in agreements)
    controls = {(agreement.name, agreement.method): len(agreement.controls) for agreement in agreements}
    assert sorted(controls.values()) == [0, 0, 3, 3]
    of_gradient = [agreement.formula for agreement in agreements if agreement.method == "gradient"]
    assert sorted(formula is None for formula in of_gradient) == [False, True]
    assert copied.count(torch.float64) == 1
    assert copied.count(torch.float32) == 2  # trained and randomized; none with rounding errors


class Renamed(Gradient):
    evaluations = 3

    def about(self) -> dict[str, Any]:
        return {"note": "mine"}


class Absolute(Gradient):
    def attribution(self, x: Tensor, state: dict[str, Tensor]) -> Tensor:
        return super().attribution(x, state).abs()


class Tripled(IntegratedGradients):
    def nodes(self, evaluations: int) -> int:
        return 3 * super().nodes(evaluations)


def test_a_subclass_without_another_computation_counts_as_its_base(smooth: Network) -> None:
    values = delivered(Gradient(), smooth, 1)
    assert counterpart_of(Renamed()) is counterpart_of(Gradient())
    assert compared(Renamed(), smooth, photograph(), values, 1).passed
    for method in (Absolute(), Tripled(), RISE()):
        assert not is_of_captum(method)


def gradient(network: Callable[[Tensor], Tensor], x: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(score(network(x)), x)[0].detach()


def in_train_mode(smooth: Network) -> Tensor:
    network = smooth_network().train()
    batch = torch.stack([photograph(), photograph().flip(-1)])
    return gradient(lambda x: network(smooth.normalize(x)), batch, lambda z: z[0, TARGET])[0]


MISTAKES: dict[str, Callable[[Network], Tensor]] = {
    "softmax instead of logit": lambda c: gradient(
        lambda x: c.original(c.normalize(x)), photograph()[None], lambda z: z.softmax(1)[0, TARGET]
    )[0],
    "wrong class": lambda c: gradient(
        lambda x: c.original(c.normalize(x)), photograph()[None], lambda z: z[0, TARGET + 1]
    )[0],
    "unnormalized input": lambda c: gradient(c.original, photograph()[None], lambda z: z[0, TARGET])[0],
    "train mode": in_train_mode,
    "absolute value": lambda c: delivered(Gradient(), c, 1).abs(),
    "sum over the channels": lambda c: delivered(Gradient(), c, 1).sum(0, keepdim=True).expand(3, -1, -1),
    "largest over the channels": lambda c: delivered(Gradient(), c, 1).abs().amax(0, keepdim=True).expand(3, -1, -1),
    "one pixel": lambda c: delivered(Gradient(), c, 1) * (1 + 1e-3 * torch.eye(16)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_delivered_map_with_a_common_mistake_fails(smooth: Network, mistake: str) -> None:
    assert checked("gradient", smooth).passed
    agreement = checked("gradient", smooth, lambda _: MISTAKES[mistake](smooth))
    assert agreement.formula.passed
    assert not agreement.delivered.passed
    assert not agreement.passed


def test_the_mean_of_absolute_gradients_fails(smooth: Network) -> None:
    def mean_of_absolutes(_: Tensor) -> Tensor:
        added = noise([Key(SEED, k) for k in range(16)], photograph()[None], SmoothGrad().sigma)
        noisy = (photograph() + added).requires_grad_()
        score = smooth.original(smooth.normalize(noisy))[:, TARGET].sum()
        return torch.autograd.grad(score, noisy)[0].abs().mean(0)

    assert checked("smoothgrad", smooth).passed
    assert not checked("smoothgrad", smooth, mean_of_absolutes).delivered.passed
    assert not checked(
        "smoothgrad", smooth, lambda _: mean_of_absolutes(_).copysign(delivered(made("smoothgrad"), smooth, 16))
    ).delivered.passed


@pytest.mark.parametrize("mistake", ["scaled", "absolute", "other class"])
def test_a_formula_with_a_mistake_fails_in_float64(
    smooth: Network, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    right = Gradient.attribution
    wrong: dict[str, Any] = {
        "scaled": lambda self, x, state: right(self, x, state) * (1 + 1e-7),
        "absolute": lambda self, x, state: right(self, x, state).abs(),
        "other class": lambda self, x, state: right(self, x, state).flip(-1),
    }
    monkeypatch.setattr(Gradient, "attribution", wrong[mistake])
    assert not checked("gradient", smooth).formula.passed


def test_integrated_gradients_with_a_tolerance_use_the_quadrature_of_the_map(smooth: Network) -> None:
    method = IntegratedGradients(baseline="blurred", sigma=2.0)
    method.tolerance = 1e-9
    maps, _ = attribute(method, smooth.fast(), photograph()[None], [TARGET], evaluations=24, seeds=[SEED])
    assert method.nodes(24) == 16
    assert compared(method, smooth, photograph(), maps[0], 24).passed


def test_module_and_random_state_are_preserved(smooth: Network) -> None:
    before, weights = torch.get_rng_state(), smooth.original.head.weight.clone()
    checked("smoothgrad", smooth)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(smooth.original.head.weight, weights)
    assert smooth.original.head.weight.requires_grad


def test_largest_difference() -> None:
    a, infinite = torch.tensor([[[1.0, -4.0]]]), torch.tensor([torch.inf, 1.0])
    assert largest_difference(a, a) == largest_difference(torch.zeros(1), torch.zeros(1)) == 0
    assert largest_difference(a + 1, a) == 0.25
    assert largest_difference(torch.zeros(1), torch.full((1,), 1e-35)) == 1
    for values, reference in ((infinite, infinite), (torch.tensor([torch.nan]), torch.ones(1)), (a, torch.zeros(1))):
        assert largest_difference(values, reference) == math.inf


def test_similarity() -> None:
    map_ = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    same, noise_ = similarity_of(map_, map_), similarity_of(random_map(map_), map_)
    assert (same.spearman, same.ssim, same.top_iou) == pytest.approx((1, 1, 1))
    assert abs(noise_.spearman) < 0.1
    assert noise_.top_iou < 0.2


def pooled() -> Network:
    """Return a network with a max-pooling, in which equal neighbors tie."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        ).eval()  # fmt: skip
    return load_network(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)


def half_white() -> Tensor:
    flat = photograph()
    flat[:, 8:] = 1.0
    return flat


def map_of(method: Attribution, classifier: Network, x: Tensor, count: int) -> Tensor:
    method.bind(classifier)
    network = {"plain": classifier.fast(method.layers)}
    return attribute(method, network, x[None], [TARGET], evaluations=count, seeds=[SEED])[0][0]


@pytest.mark.parametrize(("method", "count"), [(Gradient(), 1), (IntegratedGradients(), 16)])
def test_flat_areas_neither_fail_a_correct_map_nor_pass_a_wrong_one(method: Attribution, count: int) -> None:
    """Ties affect the float64 formula, and Captum's float32 maps differ by more than their maximum."""
    net = pooled()
    right = map_of(method, net, half_white(), count)
    agreement = compared(method, net, half_white(), right, count)
    assert agreement.passed
    assert agreement.delivered.allowed <= 0.2
    with pytest.raises(LitVizError, match="not decided, since Captum's own float32 maps differ by"):
        compared(method, net, half_white(), torch.zeros_like(right), count)


def test_a_map_that_is_not_finite_fails() -> None:
    agreement = checked("gradient", rectified(), lambda m: m.clone().index_fill_(2, torch.tensor([3]), torch.nan))
    assert not agreement.delivered.passed
    assert agreement.similarity.spearman != agreement.similarity.spearman  # NaN, not the correlation of ranks of NaN


def test_more_float32_maps_are_computed_for_rare_kinks(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def compute(reference: CaptumReference) -> Tensor:
        """A kink that affects the ninth map."""
        seeds.append(reference.weights.rounding_seed)
        return torch.ones(1, 3, 16, 16, dtype=torch.float64) + (0.04 if reference.weights.rounding_seed == 9 else 0.0)

    monkeypatch.setattr(CaptumReference, "compute", compute)
    monkeypatch.setattr(families, "_formula_difference", lambda *args: 0.0)
    delivered = torch.ones(3, 16, 16) + 0.05
    assert compared(Gradient(), rectified(), photograph(), delivered, 1).delivered.passed
    assert max(seeds) == 9  # none after the map that allows the delivered one
    assert not compared(Gradient(), rectified(), photograph(), delivered + 0.05, 1).delivered.passed


def test_a_network_without_fast_copy_is_checked() -> None:
    """The formula is compared in float64."""
    hooked = smooth_network()
    hooked.register_forward_hook(lambda module, args, output: 2 * output)
    net = load_network(hooked, labels=NAMES, mean=0.5, std=0.25, size=16)
    assert net.fast().is_original
    agreement = compared(Gradient(), net, photograph(), map_of(Gradient(), net, photograph(), 1), 1)
    assert agreement.passed
    assert agreement.formula.difference < 1e-14


def test_weights_computed_by_hooks_are_supported() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normed = torch.nn.utils.weight_norm(nn.Conv2d(3, 8, 3))
    net = load_network(
        nn.Sequential(normed, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval(), size=16
    )
    agreement = compared(Gradient(), net, photograph(), map_of(Gradient(), net, photograph(), 1), 1)
    assert agreement.passed


# -- time limit, order and messages


def outcome(index: int, method: str, evaluations: int) -> Any:
    record = SaliencyRecord(
        index=index,
        name="cat",
        target=0,
        seed=0,
        method=method,
        iterations=evaluations,
        reducer="max_abs",
        top5=[],
    )
    return SimpleNamespace(
        record=record, source=lambda: torch.zeros(1), array=lambda: torch.zeros(1), terms=lambda: None
    )


TIMED: dict[str, Any] = {
    "gradient": Gradient(),
    "smoothgrad": SmoothGrad(),
    "rise": RISE(),
    "extremal_perturbation": ExtremalPerturbation(),
}


def passed_check(passed: bool = True, map: Tensor | None = None) -> Any:
    """Return a check that passes, or not."""
    check = SimpleNamespace(agreement=SimpleNamespace(passed=passed), map=map)
    check.with_formula = check.with_controls = lambda: check
    return check


def checked_within(
    monkeypatch: pytest.MonkeyPatch, seconds_each: float, limit: float | None, messages: list[str] | None = None
) -> list[str]:
    """Return which of four maps are checked if an evaluation takes ``seconds_each``."""
    now = [0.0]

    def check(reference: CaptumReference, *_: Any) -> Any:
        now[0] += seconds_each * reference.evaluations
        return passed_check()

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(module, "check_map", check)
    maps = [("gradient", 1), ("smoothgrad", 32), ("gradient", 1), ("smoothgrad", 32)]
    outcomes = [outcome(i, method, count) for i, (method, count) in enumerate(maps)]
    received = [] if messages is None else messages
    found, _ = cross_check(outcomes, TIMED, None, seconds=limit, notify=received.append)  # type: ignore[arg-type]
    assert {entry.unchecked for entry in found.unchecked} <= {NOT_CHECKED}
    unchecked = {entry.index for entry in found.unchecked}
    return [f"{maps[i][0]} {i // 2}" for i in range(4) if i not in unchecked]


def test_maps_are_checked_within_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first map of each method is always checked."""
    assert len(checked_within(monkeypatch, 10.0, None)) == 4
    assert len(checked_within(monkeypatch, 0.1, 15)) == 4
    assert checked_within(monkeypatch, 0.45, 15) == ["gradient 0", "smoothgrad 0", "gradient 1"]
    assert checked_within(monkeypatch, 20.0, 15) == ["gradient 0", "smoothgrad 0"]
    assert checked_within(monkeypatch, 0.1, 0) == ["gradient 0", "smoothgrad 0"]


def test_maps_that_must_not_agree_are_compared_for_the_first_map_of_each_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If that can't be decided, for the next one."""
    compared, with_controls = SimpleNamespace(passed=True), SimpleNamespace(passed=True)
    maps = iter(range(6))

    def check(*_: Any) -> Any:
        if next(maps) == 0:
            raise LitVizError("not decided")
        return SimpleNamespace(agreement=compared, map=None, with_formula=with_formula)

    def with_formula() -> Any:
        return SimpleNamespace(with_controls=lambda: SimpleNamespace(agreement=with_controls, map=None))

    monkeypatch.setattr(module, "check_map", check)
    outcomes = [outcome(index, method, 1) for index, method in enumerate(["gradient", "rise"] * 3)]
    found, _ = cross_check(outcomes, TIMED, None, seconds=1000.0)  # type: ignore[arg-type]
    assert [(entry.index, entry.unchecked) for entry in found.unchecked] == [(0, "not decided")]
    assert [agreement is with_controls for agreement in found.maps] == [True, True, False, False, False]


def test_half_as_many_terms_are_recomputed_of_the_other_maps_of_a_method(smooth: Network) -> None:
    x = torch.stack([photograph(), photograph().flip(-1), photograph().flip(-2)])
    run = lv.saliency(smooth, x, target=0, method=["smoothgrad", "kernel_shap"], iterations=60, captum="captum")
    assert run.evidence.captum is not None
    assert run.evidence.captum.passed
    counts = sorted((agreement.method, agreement.recomputed) for agreement in run.evidence.captum.maps)
    assert counts == [(method, count) for method in ("kernel_shap", "smoothgrad") for count in (4, 4, 8)]


def test_a_map_of_many_evaluations_without_terms_is_stopped_at_the_time_limit(smooth: Network) -> None:
    run = lv.saliency(
        smooth, photograph()[None], target=0, method=["gradient", "vargrad"], iterations=64, captum="none"
    )
    methods = {"gradient": Gradient(), "vargrad": VarGrad()}
    for method in methods.values():
        method.bind(smooth)
    found, _ = cross_check(run.outcomes, methods, smooth, seconds=0.0)
    assert [(entry.index, entry.unchecked) for entry in found.unchecked] == [(1, NOT_CHECKED)]
    assert found.by_index[0].passed
    found, _ = cross_check(run.outcomes, methods, smooth, seconds=900.0)
    assert not found.unchecked
    assert found.by_index[1].controls


@pytest.mark.parametrize("methods", [slow(["gradient"]), ["gradient", "grad_cam"], slow(["smoothgrad", "gradient"])])
def test_of_many_maps_one_of_each_method_is_compared_in_any_case(
    methods: list[str], smooth: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(saliency_map, "run_seconds", lambda outcomes: 0.0)
    images = torch.rand(100, 3, 16, 16)
    run = lv.saliency(
        smooth, images, target="1", method=methods, iterations=8, out=tmp_path / "run", logger="none", log_at="last"
    )
    assert run.evidence.captum is not None
    assert sorted(agreement.method for agreement in run.evidence.captum.maps) == sorted(methods)
    assert {len(agreement.controls) for agreement in run.evidence.captum.maps} == {3}
    assert f"{len(methods)} of {100 * len(methods)} maps compared" in (tmp_path / "run" / "report.html").read_text()


def test_a_map_whose_formula_fails_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_formula() -> Any:
        raise ValueError("float32 only")

    check = SimpleNamespace(agreement=SimpleNamespace(passed=True), map=None, with_formula=with_formula)
    monkeypatch.setattr(module, "check_map", lambda *_: check)
    found, _ = cross_check([outcome(0, "gradient", 1)], TIMED, None, seconds=15.0)  # type: ignore[arg-type]
    assert not found.maps
    assert found.unchecked[0].unchecked == "not checked, since Captum fails on this network (float32 only)"


def test_the_number_of_compared_maps_is_reported_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    checked_within(monkeypatch, 0.1, None, messages)
    assert messages == []
    checked_within(monkeypatch, 1.0, None, messages)  # after 33 of 66 evaluations
    assert messages == ["evidence: 2 of 4 maps compared"]


def test_the_number_of_kept_references_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter([True] * 30 + [False] * 30)
    monkeypatch.setattr(module, "check_map", lambda *_: passed_check(next(verdicts), torch.zeros(1, 2, 2)))
    outcomes = [outcome(i, "gradient", 1) for i in range(60)]
    found, references = cross_check(outcomes, TIMED, None)  # type: ignore[arg-type]
    assert len(found.maps) == 60
    assert sorted(references) == [*range(MOST_ROWS), *range(30, 30 + MOST_ROWS)]


def test_missing_methods_and_missing_time_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_map", lambda *_: pytest.fail("a map was compared"))
    monkeypatch.setattr(module, "measure_mask", lambda *_: {"area": 0.5, "score": -1.0, "score_of_photograph": -2.0})
    outcomes = [outcome(0, "extremal_perturbation", 8), outcome(1, "extremal_perturbation", 8)]
    found, _ = cross_check(outcomes, TIMED, None, seconds=-1)  # type: ignore[arg-type]
    assert [entry.unchecked for entry in found.unchecked] == [NOT_IN_CAPTUM, NOT_IN_CAPTUM]
    assert [entry.index for entry in found.masks or ()] == [0]
    unchecked = [found.unchecked[0], found.unchecked[1].amend(unchecked=NOT_CHECKED)]
    (item,) = SaliencyMapPresentation().part_items(
        SaliencyEvidence(captum=found.amend(unchecked=unchecked, masks=None))
    )
    assert item.text == "No map was compared with Captum; 1 not in Captum; 0 of 2 maps compared."
    assert item.notes == ["lit-viz check compares the maps that were not checked."]
    assert item.verdict == "no verdict"


def test_a_failure_of_captum_is_a_reason() -> None:
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    run = lv.saliency(
        lv.load_network(Around(smooth_network(), lambda net, x: net(x.float())), size=16),
        x,
        target=0,
        captum="captum",
    )
    assert run.records[0]["status"] == "done"
    assert str(reasons(run)[0]).startswith("not checked, since Captum fails on this network (")
    assert cross_check([], TIMED, None)[0].passed is None  # type: ignore[arg-type]


class Functions(nn.Module):
    """Rectifies by functions, pools twice by one layer, and flattens by ``view``, as in PyTorch's CIFAR-10 tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.pool = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2, 2)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 5, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(functional.relu(self.conv1(x)))
        x = self.pool(functional.relu(self.conv2(x)))
        return self.fc2(functional.relu(self.fc1(x.view(-1, 16 * 5 * 5))))


@pytest.mark.parametrize(
    "method", ["gradient", "guided_backprop", "deconvolution", "guided_grad_cam", "deep_lift", "occlusion"]
)
def test_maps_of_a_network_of_functions_and_a_view_agree_with_captum(method: str, tmp_path: Path) -> None:
    network = load_network(Functions().eval(), size=32)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run = lv.saliency(network, images, method=method, out=tmp_path / "run")
    assert [record.status for record in run.records] == ["done"]
    assert isinstance(run.evidence, SaliencyEvidence)
    assert run.evidence.captum is not None
    assert run.evidence.captum.passed is True
