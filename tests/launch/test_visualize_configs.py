"""The packaged recipes for layers, run on small networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_deepdream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, records: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    few = ["--layer", "features.3", "--iterations", "8", "--size", "64", "--log-at", "0,4"]
    lit_viz("visualize", "--config", "deepdream", *small_options, *few, "--out", str(run))
    (record,) = records(run)
    assert (record["name"], record.get("channel"), record["source"]) == ("features.3", None, "packaged:chelsea")
    assert record["iterations"] == record["backwards"] == 8
    objective = [
        line.split(",") for line in (run / "metrics.csv").read_text().splitlines() if ",objective_file," in line
    ]
    assert float(objective[-1][3]) > float(objective[0][3])
