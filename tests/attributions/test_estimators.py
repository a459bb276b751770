"""Properties of every estimator: independence of the batch, number of evaluations, errors of invalid arguments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lit_viz.attributions.base import Attribution, attribute, attributions_after
from lit_viz.attributions.expected_gradients import ExpectedGradients
from lit_viz.attributions.feature_ablation import FeatureAblation
from lit_viz.attributions.gradient import Gradient, InputXGradient, LibraGradient
from lit_viz.attributions.gradient_shap import GradientShap
from lit_viz.attributions.integrated_gradients import IntegratedGradients, gauss_legendre, growing
from lit_viz.attributions.kernel_shap import KernelShap
from lit_viz.attributions.occlusion import Occlusion
from lit_viz.attributions.rise import RISE
from lit_viz.attributions.shapley_interactions import ShapleyInteractions
from lit_viz.attributions.smoothgrad import SmoothGrad, SmoothGradSquared, VarGrad
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from tests.support.attributions import MASK, SMOOTH, TARGETS, Counted, distance, photographs

METHODS: dict[str, Callable[[], Attribution]] = {
    "gradient": Gradient,
    "libra gradient": LibraGradient,
    "input x gradient": InputXGradient,
    "smoothgrad": SmoothGrad,
    "squared": SmoothGradSquared,
    "vargrad": VarGrad,
    "integrated": IntegratedGradients,
    "integrated, random": lambda: IntegratedGradients("random"),
    "integrated, blurred": lambda: IntegratedGradients("blurred", sigma=3.0),
    "gradient shap": lambda: GradientShap(["random", 1.0], sigma=0.1),
    "occlusion": lambda: Occlusion(5, 3),
    "feature ablation": lambda: FeatureAblation(8),
    "kernel shap": lambda: KernelShap(8),
    "shapley interactions": lambda: ShapleyInteractions(2),
    "rise": lambda: RISE(grid=4),
}
SAMPLING = ["smoothgrad", "squared", "vargrad"]
IMAGES = ["rise", "occlusion", "integrated, blurred", "feature ablation", "kernel shap", "shapley interactions"]

IMAGE = torch.zeros(1, 3, 16, 16)
every = pytest.mark.parametrize("name", METHODS)


def mapped(method: Attribution, rows: slice = slice(None), **options: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    seeds = [3, 1, 4][rows]
    return attribute(method, Counted(SMOOTH), photographs()[rows], TARGETS[rows], seeds=seeds, **options)


@every
@pytest.mark.parametrize(("tolerance", "evaluations"), [(None, 30), (0.1, None)])
def test_a_map_does_not_depend_on_the_batch(name: str, tolerance: float | None, evaluations: int | None) -> None:
    """A given number of evaluations, and as many as a tolerance requires."""
    maps = []
    for batch, rows in [(1, slice(None)), (3, slice(None)), (8, slice(None)), (8, slice(1, 2)), (40, slice(0, 2))]:
        method = METHODS[name]()
        method.batch, method.tolerance = batch, tolerance
        if name == "rise" and evaluations is None:
            method.evaluations = 100
        map_, uncertainty = mapped(method, rows, evaluations=evaluations)
        maps.append((map_, uncertainty, rows))
    whole, expected, _ = maps[0]
    for map_, uncertainty, rows in maps[1:]:
        assert distance(map_, whole[rows]) < 1e-12
        for key, value in uncertainty.items():
            torch.testing.assert_close(value, expected[key][rows], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", [*SAMPLING, "rise", "gradient shap"])
def test_maps_after_some_evaluations_are_those_of_as_many(name: str) -> None:
    counts, network = [4, 9, 20], Counted(SMOOTH)
    method = METHODS[name]()
    method.batch = 8
    following = list(attributions_after(method, network, photographs(), TARGETS, counts, seeds=[3, 1, 4]))
    assert network.rows == 20 * 3
    for count, (map_, uncertainty) in zip(counts, following, strict=True):
        expected, errors = mapped(METHODS[name](), evaluations=count)
        assert distance(map_, expected) < 1e-12
        for key, value in uncertainty.items():
            torch.testing.assert_close(value, errors[key], rtol=1e-9, atol=1e-10)


@every
def test_maps_have_their_shape_and_type(name: str) -> None:
    x = photographs(16, 16).float()
    network = Counted(lambda x: SMOOTH(x.double()).float())
    method = METHODS[name]()
    map_, uncertainty = attribute(method, network, x, TARGETS, evaluations=5)
    assert map_.shape == ((3, 1, 16, 16) if method.spatial else x.shape)
    assert map_.dtype == torch.float32
    assert map_.abs().flatten(1).amax(1).min() > 0
    assert all(value.shape == (3,) for value in uncertainty.values())


@every
def test_the_map_is_zero_before_the_first_evaluation(name: str) -> None:
    map_, uncertainty = mapped(METHODS[name](), evaluations=0)
    assert map_.abs().max() == 0
    assert all(value.isinf().all() for value in uncertainty.values())


@pytest.mark.parametrize("name", [name for name in METHODS if name not in IMAGES])
def test_inputs_may_have_any_shape(name: str) -> None:
    x = photographs().flatten(1)[:, :7]
    weight = torch.linspace(-1, 1, 21, dtype=torch.float64).view(3, 7)
    map_, _ = attribute(METHODS[name](), Counted(lambda x: torch.tanh(x @ weight.T)), x, [0, 1, 2])
    assert map_.shape == x.shape


@pytest.mark.parametrize(
    ("name", "evaluations", "rows"),
    [
        ("gradient", 50, 1),
        ("smoothgrad", 13, 13),
        ("integrated", 13, 13 + 2),
        ("occlusion", 500, 1 + 5 * 4),
        ("occlusion", 7, 7),
    ],
)
def test_number_of_evaluations(name: str, evaluations: int, rows: int) -> None:
    network = Counted(SMOOTH)
    attribute(METHODS[name](), network, photographs(), TARGETS, evaluations=evaluations)
    assert network.rows == 3 * rows


def test_forward_only_methods_compute_no_gradient() -> None:
    def forward(x: Tensor) -> Tensor:
        assert not x.requires_grad
        return SMOOTH(x)

    for name in ("occlusion", "rise", "feature ablation", "kernel shap", "shapley interactions"):
        attribute(METHODS[name](), Counted(forward), photographs(), TARGETS, evaluations=4)


@pytest.mark.parametrize("name", [*SAMPLING, "integrated"])
def test_a_tolerance_ends_early_and_is_kept(name: str) -> None:
    long, _ = mapped(METHODS[name](), evaluations=800 if name in SAMPLING else 300)
    method, network = METHODS[name](), Counted(SMOOTH)
    method.tolerance = 1e-6 if name == "integrated" else 0.1
    map_, uncertainty = attribute(method, network, photographs(), TARGETS, seeds=[9, 8, 7], evaluations=1000)
    assert network.rows < 3 * 900
    assert (uncertainty["error"] <= method.tolerance).all()
    if name in SAMPLING:
        patterns = [method.pattern(values).flatten(1) for values in (map_ - long, long)]
        assert (patterns[0].norm(dim=1) < 1.5 * method.tolerance * patterns[1].norm(dim=1)).all()
    else:
        assert distance(map_, long) < method.tolerance


def test_a_map_that_stops_waits_for_the_others() -> None:
    """One is constant, so its gradient is the same under all noise; the other needs all evaluations."""
    x = photographs()[:1].repeat(2, 1, 1, 1)
    network = Counted(lambda x: torch.stack([x.sum((1, 2, 3)), SMOOTH(x)[:, 0]], 1))
    method = SmoothGrad()
    method.tolerance = 1e-7
    map_, uncertainty = attribute(method, network, x, [0, 1], evaluations=21)
    assert network.rows == 8 + 21
    assert (map_[0] == 1).all()
    assert uncertainty["error"][1] > 1e-7


def test_rules_of_a_quadrature() -> None:
    for total in range(1, 400):
        sizes = growing(total)
        assert sum(sizes) == total
        assert sizes[:-1] == [8 * 2**k for k in range(len(sizes) - 1)]
        assert sizes == sorted(set(sizes))
    for count in (1, 2, 7, 50):
        nodes, weights = torch.tensor(gauss_legendre(count), dtype=torch.float64).T
        for degree in range(2 * count):
            assert float(weights @ nodes**degree) == pytest.approx(1 / (degree + 1), rel=1e-12)
    first = [node for node, _ in gauss_legendre(64)[:8]]
    assert max(b - a for a, b in zip([0, *sorted(first)], [*sorted(first), 1], strict=True)) < 0.3


def test_occlusion_counts_its_windows(smooth: Network) -> None:
    method = Occlusion(6, 4)
    method.bind(smooth)
    assert method.evaluations == 1 + 4 * 4
    method = Occlusion()
    assert method.default_evaluations((3, 224, 224)) == 1 + 13 * 13


def test_occlusion_moves_in_reading_order() -> None:
    maps = [mapped(Occlusion(5, 3), evaluations=count)[0][0, 0] for count in (2, 3, 6)]
    first, second, third = (map_ != 0 for map_ in maps)
    assert first[:5, :5].all()
    assert first.sum() == 5 * 5
    assert second[:5, :8].all()
    assert second.sum() == 5 * 8
    assert third[:8, :5].all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SmoothGrad(0.0), "must be positive"),
        (lambda: VarGrad(float("nan")), "must be positive"),
        (lambda: IntegratedGradients("white"), "baseline must be .*, got 'white'"),
        (lambda: IntegratedGradients(float("inf")), "a gray baseline must be a finite number, got inf"),
        (lambda: IntegratedGradients("blurred", sigma=0.0), "must be positive"),
        (lambda: Occlusion(0), "got window 0"),
        (lambda: Occlusion(4, 5), "got window 4 and stride 5"),
        (lambda: Occlusion((4, 4), (2, 2, 2)), r"must be a side or \(height, width\), got"),
        (lambda: mapped(Occlusion(32)), r"at most the input \(3, 17, 14\), got 32 x 32 pixels"),
        (lambda: Occlusion((2, 2, 2)), r"must be a side or \(height, width\), got"),
        (lambda: RISE(grid=0), "grid of RISE must be at least 1"),
        (lambda: RISE(p=1.0), "between 0 and 1"),
        (lambda: GradientShap([]), "at least one baseline, got none"),
        (lambda: GradientShap(sigma=-0.1), "at least 0, got -0.1"),
        (lambda: ExpectedGradients([]), "at least one baseline, got none"),
        (lambda: ExpectedGradients("nowhere"), "nowhere"),
        (lambda: ExpectedGradients(sigma=-1.0), "at least 0"),
        (
            lambda: attribute(ExpectedGradients(IMAGE), Counted(SMOOTH), IMAGE, [0]),
            "a baseline other than the photograph itself",
        ),
        (lambda: KernelShap(0), "segments must be at least 1, got 0"),
        (lambda: FeatureAblation(__file__), "can't be read"),
        (lambda: mapped(FeatureAblation(MASK)), "16 x 16"),
        (lambda: attribute(KernelShap(), Counted(SMOOTH), torch.zeros(2, 3), [0, 0]), "superpixels require images"),
        (lambda: attribute(RISE(), Counted(SMOOTH), torch.zeros(2, 3), [0, 0]), "RISE requires images"),
        (
            lambda: attribute(IntegratedGradients("blurred"), Counted(SMOOTH), torch.zeros(2, 3), [0, 0]),
            "blurred baseline requires images",
        ),
    ],
)
def test_invalid_arguments_are_rejected(make: Callable[[], object], words: str) -> None:
    with pytest.raises(LitVizError, match=words):
        make()
