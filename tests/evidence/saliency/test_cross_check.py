"""The time limit, the order and the messages of the cross-check."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.attributions import RISE, Gradient, SmoothGrad
from lit_viz.evidence.saliency import cross_check as module
from lit_viz.evidence.saliency.cross_check import NOT_CHECKED, NOT_IN_CAPTUM, cross_check
from lit_viz.methods.records import SaliencyRecord
from tests.conftest import Around, smooth_network


def outcome(index: int, method: str, evaluations: int, seconds: float = 0.0) -> Any:
    record = SaliencyRecord(
        index=index,
        name="cat",
        target=0,
        seed=0,
        method=method,
        iterations=evaluations,
        seconds=seconds,
        reducer="max_abs",
        top5=[],
    )
    return SimpleNamespace(record=record, source=lambda: torch.zeros(1), array=lambda: torch.zeros(1))


METHODS: dict[str, Any] = {"gradient": Gradient(), "smoothgrad": SmoothGrad(), "rise": RISE()}


def checked(
    monkeypatch: pytest.MonkeyPatch, seconds_each: float, limit: float | None, said: list[str] | None = None
) -> list[str]:
    """Return which of four maps are checked if an evaluation takes ``seconds_each``."""
    now = [0.0]

    def check(*args: Any) -> Any:
        now[0] += seconds_each * args[6]
        return SimpleNamespace(passed=True), None

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(module, "check_map", check)
    maps = [("gradient", 1), ("smoothgrad", 32), ("gradient", 1), ("smoothgrad", 32)]
    outcomes = [outcome(i, method, count) for i, (method, count) in enumerate(maps)]
    told = [] if said is None else said
    found = cross_check(outcomes, METHODS, None, seconds=limit, notify=told.append)  # type: ignore[arg-type]
    assert set(found.unchecked.values()) <= {NOT_CHECKED}
    return [f"{maps[i][0]} {i // 2}" for i in sorted(found.agreements)]


def test_maps_are_checked_within_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(checked(monkeypatch, 0.1, None)) == 4
    assert len(checked(monkeypatch, 0.1, 15)) == 4
    assert checked(monkeypatch, 0.3, 15) == ["gradient 0", "smoothgrad 0", "gradient 1"]
    assert checked(monkeypatch, 1.0, 15) == ["gradient 0", "gradient 1"]
    assert checked(monkeypatch, 20.0, 15) == ["gradient 0"]


def test_a_long_remaining_time_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    checked(monkeypatch, 0.1, None, said)
    assert said == []
    checked(monkeypatch, 10.0, None, said)  # after 33 of 66 evaluations
    assert said == ["evidence: the comparison with Captum takes about 5.5 more minutes"]


def test_a_first_map_that_takes_minutes_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_map", lambda *args: (SimpleNamespace(passed=True), None))
    for took, checked in ((2.0, True), (14.5, False)):
        found = cross_check([outcome(0, "gradient", 1000, took)], METHODS, None, seconds=15)  # type: ignore[arg-type]
        assert bool(found.agreements) == checked


def test_the_number_of_kept_references_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter([True] * 30 + [False] * 30)
    monkeypatch.setattr(
        module, "check_map", lambda *args: (SimpleNamespace(passed=next(verdicts)), torch.zeros(1, 2, 2))
    )
    outcomes = [outcome(i, "gradient", 1) for i in range(60)]
    found = cross_check(outcomes, METHODS, None)  # type: ignore[arg-type]
    kept = [agreement.passed for agreement, reference in found.agreements.values() if reference is not None]
    assert len(found.agreements) == 60
    assert [kept.count(passed) for passed in (True, False)] == [20, 20]


def test_methods_missing_in_captum_are_reported_despite_the_time_limit() -> None:
    outcomes = [outcome(i, method, 8) for i, method in enumerate(("rise", "gradient"))]
    found = cross_check(outcomes, METHODS, None, seconds=-1)  # type: ignore[arg-type]
    assert found.unchecked == {0: NOT_IN_CAPTUM, 1: NOT_CHECKED}
    assert "1 not in Captum, 1 not checked (lit-viz check run checks them)" in found.sentence("run")


def test_a_failure_of_captum_is_a_reason() -> None:
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    run = lv.saliency(lv.load_classifier(Around(smooth_network(), lambda net, x: net(x.float())), size=16), x, 0)
    assert run.results[0]["status"] == "done"
    assert run.results[0]["captum"]["why"].startswith("not checked, since Captum fails on this network (")
    assert cross_check([], METHODS, None).passed is None  # type: ignore[arg-type]
