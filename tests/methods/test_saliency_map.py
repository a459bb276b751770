from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.attributions import (
    ATTRIBUTIONS,
    Attribution,
    Gradient,
    GuidedGradCAM,
    IntegratedGradients,
    SmoothGrad,
    attribute,
    automatic_method,
)
from lit_viz.attributions.attention import AttentionMap
from lit_viz.callbacks.saving import ExactCheckpoint
from lit_viz.errors import LitVizError
from lit_viz.methods import SaliencyMap
from lit_viz.networks import Network
from lit_viz.runs.records import SaliencyRecord
from lit_viz.types import Record, Task
from tests.support.marks import slow
from tests.support.networks import Around, smooth_network
from tests.support.runs import Train
from tests.support.verdicts import verdicts


def method_of(name: str) -> Attribution:
    return ATTRIBUTIONS[name](window=6) if name == "occlusion" else ATTRIBUTIONS[name]()


def images(n: int = 5) -> Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("zoo/planted_vit", "libra_gradient"), ("zoo/planted_cnn", "gradient"), slow("efficientnet_lite0", "gradient")],
)
def test_the_method_follows_from_the_kind_of_network_and_is_recorded(name: str, expected: str, tmp_path: Path) -> None:
    network = lv.load_network(name)
    x = torch.rand(1, network.channels, *network.size, generator=torch.Generator().manual_seed(3))
    run = lv.saliency(network, x, target=1, captum="none", out=tmp_path / "run", logger="none")
    named = lv.saliency(network, x, target=1, method=expected, captum="none")
    assert run.records[0].method == expected
    assert torch.equal(run.maps, named.maps)
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert f"lit_viz.attributions.{ATTRIBUTIONS[expected].__name__}\n" in config
    assert lv.saliency(network, x, target=1, method="auto", captum="none").records[0].method == expected
    both = SaliencyMap(network, method=["auto", "occlusion"])
    assert list(both.methods) == [expected, "occlusion"]


def test_the_method_of_a_transformer_without_the_rule_is_the_gradient() -> None:
    """Its gate is written by hand."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(1).unflatten(1, (-1, 8))
            mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            scores: Tensor = self.head((mixed * mixed.tanh()).mean(1))
            return scores

    torch.manual_seed(0)
    network = lv.load_network(Gated(), labels=["a", "b", "c"], mean=0.0, std=1.0, size=8)
    assert automatic_method(network) == "gradient"
    with pytest.raises(LitVizError, match="tanh"):
        SaliencyMap(network, method="libra_gradient")


def queue(n: int = 5, method: str = "gradient", **options: Any) -> list[Task]:
    options = {"method": method, **options}
    return [Task(i, f"i{i}", 10 + i, target=i % 5, image=i, **options) for i in range(n)]


def module(network: Network, method: Attribution, **options: Any) -> SaliencyMap:
    return SaliencyMap(network, method=method, **{"images": images(), "slots": 2, **options})


#: Methods of many evaluations, whose tests of their own are fast.
LONG = ("shapley_interactions", "extremal_perturbation")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in LONG else ())
        for name, kind in ATTRIBUTIONS.items()
        if kind.networks in (("plain",), ("plain", "rescale")) and not issubclass(kind, (AttentionMap, GuidedGradCAM))
    ],
)
def test_a_run_gives_the_maps_of_the_bare_loop_in_float64(smooth: Network, train: Train, name: str) -> None:
    """Five photographs in two slots, of different age, several evaluations at a time, against one loop over all."""
    count = {"rise": 20, "kernel_shap": 40, "shapley_interactions": 940, "extremal_perturbation": 3}.get(name)
    memory = train(module(smooth, method_of(name), iterations=count), queue(method=name), precision="64-true")
    method = method_of(name)
    method.bind(smooth)
    networks = {copy: smooth.fast(method.layers, dtype=torch.float64, backprop=copy) for copy in method.networks}
    x, targets, seeds = images().double(), [t.target for t in queue()], [t.seed for t in queue()]
    expected, uncertainty = attribute(method, networks, x, targets, evaluations=count, seeds=seeds)
    actual = torch.stack([memory.results[i].array for i in range(5)])
    assert (actual - expected).abs().max() <= 1e-6 * expected.abs().max()  # arrays are float32
    for i, (_, result) in enumerate(sorted(memory.results.items())):
        assert result.record.method == name
        assert Record.read(dict(sorted(result.record.to_dict().items()))).settings == result.record.settings
        if name in ("feature_ablation", "shapley_interactions"):  # images have fewer superpixels than allowed
            assert result.record.iterations <= method.evaluations
        else:
            assert result.record.iterations == (count or method.evaluations)
        if "error" in uncertainty:
            assert result.record["relative_error"] == pytest.approx(float(uncertainty["error"][i]), rel=1e-6)


def test_evaluations_are_counted_and_none_is_wasted(smooth: Network, train: Train) -> None:
    """With given targets, a gradient and the prediction cost one evaluation."""
    memory = train(module(smooth, Gradient()), queue())
    for i, result in memory.results.items():
        assert (result.record.forwards, result.record.backwards) == (1, 1)
        logits = smooth.scores(images())[i]
        assert result.record.probability == pytest.approx(float(logits.softmax(0)[i % 5]), abs=1e-6)
        assert result.record.top5[0][0] == smooth.labels[int(logits.argmax())]
    memory = train(module(smooth, SmoothGrad(), iterations=9), queue(method="smoothgrad"))
    for result in memory.results.values():  # noisy copies only: the photograph itself is evaluated once
        assert (result.record.forwards, result.record.backwards) == (9 + 1, 9)


def test_a_single_photograph_fills_the_batch(smooth: Network, train: Train) -> None:
    sizes: list[int] = []

    class Sizes(SaliencyMap):
        def score(self, x: Tensor, rows: Sequence[int], **how: Any) -> Any:
            sizes.append(len(x))
            return super().score(x, rows, **how)

    train(
        Sizes(smooth, method=SmoothGrad(), images=images(), iterations=20, batch=6, log_at="last", curve_at="last"),
        queue(1, "smoothgrad"),
    )
    assert sizes == [6, 6, 6, 2, 1]  # the last one asks about the photograph itself


def test_maps_are_logged_at_the_scheduled_evaluations(smooth: Network, train: Train) -> None:
    made = module(smooth, SmoothGrad(), iterations=10, batch=8, log_at="1,3,7", curve_at="last")
    memory = train(made, queue(method="smoothgrad"))
    for seen in memory.snapshots.values():
        assert [o.iteration for o in seen] == [1, 3, 7, 10]
        errors = [o.metrics["relative_error"] for o in seen]
        assert errors[0] == np.inf
        assert errors[1] > errors[3] > 0


def test_each_map_stops_at_its_tolerance(smooth: Network, train: Train) -> None:
    made = module(smooth, IntegratedGradients(), iterations=200, tolerance=1e-3)
    memory = train(made, queue(method="integrated_gradients"))
    exact = train(module(smooth, IntegratedGradients(), iterations=200), queue(method="integrated_gradients"))
    for i, result in memory.results.items():
        assert result.record.iterations < 200
        assert result.record["relative_error"] <= 1e-3
        error = (result.array - exact.results[i].array).abs().max() / exact.results[i].array.abs().max()
        assert error < 3e-3


def test_several_methods_run_one_after_another(smooth: Network, train: Train) -> None:
    tasks = [
        Task(i + 3 * j, f"i{i}", i, target=1, image=i, method=name)
        for j, name in enumerate(("gradient", "smoothgrad"))
        for i in range(3)
    ]
    memory = train(module(smooth, [Gradient(), SmoothGrad()]), tasks)
    assert [memory.results[i].record.iterations for i in range(6)] == [1, 1, 1, 128, 128, 128]
    alone = train(
        module(smooth, SmoothGrad()), [Task(1, "i1", 1, target=1, image=tasks[4].image, method=tasks[4].method)]
    )
    torch.testing.assert_close(memory.results[4].array, alone.results[1].array, rtol=1e-4, atol=1e-6)


def test_labels_and_targets_are_completed_when_the_photograph_is_read(smooth: Network, train: Train) -> None:
    tasks = [
        Task(0, "a", 0, label_source="predicted", image=0, method="gradient", rule="label"),
        Task(1, "b", 1, label_source="predicted", image=1, method="gradient", rule="least-likely"),
    ]
    memory = train(module(smooth, Gradient()), tasks)
    logits = smooth.scores(images())
    first, second = memory.results[0], memory.results[1]
    assert first.task.label == first.task.target == int(logits[0].argmax())
    assert second.task.label == int(logits[1].argmax())
    assert second.task.target == int(logits[1].argmin())
    assert second.record.target_name == smooth.labels[int(logits[1].argmin())]
    assert first.record.forwards == 2  # one to find the label


@pytest.mark.parametrize("name", ["gradient", "smoothgrad"])
def test_an_unused_predicted_label_costs_no_forward(smooth: Network, train: Train, name: str) -> None:
    tasks = [replace(task, label_source="predicted") for task in queue(method=name)]
    calls = train(module(smooth, ATTRIBUTIONS[name](), iterations=4), queue(method=name)).results
    output = train(module(smooth, ATTRIBUTIONS[name](), iterations=4), tasks).results
    predicted = smooth.scores(images()).argmax(1).tolist()
    for i, result in output.items():
        assert (result.task.label, result.task.target) == (predicted[i], i % 5)
        assert result.record.forwards == calls[i].record.forwards
        assert calls[i].task.label is None
        assert result.record.probability == calls[i].record.probability
        assert result.record.top5[0][0] == smooth.labels[predicted[i]]


def test_only_the_broken_photograph_fails(smooth: Network, train: Train, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("no picture")
    files = ["good.png", "empty.jpg", "text.png", "good.png"]
    tasks = [Task(i, file, i, target=1, source=str(tmp_path / file), method="gradient") for i, file in enumerate(files)]
    memory = train(module(smooth, Gradient(), images=()), tasks)
    assert [memory.results[i].record.status for i in range(4)] == ["done", "failed", "failed", "done"]
    assert {(type(result.record), result.record.method) for result in memory.results.values()} == {
        (SaliencyRecord, "gradient")
    }
    assert "is empty" in memory.results[1].record.error
    assert "not an image" in memory.results[2].record.error
    assert memory.results[3].record.original_size == [20, 30]
    assert memory.results[3].record.original_box == [5, 0, 25, 20]


@pytest.mark.parametrize("name", ["gradient", "smoothgrad", "integrated_gradients", "rise"])
def test_a_resumed_run_is_bit_equal(smooth: Network, train: Train, tmp_path: Path, name: str) -> None:
    class Dies(ExactCheckpoint):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 3:
                raise RuntimeError("killed")
            super().on_train_batch_end(trainer, *args)

    def fresh() -> SaliencyMap:
        return module(smooth, method_of(name), iterations=None if name == "gradient" else 11)

    tasks = queue(method=name, rule="label")
    tasks = [replace(task, target=None, label_source="predicted") for task in tasks]
    undisturbed = train(fresh(), tasks)
    with pytest.raises(RuntimeError, match="killed"):
        train(fresh(), tasks, [Dies(tmp_path / "last.ckpt", every_steps=2)])
    rest = train(fresh(), tasks, ckpt_path=tmp_path / "last.ckpt")
    assert 4 in rest.results
    for index, result in rest.results.items():
        assert torch.equal(result.array, undisturbed.results[index].array)
        assert (result.terms is None) == (name == "gradient")
        if result.terms is not None:
            assert torch.equal(result.terms, undisturbed.results[index].terms)
        assert result.task == undisturbed.results[index].task
        same = {key: value for key, value in result.record.to_dict().items() if key != "seconds"}
        assert same == {k: v for k, v in undisturbed.results[index].record.to_dict().items() if k != "seconds"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": []}, "method must name at least one saliency method"),
        ({"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"reducer": "max-abs"}, "reducer must be one of .*, got 'max-abs'"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
    ],
)
def test_invalid_runs_give_a_one_line_error(smooth: Network, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LitVizError, match=sentence):
        SaliencyMap(smooth, **options)


def test_a_method_with_several_settings_is_named_by_them(smooth: Network, tmp_path: Path) -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    methods = [SmoothGrad(sigma=0.05), SmoothGrad(sigma=0.5), "gradient"]
    options: dict[str, Any] = {"iterations": 4, "captum": "none", "logger": "none"}
    run = lv.saliency(smooth, x, method=methods, out=tmp_path / "run", **options)
    names = ["smoothgrad, sigma 0.05", "smoothgrad, sigma 0.5", "gradient"]
    assert [record["method"] for record in run.records] == [name for name in names for _ in x]
    assert run.to_pandas()["sigma"].tolist()[:4] == [0.05, 0.05, 0.5, 0.5]
    for place, sigma in enumerate([0.05, 0.5]):
        alone = lv.saliency(smooth, x, method=SmoothGrad(sigma=sigma), **options)
        assert torch.equal(run.arrays[2 * place : 2 * place + 2], alone.arrays)
    assert run.presentation.names(run.records)[0].endswith("SmoothGrad, sigma 0.05")
    assert torch.equal(lv.resume(tmp_path / "run", smooth.original).arrays, run.arrays)


def test_a_repeated_method_is_rejected(smooth: Network) -> None:
    with pytest.raises(LitVizError, match="must differ, got smoothgrad, smoothgrad: give other settings"):
        SaliencyMap(smooth, method=[SmoothGrad(), "smoothgrad"])
    with pytest.raises(LitVizError, match="must differ, got gradient, gradient"):
        SaliencyMap(smooth, method=["auto", "gradient"])  # of a CNN


def test_a_map_that_is_not_finite_has_failed() -> None:
    """A NaN would rank as the most salient pixel."""

    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rooted = Around(smooth_network(), lambda net, x: net((x * (x > 0.5)).sqrt()))
    net = lv.load_network(rooted, size=16)
    with pytest.warns(UserWarning, match="1 failed of 2 images: image 0: all values of a map must be finite"):
        record, _ = lv.saliency(net, torch.cat([x, torch.ones_like(x)]), target=0, captum="none").records
    assert record["status"] == "failed"
    assert "all values of a map must be finite" in record["error"]


def test_guided_grad_cam_reads_a_layer_before_its_rectifier() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 4),
        ).eval()  # fmt: skip
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    net = lv.load_network(network, size=16)
    assert verdicts(lv.saliency(net, x, target=0, method="guided_grad_cam", layer="2", captum="captum")) == [True]


def test_methods_are_copied(smooth: Network) -> None:
    given = SmoothGrad()
    tolerance = given.tolerance
    made = SaliencyMap(smooth, method=given, tolerance=0.25)
    assert made.methods["smoothgrad"].tolerance == 0.25
    assert given.tolerance == tolerance
    default = SaliencyMap(smooth, tolerance=0.5).methods["gradient"]
    assert SaliencyMap(smooth).methods["gradient"].tolerance is None
    assert default.tolerance == 0.5
