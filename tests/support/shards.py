"""What the shards of a run contain, and their interruption."""

from __future__ import annotations

import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import lit_viz as lv
from lit_viz.engine.method import Method
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.results import csv_lines
from lit_viz.runs.segments import Signature
from lit_viz.runs.tars import NewTar
from lit_viz.types import Task


def contents(*folders: Path) -> dict[str, Any]:
    """Return the files of the tasks, the rows of the metrics and the records without their seconds."""
    found: dict[str, Any] = {"rows": [], "records": []}
    for folder in folders:
        for file in folder.rglob("0*"):
            if file.parent.name == "records":  # whose names and digests are of the shard
                continue
            if file.is_file():
                found[str(file.relative_to(folder))] = file.read_bytes()
            elif file.parts[-2] == "frames":
                for frame in file.iterdir():
                    found[str(frame.relative_to(folder))] = frame.read_bytes()
        stored = FolderStorage.open(folder)
        found["rows"] += "".join(csv_lines(stored.metrics())).splitlines()
        for record in stored.records():
            found["records"].append({**record.to_dict(), "seconds": None})
    found["rows"].sort()
    found["records"].sort(key=lambda record: record["index"])
    return found


def stop_at(monkeypatch: pytest.MonkeyPatch, index: int, kind: type[Method] = PhotographTraining) -> None:
    """Send SIGINT at the start of a task; a checkpoint is saved after this step."""
    start = kind.start

    def stopping(self: Any, task: Task) -> Tensor:
        if task.index == index:
            os.kill(os.getpid(), signal.SIGINT)
        return start(self, task)

    monkeypatch.setattr(kind, "start", stopping)


def run_shard(photographs: Path, out: Path, shard: str, has_record: Event, is_cut: bool) -> None:
    """Compute or continue a shard in tars, in a process of its own.

    Args:
        photographs: folder of photographs of 28 pixels.
        out: folder of the shards.
        shard: the shard.
        has_record: is set when this process has stored a result.
        is_cut: whether the process kills itself between the second tar and its segment.
    """
    end, tars = NewTar.end, 0

    def ended(self: NewTar, name: str) -> Signature:
        nonlocal tars
        tars += 1
        signature = end(self, name)
        if is_cut and tars == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        has_record.set()
        return signature

    NewTar.end = ended  # type: ignore[method-assign]
    module = lv.SaliencyMap("zoo/fashion_cnn", method="smoothgrad", iterations=200, slots=1)
    tasks = lv.ImageTasks(module.network, str(photographs), label="predicted")
    lv.run(module, tasks, out=out, shard=shard, store="tar", logger="none", checkpoint_every=4)
