"""Heartbeats of ranks: a rank that is stopped or stuck is named once, by the lowest rank that responds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch.distributed as dist

from lit_viz.engine.heartbeat import TIMEOUT, Heartbeat, rank_timeout
from lit_viz.errors import LitVizError

EVERY, STALE = 0.05, 0.6


class FrozenStore:
    """A store whose process is stopped: calls do not return until ``thawed`` is set."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.thawed = threading.Event()
        self.thawed.set()

    def set(self, key: str, value: str) -> None:
        self.thawed.wait()
        self.values[key] = value.encode()

    def multi_get(self, keys: list[str]) -> list[bytes]:
        self.thawed.wait()
        return [self.values[key] for key in keys]


def beating(store: Any, size: int) -> tuple[list[Heartbeat], list[list[str]]]:
    lines: list[list[str]] = [[] for _ in range(size)]
    beats = [Heartbeat(store, rank, size, lines[rank].append, every=EVERY, stale=STALE) for rank in range(size)]
    for heartbeat in beats:
        heartbeat.start()
    return beats, lines


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_stuck_rank_is_named_once_by_the_lowest_other_one() -> None:
    beats, lines = beating(dist.HashStore(), 3)
    time.sleep(3 * EVERY)
    beats[0].stop()
    wait_until(lambda: bool(lines[1]))
    time.sleep(STALE)
    for heartbeat in beats:
        heartbeat.stop()
    (line,) = lines[1]
    assert line.startswith("rank 0 (process ")
    assert "has not responded for 0.6 s" in line
    assert "after 300 s the run ends" in line
    assert lines[2] == []


def test_ranks_that_beat_are_not_named() -> None:
    beats, lines = beating(dist.HashStore(), 2)
    time.sleep(3 * STALE)
    for heartbeat in beats:
        heartbeat.stop()
    assert lines == [[], []]


def test_rank_0_alone_is_named_if_its_store_does_not_respond() -> None:
    store = FrozenStore()
    beats, lines = beating(store, 3)
    time.sleep(3 * EVERY)
    beats[0].stop()
    store.thawed.clear()
    wait_until(lambda: bool(lines[1]))
    store.thawed.set()
    for heartbeat in beats:
        heartbeat.stop()
    assert [line.split(" (")[0] for line in lines[1]] == ["rank 0"]
    assert lines[2] == []


def test_the_timeout_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TIMEOUT, raising=False)
    assert rank_timeout().total_seconds() == 300
    monkeypatch.setenv(TIMEOUT, "40")
    assert rank_timeout().total_seconds() == 40
    monkeypatch.setenv(TIMEOUT, "soon")
    with pytest.raises(LitVizError, match="LIT_VIZ_RANK_TIMEOUT must be a positive number of seconds, got soon"):
        rank_timeout()
