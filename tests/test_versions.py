"""The script that tests other versions of the requirements: results of parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import versions


def test_the_parts_are_all_tests() -> None:
    parts = versions.all_parts()
    assert {"tests/optim", "tests/test_versions.py"} <= set(parts)
    assert "tests/support" not in parts


def test_results_of_several_calls_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "all_parts", lambda: ["tests/a", "tests/b", "tests/c"])
    versions.Results(tmp_path / "set.json").add("tests/a", {"passed": 3, "failed": 1})
    results = versions.Results(tmp_path / "set.json")
    results.add("tests/c", {"passed": 4, "skipped": 2})
    assert results.missing() == ["tests/b"]
    assert results.summary() == "7 passed, 2 skipped, 1 failed (tests/a); not run: tests/b"
    results.add("tests/a", {"passed": 4})
    results.add("tests/b", {})
    assert results.summary() == "8 passed, 2 skipped"


def test_a_part_has_the_numbers_that_pytest_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tests:
        stdout, returncode = "...\n3 failed, 12 passed, 1 skipped, 4 deselected, 1 error in 9.1s", 1

    monkeypatch.setattr(versions.subprocess, "run", lambda *_, **__: Tests())
    assert versions.tested(Path("python"), "tests/a") == {"failed": 3, "passed": 12, "skipped": 1, "errors": 1}
    Tests.stdout, Tests.returncode = "4 deselected in 0.2s", versions.NO_TESTS
    assert versions.tested(Path("python"), "tests/a") == {}
    Tests.stdout, Tests.returncode = "", -9
    assert versions.tested(Path("python"), "tests/a") == {"errors": 1}
