"""A run folder has one writer at a time; the remains of a killed writer do not block others."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lit_viz.errors import LitVizError
from lit_viz.runs.access import run_lock
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import LOCK
from lit_viz.types import Record
from tests.support.segments import write_records

HOLD = """
import sys
from lit_viz.runs.access import run_lock
with run_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def made(path: Path) -> Path:
    FolderStorage.create(path).write_config("seed: 1\n")
    return path


def test_two_processes_do_not_write_one_run(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    with holder(run) as process:
        with pytest.raises(LitVizError, match="run is in use, another process is writing this run"), run_lock(run):
            pass
        process.communicate("")
    with run_lock(run):
        assert (run / LOCK).exists()
    assert [file.name for file in run.iterdir()] == ["config.yaml"]


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    with holder(run) as process:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (run / LOCK).exists()
    with run_lock(run):
        FolderStorage.create(run, overwrite=True).write_config("seed: 2\n")
        assert (run / LOCK).exists()
    assert not (run / LOCK).exists()


def test_a_folder_in_the_making_is_taken_once(tmp_path: Path) -> None:
    """It has a lock before it has a configuration."""
    new = tmp_path / "runs" / "attack" / "new"
    with holder(new) as process:
        with pytest.raises(LitVizError, match="in use"), run_lock(new):
            pass
        process.communicate("")
    assert not (tmp_path / "runs").exists()  # for nothing came of it


def test_existing_or_used_parent_folders_are_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with run_lock(tmp_path / "mine" / "runs" / "one"):
        (tmp_path / "mine" / "runs" / "two").mkdir()
    assert [path.name for path in (tmp_path / "mine" / "runs").iterdir()] == ["two"]
    with run_lock(tmp_path / "mine" / "other"):
        pass
    assert (tmp_path / "mine").exists()


def test_a_failed_creation_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(LitVizError, match="not empty and not a run"), run_lock(tmp_path):
        FolderStorage.create(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(LitVizError, match="is a file"), run_lock(tmp_path / "photo.jpg"):
        FolderStorage.create(tmp_path / "photo.jpg")


def test_a_run_that_can_not_be_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path / "run")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # a read-only file system; root may write to any other
    with run_lock(run):
        assert not (run / LOCK).exists()


def test_an_overlong_name_gives_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(LitVizError, match=r"can't be made \(File name too long\)"), run_lock(tmp_path / ("x" * 300)):
        pass


@pytest.mark.parametrize("name", ["metrics.csv", "images", ".lock", "frames/0000_x"])
def test_links_out_of_the_folder_are_rejected(tmp_path: Path, name: str) -> None:
    run, outside = made(tmp_path / "run"), tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "precious.txt").write_text("precious")
    (run / "frames").mkdir()
    (run / name).symlink_to("../" * (1 + name.count("/")) + "outside/precious.txt")
    with pytest.raises(LitVizError, match=f"must contain no links to other places, got .*{name}"), run_lock(run):
        pass
    assert (outside / "precious.txt").read_text() == "precious"


def test_links_inside_the_folder_are_accepted(tmp_path: Path) -> None:
    """As are those of W&B to its logs."""
    run = made(tmp_path / "run")
    (run / "wandb" / "run-1").mkdir(parents=True)
    (run / "wandb" / "latest-run").symlink_to("run-1")
    (run / "wandb" / "run-1" / "debug.log").symlink_to(tmp_path / "debug.log")
    (run / "latest").symlink_to("wandb")
    with run_lock(run):
        pass


def test_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run / "checkpoints").mkdir()
    for name in (".evolution.12.part.gif", "checkpoints/.last.12.part.ckpt"):
        (run / name).touch()
    with run_lock(run):
        assert sorted(path.name for path in run.rglob("*.*")) == [".lock", "config.yaml"]


@pytest.mark.parametrize("name", ["../photos/x.png", "/etc/passwd", "images/../../x.png"])
def test_recorded_files_outside_the_folder_are_rejected(tmp_path: Path, name: str) -> None:
    folder = FolderStorage(made(tmp_path / "run"))
    folder.write_queue([])
    write_records(folder, [{"kind": "record", "index": 0, "name": "x", "file": name}])
    with pytest.raises(LitVizError, match="a recorded file must be in the run folder, got "):
        list(folder.records())
    (folder.path / "photographs").mkdir()
    (folder.path / "photographs" / "0000_x.jsonl").write_text(
        json.dumps({"index": 0, "name": "x", "original": name}) + "\n"
    )
    with pytest.raises(LitVizError, match="a recorded file must be in the run folder, got "):
        folder.outcome(Record(index=0, name="x")).perturbed_images()


def test_a_link_loop_is_rejected(tmp_path):
    (tmp_path / "config.yaml").write_text("# lit_viz run\n")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(LitVizError, match=r"must contain no links to other places, got .*loop"), run_lock(tmp_path):
        pass
