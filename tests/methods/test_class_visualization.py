from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_viz.callbacks.saving import ExactCheckpoint
from lit_viz.errors import LitVizError
from lit_viz.images import (
    L2,
    Blur,
    Clamp,
    ColorShift,
    Flip,
    Fourier,
    GaussianBlur,
    Noise,
    Pixels,
    RandomCrop,
    Roll,
    Rotate,
)
from lit_viz.methods import ClassVisualization
from lit_viz.methods.recipes import PictureOptions
from lit_viz.networks import Network
from lit_viz.objectives import Logit
from lit_viz.optim import SGD, Adam, Evaluation, NormalizedAscent, StepRule
from lit_viz.outputs import load_network
from lit_viz.rng import Draws
from lit_viz.runs.records import ClassImageRecord, LayerImageRecord, read_record
from lit_viz.types import Task
from tests.support.marks import slow
from tests.support.networks import Residual, trained
from tests.support.runs import Train, tasks_for
from tests.support.step_rules import ExtraGradient, HillClimb

VIEWS = (RandomCrop(0.5, 1.0), Rotate(15), Flip(), ColorShift(), Blur(), Noise(0.05))


def method(network: Network, rule: StepRule | None = None, **options: Any) -> ClassVisualization:
    given = {"parameterization": Fourier(), "views": 2, "transforms": VIEWS, "iterations": 6, "slots": 3, **options}
    return ClassVisualization(network, step_rule=rule or Adam(0.05), **given)


class Recorder(ClassVisualization):
    """Keeps every evaluation by (task, iteration): where the image was, what was drawn, and what came out."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seen: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, **how: Any) -> Evaluation:
        evaluation = super().score(x, rows, gradient=gradient, **how)
        if gradient:
            drawn = Draws(self.slots.keys(rows, self.views)).uniform("probe").view(len(rows), -1)
            for i, (n, k) in enumerate(zip(rows, self.slots.iteration, strict=True)):
                key = (self.slots.tasks[n].index, k)
                self.seen[key] = (x[i].clone(), drawn[i], evaluation.score[i], evaluation.gradient[i])
        return evaluation


def test_raises_the_probability_of_every_class(smooth: Network, train: Train) -> None:
    memory = train(method(smooth, Adam(0.3), iterations=30), tasks_for(smooth, range(5)))
    assert list(memory.results) == [0, 1, 2, 3, 4]
    for index, result in memory.results.items():
        seen = memory.snapshots[index]
        assert [o.iteration for o in seen] == [0, 10, 20, 30]
        assert seen[-1].metrics["probability"] > 1.2 * seen[0].metrics["probability"]
        assert result.record.rank <= seen[0].metrics["rank"]
        assert result.image.shape == (3, 16, 16)


def test_iteration_0_is_the_start_and_scalars_belong_to_their_image(smooth: Network, train: Train) -> None:
    plain = {"transforms": (), "views": 1, "parameterization": Pixels(), "projections": [Clamp()]}
    module = method(smooth, Adam(0.1), log_at="every:1", **plain)
    (seen,) = train(module, tasks_for(smooth, [2])).snapshots.values()
    assert [o.iteration for o in seen] == list(range(7))
    for snapshot in seen:
        logit = smooth.scores(snapshot.image[None])[0, 2]
        assert snapshot.metrics["logit"] == pytest.approx(float(logit), abs=1e-5)
        # The objective is that of the unrounded image: half an 8-bit step away at most.
        assert snapshot.metrics["objective"] == pytest.approx(float(logit), abs=0.05)
    assert "gradient_norm" in seen[0].metrics


def test_evaluations_are_counted_apart(smooth: Network, train: Train) -> None:
    """k updates of B views cost k B forwards and backwards; a look costs one forward, the last score B."""
    memory = train(method(smooth, log_at="last", curve_at="last"), tasks_for(smooth, [0, 1, 2, 3]))
    for result in memory.results.values():
        assert result.record.backwards == 6 * 2
        assert result.record.forwards == 6 * 2 + 2 + 1


@pytest.mark.parametrize(
    "rule",
    [
        lambda: Adam(0.05),
        slow(lambda: SGD(0.5)),
        slow(lambda: NormalizedAscent(0.3)),
        slow(HillClimb),
        ExtraGradient,
    ],
)
def test_slots_equal_runs_of_one_in_float64(smooth: Network, train: Train, rule: Callable[[], StepRule]) -> None:
    """Seven tasks in three slots, whose images differ in iteration, against one slot."""
    tasks = tasks_for(smooth, [0, 1, 2, 3, 4, 0, 1])
    options = {"parameterization": Pixels(), "iterations": 8, "transforms": VIEWS}
    assert_equal_slots(train, lambda slots: method(smooth, rule(), slots=slots, **options), tasks, slots=3)


def test_twenty_tasks_in_eight_slots_equal_those_in_one_slot(smooth: Network, train: Train) -> None:
    tasks = tasks_for(smooth, [i % 5 for i in range(20)])
    options = {"parameterization": Fourier(), "iterations": 3, "transforms": VIEWS}
    assert_equal_slots(train, lambda slots: method(smooth, slots=slots, **options), tasks, slots=8)


def assert_equal_slots(
    train: Train, make: Callable[[int], ClassVisualization], tasks: Sequence[Task], slots: int
) -> None:
    together, alone = (train(make(count), tasks, precision="64-true") for count in (slots, 1))
    for task in tasks:
        snapshot, expected = together.snapshots[task.index][-1], alone.snapshots[task.index][-1]
        assert snapshot.iteration == expected.iteration
        assert snapshot.metrics == pytest.approx(expected.metrics, abs=1e-9)


def test_an_unknown_layer_is_rejected_with_suggestions(smooth: Network, train: Train) -> None:
    objective = Logit()
    objective.layers = ("features.9",)
    with pytest.raises(LitVizError, match=r"features\.\d"):
        train(method(smooth, objective=objective), tasks_for(smooth, [1]))


@pytest.mark.parametrize("slots", [slow(2), 3, slow(8)])
def test_draws_and_gradients_do_not_depend_on_the_batch(smooth: Network, train: Train, slots: int) -> None:
    tasks = tasks_for(smooth, [i % 5 for i in range(9)])
    many = Recorder(
        smooth, parameterization=Fourier(), step_rule=SGD(0.5), transforms=VIEWS, views=2, iterations=4, slots=slots
    )
    train(many, tasks)
    assert len(many.seen) == 36
    for task in tasks:
        one = Recorder(
            smooth, parameterization=Fourier(), step_rule=SGD(0.5), transforms=VIEWS, views=2, iterations=4, slots=1
        )
        train(one, [task])
        for key, (x, drawn, score, gradient) in one.seen.items():
            its_x, its_drawn, its_score, its_gradient = many.seen[key]
            assert torch.equal(drawn, its_drawn)
            if key[1] == 0:
                assert torch.equal(x, its_x)
                torch.testing.assert_close(score, its_score, rtol=0, atol=1e-5)
                torch.testing.assert_close(gradient, its_gradient, rtol=0, atol=1e-5)


def test_cost_of_a_run(smooth: Network, train: Train) -> None:
    tasks = tasks_for(smooth, [0, 1, 2, 3, 4, 0, 1])
    module = method(smooth)
    steps, evaluations = module.cost(tasks)
    assert module.step_seconds(tasks) > 0
    memory = train(method(smooth), tasks)
    assert steps == 18  # seven images in three slots, six updates each
    assert evaluations == sum(result.record.backwards for result in memory.results.values())


def test_the_batch_shrinks_when_the_queue_is_empty(smooth: Network, train: Train) -> None:
    sizes: list[int] = []

    class Sizes(ClassVisualization):
        def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, **how: Any) -> Evaluation:
            sizes.append(len(x)) if gradient else None
            return super().score(x, rows, gradient=gradient, **how)

    train(
        Sizes(smooth, parameterization=Fourier(), step_rule=Adam(0.05), iterations=2, slots=3),
        tasks_for(smooth, [0, 1, 2, 3]),
    )
    assert sizes == [3, 3, 1, 1]


def test_iterations_may_vary_by_task(smooth: Network, train: Train) -> None:
    from dataclasses import replace

    tasks = [replace(t, iterations=2 + i) for i, t in enumerate(tasks_for(smooth, [0, 1, 2, 3, 4]))]
    memory = train(method(smooth), tasks)
    assert [memory.results[i].record.iterations for i in range(5)] == [2, 3, 4, 5, 6]


def test_the_record_of_a_failed_task_has_the_class_of_the_method(smooth: Network) -> None:
    module = method(smooth)
    of_class = module.new_record(Task(0, "cherry", 0, target=2), status="failed", error="no memory")
    assert isinstance(of_class, ClassImageRecord)
    assert (of_class.status, of_class.is_recognized, of_class.judges) == ("failed", True, {})
    of_channel = module.new_record(Task(1, "unit", 1, layer="0", channel=3), status="failed", error="no memory")
    assert isinstance(of_channel, LayerImageRecord)
    assert (of_channel.layer, of_channel.channel) == ("0", 3)
    for record in (of_class, of_channel):
        assert read_record(record.to_dict()).to_dict() == record.to_dict()


def test_only_the_failing_image_stops(smooth: Network, train: Train) -> None:
    class Breaks(Logit):
        def __call__(self, outputs: Any) -> Tensor:
            score = super().__call__(outputs)
            return score + torch.where((outputs.targets == 1) & (score > 0), torch.nan, 0.0)

    module = method(smooth, Adam(0.3), objective=Breaks(), iterations=40, log_at="every:5")
    memory = train(module, tasks_for(smooth, [0, 1, 2]))
    records = {index: result.record for index, result in memory.results.items()}
    assert [records[i].status for i in range(3)] == ["done", "failed", "done"]
    assert 0 < records[1].iterations < 40
    assert f"at iteration {records[1].iterations + 1}" in records[1].error
    assert memory.results[1].image.isfinite().all()
    assert records[0].iterations == records[2].iterations == 40


def test_a_score_that_never_was_a_number_is_not_laid_to_the_learning_rate(smooth: Network, train: Train) -> None:
    class Broken(Logit):
        def __call__(self, outputs: Any) -> Tensor:
            return super().__call__(outputs) * torch.where(outputs.targets == 1, torch.nan, 1.0)

    records = train(method(smooth, objective=Broken(), iterations=4), tasks_for(smooth, [0, 1])).results
    assert records[0].record.status == "done"
    assert records[1].record.error.startswith("the scores of the network must be finite")


def test_priors_are_subtracted_and_logged(smooth: Network, train: Train) -> None:
    plain = train(method(smooth, iterations=20), tasks_for(smooth, [3])).snapshots[0][-1]
    priors = [L2(0.5)]
    held = train(method(smooth, iterations=20, priors=priors), tasks_for(smooth, [3])).snapshots[0][-1]
    assert "l2" in held.metrics
    norm = lambda o: float(((o.image - 0.5) / 0.25).norm())  # noqa: E731
    assert norm(held) < norm(plain)


def test_the_original_experiment_starts_unclamped_and_is_clamped_after_every_update(
    smooth: Network, train: Train
) -> None:
    starts: list[Tensor] = []

    class Watch(ClassVisualization):
        def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, **how: Any) -> Evaluation:
            starts.append(x.clone())
            return super().score(x, rows, gradient=gradient, **how)

    module = Watch(
        smooth,
        parameterization=Pixels("normalized"),
        step_rule=NormalizedAscent(1.0),
        transforms=[Roll(4)],
        priors=[L2(1e-3)],
        projections=[GaussianBlur(0.5, 2), Clamp()],
        iterations=3,
    )
    observed = train(module, tasks_for(smooth, [1])).snapshots[0]
    assert starts[0].abs().max() > 2.0  # (1 - 0.5) / 0.25
    assert all(x.abs().max() <= 2.0 for x in starts[1:])
    assert observed[0].image.min() >= 0
    assert observed[0].image.max() <= 1


def test_starts_from_a_photograph(smooth: Network, train: Train) -> None:
    photograph = (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    for parameterization in (Pixels(), Fourier()):
        module = method(smooth, parameterization=parameterization, init=photograph, iterations=1, log_at="every:1")
        first = train(module, tasks_for(smooth, [1])).snapshots[0][0]
        torch.testing.assert_close(first.image, photograph, rtol=0, atol=0)


def test_pictures_of_any_size(smooth: Network, train: Train) -> None:
    module = method(smooth, picture=PictureOptions(size=(21, 34), oversample=1.5), iterations=2)
    result = train(module, tasks_for(smooth, [1])).results[0]
    assert result.image.shape == (3, 21, 34)


def test_a_part_of_the_canvas_is_shown(smooth: Network, train: Train) -> None:
    photograph = (torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    picture = PictureOptions(oversample=2.0, shown=0.5)
    options = {"parameterization": Pixels(), "picture": picture, "log_at": "0", "iterations": 1}
    first = train(method(smooth, init=photograph, **options), tasks_for(smooth, [1])).snapshots[0][0]
    assert torch.equal(first.image, photograph[:, 8:24, 8:24])


def test_a_resumed_run_is_bit_equal(smooth: Network, train: Train, tmp_path: Any) -> None:
    class Dies(ExactCheckpoint):
        """Saves after every third step and dies, as by a kill, in the eighth."""

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 8:
                raise RuntimeError("killed")
            super().on_train_batch_end(trainer, *args)

    path = tmp_path / "last.ckpt"
    tasks = tasks_for(smooth, [0, 1, 2, 3, 4])
    undisturbed = train(method(smooth, slots=2), tasks)
    with pytest.raises(RuntimeError, match="killed"):
        train(method(smooth, slots=2), tasks, [Dies(path, every_steps=3)])
    module = method(smooth, slots=2)
    rest = train(module, tasks, ckpt_path=path)
    assert set(rest.results) == {2, 3, 4, 0, 1} - {i for i in (0, 1) if i not in rest.results}
    for index, result in rest.results.items():
        assert torch.equal(result.image, undisturbed.results[index].image)
        same = {key: value for key, value in result.record.to_dict().items() if key != "seconds"}
        assert same == {
            key: value for key, value in undisturbed.results[index].record.to_dict().items() if key != "seconds"
        }
    assert path.stat().st_size < 200_000


def test_the_classifier_is_unchanged(smooth: Network, train: Train) -> None:
    network = smooth.original.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    try:
        module = method(smooth)
        train(module, tasks_for(smooth, [0]))
        assert network.training
        assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert torch.equal(torch.get_rng_state(), random_state)
        assert not any(module is child for child in module.slots.modules())
        assert [name for name, _ in module.named_parameters()] == ["slots.image"]
    finally:
        network.eval()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"iterations": -3}, "iterations must be at least 1, got -3"),
        ({"slots": 0}, "slots must be at least 1, got 0"),
        ({"views": 0}, "views must be at least 1, got 0"),
        ({"picture": lambda: PictureOptions(size=0)}, "size must be at least 1 x 1, got 0 x 0"),
        ({"picture": lambda: PictureOptions(oversample=0.0)}, "oversample must be between 0.5 and 8, got 0.0"),
        ({"picture": lambda: PictureOptions(shown=0.0)}, r"shown must be in \[0.1, 1\], got 0.0"),
        ({"log_at": "sometimes"}, "a log schedule must be .*, got 'sometimes'"),
        ({"projections": [Clamp()]}, "Clamp requires the parameterization Pixels"),
    ],
)
def test_invalid_runs_give_a_one_line_error(smooth: Network, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LitVizError, match=sentence):
        method(smooth, **{name: value() if callable(value) else value for name, value in options.items()})


def tasks_for_names(*names: str) -> list[Any]:
    from lit_viz.types import Task

    return [Task(i, name, i) for i, name in enumerate(names)]


def test_a_part_of_the_residual_gradient_is_another_way_to_the_same_score(train: Train) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of some weights both ways have gradients of nearly the same length
        net = load_network(trained(Residual()), labels=list("abcd"), mean=[0.5] * 3, std=[0.25] * 3, size=16)
    seen = {}
    for part in (0.3, 1.0):
        made = ClassVisualization(
            net, parameterization=Pixels(), step_rule=Adam(0.05), iterations=2, log_at="every:1", residual_gradient=part
        )
        memory = train(made, tasks_for(net, [1]))
        seen[part] = [snapshot.metrics for snapshot in memory.snapshots[0]]
    assert seen[0.3][0]["objective"] == seen[1.0][0]["objective"]
    assert seen[0.3][0]["gradient_norm"] != pytest.approx(seen[1.0][0]["gradient_norm"], rel=0.01)
    with pytest.raises(LitVizError, match="residual_gradient must be above 0 and at most 1, got -1"):
        ClassVisualization(net, parameterization=Pixels(), step_rule=Adam(0.05), residual_gradient=-1)
