"""Class visualization of layers: groups of images, octaves, views of any size, and the state of the network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_viz.callbacks.saving import ExactCheckpoint
from lit_viz.errors import LitVizError
from lit_viz.images import Clamp, Fourier, GaussianBlur, Noise, Pixels, RandomCrop, Roll, TotalVariation
from lit_viz.images.canvas import Octaves, join_group, split_group
from lit_viz.methods import ClassVisualization
from lit_viz.methods.recipes import PictureOptions
from lit_viz.networks import Network
from lit_viz.objectives import Channel, Diversity, Layer, Objective, Outputs
from lit_viz.optim import Adam, NormalizedAscent
from lit_viz.outputs import load_network
from lit_viz.types import Task
from tests.support.networks import NAMES
from tests.support.runs import Train, tasks_for

VIEWS = (RandomCrop(0.6, 1.0), Noise(0.05))
OCTAVES = PictureOptions(octaves=Octaves(3, 2.0), native=True, size=32)


def of_channels(*channels: int, layer: str = "features.3") -> list[Task]:
    return [Task(i, f"{layer}_ch{c}", i, layer=layer, channel=c) for i, c in enumerate(channels)]


def method(network: Network, objective: Objective | None = None, **options: Any) -> ClassVisualization:
    given: dict[str, Any] = {
        "parameterization": Fourier(),
        "step_rule": Adam(0.1),
        "transforms": VIEWS,
        "views": 2,
        "iterations": 6,
        "slots": 3,
        **options,
    }
    return ClassVisualization(network, objective=objective or Channel("features.3"), **given)


def test_every_task_raises_its_own_channel(smooth: Network, train: Train) -> None:
    memory = train(method(smooth, iterations=30), of_channels(0, 5, 11, 5))
    for index, channel in enumerate((0, 5, 11, 5)):
        record, seen = memory.results[index].record, memory.snapshots[index]
        assert (record.layer, record.channel) == ("features.3", channel)
        assert seen[-1].metrics["objective_file"] > seen[0].metrics["objective_file"] + 0.05
        assert "probability" not in seen[-1].metrics
        assert "judges" not in record.to_dict()
        with torch.no_grad():
            maps = smooth.original.features[:4](smooth.normalize(memory.results[index].image[None]))
        assert record.objective_file == pytest.approx(float(maps[0, channel].mean()), abs=1e-5)


def test_a_group_is_trained_and_shown_side_by_side(smooth: Network, train: Train) -> None:
    module = method(smooth, picture=PictureOptions(group=3), log_at="0,3")
    memory = train(module, of_channels(1, 4))
    first, *_ = memory.snapshots[0]
    images = split_group(first.image, 3)
    assert images.shape == (3, 3, 16, 16)
    assert not torch.equal(images[0], images[1])
    alone = train(method(smooth, log_at="0,3"), of_channels(1)).snapshots[0][0]
    assert torch.equal(images[0], alone.image)  # the first one starts as a single image does
    record = memory.results[1].record
    assert record.backwards == 6 * 3 * 2
    assert record.forwards == 6 * 3 * 2 + 3 * 2 + 3 * 3  # the last score, and three looks without views
    assert module.cost(of_channels(1, 4)) == (6, 2 * 6 * 3 * 2)


def test_side_by_side_and_apart() -> None:
    """The gap grows with the images."""
    for width, gap in ((7, 1), (16, 1), (63, 1), (64, 2), (127, 3), (128, 4), (224, 4)):
        images = torch.rand(4, 3, 5, width)
        picture = join_group(images)
        assert picture.shape == (3, 5, 4 * width + 3 * gap)
        assert bool((picture[:, :, width : width + gap] == 1).all())
        assert torch.equal(split_group(picture, 4), images)
        assert torch.equal(join_group(images[:1]), images[0])
        assert torch.equal(split_group(images[0], 1), images[:1])


def likeness(network: Network, picture: Tensor, group: int) -> float:
    """Mean cosine of the Gram matrices of the group's pictures, over its pairs."""
    with torch.no_grad():
        maps = network.original.features[:4](network.normalize(split_group(picture, group))).flatten(2)
    grams = [nn.functional.normalize((a @ a.T).flatten(), dim=0) for a in maps]
    pairs = [float(grams[i] @ grams[j]) for i in range(group) for j in range(i)]
    return sum(pairs) / len(pairs)


def test_diversity_separates_the_images_of_a_task(smooth: Network, train: Train) -> None:
    diverse = Channel("features.3") + 2 * Diversity("features.3")
    options: dict[str, Any] = {"picture": PictureOptions(group=3), "iterations": 25}
    plain, output = (
        train(method(smooth, objective, **options), of_channels(2)).results[0].image
        for objective in (Channel("features.3"), diverse)
    )
    assert likeness(smooth, output, 3) < likeness(smooth, plain, 3) - 0.02


def test_groups_in_slots_equal_single_groups_in_float64(smooth: Network, train: Train) -> None:
    """What couples the images of a task couples no tasks."""
    objective = Channel("features.3") + Diversity("features.0")
    options: dict[str, Any] = {
        "picture": PictureOptions(group=2),
        "parameterization": Pixels(),
        "priors": [TotalVariation(1e-3)],
    }
    tasks = of_channels(0, 3, 7, 9, 9)
    together = train(method(smooth, objective, slots=2, **options), tasks, precision="64-true")
    for task in tasks:
        alone = train(method(smooth, objective, slots=1, **options), [task], precision="64-true")
        actual, its = together.snapshots[task.index][-1].metrics, alone.snapshots[task.index][-1].metrics
        assert actual == pytest.approx(its, abs=1e-9)


def test_a_prior_of_a_group_is_the_mean_over_its_images(smooth: Network, train: Train) -> None:
    groups = PictureOptions(group=2)
    module = method(
        smooth, picture=groups, parameterization=Pixels(), priors=[TotalVariation(0.01)], log_at="0", iterations=1
    )
    first = train(module, of_channels(1)).snapshots[0][0]
    expected = TotalVariation(0.01)(smooth.normalize(split_group(first.image, 2))).mean()
    assert first.metrics["total_variation"] == pytest.approx(float(expected), rel=0.02)  # the picture has 8 bits


def test_two_priors_of_a_kind_are_logged_together(smooth: Network, train: Train) -> None:
    metrics = []
    for weights in ([0.03], [0.01, 0.02]):
        priors = [TotalVariation(weight) for weight in weights]
        module = method(smooth, parameterization=Pixels(), priors=priors, log_at="0", iterations=1)
        metrics.append(train(module, of_channels(1)).snapshots[0][0].metrics)
    assert metrics[1]["total_variation"] == pytest.approx(metrics[0]["total_variation"], rel=1e-5)


def test_groups_of_a_class_are_judged_together(smooth: Network, train: Train) -> None:
    calls: list[Tensor] = []

    def judges(picture: Tensor, target: int) -> dict[str, Any]:
        calls.append(picture)
        return {"judge": {"probability": 0.2 * len(calls), "rank": len(calls)}}

    module = ClassVisualization(
        smooth, parameterization=Fourier(), step_rule=Adam(0.1), picture=PictureOptions(group=3), iterations=2
    )
    module.judges = judges
    (record,) = [result.record for result in train(module, tasks_for(smooth, [2])).results.values()]
    assert [tuple(picture.shape) for picture in calls] == [(3, 16, 16)] * 3
    assert record.judges["judge"] == {"probability": pytest.approx(0.4), "rank": 3}
    assert 0 < record.probability < 1


def test_projections_reach_every_image_of_a_group(smooth: Network, train: Train) -> None:
    options: dict[str, Any] = {"parameterization": Pixels("normalized"), "iterations": 1}
    seen: list[Tensor] = []

    class Watch(ClassVisualization):
        def project(self, x: Tensor) -> Tensor:
            seen.append(super().project(x))
            return seen[-1]

    module = Watch(
        smooth,
        step_rule=Adam(5.0),
        objective=Channel("features.3"),
        picture=PictureOptions(group=2),
        projections=[GaussianBlur(0.5, 1), Clamp()],
        **options,
    )
    train(module, of_channels(1))
    assert seen[0].shape == (1, 2, 3, 16, 16)
    assert seen[0].abs().max() == pytest.approx(2.0)  # (1 - 0.5) / 0.25


class Sizes(Objective):
    """Notes how large the network's inputs are, by what its first layer gives."""

    layers = ("features.0",)

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, outputs: Outputs) -> Tensor:
        self.seen.append(outputs.activations["features.0"].shape[-1] * 2)
        return outputs.activations["features.0"].square().mean((1, 2, 3))


def test_the_canvas_grows_over_the_octaves(smooth: Network, train: Train) -> None:
    sizes = Sizes()
    module = method(smooth, sizes, picture=OCTAVES, transforms=[Roll(2)], views=1)
    train(module, [Task(0, "x", 0)])
    trial, first_look, *updates, last_score, last_look = sizes.seen
    assert updates == [8, 8, 16, 16, 32, 32]
    assert trial == 8
    assert (first_look, last_score, last_look) == (32, 32, 32)


def test_views_grow_to_the_input_size(smooth: Network, train: Train) -> None:
    """From 64 pixels on, for images of any size."""
    sizes = Sizes()
    picture = PictureOptions(octaves=Octaves(3, 2.0), size=32)
    network = load_network(smooth.original, size=128)
    train(method(network, sizes, picture=picture, transforms=[Roll(2)], views=1), [Task(0, "x", 0)])
    _, _, *updates, _, _ = sizes.seen
    assert updates == [64, 64, 64, 128, 128, 128]
    assert method(smooth, picture=picture).octaves is None


def test_views_keep_the_only_input_size_of_a_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.Flatten(), nn.Linear(4 * 16 * 16, 5))
    module = method(load_network(network, size=128), Channel("0"), picture=PictureOptions(octaves=Octaves(2, 2.0)))
    assert any(
        "no images of 64 x 64 pixels, or changes its attributes for them: all octaves have inputs of 128 x 128" in note
        for note in module.notes
    )
    assert [module._input_size(octave) for octave in range(2)] == [(128, 128)] * 2


def test_octaves_share_the_iterations_of_the_image(smooth: Network, train: Train) -> None:
    sizes = Sizes()
    module = method(smooth, sizes, picture=OCTAVES, transforms=[Roll(2)], views=1)
    train(module, [Task(0, "x", 0, iterations=3), Task(1, "y", 0, iterations=6)])
    assert [size for size in sizes.seen if size < 32] == [8, 8, 16, 8, 8, 16, 16]  # the first is the trial's


def test_octaves_share_the_iterations() -> None:
    octaves = Octaves(4, 1.4)
    assert [octaves.at(k, 10) for k in range(11)] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [octaves.size((448, 224), octave) for octave in range(4)] == [(163, 82), (229, 114), (320, 160), (448, 224)]
    images = torch.rand(1, 3, 16, 16)
    assert octaves(images, 3) is images
    with pytest.raises(LitVizError, match="count must be at least 1"):
        Octaves(0)


def test_a_photograph_keeps_its_detail_through_the_octaves(smooth: Network, train: Train) -> None:
    """What a coarse octave adds is smooth: the photograph's finest stripes stay as they were."""
    stripes = (torch.arange(32) % 2 * 0.25 + 0.375).expand(3, 32, 32)
    module = method(
        smooth,
        Layer("features.3"),
        parameterization=Pixels(),
        step_rule=NormalizedAscent(0.5),
        transforms=[],
        views=1,
        # 6 of 1000 octaves: all are seen at some 37 %
        picture=PictureOptions(octaves=Octaves(1000, 1.001), native=True, size=32),
        init=stripes,
        iterations=6,
        log_at="0",
    )
    result = train(module, [Task(0, "x", 0)]).results[0]
    change = result.image - stripes
    finest = change[..., ::2].mean() - change[..., 1::2].mean()
    assert change.abs().max() > 0.05
    assert abs(float(finest)) < 0.004


def test_late_tasks_do_not_mix_octaves(smooth: Network, train: Train) -> None:
    """Tasks of different length, two at a time, see their canvas as each does alone."""
    tasks = [replace(task, iterations=3 + task.index) for task in of_channels(0, 1, 2, 3)]
    options: dict[str, Any] = {"picture": PictureOptions(octaves=Octaves(2), native=True), "iterations": 6}
    together = train(method(smooth, slots=2, **options), tasks, precision="64-true")
    for task in tasks:
        alone = train(method(smooth, slots=1, **options), [task], precision="64-true")
        actual, its = together.snapshots[task.index][-1], alone.snapshots[task.index][-1]
        assert actual.iteration == its.iteration == 3 + task.index
        assert actual.metrics == pytest.approx(its.metrics, abs=1e-9)


def test_a_resumed_group_with_octaves_is_bit_equal(smooth: Network, train: Train, tmp_path: Any) -> None:
    class Dies(ExactCheckpoint):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 8:
                raise RuntimeError("killed")
            super().on_train_batch_end(trainer, *args)

    options: dict[str, Any] = {"picture": PictureOptions(group=2, octaves=Octaves(2), native=True), "slots": 2}
    path, tasks = tmp_path / "last.ckpt", of_channels(0, 1, 2)
    undisturbed = train(method(smooth, **options), tasks)
    with pytest.raises(RuntimeError, match="killed"):
        train(method(smooth, **options), tasks, [Dies(path, every_steps=3)])
    rest = train(method(smooth, **options), tasks, ckpt_path=path)
    assert 2 in rest.results
    for index, result in rest.results.items():
        assert torch.equal(result.image, undisturbed.results[index].image)


class Kinked(nn.Module):
    """Convolution, batch norm and ReLU6: what the fast copy folds and fuses unless a layer is read."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 4, 3))
        self.head = nn.Linear(4 * 14 * 14, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


@pytest.fixture
def kinked() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Kinked().train()
    return load_network(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)


@pytest.mark.parametrize("layer", ["body.0", "body.1", "body.2"])
def test_layers_that_are_read_are_not_folded_and_the_network_is_unchanged(
    kinked: Network, train: Train, layer: str
) -> None:
    network = kinked.original
    before = {key: value.clone() for key, value in network.state_dict().items()}
    module = method(kinked, Channel(layer), parameterization=Pixels(), transforms=[], views=1)
    memory = train(module, of_channels(2, layer=layer))
    place = int(layer[-1]) + 1
    network.eval()
    with torch.no_grad():
        maps = network.body[:place](kinked.normalize(memory.results[0].image[None]))
    network.train()
    assert memory.results[0].record.objective_file == pytest.approx(float(maps[0, 2].mean()), abs=1e-5)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    for copy in (network, module._evaluator.networks["plain"]):
        assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in copy.modules())


def test_no_hook_stays_where_the_objective_raises(kinked: Network) -> None:
    class Raises(Objective):
        layers = ("body.1",)

        def __call__(self, outputs: Outputs) -> Tensor:
            raise LitVizError("no")

    with pytest.raises(LitVizError, match="no"):
        method(kinked, Raises())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in kinked.original.modules())


def test_an_unsupported_size_is_rejected(kinked: Network) -> None:
    with pytest.raises(LitVizError, match=r"takes no images of 24 x 24 pixels: give native False"):
        method(kinked, Channel("body.0"), picture=PictureOptions(native=True, size=24))
    method(kinked, Channel("body.0"), picture=PictureOptions(size=24))


def test_an_empty_group_is_rejected(smooth: Network) -> None:
    with pytest.raises(LitVizError, match=r"group must be at least 1, got 0"):
        PictureOptions(group=0)
