"""As many maps are checked as their time allows, each method's first one before any second."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.attributions import RISE, Gradient, SmoothGrad
from lit_viz.evidence.saliency import cross_check as certificate
from lit_viz.evidence.saliency.cross_check import NOT_CHECKED, NOT_IN_CAPTUM, cross_check
from tests.conftest import Around, smooth_network

METHODS: dict[str, Any] = {"gradient": Gradient(), "smoothgrad": SmoothGrad(), "rise": RISE()}


def checked(
    monkeypatch: pytest.MonkeyPatch, seconds_each: float, limit: float | None, said: list[str] | None = None
) -> list[str]:
    """Return which of four maps are checked by a clock that an evaluation moves on by so much."""
    now = [0.0]

    def check(outcome: Any, *args: Any) -> Any:
        now[0] += seconds_each * outcome.record["iterations"]
        return SimpleNamespace(passed=True), None

    monkeypatch.setattr(certificate, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(certificate, "_checked", check)
    maps = [("gradient", 1), ("smoothgrad", 32), ("gradient", 1), ("smoothgrad", 32)]
    records = [
        {"index": i, "method": method, "iterations": count, "status": "done"} for i, (method, count) in enumerate(maps)
    ]
    outcomes: list[Any] = [SimpleNamespace(record=record) for record in records]
    told = [] if said is None else said
    found = cross_check(outcomes, METHODS, None, seconds=limit, notify=told.append)  # type: ignore[arg-type]
    assert set(found.unchecked.values()) <= {NOT_CHECKED}
    return [f"{maps[i][0]} {i // 2}" for i in sorted(found.agreements)]


def test_all_that_time_allows_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of more than eight evaluations were left out, however much time was left."""
    assert len(checked(monkeypatch, 0.1, None)) == 4
    assert len(checked(monkeypatch, 0.1, 15)) == 4
    assert checked(monkeypatch, 0.3, 15) == ["gradient 0", "smoothgrad 0", "gradient 1"]
    assert checked(monkeypatch, 1.0, 15) == ["gradient 0", "gradient 1"]
    assert checked(monkeypatch, 20.0, 15) == ["gradient 0"]


def test_how_long_it_will_take_is_told_once_where_that_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captum was asked for minutes in silence."""
    said: list[str] = []
    checked(monkeypatch, 0.1, None, said)
    assert said == []
    checked(monkeypatch, 10.0, None, said)  # 33 evaluations are made when it is told, and 33 are left
    assert said == ["evidence: Captum will take about 5.5 minutes more"]


def test_a_first_map_that_would_take_minutes_is_left_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run went on for two minutes after its last map, in silence."""
    monkeypatch.setattr(certificate, "_checked", lambda *args: (SimpleNamespace(passed=True), None))
    for took, checked in ((2.0, True), (14.5, False)):
        record = {"index": 0, "method": "gradient", "iterations": 1000, "status": "done", "seconds": took}
        found = cross_check([SimpleNamespace(record=record)], METHODS, None, seconds=15)  # type: ignore
        assert bool(found.agreements) == checked


def test_maps_that_no_figure_draws_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captum's maps of thousands of photographs filled the memory."""
    verdicts = iter([True] * 30 + [False] * 30)
    monkeypatch.setattr(
        certificate, "_checked", lambda *args: (SimpleNamespace(passed=next(verdicts)), torch.zeros(1, 2, 2))
    )
    outcomes = [
        SimpleNamespace(record={"index": i, "method": "gradient", "iterations": 1, "status": "done"}) for i in range(60)
    ]
    found = cross_check(outcomes, METHODS, None)  # type: ignore[arg-type]
    kept = [agreement.passed for agreement, reference in found.agreements.values() if reference is not None]
    assert len(found.agreements) == 60
    assert [kept.count(passed) for passed in (True, False)] == [20, 20]


def test_what_captum_lacks_is_told_however_little_time_there_is() -> None:
    """With no time left such maps were said to be checked later."""
    outcomes: list[Any] = [
        SimpleNamespace(record={"index": i, "method": method, "iterations": 8, "status": "done"})
        for i, method in enumerate(("rise", "gradient"))
    ]
    found = cross_check(outcomes, METHODS, None, seconds=-1)  # type: ignore[arg-type]
    assert found.unchecked == {0: NOT_IN_CAPTUM, 1: NOT_CHECKED}
    assert "1 is not in Captum, 1 is not checked (lit-viz check run checks them)" in found.sentence("run")


def test_a_network_that_captum_fails_on_loses_no_run() -> None:
    """Maps that were finished were lost in a traceback."""

    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    run = lv.saliency(lv.load_classifier(Around(smooth_network(), lambda net, x: net(x.float())), size=16), x, 0)
    assert run.results[0]["status"] == "done"
    assert run.results[0]["captum"]["why"].startswith("not checked, as Captum fails on this network (")
    assert cross_check([], METHODS, None).passed is None  # type: ignore[arg-type]
