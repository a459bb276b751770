"""KernelSHAP against Shapley values by enumeration, and the superpixels."""

from __future__ import annotations

import hashlib
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lit_viz.attributions import FeatureAblation, KernelShap, attribute
from lit_viz.attributions.baselines import Baseline
from lit_viz.attributions.segments import Segments
from lit_viz.errors import LitVizError
from lit_viz.images.reading import read_photograph
from lit_viz.networks import Network
from tests.support.attributions import MASK, SMOOTH, Counted, distance


def photographs() -> Tensor:
    blocks = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return (torch.nn.functional.interpolate(blocks, size=16) * 255).round() / 255


@pytest.fixture
def quarters(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("masks") / "quarters.png"
    colors = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], np.uint8)
    Image.fromarray(colors.repeat(8, 0).repeat(8, 1)).save(path)
    return str(path)


def shapley(x: Tensor, baseline: Tensor, segments: Tensor, target: int) -> Tensor:
    """Return the Shapley values of the superpixels by their definition."""
    count = int(segments.max()) + 1
    values: dict[tuple[int, ...], float] = {}
    for size in range(count + 1):
        for members in itertools.combinations(range(count), size):
            visible = torch.isin(segments, torch.tensor(members, dtype=torch.long))
            values[members] = float(SMOOTH(torch.where(visible, x, baseline)[None]).detach()[0, target])
    phi = torch.zeros(count, dtype=torch.float64)
    for k in range(count):
        for members in values:
            if k not in members:
                weight = math.factorial(len(members)) * math.factorial(count - len(members) - 1) / math.factorial(count)
                phi[k] += weight * (values[tuple(sorted((*members, k)))] - values[members])
    return phi


def test_values_are_shapley_values(quarters: str) -> None:
    method = KernelShap(quarters)
    maps, uncertainty = attribute(method, Counted(SMOOTH), photographs(), [3, 0], evaluations=4000)
    baseline = photographs().mean((2, 3), keepdim=True).expand(2, 3, 16, 16)
    segments = method.segments(photographs())
    for n, target in enumerate((3, 0)):
        expected = shapley(photographs()[n], baseline[n], segments[n, 0], target)[segments[n]]
        error = float((maps[n] - expected).norm() / expected.norm())
        assert error < max(3 * float(uncertainty["error"][n]), 1e-6)
        assert error < 0.02


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 8])
def test_all_coalitions_give_exact_values(count: int, tmp_path: Path) -> None:
    colors = np.arange(1, count + 1, dtype=np.uint8)[np.arange(16) * count // 16]
    Image.fromarray(np.stack([colors.repeat(16).reshape(16, 16)] * 3, 2)).save(tmp_path / "stripes.png")
    method, network = KernelShap(str(tmp_path / "stripes.png")), Counted(SMOOTH)
    method.tolerance = 0.5  # has no effect
    maps, uncertainty = attribute(method, network, photographs(), [3, 0], evaluations=2000)
    baseline = photographs().mean((2, 3), keepdim=True).expand(2, 3, 16, 16)
    segments = method.segments(photographs())
    for n, target in enumerate((3, 0)):
        expected = shapley(photographs()[n], baseline[n], segments[n, 0], target)[segments[n]]
        torch.testing.assert_close(maps[n], expected, rtol=0, atol=1e-12)
    assert network.rows == 2 * 2**count
    assert uncertainty["error"].tolist() == [0, 0]


def test_one_coalition_less_than_all_is_drawn(quarters: str) -> None:
    network = Counted(SMOOTH)
    attribute(KernelShap(quarters), network, photographs(), [3, 0], evaluations=15)
    assert network.rows == 2 * 15


def test_images_may_have_other_numbers_of_superpixels_than_their_batch() -> None:
    x = photographs()
    x[1] = 0.5
    method = KernelShap(8)
    method.baseline = Baseline("black")
    maps, _ = attribute(method, Counted(SMOOTH), x, [3, 0], evaluations=2000)
    alone, _ = attribute(method, Counted(SMOOTH), x[:1], [3], evaluations=2000)
    assert distance(maps[:1], alone) < 1e-12


@pytest.mark.parametrize("evaluations", [2, 9, 200])
def test_values_sum_to_the_difference_of_the_scores(evaluations: int) -> None:
    x, baseline = photographs(), photographs().mean((2, 3), keepdim=True).expand(2, 3, 16, 16)
    maps, _ = attribute(KernelShap(MASK), Counted(SMOOTH), x, [3, 0], evaluations=evaluations)
    segments = Segments(MASK)(x)
    sums = [sum(float(maps[n][segments[n] == k][0]) for k in range(12)) for n in range(2)]
    expected = (SMOOTH(x) - SMOOTH(baseline)).detach()[[0, 1], [3, 0]]
    assert sums == pytest.approx(expected.tolist())


def test_additive_score_is_recovered_exactly() -> None:
    weight = torch.linspace(-1, 1, 256, dtype=torch.float64).view(16, 16)
    network = Counted(lambda x: (x.sum(1) * weight).sum((1, 2))[:, None])
    options = {"baseline": "black", "segments": MASK}
    shap, uncertainty = attribute(KernelShap(**options), network, photographs(), [0, 0], evaluations=60)
    ablation, _ = attribute(FeatureAblation(**options), network, photographs(), [0, 0])
    assert distance(shap, ablation) < 1e-12
    assert uncertainty["error"].max() < 1e-6
    segments = Segments(MASK)(photographs())
    contributions = photographs().sum(1, keepdim=True) * weight
    for k in range(12):
        region = segments[0] == k
        torch.testing.assert_close(ablation[0][region], contributions[0][region].sum().expand(int(region.sum())))


def test_reported_error_is_the_spread_over_seeds() -> None:
    x = photographs()[:1].expand(60, -1, -1, -1)
    method = KernelShap(MASK)
    method.batch = 60
    maps, uncertainty = attribute(method, Counted(SMOOTH), x, [3] * 60, evaluations=80)
    measured = (maps - maps.mean(0)).square().mean((1, 2, 3)).mean().sqrt() * math.sqrt(60 / 59)
    reported = uncertainty["standard_error"].square().mean().sqrt()
    assert float(reported / measured) == pytest.approx(1, abs=0.3)


def test_evaluations_for_a_tolerance_do_not_depend_on_the_batch() -> None:
    maps = []
    for batch in (1, 2, 6, 40):
        method = KernelShap(MASK)
        method.batch, method.tolerance = batch, 0.5
        map_, uncertainty = attribute(method, Counted(SMOOTH), photographs(), [3, 0], evaluations=500)
        assert 0 < float(uncertainty["error"].max()) < 0.5
        maps.append(map_)
    assert max(distance(map_, maps[0]) for map_ in maps) < 1e-12


def test_memory_does_not_depend_on_the_evaluations() -> None:
    method = KernelShap(MASK)
    sizes = {key: value.shape for key, value in method.init(photographs(), []).items() if key != "seed"}
    assert sizes["gram"] == (2, 12, 12)
    assert max(math.prod(shape) for shape in sizes.values()) == photographs().numel()


def test_superpixels_do_not_depend_on_rounding() -> None:
    x = photographs()
    segments = Segments(9)(x)
    assert 1 < int(segments.max()) + 1 <= 9
    assert torch.equal(segments, Segments(9)((x * (1 + 1e-7)).float()))
    assert all(torch.equal(segments[n].unique(), torch.arange(int(segments[n].max()) + 1)) for n in range(2))


def test_superpixels_of_gray_images_follow_their_edges() -> None:
    x = torch.full((1, 1, 20, 20), 0.2)
    x[..., 7:] = 0.8
    segments = Segments(4)(x)
    assert not set(segments[..., :7].unique().tolist()) & set(segments[..., 7:].unique().tolist())


@pytest.mark.parametrize("count", [50, 100])
def test_texture_does_not_reduce_the_number_of_superpixels(count: int) -> None:
    noise = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    x = read_photograph("packaged:chelsea", (224, 224)).pixels + 0.3 * (noise - 0.5)
    found = int(Segments(count)(x.clamp(0, 1)).max()) + 1
    assert 0.8 * count <= found <= count


@pytest.mark.parametrize("method", [KernelShap, FeatureAblation])
def test_a_mask_file_is_recorded_by_its_content(method: type[KernelShap | FeatureAblation]) -> None:
    assert method(MASK).record_fields() == {"mask_sha256": hashlib.sha256(Path(MASK).read_bytes()).hexdigest()}
    assert method(9).record_fields() == {}


def test_size_of_a_mask_is_that_of_the_input(smooth: Network, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("masks") / "wide.png"
    Image.new("L", (20, 10)).save(path)
    for method in (KernelShap(str(path)), FeatureAblation(str(path))):
        with pytest.raises(LitVizError, match="16 x 16 pixels, got 10 x 20"):
            method.bind(smooth)
