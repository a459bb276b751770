"""A run that goes on makes what is missing, whatever its checkpoint says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lit_viz as lv
from lit_viz.classifiers import Classifier
from lit_viz.engine.run_folder import RunFolder
from lit_viz.errors import LitVizError
from tests.conftest import NAMES


@pytest.fixture
def run(smooth: Classifier, tmp_path: Path) -> Path:
    lv.visualize(smooth, [0, 1, 2], config="small", iterations=4, out=tmp_path / "run", wandb="disabled")
    return tmp_path / "run"


def lose(*indices: int) -> Callable[[Path], None]:
    """Return a function that takes the lines of these tasks from the results."""

    def edit(run: Path) -> None:
        lines = (run / "results.jsonl").read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["index"] not in indices]
        (run / "results.jsonl").write_text("".join(kept))

    return edit


def spoil(run: Path) -> None:
    """Take from a record what it must have, and write garbage after it."""
    lines = (run / "results.jsonl").read_text().splitlines(keepends=True)
    nameless = {key: value for key, value in json.loads(lines[1]).items() if key != "name"}
    (run / "results.jsonl").write_text(f"{lines[0]}{json.dumps(nameless)}\nnot json\n{lines[2]}")


def told(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in RunFolder.open(run).records()]


@pytest.mark.parametrize("damage", [lose(1), lose(0, 1, 2), spoil])
def test_a_task_without_a_record_is_made_again(damage: Callable[[Path], None], run: Path, smooth: Classifier) -> None:
    """The checkpoint calls all of them finished: a resume said "3 of 3 images done" and had two."""
    before = told(run)
    damage(run)
    lv.resume(run, smooth)
    assert told(run) == before
    assert {file.stem for file in (run / "images").iterdir()} == {f"{i:04d}_{name}" for i, name in enumerate(NAMES[:3])}


@pytest.mark.parametrize(
    "lines", ['{"index": 0, "na\n', '{"index": 0}\n', "3\n", '{"index": 1, "name": "a", "seed": 0}\n']
)
def test_a_damaged_queue_is_one_sentence(lines: str, run: Path, smooth: Classifier) -> None:
    (run / "queue.jsonl").write_text(lines)
    with pytest.raises(LitVizError, match=r"queue\.jsonl is damaged .*: start it again with --overwrite"):
        lv.resume(run, smooth)
