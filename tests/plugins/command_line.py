"""Fixtures that run commands in this process and read their run folders."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_viz.cli import main
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.segments import segment_files
from tests.support.forgery import reseal as confirm


@pytest.fixture(scope="session")
def small_options() -> list[str]:
    """Options of a small network."""
    return [
        "--network", "tests.support.networks:smooth_network",
        "--network.weights", "none",
        "--network.size", "16",
        "--network.mean", "[0.5,0.5,0.5]",
        "--network.std", "[0.25,0.25,0.25]",
        "--wandb", "disabled",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def lit_viz() -> Callable[..., None]:
    """Return a function that runs a command and compares its exit status."""

    def run(*words: str, expect: int = 0) -> None:
        try:
            main(list(words))
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        assert status == expect

    return run


@pytest.fixture(scope="session")
def sentence() -> Callable[[pytest.CaptureFixture[str]], str]:
    """Return a function for stderr, which must be one line, apart from the note about imports of a run."""

    def read(capsys: pytest.CaptureFixture[str]) -> str:
        lines = [line for line in capsys.readouterr().err.splitlines() if line and "names parts to import" not in line]
        assert len(lines) == 1, lines
        return lines[0]

    return read


@pytest.fixture(scope="session")
def records() -> Callable[[Path], list[dict[str, Any]]]:
    """Return a function that reads the records of a run folder, with metrics and settings beside the fields too."""

    def read(folder: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for path in segment_files(folder) for line in path.read_text().splitlines()]
        found = [line["record"] for line in sorted(lines, key=itemgetter("index"))]
        return [{**record, **record.get("metrics", {}), **record.get("settings", {})} for record in found]

    return read


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, Any]]:
    """Return a function for what must not depend on an interruption: images, metrics, and records without seconds."""

    def read(run: Path) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for path in sorted([*run.glob("images/*"), *run.glob("frames/*/*")]):
            kept[path.relative_to(run).as_posix()] = np.asarray(Image.open(path)).tobytes()
        tasks = list(FolderStorage.open(run).segments.all())
        kept["records"] = [{**task["record"], "seconds": None} for task in tasks]
        kept["metrics"] = [[row[1:] for row in task["rows"]] for task in tasks]  # without numbers in the run
        return kept

    return read


@pytest.fixture(scope="session")
def reseal() -> Callable[[Path], None]:
    """Return a function that lets the digests of a changed run folder confirm what is in it, as a forger would."""
    return confirm


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], bool], Callable[[], bool]], None]:
    """Return a function that waits for a condition while something runs."""

    def wait(condition: Callable[[], bool], is_running: Callable[[], bool]) -> None:
        for _ in range(20000):
            if condition():
                return
            assert is_running()
            time.sleep(0.01)
        raise AssertionError("timeout")

    return wait
