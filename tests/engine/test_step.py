from __future__ import annotations

from typing import Any

import pytest
import torch

from lit_viz.engine.slots import ITERATION
from lit_viz.engine.snapshots import Snapshot
from lit_viz.engine.step import Queue, Step, merge_final
from lit_viz.optim import Evaluation
from lit_viz.types import Task

NEVER = torch.tensor([False, False])


def started(iteration: int = 0, *, stub: Any) -> tuple[Any, Step]:
    method = stub.Method(iterations=4, slots=2)
    Queue(stub.tasks(2)).fill(method)
    method.slots.put(ITERATION, [0, 1], torch.full((2,), iteration))
    return method, Step(method)


def evaluate(method: Any, step: Step) -> Evaluation:
    evaluation = method.score(method.slots.x, [0, 1], gradient=True)
    step.add_evaluation(evaluation, None, logged=True)
    return evaluation


def advance(method: Any, x: torch.Tensor, count: int = 1) -> None:
    method.slots.update(x, method.slots.state, torch.full((2,), count))


def test_snapshots_have_the_metrics_of_the_first_logged_evaluation(stub: Any) -> None:
    method, step = started(stub=stub)
    due = dict(enumerate(method.snapshots(method.slots.x, [0, 1])))
    probe = method.score(method.slots.x + 5, [0, 1], gradient=False)
    step.add_evaluation(probe, torch.tensor([0, 1]), logged=False)
    evaluate(method, step).backward()
    step.add_evaluation(probe, None, logged=True)
    snapshots = step.snapshots(due)
    assert [snapshot.metrics for snapshot in snapshots] == [
        {"value": 0.0, "objective": 0.0, "gradient_norm": 1.0},
        {"value": 1.0, "objective": 1.0, "gradient_norm": 1.0},
    ]


@pytest.mark.parametrize(("iteration", "logged"), [(1, False), (2, True)])
def test_images_are_kept_only_at_logged_iterations(iteration: int, logged: bool, stub: Any) -> None:
    method, step = started(iteration, stub=stub)
    (snapshot, _) = step.snapshots(dict(enumerate(method.snapshots(method.slots.x, [0, 1]))))
    assert (snapshot.image is not None) == logged
    assert snapshot.metrics == {"value": 0.0}


def test_an_image_ends_when_it_is_done_broken_or_at_its_last_iteration(stub: Any) -> None:
    method, step = started(stub=stub)
    evaluate(method, step)
    advance(method, method.slots.x)
    assert step.endings(NEVER) == {}
    assert step.endings(torch.tensor([False, True])) == {1: False}
    advance(method, torch.tensor([[float("nan")], [1.0]]))
    assert step.endings(NEVER) == {0: True}
    advance(method, torch.zeros(2, 1), count=2)
    assert list(step.endings(NEVER)) == [0, 1]


def test_a_non_finite_score_breaks_only_its_own_slot(stub: Any) -> None:
    method, step = started(stub=stub)
    scores = torch.tensor([1.0, float("inf")])
    step.add_evaluation(Evaluation(method.slots.x, scores, scores), torch.tensor([1, 0]), logged=False)
    assert step.endings(NEVER) == {0: True}


def test_finished_images_leave_their_slots_with_a_result(stub: Any) -> None:
    method, step = started(iteration=3, stub=stub)
    evaluate(method, step)
    advance(method, method.slots.x + 1)
    ((snapshot, result),) = step.finish({1: False})
    assert [task.index for task in method.slots.tasks] == [0]
    assert (snapshot.iteration, snapshot.metrics) == (4, {"value": 2.0, "objective": 2.0})
    assert snapshot.without_results().array is None
    assert result.array is not None
    record = result.record
    assert (record.status, record.error, record.iterations, record.forwards) == ("done", None, 4, 2)
    assert record.metrics == {"value": 2.0, "objective": 2.0}


@pytest.mark.parametrize(
    ("iteration", "score", "error"),
    [(0, float("nan"), "the scores of the network must be finite"), (2, 0.0, "stopped being a finite number at iter")],
)
def test_a_broken_image_fails_with_its_last_finite_value(iteration: int, score: float, error: str, stub: Any) -> None:
    method, step = started(iteration, stub=stub)
    scores = torch.tensor([0.0, score])
    step.add_evaluation(Evaluation(method.slots.x, scores, scores), None, logged=True)
    advance(method, torch.tensor([[0.0], [float("nan")]]))
    ((snapshot, result),) = step.finish({1: True})
    assert (snapshot.iteration, snapshot.metrics) == (iteration, {"value": 1.0})
    assert result.record.status == "failed"
    assert error in str(result.record.error)


def test_a_final_snapshot_is_merged_with_that_of_the_same_iteration() -> None:
    task, other = Task(0, "a", 0), Task(1, "b", 1)
    earlier = [Snapshot(task, 3, {"objective": 1.0, "value": 2.0}), Snapshot(other, 3, {"value": 0.0})]
    merged = merge_final(earlier, [Snapshot(task, 3, {"value": 5.0})])
    assert merged == [earlier[1], Snapshot(task, 3, {"objective": 1.0, "value": 5.0})]
