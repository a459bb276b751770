from __future__ import annotations

from typing import Any

import pytest

from lit_viz.engine.distributed import RankGroup
from lit_viz.engine.queue import Queue
from lit_viz.engine.rank_status import JointDecision, RankExchange, RankStatus
from lit_viz.errors import LitVizError
from lit_viz.types import Record, Result, Snapshot
from tests.engine.stub import StubMethod, tasks


class Ranks(RankGroup):
    """Rank 0 of two; the other rank has a fixed status and items of its own."""

    def all_gather(self, item: Any) -> list[Any]:
        return [item, RankStatus(True, signal=15, save=True, updates=5, seconds=0.2)]

    def gather(self, items: list[Any]) -> list[Any]:
        return [*items, "other"] if items and isinstance(items[0], Snapshot) else items


def test_the_joint_decision_combines_all_ranks() -> None:
    statuses = [RankStatus(False, updates=2), RankStatus(True, signal=15, save=True, updates=5)]
    assert JointDecision.of(statuses, RankGroup(0, 2)) == JointDecision(True, signal=15, save=True, updates=7)
    idle = [RankStatus(False), RankStatus(False)]
    assert JointDecision.of(idle, RankGroup(0, 2)) == JointDecision(False)


def test_ranks_that_share_views_count_updates_once_and_must_agree() -> None:
    ranks = RankGroup(1, 2, "views")
    statuses = [RankStatus(True, updates=4, digest=1.0), RankStatus(True, updates=4, digest=1.0)]
    assert JointDecision.of(statuses, ranks).updates == 4
    with pytest.raises(LitVizError, match="images must be equal on all ranks"):
        JointDecision.of([statuses[0], statuses[1]._replace(digest=1.5)], ranks)


def test_a_single_rank_synchronizes_after_every_step() -> None:
    method, queue, exchange = StubMethod(), Queue(tasks(3)), RankExchange()
    queue.fill(method)
    for iteration in range(3):
        snapshot = Snapshot(tasks(1)[0], iteration, {})
        exchange.add([snapshot], [])
        outputs = exchange.synchronize(RankGroup(), method.slots, queue, seconds=0.1)
        assert outputs == {"snapshots": [snapshot], "results": []}
    assert exchange.decision == JointDecision(True, updates=0)


def test_a_run_without_tasks_is_finished() -> None:
    exchange, task = RankExchange(), tasks(1)[0]
    exchange.add([], [Result(task, Record.of(task, status="skipped"))])
    exchange.synchronize(RankGroup(), StubMethod().slots, Queue(), seconds=0.1)
    assert not exchange.decision.unfinished
    assert exchange.finished == {0: "skipped"}


def test_several_ranks_synchronize_once_per_second_of_the_slowest() -> None:
    method, queue, exchange = StubMethod(), Queue(tasks(3)), RankExchange()
    exchange.requests.save = True
    synchronized = []
    for iteration in range(11):
        exchange.add([Snapshot(tasks(1)[0], iteration, {})], [])
        outputs = exchange.synchronize(Ranks(0, 2), method.slots, queue, seconds=0.01)
        if outputs["snapshots"]:
            synchronized.append((iteration, len(outputs["snapshots"])))
    assert synchronized == [(0, 2), (5, 6), (10, 6)]
    assert exchange.decision == JointDecision(True, signal=15, save=True, updates=5)
    assert not exchange.requests.save
