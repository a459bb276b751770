"""The thread that calls a logger of a run folder: errors, calls that do not return, and rows of a resume."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_viz.callbacks.logging import LoggerThread
from lit_viz.loggers.base import ImageAdapter, LogRow
from lit_viz.runs.folder import FolderStorage


class Steps(ImageAdapter):
    """An adapter that keeps the steps, unless it is given another function."""

    def __init__(self, call: Callable[[int], object] | None = None, rows_logged: int = 0) -> None:
        super().__init__(logger=None)
        self.steps: list[int] = []
        self.events: list[object] = []
        self.rows_logged = rows_logged
        self._call = call or self.steps.append

    def log(self, metrics: Mapping[str, float], images: Mapping[str, Any], step: int) -> None:
        self._call(step)

    def close(self, success: bool) -> None:
        self.events.append(success)

    def abandon(self) -> None:
        self.events.append("abandoned")


@pytest.fixture
def folder(tmp_path: Path) -> FolderStorage:
    return FolderStorage.create(tmp_path / "run")


def rows(count: int) -> list[LogRow]:
    def row(step: int) -> LogRow:
        return lambda adapter: adapter.log({}, {}, step)

    return [row(step) for step in range(count)]


def test_rows_are_logged_once(folder: FolderStorage) -> None:
    adapter = Steps()
    thread = LoggerThread("wandb", adapter, folder, print)
    for count in (2, 2, 5):
        thread.log_rows(rows(count))
    thread.close(success=True)
    assert adapter.steps == [0, 1, 2, 3, 4]
    assert adapter.events == [True]
    assert (folder.path / "wandb" / "complete").exists()


def test_a_resume_logs_the_rows_that_the_logger_lacks(folder: FolderStorage) -> None:
    adapter = Steps(rows_logged=3)
    thread = LoggerThread("wandb", adapter, folder, print)
    thread.log_rows(rows(2))
    thread.log_rows(rows(5))
    thread.close(success=False)
    assert adapter.steps == [3, 4]
    assert not (folder.path / "wandb" / "complete").exists()


def test_an_error_of_a_logger_is_reported_once(folder: FolderStorage) -> None:
    error = ValueError("the service died")

    def broken(step: int) -> None:
        raise error

    lines: list[str] = []
    adapter = Steps(broken)
    thread = LoggerThread("wandb", adapter, folder, lines.append)
    for count in (1, 2):
        thread.log_rows(rows(count))
    thread.close(success=True)
    later = f"lit-viz log {folder.path} --to wandb"
    assert lines == [f"W&B failed (the service died), nothing more is logged; later: {later}"]
    assert adapter.events == ["abandoned"]
    assert not (folder.path / "wandb" / "complete").exists()


def test_a_call_that_does_not_return_is_given_up(folder: FolderStorage) -> None:
    forever = threading.Event()
    lines: list[str] = []
    adapter = Steps(lambda step: forever.wait())
    thread = LoggerThread("wandb", adapter, folder, lines.append)
    thread.log_rows(rows(4))  # does not wait
    thread.close(success=False, seconds=0.3)
    assert [line.split(";")[0] for line in lines] == ["W&B timed out, nothing more is logged"]
    assert adapter.events == ["abandoned"]
    forever.set()


def test_the_calls_of_the_end_have_one_time_limit(folder: FolderStorage) -> None:
    """Each call returns in time, and all of them do not."""
    lines: list[str] = []
    adapter = Steps(lambda step: time.sleep(0.2))
    adapter.call_seconds, adapter.end_seconds = 5, 0.5
    thread = LoggerThread("wandb", adapter, folder, lines.append)
    thread.log_rows(rows(4))  # longer than the end may take
    thread.begin_end()
    thread.log_rows(rows(30))
    thread.close(success=True)
    assert [line.split(";")[0] for line in lines] == ["W&B timed out, nothing more is logged"]
    assert adapter.events == ["abandoned"]
    assert not (folder.path / "wandb" / "complete").exists()


def test_a_slow_logger_may_log_its_rows(folder: FolderStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit of the end begins after them."""
    adapter, now = Steps(), [0.0]
    monkeypatch.setattr("lit_viz.callbacks.logging.time", SimpleNamespace(monotonic=lambda: now[0]))

    def log(step: int) -> None:
        now[0] += 4
        adapter.steps.append(step)

    slow = Steps(log)
    slow.call_seconds, slow.end_seconds = 5, 5
    thread = LoggerThread("wandb", slow, folder, print)
    thread.log_rows(rows(10))
    thread.begin_end()
    thread.close(success=True)
    assert adapter.steps == list(range(10))
    assert slow.events == [True]
