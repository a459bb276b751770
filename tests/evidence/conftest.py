"""Copies of finished runs, of which values are forged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lit_viz.networks import Network
from tests.support.forgery import Copied, ForgedRun


@pytest.fixture
def copied(smooth: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Copied:
    """Return a function that copies a run of the small network."""
    return lambda run: ForgedRun(shutil.copytree(run, tmp_path / "run"), smooth, capsys)
