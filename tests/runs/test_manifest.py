"""The manifest lists what a run folder contains, and ignores what a killed process has left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import MANIFEST
from lit_viz.runs.manifest import Manifest, append
from lit_viz.runs.trimming import KeptTasks, measure
from lit_viz.types import Record, Task
from lit_viz.utils.files import sha256

TASKS = [Task(0, "cat", 7), Task(1, "dog", 8)]
FILES = {"images/0000_cat.png": {"size": 3, "sha256": "x"}}


def finish(folder: FolderStorage, task: Task) -> None:
    image = torch.full((3, 4, 4), task.index / 255)
    for iteration in (0, 5):
        folder.add_snapshot(Snapshot(task, iteration, {"probability": 0.5, "logit": 1.0}, image))
    folder.add_result(Result(task, Record.of(task, iterations=5), image, array=image))


@pytest.fixture
def folder(tmp_path: Path) -> FolderStorage:
    made = FolderStorage.create(tmp_path / "run")
    made.write_start("seed: 7\n", {}, TASKS)
    for task in reversed(TASKS):
        finish(made, task)
    made.finish()
    (made.path / "figure.png").write_bytes(b"figure")
    made.seal()
    return made


def lines(folder: FolderStorage) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder.path / MANIFEST).read_text().splitlines()]


def test_a_line_per_task_and_a_last_one_per_run(folder: FolderStorage) -> None:
    start, second, first, end = lines(folder)
    assert [line.get("task") for line in (start, second, first, end)] == [None, 1, 0, None]
    assert start["files"].keys() == {"config.yaml", "queue.jsonl"}
    names = ["arrays/0000_cat.npy", "frames/0000_cat/iter_000000.png", "frames/0000_cat/iter_000005.png"]
    assert list(first["files"]) == [*names, "images/0000_cat.png"]
    for name, listed in {**first["files"], **second["files"], **end["files"]}.items():
        path = folder.path / name
        assert listed == {"size": path.stat().st_size, "sha256": sha256(path)}
    assert (first["rows"], end["complete"]) == (4, True)
    assert end["files"].keys() == {"config.yaml", "queue.jsonl", "results.jsonl", "metrics.csv", "figure.png"}
    assert folder.manifest().is_complete


def test_the_manifest_follows_metrics_and_records(folder: FolderStorage) -> None:
    """A line in it refers to rows that are on the disk."""
    new = FolderStorage.create(folder.path.with_name("new"))
    new.write_config("")
    finish(new, TASKS[0])
    assert not (new.path / MANIFEST).exists()
    new.flush()
    assert list(new.manifest().tasks) == [0]
    assert len((new.path / "metrics.csv").read_text().splitlines()) == 5


def test_measured_contents_are_those_of_the_writer(folder: FolderStorage) -> None:
    manifest = folder.manifest()
    for index, contents in measure(folder.path, KeptTasks(range(2))).items():
        assert manifest.task_mismatches(index, contents) == []
    assert manifest.run_mismatches(folder.path) == []


def test_later_lines_replace_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    contents = {"files": FILES, "rows": 0, "metrics": ""}
    append(path, [{"files": {}}, {"task": 0, "record": "a", **contents}, {"task": 0, "record": "b"}])
    manifest = Manifest(path)
    assert json.loads(manifest.tasks[0])["record"] == "a"
    assert manifest.amended[0] == ["b"]
    append(path, [{"files": {}, "complete": True}])
    assert Manifest(path).is_complete
    append(path, [{"task": 0, "record": "c", **contents, "files": {}}])
    manifest = Manifest(path)
    stored = json.loads(manifest.tasks[0])
    assert (stored["files"], stored["record"], manifest.amended, manifest.is_complete) == ({}, "c", {}, False)


def test_a_torn_last_line_is_ignored(folder: FolderStorage) -> None:
    path = folder.path / MANIFEST
    whole = path.read_text()
    path.write_text(whole[:-20])
    manifest = folder.manifest()
    assert list(manifest.tasks) == [0, 1]
    assert not manifest.is_complete
    assert not manifest.is_damaged
    folder.continue_tasks(dict(reversed(measure(folder.path, KeptTasks(range(2))).items())), {})
    folder.seal()
    assert path.read_text() == whole


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "3",
        '{"task": "0", "files": {}, "record": "a"}',
        '{"task": 7, "record": "a"}',
        '{"task": 0, "files": {"a": 1}, "record": "a"}',
        '{"task": 0, "files": {}}',
        '{"tasks": 3}',
        "[" * 100_000,
    ],
)
def test_other_lines_are_damage(line: str, folder: FolderStorage) -> None:
    path = folder.path / MANIFEST
    whole = path.read_text()
    path.write_text(f"{line}\n{whole}")
    manifest = folder.manifest()
    assert manifest.is_damaged
    assert not manifest.is_complete
    assert list(manifest.tasks) == [0, 1]


def test_an_amended_record_has_a_further_line(folder: FolderStorage) -> None:
    (record, _) = folder.records()
    folder.amend([record.amend(seconds=3.0), *folder.records()[1:]])
    *_, last = lines(folder)
    assert last.keys() == {"task", "record"}
    contents = measure(folder.path, KeptTasks(range(2)))
    assert folder.manifest().task_mismatches(0, contents[0]) == []


def test_a_kill_between_manifest_and_records_loses_nothing(
    folder: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record, _) = folder.records()
    with monkeypatch.context() as patch:
        patch.setattr("lit_viz.runs.folder.write_lines", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            folder.amend([record.amend(seconds=3.0)])
    manifest = folder.manifest()
    assert not manifest.is_complete
    assert manifest.task_mismatches(0, measure(folder.path, KeptTasks(range(2)))[0]) == []
