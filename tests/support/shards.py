"""What the shards of a run contain, and their interruption."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from lit_viz.methods.photographs import PhotographTraining
from lit_viz.runs.folder import FolderStorage
from lit_viz.types import Task


def contents(*folders: Path) -> dict[str, Any]:
    """Return the files of the tasks, the rows of the metrics and the records without their seconds."""
    found: dict[str, Any] = {"rows": [], "records": []}
    for folder in folders:
        for file in folder.rglob("0*"):
            if file.is_file():
                found[str(file.relative_to(folder))] = file.read_bytes()
            elif file.parts[-2] == "frames":
                for frame in file.iterdir():
                    found[str(frame.relative_to(folder))] = frame.read_bytes()
        found["rows"] += (folder / "metrics.csv").read_text().splitlines()[1:]
        for record in FolderStorage.open(folder).records():
            found["records"].append({**record.to_dict(), "seconds": None})
    found["rows"].sort()
    found["records"].sort(key=lambda record: record["index"])
    return found


def stop_at(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    """Send SIGINT at the start of a task."""
    start = PhotographTraining.start

    def stopping(self: PhotographTraining, task: Task) -> Tensor:
        if task.index == index:
            os.kill(os.getpid(), signal.SIGINT)
        return start(self, task)

    monkeypatch.setattr(PhotographTraining, "start", stopping)
