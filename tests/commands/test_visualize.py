"""``lit-viz check`` of class images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import SMALL, lit_viz, records


def test_check_reads_the_pictures_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    lit_viz("visualize", "0", "3", *SMALL, "--iterations", "12", "--out", str(run))
    lit_viz("check", str(run))
    assert "sees in 2 of 2 files what the record says" in capsys.readouterr().err
    held = json.loads((run / "evidence.json").read_text())["pictures"]
    assert [verdict["probability"] for verdict in held["verdicts"]] == pytest.approx(
        [record["probability"] for record in records(run)], abs=1e-3
    )
    file = run / records(run)[0]["file"]
    Image.fromarray(np.zeros_like(np.asarray(Image.open(file)))).save(file)
    lit_viz("check", str(run), expect=1)
    assert json.loads((run / "evidence.json").read_text())["pictures"]["same"] == 1
