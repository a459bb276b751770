"""A short version of the reliability campaign."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.soak import campaign

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("trial", ["kill", "signal", "limit", "damage", "hostile", "creation", "starts", "changed"])
def test_a_disturbed_run_survives(trial: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert campaign(["adam"], [trial], repeats=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("trial", ["edits", "crafted"])
def test_edited_and_crafted_folders_are_refused_or_mended(trial: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert campaign([], [trial], seed=0, most=12)
