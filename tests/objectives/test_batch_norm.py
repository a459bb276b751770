"""Batch norm statistics against hooks, closed forms and finite differences, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_viz.engine.ranks import RankGroup
from lit_viz.errors import LitVizError
from lit_viz.images import Fourier, Noise, RandomCrop
from lit_viz.methods import ClassVisualization
from lit_viz.networks import Network
from lit_viz.objectives import BatchNormStatistics, Logit, Objective, Outputs, Sum
from lit_viz.optim import Adam
from lit_viz.outputs import load_network
from lit_viz.rng import Draws, Key
from tests.support.networks import NAMES
from tests.support.runs import Train, tasks_for

LAYERS = ("stem.1", "late")


class Normed(nn.Module):
    """Two batch norms that are called, one that is not, and no kink."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.BatchNorm2d(4)
        self.late = nn.BatchNorm2d(7)
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.Softplus(), nn.Conv2d(6, 7, 3, 2))
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.late(self.stem(x)).tanh().mean((2, 3)))


@pytest.fixture(scope="module")
def normed() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Normed().eval()
        for name in LAYERS:
            norm = network.get_submodule(name)
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2.0)
    return load_network(network.double(), labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)


def _bound(objective: Objective, network: Network) -> Objective:
    objective.bind(network)
    return objective


def _ask(objective: Objective, network: Network, images: Tensor, inputs: int) -> Tensor:
    logits, read = network.fast(objective.layers, dtype=torch.float64)(images, objective.layers)
    return objective(Outputs(logits, torch.zeros(len(images), dtype=torch.long), read, inputs=inputs))


def _images(count: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _by_hooks(network: Network, images: Tensor, first: float) -> Tensor:
    """Return the paper's sum for one batch, from the inputs that hooks see."""
    given: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args: given.__setitem__(name, args[0])

    modules = {name: network.original.get_submodule(name) for name in LAYERS}
    handles = [module.register_forward_pre_hook(keep(name)) for name, module in modules.items()]
    network.original(network.normalize(images))
    for handle in handles:
        handle.remove()
    total = torch.zeros((), dtype=torch.float64)
    for weight, name in zip((first, 1.0), LAYERS, strict=True):
        rows = given[name].transpose(0, 1).flatten(1)
        total += weight * (rows.mean(1) - modules[name].running_mean).norm()
        total += weight * (rows.var(1, unbiased=False) - modules[name].running_var).norm()
    return total


@pytest.mark.parametrize("first", [10.0, 1.0, 0.0])
def test_agrees_with_hooks_task_by_task(normed: Network, first: float) -> None:
    images = _images(6)
    scores = _ask(_bound(BatchNormStatistics(first), normed), normed, images, 3)
    expected = torch.stack([_by_hooks(normed, images[:3], first), _by_hooks(normed, images[3:], first)])
    torch.testing.assert_close(-scores, expected.repeat_interleave(3), rtol=0, atol=1e-9)


def test_gradient_agrees_with_finite_differences(normed: Network) -> None:
    objective = _bound(BatchNormStatistics(), normed)
    images = _images(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: _ask(objective, normed, x, 2), images, fast_mode=True)


def test_the_penalty_of_matching_statistics_is_zero(normed: Network) -> None:
    """Of two inputs together: each alone is off, because the spread between them counts."""
    objective = BatchNormStatistics()
    images = _images(2)
    before = {name: buffer.clone() for name, buffer in normed.original.named_buffers()}
    try:
        for name in LAYERS:
            module = normed.original.get_submodule(name)
            given: list[Tensor] = []
            handle = module.register_forward_pre_hook(lambda module, args, given=given: given.append(args[0]))
            normed.original(normed.normalize(images))
            handle.remove()
            rows = given[0].transpose(0, 1).flatten(1).detach()
            module.running_mean.copy_(rows.mean(1))
            module.running_var.copy_(rows.var(1, unbiased=False))
        objective.bind(normed)
        assert _ask(objective, normed, images, 2).abs().max() < 1e-9
        assert _ask(objective, normed, images, 1).min() < -0.01
    finally:
        for name, buffer in normed.original.named_buffers():
            buffer.copy_(before[name])


def test_layers_in_the_order_of_the_forward(normed: Network) -> None:
    assert _bound(BatchNormStatistics(), normed).layers == ("stem.1:statistics", "late:statistics")
    composed = Sum([Logit(), BatchNormStatistics()], [1.0, 0.1])
    assert composed.layers == ()
    assert _bound(composed, normed).layers == ("stem.1:statistics", "late:statistics")


class Recorder(ClassVisualization):
    """Keeps the gradient of every evaluation by (task, iteration)."""

    def score(self, x: Tensor, rows: Any, *, gradient: bool, **how: Any) -> Any:
        evaluation = super().score(x, rows, gradient=gradient, **how)
        if gradient:
            for m, (n, k) in enumerate(zip(rows, self.slots.iteration, strict=True)):
                key = (self.slots.tasks[n].index, k)
                self.seen[key] = (evaluation.score[m], evaluation.gradient[m])
        return evaluation

    seen: dict[tuple[int, int], tuple[Tensor, Tensor]]


def _method(network: Network, slots: int) -> Recorder:
    objective = Sum([Logit(), BatchNormStatistics()], [1.0, 0.1])
    transforms = [RandomCrop(0.5, 1.0), Noise(0.05)]
    module = Recorder(
        network,
        parameterization=Fourier(),
        step_rule=Adam(0.05),
        transforms=transforms,
        objective=objective,
        views=3,
        iterations=3,
        slots=slots,
    )
    module.seen = {}
    return module


def test_a_task_does_not_feel_its_neighbours(normed: Network, train: Train) -> None:
    tasks = tasks_for(normed, [i % 5 for i in range(8)])
    together = _method(normed, 8)
    train(together, tasks, precision="64-true")
    assert len(together.seen) == 24
    for task in tasks:
        alone = _method(normed, 1)
        train(alone, [task], precision="64-true")
        for key, (score, gradient) in alone.seen.items():
            torch.testing.assert_close(together.seen[key][0], score, rtol=0, atol=1e-9)
            torch.testing.assert_close(together.seen[key][1], gradient, rtol=0, atol=1e-9)


def test_a_run_compares_all_views_of_an_image(normed: Network, train: Train) -> None:
    module = _method(normed, 2)
    module.objective = BatchNormStatistics()
    module.objective.bind(normed)
    tasks = tasks_for(normed, [0, 1])
    train(module, tasks, precision="64-true")
    for task in tasks:
        draws = Draws([Key(task.seed, 0, view) for view in range(3)])
        image = module.parameterization.decode(module.start(task)[None].double(), module.canvas)
        expected = _by_hooks(normed, module.transforms(image, draws, (16, 16)), 10.0)
        assert float(module.seen[task.index, 0][0]) == pytest.approx(-float(expected), abs=1e-6)


def test_statistics_approach_the_target_and_the_network_is_preserved(normed: Network, train: Train) -> None:
    network = normed.original
    before = {key: value.clone() for key, value in network.state_dict().items()}
    options = {"transforms": [RandomCrop(0.5, 1.0)], "views": 4, "iterations": 20, "slots": 2}
    module = ClassVisualization(
        normed, parameterization=Fourier(), step_rule=Adam(0.1), objective=BatchNormStatistics(), **options
    )
    memory = train(module, tasks_for(normed, [0, 1]))
    for seen in memory.snapshots.values():
        assert seen[-1].metrics["objective"] > 0.8 * seen[0].metrics["objective"]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in network.modules())


def test_a_network_without_batch_norms_is_rejected() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    classifier = load_network(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)
    with pytest.raises(LitVizError, match=r"requires batch norms with running statistics, and Sequential has none"):
        BatchNormStatistics().bind(classifier)
    with pytest.raises(LitVizError, match="first of BatchNormStatistics must be non-negative"):
        BatchNormStatistics(-1.0)


def test_views_that_are_compared_are_not_shared_among_devices(normed: Network) -> None:
    module = _method(normed, 1)
    module.ranks = RankGroup(0, 2, "views")
    with pytest.raises(LitVizError, match="give devices_mode=images"):
        module.prepare(torch.device("cpu"))
