"""The class that a target is contrasted with: maps of ``f(c) - gamma f(d)``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.attributions import ATTRIBUTIONS, Attribution, GradCAM, KernelShap, Occlusion, attribute
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.captum_reference import CaptumReference
from lit_viz.evidence.saliency.families import check_map
from lit_viz.methods import ClassVisualization
from lit_viz.methods.photographs import class_tasks
from lit_viz.networks import Network
from lit_viz.objectives import Logit, LogProbability, Outputs, Probability
from lit_viz.presentations.class_visualization import ClassVisualizationPresentation
from lit_viz.runs.records import SaliencyRecord
from tests.support.attributions import MASK, distance
from tests.support.marks import slow
from tests.support.networks import rectified
from tests.support.verdicts import verdicts

AGAINST, SEEDS, GAMMA = [1, 4], [3, 1], 0.6
#: Methods whose map is linear in the score.
LINEAR = ["gradient", "input_x_gradient", "smoothgrad", "integrated_gradients", "grad_cam", "occlusion", "rise"]
LINEAR += ["gradient_shap", "deep_lift", "feature_ablation", "kernel_shap", "shapley_interactions"]


def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def method_of(name: str) -> Attribution:
    options = {"grad_cam": {"relu": False}, "occlusion": {"window": 6}}
    options |= {key: {"segments": MASK} for key in ("feature_ablation", "kernel_shap", "shapley_interactions")}
    method = ATTRIBUTIONS[name](**options.get(name, {}))
    method.objective = type(method.objective)(gamma=GAMMA)
    return method


def maps(method: Attribution, network: Network, targets: list[int], against: list[int] | None = None) -> Tensor:
    method.bind(network)
    networks = {name: network.fast(method.layers, dtype=torch.float64, backprop=name) for name in method.networks}
    evaluations = None if method.fixed else 160 if isinstance(method, KernelShap) else 9
    options = {"evaluations": evaluations, "seeds": SEEDS, "against": against}
    return attribute(method, networks, images(), targets, **options)[0]


@pytest.mark.parametrize("name", LINEAR)
def test_map_of_a_contrast_is_the_difference_of_the_maps(name: str) -> None:
    method, network = method_of(name), rectified()
    whole = maps(method, network, [2, 2], AGAINST)
    expected = maps(method, network, [2, 2]) - GAMMA * maps(method, network, AGAINST)
    assert distance(whole, expected) < 1e-12
    assert distance(whole, maps(method, network, [2, 2])) > 1e-2


def test_finer_cam_is_the_class_activation_map_of_the_contrast() -> None:
    """With global mean pooling and a linear head, the weights of the feature maps are those of the head."""
    classifier = rectified()
    network = classifier.original.double()
    features = network[:6](classifier.normalize(images())).detach()
    weights = network[8].weight.detach()
    differences = weights[[2, 2]] - GAMMA * weights[AGAINST]
    expected = (differences[:, :, None, None] / features[0, 0].numel() * features).sum(1, keepdim=True).relu()
    expected = torch.nn.functional.interpolate(expected, (16, 16), mode="bilinear")
    method = GradCAM()
    method.objective = Logit(gamma=GAMMA)
    assert distance(maps(method, rectified(), [2, 2], AGAINST), expected) < 1e-6  # of float32 weights


@pytest.mark.parametrize("objective", [Logit, LogProbability, Probability])
def test_score_of_rows_with_and_without_another_class(objective: type[Logit]) -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 3.0]], dtype=torch.float64)
    single = [objective()(Outputs(logits, torch.tensor([n, n]))) for n in range(3)]
    score = objective(gamma=0.5)(Outputs(logits, torch.tensor([2, 1]), against=torch.tensor([0, -1])))
    assert score.tolist() == pytest.approx([float(single[2][0] - 0.5 * single[0][0]), float(single[1][1])])


@pytest.mark.parametrize(
    "name", ["gradient", slow("vargrad"), slow("integrated_gradients"), "guided_grad_cam", "occlusion"]
)
def test_both_gates_compare_the_contrast(name: str) -> None:
    network, method = rectified(), method_of(name)
    method.bind(network)
    photograph, count = images()[0].float(), method.evaluations if method.fixed else 9
    networks = {kind: network.fast(method.layers if kind == "plain" else (), backprop=kind) for kind in method.networks}
    delivered, _ = attribute(method, networks, photograph[None], [2], evaluations=count, seeds=[5], against=[4])

    def agreement(against: int | None) -> Any:
        reference = CaptumReference(method, network, photograph[None].double(), 2, 5, count, against)
        record = SaliencyRecord(index=0, name="image", method=name, reducer="max_abs", top5=[])
        return check_map(reference, delivered[0], record).with_formula().with_controls().agreement

    assert agreement(4).passed
    assert agreement(4).formula.passed
    assert not agreement(1).delivered.passed
    assert not agreement(None).delivered.passed


def test_gamma_is_at_least_zero(smooth: Network) -> None:
    with pytest.raises(LitVizError, match="gamma of Logit must be at least 0, got -1"):
        lv.saliency(smooth, torch.rand(1, 3, 16, 16), target=0, against=1, gamma=-1.0)


def test_runs_in_memory_take_one_class_or_one_per_image(smooth: Network, figures: Any) -> None:
    pictures = torch.rand(2, 3, 16, 16)
    several = lv.saliency(
        smooth,
        pictures,
        target=0,
        against=[1, "date"],
        gamma=0.5,
        method=["gradient", Occlusion(window=6)],
        captum="captum",
    )
    assert [(r["target_name"], r["against"], r["gamma"]) for r in several.records] == [
        ("apple vs. banana", 1, 0.5), ("apple vs. date", 3, 0.5),
    ] * 2  # fmt: skip
    assert verdicts(several) == [True] * 4
    captions = " ".join(figures.texts(several.figure()))  # lines, which depend on the widths of the font
    assert "apple vs. banana (gamma 0.5)" in captions
    assert "apple vs. date (gamma 0.5)" in captions
    single = lv.saliency(smooth, pictures, target=0, against="banana", gamma=0.5)
    assert torch.equal(single.maps[0], several.maps[0])
    assert not torch.equal(single.maps[1], several.maps[1])
    with pytest.warns(UserWarning, match="1 failed of 2 images: image 0: against must be another class"):
        failed = lv.saliency(smooth, pictures, target=[0, 1], against=0).records
    assert [r["status"] for r in failed] == ["failed", "done"]
    assert failed[0]["error"] == "against must be another class than the target, got apple for both"


def test_runner_up_is_the_most_probable_other_class(smooth: Network) -> None:
    pictures = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    order = smooth.scores(pictures).argsort(descending=True).tolist()
    for targets, expected in (
        ("predicted", [row[1] for row in order]),
        ([row[2] for row in order], [row[0] for row in order]),
        (None, [row[1] for row in order]),
    ):
        records = lv.saliency(smooth, pictures, target=targets, against="runner-up", captum="none").records
        assert [r["against"] for r in records] == expected
        assert all(r["target_name"].endswith(f" vs. {smooth.labels[r['against']]}") for r in records)


@pytest.mark.parametrize(("gamma", "text"), [(5.0, "apple vs. cherry, gamma 5"), (1.0, "apple vs. cherry")])
def test_captions_of_class_images_have_a_gamma_other_than_1(smooth: Network, gamma: float, text: str) -> None:
    module = ClassVisualization(smooth, objective=Logit(gamma=gamma))
    (task,) = module.expand_tasks(class_tasks(smooth, ["apple"], "cherry", seed=0))
    assert ClassVisualizationPresentation().task_name(task) == text
    assert module.expand_tasks([task]) == [task]


def test_class_images_of_a_contrast(smooth: Network, figures: Any) -> None:
    run = lv.visualize(smooth, ["apple", "date"], against=["cherry", "elder"], gamma=5, iterations=40)
    plain = lv.visualize(smooth, ["apple", "date"], iterations=40)
    assert [(r["name"], r["target"], r["against"], r["gamma"]) for r in run.records] == [
        ("apple vs. cherry", 0, 2, 5), ("date vs. elder", 3, 4, 5),
    ]  # fmt: skip
    assert "apple vs. cherry (gamma 5)" in " ".join(figures.texts(run.figure()))
    for record, actual, reference in zip(
        run.records, smooth.scores(run.images), smooth.scores(plain.images), strict=True
    ):
        c, d = record["target"], record["against"]
        assert actual[c] - 5 * actual[d] > reference[c] - 5 * reference[d] + 0.1
    with pytest.raises(LitVizError, match="against must be one class, or one per target: got 3 for 2"):
        lv.visualize(smooth, ["apple", "date"], against=[1, 2, 3])
    with pytest.raises(LitVizError, match="against requires a score of a class, such as Logit, got Channel"):
        lv.visualize(smooth, layer="features.3", channel=1, against="apple")
