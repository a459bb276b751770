"""What runs record of the terms of maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_viz.attributions import ATTRIBUTIONS, Attribution, IntegratedGradients, VarGrad
from lit_viz.attributions.integrated_gradients import gauss_legendre
from lit_viz.attributions.smoothgrad import noise
from lit_viz.attributions.terms import PROJECTIONS, SCORES, projections
from lit_viz.methods import SaliencyMap, saliency_map
from lit_viz.networks import Network
from lit_viz.rng import Key
from lit_viz.types import Task
from tests.support.runs import Train

COUNT = 11
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def trained(network: Network, train: Train, name: str, **options: Any) -> list[Any]:
    """Return the results of three photographs in two slots, five evaluations at a time."""
    method: Attribution = ATTRIBUTIONS[name](window=6) if name == "occlusion" else ATTRIBUTIONS[name]()
    given = {"iterations": COUNT, "images": IMAGES, "slots": 2, "batch": 5, **options}
    tasks = [Task(i, f"i{i}", 10 + i, target=i, image=i, method=name) for i in range(3)]
    memory = train(SaliencyMap(network, method=method, **given), tasks)
    return [memory.results[i] for i in range(3)]


def test_projections_are_fixed_and_estimate_the_norm() -> None:
    images = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = projections(images)
    assert values.shape == (40, 4)
    torch.testing.assert_close(projections(images.mean(0, keepdim=True))[0], values.mean(0))
    assert float(values.square().mean() / images.square().sum((1, 2, 3)).mean()) == pytest.approx(1, abs=0.2)
    signs = projections(torch.eye(768).view(-1, 3, 16, 16))
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    assert (signs.T @ signs - 768 * torch.eye(4)).abs().max() < 100  # independent
    assert signs[:6, 0].tolist() == [1.0, -1.0, -1.0, 1.0, 1.0, -1.0]  # records of earlier runs stay valid


#: Methods by what is recorded of their terms.
MEANS_OF_IMAGES = ("smoothgrad", "smoothgrad_squared", "integrated_gradients", "gradient_shap", "expected_gradients")
COMPUTED_FROM_SCORES = ("occlusion", "feature_ablation", "kernel_shap", "shapley_interactions", "rise")
WHOLE_MAPS = ("gradient", "input_x_gradient", "vargrad", "deep_lift", "grad_cam", "legrad", "extremal_perturbation")


@pytest.mark.parametrize(
    ("names", "recorded"), [(MEANS_OF_IMAGES, PROJECTIONS), (COMPUTED_FROM_SCORES, SCORES), (WHOLE_MAPS, None)]
)
def test_what_is_recorded_depends_on_the_class(names: Sequence[str], recorded: str | None) -> None:
    assert {ATTRIBUTIONS[name]().recorded for name in names} == {recorded}


def test_terms_that_depend_on_each_other_are_not_recorded() -> None:
    method = IntegratedGradients()
    method.tolerance = 0.1
    assert method.recorded is None
    assert VarGrad().recorded is None


def gradients(network: Network, points: Tensor, target: int) -> Tensor:
    points = points.clone().requires_grad_()
    scores = network.original(network.normalize(points))[:, target].sum()
    return torch.autograd.grad(scores, points)[0]


def test_runs_record_the_terms_of_smoothgrad(smooth: Network, train: Train) -> None:
    for i, result in enumerate(trained(smooth, train, "smoothgrad")):
        noisy = IMAGES[i] + noise([Key(10 + i, k) for k in range(COUNT)], IMAGES[:1], 0.15)
        terms = gradients(smooth, noisy, i)
        torch.testing.assert_close(result.terms, projections(terms), rtol=1e-4, atol=1e-4)


def test_runs_record_the_terms_of_integrated_gradients(smooth: Network, train: Train) -> None:
    for i, result in enumerate(trained(smooth, train, "integrated_gradients")):
        positions = torch.tensor([node for node, _ in gauss_legendre(COUNT)]).view(-1, 1, 1, 1)
        terms = IMAGES[i] * gradients(smooth, positions * IMAGES[i], i)
        torch.testing.assert_close(result.terms, projections(terms), rtol=1e-4, atol=1e-4)


def test_runs_record_scores(smooth: Network, train: Train) -> None:
    for i, result in enumerate(trained(smooth, train, "occlusion")):
        covered = IMAGES[i].clone()
        covered[:, :6, 3:9] = IMAGES[i].mean((1, 2), keepdim=True)  # the second window
        logits = smooth.scores(torch.stack([IMAGES[i], covered]))[:, i]
        torch.testing.assert_close(result.terms[[0, 2]], logits)
        assert result.terms.shape == (result.record.iterations,)


@pytest.mark.parametrize("name", ["smoothgrad", "integrated_gradients", "rise", "occlusion", "kernel_shap"])
def test_recording_changes_no_bit_of_a_map(
    smooth: Network, train: Train, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = trained(smooth, train, name)
    monkeypatch.setattr(saliency_map, "empty_record", lambda *_: {})
    for result, other in zip(recording, trained(smooth, train, name), strict=True):
        assert other.terms is None
        assert torch.equal(result.array, other.array)


def test_the_record_ends_with_the_map(smooth: Network, train: Train) -> None:
    """A tolerance ends maps before their last evaluation."""
    results = trained(smooth, train, "smoothgrad", iterations=400, tolerance=0.5)
    counts = {len(result.terms) for result in results}
    assert counts == {result.record.iterations for result in results}
    assert max(counts) < 400
