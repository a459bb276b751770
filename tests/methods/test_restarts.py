"""A class image that the network does not recognize starts again with other draws, by the log-probability, and the best
is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_viz.callbacks.saving import ExactCheckpoint, RunFolder
from lit_viz.engine.snapshots import Result
from lit_viz.errors import LitVizError
from lit_viz.images import Noise, Pixels
from lit_viz.methods import ClassVisualization
from lit_viz.methods.recipes import PictureOptions
from lit_viz.networks import Network
from lit_viz.objectives import Channel, Logit, LogProbability
from lit_viz.optim import Adam
from lit_viz.outputs import load_network
from lit_viz.rng import Draws, Key, restart_seed
from lit_viz.types import Task
from tests.support.marks import slow
from tests.support.runs import Train

ITERATIONS = 12
VIEWS = 2


class Gate(nn.Module):
    """Class 0 has a gradient only above gray, so that an image which starts below never reaches it; its logit is at
    most ``limit``."""

    def __init__(self, limit: float = 100.0) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        brightness = 40 * (x - 0.5).mean((1, 2, 3))
        logit = brightness.relu().clamp(max=self.limit)
        return torch.stack([logit, torch.full_like(logit, 3.0)], 1)


def gate(limit: float = 100.0) -> Network:
    return load_network(Gate(limit).eval(), labels=["bright", "other"], mean=[0.0] * 3, std=[1.0] * 3, size=8)


def method(network: Network, **options: Any) -> ClassVisualization:
    given: dict[str, Any] = {
        "parameterization": Pixels(),
        "step_rule": Adam(0.02),
        "transforms": [Noise(0.001)],
        "views": VIEWS,
        "iterations": ITERATIONS,
        "log_at": "every:5",
        "curve_at": "every:5",
        "restarts": 2,
    }
    return ClassVisualization(network, **given | options)


def bright_tasks(*seeds: int, **options: Any) -> list[Task]:
    tasks = []
    for index, seed in enumerate(seeds):
        tasks.append(Task(index, "bright", seed, target=0, target_name="bright", **options))
    return tasks


def starts_bright(seed: int) -> bool:
    module = method(gate())
    image = Pixels().start(Draws([Key(seed, 0)]), module.canvas)
    return bool(Pixels().decode(image, module.canvas).mean() > 0.5)


def restarts_until_bright(seed: int) -> int:
    return next(restart for restart in range(99) if starts_bright(restart_seed(seed, restart)))


def seed_with(restarts: int) -> int:
    """Return the first seed of a task whose first image of a bright start has this number."""
    return next(seed for seed in range(999) if restarts_until_bright(seed) == restarts)


def plain(result: Result) -> dict[str, Any]:
    values = result.record.to_dict()
    del values["seconds"]
    return values


def test_the_second_image_is_that_of_the_derived_seed(train: Train) -> None:
    seed = seed_with(1)
    memory = train(method(gate()), bright_tasks(seed))
    ((result,), (snapshots,)) = memory.results.values(), memory.snapshots.values()
    by_probability = method(gate(), objective=LogProbability())
    (alone,) = train(by_probability, bright_tasks(restart_seed(seed, 1))).results.values()
    assert torch.equal(result.image, alone.image)
    assert result.record.metrics == alone.record.metrics
    assert result.record.probability > 0.5
    assert (result.record.seed, result.record.restarts) == (seed, 1)
    assert (alone.record.restarts, "restarts" in alone.record.to_dict()) == (None, False)
    # An image has 12 x 2 evaluations, and 2 forwards more at its end; one forward per snapshot.
    assert result.record.backwards == 2 * ITERATIONS * VIEWS
    assert result.record.forwards == 2 * alone.record.forwards
    assert result.record.iterations == 2 * ITERATIONS
    # The iterations are counted on.
    assert [snapshot.iteration for snapshot in snapshots] == [0, 5, 10, 12, 17, 22, 24]
    assert snapshots[-1].metrics["probability"] == result.record.probability


@pytest.mark.parametrize("limit", [2.9, 2.0])
def test_the_best_of_three_failures_is_kept(limit: float, train: Train) -> None:
    """The probability of class 0 is below 0.5 for a logit below 3; only one image starts bright."""
    seed = seed_with(1)
    memory = train(method(gate(limit)), bright_tasks(seed))
    (result,) = memory.results.values()
    alone = []
    for restart in range(3):
        module = method(gate(limit), objective=LogProbability() if restart else Logit(), restarts=0)
        alone.append(train(module, bright_tasks(restart_seed(seed, restart))).results[0])
    best = max(alone, key=lambda other: other.record.probability)
    assert torch.equal(result.image, best.image)
    assert result.record.metrics == best.record.metrics
    assert result.record.probability < 0.5
    assert (result.record.status, result.record.restarts) == ("done", 2)
    assert result.record.backwards == 3 * ITERATIONS * VIEWS
    assert result.record.iterations == 3 * ITERATIONS
    assert not result.record.is_recognized
    assert memory.snapshots[0][-1].iteration == 3 * ITERATIONS
    assert torch.equal(memory.snapshots[0][-1].image, result.image)


def test_other_tasks_are_bit_equal(train: Train) -> None:
    """Tasks that start again follow the new ones, so that the batches of these are the same."""
    seeds = [seed_with(1), seed_with(0), seed_with(0) + 1, seed_with(2), seed_with(0), seed_with(0) + 2]
    with_restarts = train(method(gate(), slots=3), bright_tasks(*seeds))
    without = train(method(gate(), slots=3, restarts=0), bright_tasks(*seeds))
    untouched = 0
    for index, result in with_restarts.results.items():
        if result.record.restarts is None:
            untouched += 1
            assert torch.equal(result.image, without.results[index].image)
            assert plain(result) == plain(without.results[index])
    assert 0 < untouched < 6


class Kill(ExactCheckpoint):
    """Saves after every step, and ends the run as by a kill after one of them."""

    def __init__(self, path: Path, step: int) -> None:
        super().__init__(path, every_steps=1)
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


@pytest.mark.parametrize("step", [slow(ITERATIONS), ITERATIONS + 7, 3 * ITERATIONS - 1, slow(3 * ITERATIONS)])
def test_a_resumed_restart_is_bit_equal(step: int, train: Train, tmp_path: Path) -> None:
    """Three tasks in two slots, killed between two images, and within the second one and the third one."""
    tasks = bright_tasks(seed_with(2), seed_with(1), seed_with(0))
    options = {"slots": 2, "log_at": "every:5"}
    undisturbed = train(method(gate(), **options), tasks, [RunFolder(tmp_path / "undisturbed")])
    path, folder = tmp_path / "last.ckpt", tmp_path / "run"
    with pytest.raises(RuntimeError, match="killed"):
        train(method(gate(), **options), tasks, [RunFolder(folder), Kill(path, step)])
    module = method(gate(), **options)
    train(module, tasks, [RunFolder(folder), ExactCheckpoint(path)], ckpt_path=path)
    assert [result.record.restarts for result in module.results] == [2, 1, None]
    for result in module.results:
        expected = undisturbed.results[result.task.index]
        assert torch.equal(result.image, expected.image)
        assert plain(result) == plain(expected)
    for name in ("metrics.csv", "frames"):
        assert contents(folder / name) == contents(tmp_path / "undisturbed" / name)


def contents(path: Path) -> Any:
    """Return the lines of a file, sorted, or the files of a folder."""
    if path.is_file():
        return sorted(path.read_text().splitlines())
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*.png")}


def test_a_stopped_run_keeps_an_image_that_waits_to_start_again(train: Train) -> None:
    """The run ends after the first image of the first task, whose second one waits behind the third task."""
    tasks = bright_tasks(*[seed_with(0)] * 4)
    tasks[1:] = [replace(task, target=1) for task in tasks[1:]]  # reached at once
    module = method(gate(limit=2.0), slots=2)
    train(module, tasks, max_steps=ITERATIONS + 2)
    first, second, third, _ = module.results
    assert (first.record.status, first.record.iterations) == ("unfinished", ITERATIONS)
    assert (second.record.status, second.record.iterations) == ("done", ITERATIONS)
    assert (third.record.status, third.record.iterations) == ("unfinished", 2)
    (alone,) = train(method(gate(limit=2.0), restarts=0), tasks[:1]).results.values()
    assert torch.equal(first.image, alone.image)


def test_an_image_that_fails_after_a_restart_does_not_replace_the_first(train: Train) -> None:
    class Breaks(Logit):
        """Not a number as soon as the image is bright."""

        def __call__(self, outputs: Any) -> Tensor:
            score = super().__call__(outputs)
            return score + torch.where(outputs.logits[:, 0] > 0, torch.nan, 0.0)

    seed = seed_with(1)
    (result,) = train(method(gate(), objective=Breaks()), bright_tasks(seed)).results.values()
    (alone,) = train(method(gate(), restarts=0), bright_tasks(seed)).results.values()
    assert (result.record.status, result.record.error, result.record.restarts) == ("done", None, 1)
    assert torch.equal(result.image, alone.image)


class Raises(Gate):
    """Raises on an image that is much brighter than gray."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x.mean((1, 2, 3)) > 0.55).any()):
            raise ValueError("too bright")
        return super().forward(x)


def test_a_network_that_raises_after_a_restart_leaves_the_first_image(train: Train) -> None:
    seed = seed_with(1)
    network = load_network(Raises().eval(), labels=["bright", "other"], mean=[0.0] * 3, std=[1.0] * 3, size=8)
    (result,) = train(method(network), bright_tasks(seed)).results.values()
    (alone,) = train(method(gate(), restarts=0), bright_tasks(seed)).results.values()
    assert (result.record.status, result.record.error, result.record.restarts) == ("done", None, 1)
    assert ITERATIONS < result.record.iterations < 2 * ITERATIONS
    assert torch.equal(result.image, alone.image)


def other_network(decision: str) -> Network:
    network = gate()
    network.decision = decision  # type: ignore[assignment]
    return network


@pytest.mark.parametrize(
    "make",
    [
        lambda: method(gate(), restarts=0),
        lambda: method(gate(), restarts=None),  # few iterations
        lambda: method(gate(), init=torch.full((3, 8, 8), 0.25)),
        lambda: method(gate(), picture=PictureOptions(group=2)),
        lambda: method(other_network("independent")),
        lambda: method(gate(), objective=Logit() + Logit()),
    ],
)
def test_other_images_do_not_start_again(make: Callable[[], ClassVisualization], train: Train) -> None:
    (result,) = train(make(), bright_tasks(seed_with(1))).results.values()
    assert (result.record.iterations, result.record.restarts) == (ITERATIONS, None)


@pytest.mark.parametrize("options", [{"against": 1}, {"iterations": ITERATIONS}, {"lr": 0.02}])
def test_tasks_that_are_compared_with_others_do_not_start_again(options: dict[str, Any], train: Train) -> None:
    (result,) = train(method(gate()), bright_tasks(seed_with(1), **options)).results.values()
    assert (result.record.iterations, result.record.restarts) == (ITERATIONS, None)


def test_the_default_depends_on_the_iterations() -> None:
    assert ClassVisualization(gate()).restarts == 2
    assert ClassVisualization(gate(), iterations=200).restarts == 2
    assert ClassVisualization(gate(), iterations=199).restarts == 0
    with pytest.raises(LitVizError, match="restarts must be at least 0, got -1"):
        method(gate(), restarts=-1)


def test_images_of_channels_have_no_restarts(smooth: Network, train: Train) -> None:
    module = method(smooth, objective=Channel("features.3", 1))
    (result,) = train(module, [replace(Task(0, "channel", 1), layer="features.3")]).results.values()
    assert result.record.iterations == ITERATIONS
    assert "restarts" not in result.record.to_dict()
