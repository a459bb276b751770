from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lit_viz.engine.ranks import RankExchange, RankGroup, RankStatus
from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.errors import LitVizError
from lit_viz.types import Record, Task

TASK = Task(0, "task 0", seed=10)


class Ranks(RankGroup):
    """Rank 0 of two; the other rank has a fixed status and items of its own."""

    def all_gather(self, item: Any) -> list[Any]:
        return [item, RankStatus(True, signal=15, save=True, updates=5, seconds=0.2)]

    def gather(self, items: list[Any]) -> list[Any]:
        return [*items, "other"] if items and isinstance(items[0], Snapshot) else items


def test_the_joint_decision_combines_all_ranks() -> None:
    statuses = [RankStatus(False, updates=2), RankStatus(True, signal=15, save=True, updates=5)]
    assert RankStatus.joint(statuses, RankGroup(0, 2)) == RankStatus(True, signal=15, save=True, updates=7)
    idle = [RankStatus(False), RankStatus(False)]
    assert RankStatus.joint(idle, RankGroup(0, 2)) == RankStatus(False)


def test_ranks_that_share_views_count_updates_once_and_must_agree() -> None:
    ranks = RankGroup(1, 2, "views")
    statuses = [RankStatus(True, updates=4, digest=1.0), RankStatus(True, updates=4, digest=1.0)]
    assert RankStatus.joint(statuses, ranks).updates == 4
    with pytest.raises(LitVizError, match="images must be equal on all ranks"):
        RankStatus.joint([statuses[0], replace(statuses[1], digest=1.5)], ranks)


def test_a_single_rank_synchronizes_after_every_step() -> None:
    exchange = RankExchange()
    for iteration in range(3):
        snapshot = Snapshot(TASK, iteration, {})
        assert exchange.is_due([snapshot], [])
        exchange.status.updates = iteration
        outputs = exchange.synchronize(RankGroup())
        assert outputs == {"snapshots": [snapshot], "results": []}
        assert exchange.decision == RankStatus(True, updates=iteration)


def test_the_status_of_finished_tasks_is_kept() -> None:
    exchange = RankExchange()
    assert exchange.is_due([], [Result(TASK, Record.of(TASK, status="skipped"))])
    exchange.status.unfinished = False
    exchange.synchronize(RankGroup())
    assert not exchange.decision.unfinished
    assert exchange.finished == {0: "skipped"}


def test_several_ranks_synchronize_once_per_second_of_the_slowest() -> None:
    exchange = RankExchange()
    exchange.status.save, exchange.status.seconds = True, 0.01
    synchronized = []
    for iteration in range(11):
        if exchange.is_due([Snapshot(TASK, iteration, {})], []):
            outputs = exchange.synchronize(Ranks(0, 2))
            synchronized.append((iteration, len(outputs["snapshots"])))
    assert synchronized == [(0, 2), (5, 6), (10, 6)]
    assert exchange.decision == RankStatus(True, signal=15, save=True, updates=5)
    assert not exchange.status.save
