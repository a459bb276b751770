"""A run folder in the making belongs to the process that makes it; what a killed process leaves blocks no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

import lit_viz as lv
from lit_viz.callbacks import RunFolder
from lit_viz.errors import LitVizError
from lit_viz.launch.resume import open_or_create
from lit_viz.launch.run import Run
from lit_viz.networks import Network
from lit_viz.runs.access import is_run, run_lock
from lit_viz.runs.folder import FolderStorage


def visualize(network: Network, **options: Any) -> Run:
    return lv.visualize(network, [0, 1], config="small", iterations=2, wandb="disabled", **options)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_what_is_left_of_a_kill_before_the_configuration_is_no_content(
    options: dict[str, bool], smooth: Network, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    (run / ".config.123.part.yaml").write_text("# lit_viz r")
    assert len(visualize(smooth, out=run, **options).records) == 2
    assert not list(run.glob(".*"))


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_whose_configuration_is_being_written_is_in_use(
    options: dict[str, bool], smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    write_start = FolderStorage.write_start
    messages: list[str] = []

    def start_twice(self: FolderStorage, *arguments: Any) -> None:
        monkeypatch.setattr(FolderStorage, "write_start", write_start)
        (run / ".config.123.part.yaml").write_text("# lit_viz r")
        with pytest.raises(LitVizError) as refusal:
            visualize(smooth, out=run, **options)
        messages.append(str(refusal.value))
        write_start(self, *arguments)

    monkeypatch.setattr(FolderStorage, "write_start", start_twice)
    assert len(visualize(smooth, out=run).records) == 2
    assert messages == [
        f"{run} is in use, another process is writing this run: wait until it ends, or choose another folder"
    ]
    assert len(FolderStorage.open(run).records()) == 2


def test_a_run_that_another_process_makes_is_not_deleted(
    smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration is complete while the second run looks at the folder."""
    run, completed = tmp_path / "run", []

    def complete_other_run(*arguments: Any) -> Any:
        (run / ".config.123.part.yaml").unlink()
        FolderStorage(run).write_config("seed: 1\n")
        completed.append(run)
        return open_or_create(*arguments)

    with run_lock(run):
        (run / ".config.123.part.yaml").write_text("# lit_viz r")
        monkeypatch.setattr("lit_viz.launch.execute.open_or_create", complete_other_run)
        with pytest.raises(LitVizError):
            lv.run(*module_and_tasks(smooth), out=run, logger="none")
        assert not completed or is_run(run)


def test_a_folder_with_other_files_is_not_locked(smooth: Network, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("observations")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(LitVizError, match="not empty and not a run"):
            lv.run(*module_and_tasks(smooth), out=tmp_path, logger="none", **options)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def module_and_tasks(network: Network) -> tuple[lv.ClassVisualization, lv.ClassTasks]:
    return lv.ClassVisualization(network, iterations=2, views=1), lv.ClassTasks(network, [1])


def test_overwrite_replaces_a_run_with_a_part_of_a_file(tmp_path: Path) -> None:
    FolderStorage.create(tmp_path / "run").write_config("seed: 1\n")
    (tmp_path / "run" / ".evolution.123.part.gif").touch()
    FolderStorage.create(tmp_path / "run", overwrite=True).clear()
    assert not list((tmp_path / "run").iterdir())


def test_a_saved_copy_and_a_callback_respect_the_lock(smooth: Network, tmp_path: Path) -> None:
    in_memory = visualize(smooth)
    with run_lock(tmp_path / "run"):
        with pytest.raises(LitVizError, match="is in use"):
            in_memory.save(tmp_path / "run")
        with pytest.raises(LitVizError, match="is in use"):
            fit(smooth, tmp_path / "run")
    fit(smooth, tmp_path / "run")
    in_memory.save(tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / ".lock").exists()


def fit(network: Network, path: Path) -> None:
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(**settings, accelerator="cpu", max_epochs=1, callbacks=[RunFolder(path)])
    trainer.fit(*module_and_tasks(network))
